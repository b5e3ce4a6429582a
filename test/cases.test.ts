/**
 * The table of cases (test/cases.ts) on every engine, against the float64 reference. By default every case
 * runs once on each instruction set, asked for in one of the ways that pair up in the table, and once on a software GPU
 * (test/gpus.ts); `npm run test:matrix` asks instruction sets in all of the ways, and runs each case with each precision on every software GPU.
 */
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { type Case, cases, executionName, fullProduct, smallCases } from './cases.js';
import {
  type CustomRow,
  closeEngines,
  customAnswers,
  type Engine,
  evaluate,
  findEngines,
  instructionSets,
} from './engines.js';
import { assign, everything, findGpus, findSoftwareGpus } from './gpus.js';
import { expectWithinLimits, float32Limits, halfLimits, type Limits } from './metrics.js';
import { pairwise } from './pairwise.js';
import type { Problem } from './problems.js';
import { type ReferenceOptions, type ReferenceResult, reference } from './reference.js';

const engines = await findEngines();
const softwareGpus = await findSoftwareGpus();
const gpus = await findGpus();
afterAll(closeEngines);

const table = everything ? fullProduct() : cases;

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

/** Everything that must hold of a case on an engine. */
async function expectCase(engine: Engine, entry: Case, limitsAt: (scale: number) => Limits): Promise<void> {
  const { problem, options, expected, asked } = prepare(entry);
  const got = await evaluate(engine, problem, options, entry.execution);
  expectWithinLimits(got.result, expected, limitsAt(options.scale));
  expect(got.inputsIntact, 'inputs are not written').toBe(true);
  expect(got.paddingIntact, 'nothing is written outside the outputs').toBe(true);
  const { workspace } = engine.choice === 'cpu' ? entry.execution : { workspace: 'recompute' };
  if (workspace !== 'auto') expect(got.result.workspace).toBe(workspace);
  expect(got.result.engine.startsWith(engine.choice)).toBe(true);

  expect(got.asked).toHaveLength(asked.length);
  got.asked.forEach((told, k) => {
    const { cosine, featureNorm, row, label } = asked[k]!;
    expect({ row: told.row, label: told.label }).toEqual({ row, label });
    expect(Math.abs(told.cosine - cosine)).toBeLessThan(1e-14);
    expect(Math.abs(told.featureNorm - featureNorm)).toBeLessThanOrEqual(1e-14 * featureNorm);
  });
}

describe.each(engines.filter(({ missing }) => missing === undefined))('engine $name', (engine) => {
  test.each(table.map((entry) => [`${entry.name} (${executionName(entry.execution)})`, entry] as const))(
    'agrees with the reference: %s',
    (_, entry) => expectCase(engine, entry, float32Limits),
  );
});

/** Above s = 64, and for problems built to be hostile to rounding, no limits of 16-bit operands are stated. */
const halves = new Set(
  cases.filter(({ name, make }) => /^\d+x\d+x\d+,/.test(name) && make().options.scale <= 64),
);
const halvesToo = (entry: Case) =>
  halves.has(entry) ? (['float32', 'float16', 'bfloat16'] as const) : (['float32'] as const);
const onGpus = [
  ...assign(everything ? cases : smallCases, softwareGpus, [], halvesToo),
  ...assign(cases, [], gpus, halvesToo),
].map(({ entry, engine, precision }) => {
  const execution = { ...entry.execution, precision };
  const title = `${engine.name}, ${precision}: ${entry.name} (${executionName(execution)})`;
  return [title, engine, { ...entry, execution }, precision] as const;
});
test.each(onGpus)('agrees with the reference on engine %s', (_, engine, entry, precision) =>
  expectCase(engine, entry, (scale) =>
    precision === 'float32' ? float32Limits(scale) : halfLimits(precision, { scale }),
  ),
);

describe.each([...engines, ...softwareGpus].filter(({ missing }) => missing !== undefined))(
  'engine $name',
  ({ missing }) => {
    test.skip(`is missing: ${missing}`, () => {});
  },
);

test.runIf(process.arch === 'x64')('an instruction set is missing only where the processor lacks it', () => {
  const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '));
  const needs: Record<string, string[]> = {
    baseline: [],
    avx2: ['avx2', 'fma'],
    avx512: ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'],
  };
  const expected = instructionSets.filter((isa) => needs[isa]!.every((flag) => flags.has(flag)));
  expect(engines.filter(({ missing }) => missing === undefined).map(({ name }) => name)).toEqual(
    expected.map((isa) => `cpu ${isa}`),
  );
});

test('the table holds every pair of factors and every case has a name of its own', () => {
  const rows = pairwise({ a: [1, 2, 3], b: ['x', 'y'], c: [true, false], d: [1, 2, 3, 4] }, 1);
  for (const a of [1, 2, 3])
    for (const d of [1, 2, 3, 4]) expect(rows.some((row) => row.a === a && row.d === d)).toBe(true);
  expect(rows.length).toBeLessThan(48);
  const names = cases.map(({ name, execution }) => `${name} ${executionName(execution)}`);
  expect(new Set(names).size).toBe(names.length);
});
