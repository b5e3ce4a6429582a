/**
 * Each barrier, wait, commit and fence of the compiled CUDA kernels is needed, and the checks of the kernels see where one is
 * missing: as a wrong value, a race, a fault or a deadlock on the software device, or in the text (test/ptx_lint.ts). But for
 * those in test/cuda_mutation_exceptions.txt. A choice of them, or with MARGINFC_TEST_CASES=all every one.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
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
  type Outcome,
  onAllCores,
  runCheck,
  textOf,
} from './cuda_kernels.js';
import { type Mutant, mutantsOf } from './cuda_mutants.js';
import { everything } from './gpus.js';
import { lintPtx } from './ptx_lint.js';

const folder = mkdtempSync(join(tmpdir(), 'marginfc-mutants-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Orders of blocks and warps in which a mutant may show. */
const seeds = [0, 1, 2, 3];

const exceptions = exceptionsIn('cuda_mutation_exceptions.txt').map(
  ([kernels = '', change = '', site = '', reason = '']) => ({ kernels, change, site, reason }),
);
type Exception = (typeof exceptions)[number];
const excuses =
  ({ kernel, change, site }: Mutant) =>
  (exception: Exception) =>
    matches(exception.kernels, kernel) && exception.change === change && exception.site === site;

/** A kernel with what its check launches, in a file. */
class Subject {
  readonly lines: readonly string[];
  private files = 0;
  private readonly right = new Map<number, Promise<Outcome>>();
  constructor(
    readonly module: Module,
    readonly kernel: Kernel,
    launched: readonly string[],
  ) {
    this.lines = textOf(module, launched);
  }

  /** As compiled: it must be right, or a mutant would be caught for no reason. */
  whole(seed: number): Promise<Outcome> {
    const known = this.right.get(seed) ?? this.run(this.lines, seed);
    this.right.set(seed, known);
    return known;
  }

  async run(lines: readonly string[], seed: number): Promise<Outcome> {
    const file = join(folder, `${this.kernel.name}_${this.module.sm}_${this.files++}.ptx`);
    writeFileSync(file, lines.join('\n'));
    const env = { GPUSIM_PTX: file, GPUSIM_SEED: String(seed), GPUSIM_MAX_INSTRUCTIONS: '10000000' };
    const outcome = await runCheck(this.module.sm, this.kernel.name, { env, firstFailure: true });
    rmSync(file);
    return outcome;
  }

  /** The seed that a mutant shows with, or `lint`; undefined for one that survives. */
  async caught(mutant: Mutant): Promise<number | 'lint' | undefined> {
    const lines = [...this.lines];
    lines[mutant.line - 1] = mutant.replacement;
    for (const seed of seeds) {
      const outcome = await this.run(lines, seed);
      expect(outcome.crashed, outcome.output).toBe(false);
      if (outcome.ok) continue;
      expect(outcome.output, JSON.stringify(mutant)).toMatch(/FAILED/);
      expect((await this.whole(seed)).ok, `${this.kernel.name} with seed ${seed}`).toBe(true);
      return seed;
    }
    const findings = lintPtx(this.lines.join('\n')).length;
    return lintPtx(lines.join('\n')).length > findings ? 'lint' : undefined;
  }
}

describe.skipIf(image === undefined)('mutants of compiled CUDA kernels', () => {
  const seen = new Set<string>();
  const sites = (image === undefined ? [] : capabilities).flatMap((sm) => {
    const module = moduleFor(sm);
    const checks = checksOn(sm);
    return module.kernels.flatMap((kernel) => {
      const mutants = mutantsOf(module, kernel);
      // Kernels that are the same for two compute capabilities have the same mutants.
      if (mutants.length === 0 || seen.has(kernel.text)) return [];
      seen.add(kernel.text);
      const subject = new Subject(module, kernel, checks.get(kernel.name) ?? []);
      return mutants.map((mutant) => ({ subject, mutant }));
    });
  });
  const isExcepted = (mutant: Mutant) => exceptions.some(excuses(mutant));
  // One in 23 comes to many kernels and to each kind of instruction. Those that survive take longest.
  const chosen = sites.filter(({ mutant }, k) => everything || (k % 31 === 3 && !isExcepted(mutant)));

  test('those that there are', () => {
    expect(sites.length).toBeGreaterThan(100);
    expect(new Set(chosen.map(({ mutant }) => mutant.change)).size).toBe(2);
    expect(exceptions.filter(({ reason }) => reason === '')).toEqual([]);
    expect(
      exceptions.filter((exception) => !sites.some(({ mutant }) => excuses(mutant)(exception))),
      'exceptions of what is not there',
    ).toEqual([]);
  });

  test('are caught', { timeout: 900_000 }, async () => {
    const results = await onAllCores(
      chosen.map(({ subject, mutant }) => async () => ({
        mutant,
        sm: subject.module.sm,
        by: await subject.caught(mutant),
      })),
    );
    const text = ({ sm, mutant: { kernel, change, site, line } }: (typeof results)[number]) =>
      `sm_${sm} ${kernel}:${line} | ${change} | ${site}`;
    const survivors = results.filter(({ by }) => by === undefined);
    console.log(
      `mutants of CUDA kernels: ${results.length - survivors.length} of ${results.length} caught, ${survivors.length} excepted; ${sites.length} in all`,
    );
    expect(survivors.filter(({ mutant }) => !isExcepted(mutant)).map(text)).toEqual([]);
    expect(
      results.filter(({ by, mutant }) => by !== undefined && isExcepted(mutant)).map(text),
      'caught all the same',
    ).toEqual([]);
  });
});
