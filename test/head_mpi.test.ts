/** MarginHead over processes that mpirun starts: the results of one process, and what happens to the others when one ends. */

import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { MarginHead, sgd } from '../src/index.js';
import { makeBatch } from './lifecycle/problems.mjs';
import { mpiMissing, mpirun } from './mpirun.js';

const program = fileURLToPath(new URL('./lifecycle/ranks.mjs', import.meta.url));
const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-ranks-'));
  folders.push(folder);
  return folder;
}

if (mpiMissing !== undefined) console.log(`heads over MPI are not tested: ${mpiMissing}`);

/** As test/lifecycle/ranks.mjs reports a step. */
interface Step {
  readonly loss: number;
  readonly accuracy: number;
  readonly dFeatures: readonly number[];
}

/** What a process reports of its scenario. */
interface Report {
  readonly steps: readonly Step[];
  readonly next: Step;
  readonly weights: readonly number[];
  readonly stepCount: number;
}

/** The exit code of mpirun, and the reports of all processes; undefined for one that has made none. */
interface Job {
  readonly code: number | null;
  readonly seen: readonly (Report | undefined)[];
}

/** The reports of a job that has gone well. */
const reportsOf = ({ seen }: Job) => seen.map((report) => report as Report);

async function run(ranks: number, scenario: string, folder: string, killed = ''): Promise<Job> {
  const out = newFolder();
  const environment = { MARGINFC_TEST_KILLED: killed };
  const { code } = await mpirun(ranks, program, [scenario, folder, out], { environment });
  const files = Array.from({ length: ranks }, (_, rank) => join(out, `${rank}.json`));
  const seen = files.map((file) => (existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : undefined));
  return { code, seen };
}

const size = { rows: 30, dim: 24, classes: 101 };

const largest = (values: readonly number[]) =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  const apart = largest(actual.map((value, i) => value - expected[i]!));
  expect(apart).toBeLessThan(1e-5 * largest(expected));
}

describe.skipIf(mpiMissing !== undefined)('a head over MPI', () => {
  test.each([1, 2, 4])(
    'trains on %i processes as on one, and resumes on another number of them',
    async (ranks) => {
      const batch = makeBatch(size);
      const alone = await MarginHead.create({
        dim: size.dim,
        classes: size.classes,
        seed: 5,
        init: { std: 0.5 },
        optimizer: sgd({ learningRate: 0.2, momentum: 0.9 }),
      });
      const folder = newFolder();
      const trained = await run(ranks, 'train', folder);
      expect(trained).toMatchObject({ code: 0 });
      for (const s of [0, 1]) {
        const expected = await alone.step(batch);
        for (const { steps } of reportsOf(trained)) {
          expect(steps[s]!.loss).toBeCloseTo(expected.loss, 4);
          expect(steps[s]!.accuracy).toBe(expected.accuracy);
        }
        expectClose(
          reportsOf(trained).flatMap(({ steps }) => steps[s]!.dFeatures),
          Array.from(expected.dFeatures),
        );
      }
      const expected = await alone.step(batch);
      const weights = reportsOf(trained).flatMap((seen) => seen.weights);
      expectClose(weights, Array.from(alone.weights()));
      for (const others of [1, 2, 4].filter((count) => count !== ranks)) {
        const resumed = await run(others, 'resume', folder);
        expect(resumed).toMatchObject({ code: 0 });
        for (const { next, stepCount } of reportsOf(resumed)) {
          expect(next.loss).toBeCloseTo(expected.loss, 4);
          expect(stepCount).toBe(2);
        }
        expectClose(
          reportsOf(resumed).flatMap((seen) => seen.weights),
          weights,
        );
      }
      alone.dispose();
    },
  );

  test('of which a process stops in a step fails on the others in time, with its weights as they were', async () => {
    const { code, seen } = await run(3, 'stop in a step', newFolder());
    expect(code).not.toBe(0);
    expect(seen[1]).toBeUndefined();
    for (const rank of [0, 2])
      expect(seen[rank]).toMatchObject({
        codes: ['ERR_GROUP_TIMEOUT', 'ERR_GROUP_TIMEOUT'],
        unchanged: true,
        stepCount: 1,
      });
  });

  test('of which a process is killed in a step ends with all its processes', async () => {
    const { code, seen } = await run(2, 'kill in a step', newFolder());
    expect(code).not.toBe(0);
    expect(seen).toEqual([undefined, undefined]);
  });

  test('of which a process is killed in a save leaves a checkpoint that loads', async () => {
    const before = newFolder();
    expect(await run(2, 'train', before)).toMatchObject({ code: 0 });
    // The first process writes the index after the files of both.
    for (const [killed, steps] of [
      ['1:1', [2]],
      ['1:4', [2]],
      ['1:7', [2]],
      ['0:5', [2]],
      ['0:9', [2]],
      ['0:12', [2, 3]],
    ] as const) {
      const folder = newFolder();
      cpSync(before, folder, { recursive: true });
      const { code } = await run(2, 'kill in a save', folder, killed);
      expect(code).not.toBe(0);
      const head = await MarginHead.load(folder);
      expect(steps).toContain(head.stepCount);
      await head.save(folder);
      head.dispose();
    }
  });
});
