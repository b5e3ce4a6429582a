/**
 * The table of cases (test/cases.ts) on every engine, against the float64 reference. By default every case
 * runs once an engine, asked for in one of the ways that pair up in the table; `npm run test:matrix` asks in
 * all of them.
 */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { type Case, cases, executionName, fullProduct } from './cases.js';
import {
  type CustomRow,
  closeEngines,
  customAnswers,
  evaluate,
  findEngines,
  instructionSets,
} from './engines.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { pairwise } from './pairwise.js';
import type { Problem } from './problems.js';
import { type ReferenceOptions, type ReferenceResult, reference } from './reference.js';

const engines = await findEngines();
afterAll(closeEngines);

const table = process.env.MARGINFC_TEST_CASES === 'all' ? fullProduct() : cases;

interface Prepared {
  readonly problem: Problem;
  readonly options: ReferenceOptions;
  readonly expected: ReferenceResult;
  /** What a custom margin is told, in order. */
  readonly asked: readonly CustomRow[];
}

/** Inputs and expected results, made once for all engines. */
const prepared = new Map<string, Prepared>();
function prepare({ name, make }: Case): Prepared {
  const known = prepared.get(name);
  if (known) return known;
  const { problem, options } = make();
  const { asked } = customAnswers(problem, options);
  const made = { problem, options, expected: reference(problem, options), asked };
  prepared.set(name, made);
  return made;
}

describe.each(engines.filter(({ missing }) => missing === undefined))('engine cpu $isa', (engine) => {
  test.each(table.map((entry) => [`${entry.name} (${executionName(entry.execution)})`, entry] as const))(
    'agrees with the reference: %s',
    async (_, entry) => {
      const { problem, options, expected, asked } = prepare(entry);
      const got = await evaluate(engine, problem, options, entry.execution);
      expectWithinLimits(got.result, expected, float32Limits(options.scale));
      expect(got.inputsIntact, 'inputs are not written').toBe(true);
      expect(got.paddingIntact, 'nothing is written outside the outputs').toBe(true);
      if (entry.execution.workspace !== 'auto') expect(got.result.workspace).toBe(entry.execution.workspace);

      expect(got.asked).toHaveLength(asked.length);
      got.asked.forEach((told, k) => {
        const { cosine, featureNorm, row, label } = asked[k]!;
        expect({ row: told.row, label: told.label }).toEqual({ row, label });
        expect(Math.abs(told.cosine - cosine)).toBeLessThan(1e-14);
        expect(Math.abs(told.featureNorm - featureNorm)).toBeLessThanOrEqual(1e-14 * featureNorm);
      });
    },
  );
});

describe.each(engines.filter(({ missing }) => missing !== undefined))('engine cpu $isa', ({ missing }) => {
  test.skip(`is missing: ${missing}`, () => {});
});

test.runIf(process.arch === 'x64')('an instruction set is missing only where the processor lacks it', () => {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '));
  const needs: Record<string, string[]> = {
    baseline: [],
    avx2: ['avx2', 'fma'],
    avx512: ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'],
  };
  const expected = instructionSets.filter((isa) => needs[isa]!.every((flag) => flags.has(flag)));
  expect(engines.filter(({ missing }) => missing === undefined).map(({ isa }) => isa)).toEqual(expected);
});

test('the table holds every pair of factors and every case has a name of its own', () => {
  const rows = pairwise({ a: [1, 2, 3], b: ['x', 'y'], c: [true, false], d: [1, 2, 3, 4] }, 1);
  for (const a of [1, 2, 3])
    for (const d of [1, 2, 3, 4]) expect(rows.some((row) => row.a === a && row.d === d)).toBe(true);
  expect(rows.length).toBeLessThan(48);
  const names = cases.map(({ name, execution }) => `${name} ${executionName(execution)}`);
  expect(new Set(names).size).toBe(names.length);
});
