/**
 * Each compiled CUDA kernel by itself on the software device: right, and every line of its PTX executed by the check of
 * that kernel, but for those in test/cuda_coverage_exceptions.txt. Kernels that are the same for two compute capabilities
 * run for the first. A third of them, unless MARGINFC_TEST_CASES=all.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  capabilities,
  checksOn,
  exceptionsIn,
  image,
  type Kernel,
  type Module,
  matches,
  moduleFor,
  onAllCores,
  runCheck,
  shape,
  textOf,
} from './cuda_kernels.js';
import { everything } from './gpus.js';

const folder = mkdtempSync(join(tmpdir(), 'marginfc-coverage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Lines that no lane executed and that follow each other: the first instruction's shape, and how many. */
interface Run {
  readonly kernel: string;
  readonly sm: number;
  readonly line: number;
  readonly shape: string;
  readonly length: number;
}

const exceptions = exceptionsIn('cuda_coverage_exceptions.txt').map(
  ([kernels = '', length = '', first = '', reason = '']) => ({
    kernels,
    length: Number(length),
    first,
    reason,
  }),
);
type Exception = (typeof exceptions)[number];

const excuses = (run: Run) => (exception: Exception) =>
  matches(exception.kernels, run.kernel) && exception.length === run.length && exception.first === run.shape;

async function cover(module: Module, kernel: Kernel, launched: readonly string[]) {
  const stem = join(folder, `${kernel.name}_${module.sm}`);
  const text = textOf(module, launched);
  writeFileSync(`${stem}.ptx`, text.join('\n'));
  const env = { GPUSIM_PTX: `${stem}.ptx`, GPUSIM_COVERAGE: `${stem}.json`, GPUSIM_SEED: '1' };
  const outcome = await runCheck(module.sm, kernel.name, { env });
  if (!outcome.ok) return { kernel, outcome, runs: [], executed: 0 };
  const report: { kernel: string; executed: number[]; missed: number[] }[] = readFileSync(
    `${stem}.json`,
    'utf8',
  )
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const own = report.find((of) => of.kernel === kernel.name);
  const missed = new Set(own?.missed);
  const runs: Run[] = [];
  let before = false;
  for (const line of [...(own?.executed ?? []), ...missed].sort((a, b) => a - b)) {
    const misses = missed.has(line);
    const last = runs.at(-1);
    if (misses && before && last) runs[runs.length - 1] = { ...last, length: last.length + 1 };
    else if (misses)
      runs.push({ kernel: kernel.name, sm: module.sm, line, shape: shape(text[line - 1] ?? ''), length: 1 });
    before = misses;
  }
  return { kernel, outcome, runs, executed: own?.executed.length ?? 0 };
}

describe.skipIf(image === undefined)('compiled CUDA kernels', () => {
  const seen = new Set<string>();
  const modules = (image === undefined ? [] : capabilities).map((sm) => {
    const module = moduleFor(sm);
    const fresh = module.kernels.filter(({ text }) => !seen.has(text));
    for (const { text } of fresh) seen.add(text);
    return { module, fresh, checks: checksOn(sm) };
  });
  const used = new Set<Exception>();

  test.each(modules)('each kernel for sm_$module.sm has a check', ({ module, checks }) => {
    expect(module.kernels.map(({ name }) => name).sort()).toEqual([...checks.keys()].sort());
  });

  test('every line is executed, and results are right', { timeout: 600_000 }, async () => {
    const tasks = modules.flatMap(({ module, fresh, checks }) =>
      // The last take longest.
      fresh
        .filter((_, k) => everything || k % 3 === 1)
        .reverse()
        .map((kernel) => () => cover(module, kernel, checks.get(kernel.name) ?? [])),
    );
    const covered = await onAllCores(tasks);
    for (const { kernel, outcome, executed } of covered) {
      expect(outcome, kernel.name).toMatchObject({ ok: true });
      expect(executed, kernel.name).toBeGreaterThan(0);
    }
    const runs = covered.flatMap((one) => one.runs);
    for (const run of runs) for (const exception of exceptions.filter(excuses(run))) used.add(exception);
    const unexplained = runs
      .filter((run) => !exceptions.some(excuses(run)))
      .map(({ sm, kernel, line, shape, length }) => `sm_${sm} ${kernel}:${line} | ${length} | ${shape}`);
    expect(unexplained).toEqual([]);
    const lines = covered.reduce((sum, one) => sum + one.executed, 0);
    const missed = runs.reduce((sum, run) => sum + run.length, 0);
    console.log(`CUDA kernels: ${lines} lines of PTX executed, ${missed} excepted`);
  });

  // A part of the checks leaves more lines unexecuted.
  test.runIf(everything && process.env.MARGINFC_TEST_PART === undefined)(
    'no exception is superfluous, and each has a reason',
    () => {
      expect(exceptions.filter((exception) => !used.has(exception) || exception.reason === '')).toEqual([]);
    },
  );
});
