/**
 * Runs a part of the tests of each file: MARGINFC_TEST_PART is `i/n`, i from 1. Tests that follow each other stay together,
 * since they often need the same process.
 */
import { type RunnerTask, type RunnerTestFile, TestRunner } from 'vitest';

const part = process.env.MARGINFC_TEST_PART;

function bounds(count: number): readonly [first: number, end: number] {
  const [, index, parts] = /^([1-9]\d*)\/([1-9]\d*)$/.exec(part ?? '1/1') ?? [];
  if (index === undefined || Number(index) > Number(parts))
    throw new Error(`MARGINFC_TEST_PART must be i/n with i from 1 to n, received ${part}`);
  const at = (k: number) => Math.floor((k * count) / Number(parts));
  return [at(Number(index) - 1), at(Number(index))];
}

const testsIn = (task: RunnerTask): RunnerTask[] =>
  task.mode !== 'run' ? [] : task.type === 'suite' ? task.tasks.flatMap(testsIn) : [task];

/** Suites of which nothing is left do not set up anything either. */
function skipEmpty(task: RunnerTask): void {
  if (task.type !== 'suite') return;
  task.tasks.forEach(skipEmpty);
  if (testsIn(task).length === 0) task.mode = 'skip';
}

export default class PartRunner extends TestRunner {
  onCollected(files: RunnerTestFile[]): void {
    for (const file of files) {
      const tests = testsIn(file);
      const [first, end] = bounds(tests.length);
      tests.forEach((test, k) => {
        if (k < first || k >= end) test.mode = 'skip';
      });
      skipEmpty(file);
    }
  }
}
