/** 16-bit operands and 16-bit rows: within their own limits on every instruction set, and rounded alike on all. */
import { afterAll, describe, expect, test } from 'vitest';
import { type HalfArray, MarginFcError, MarginHead, valueAndGradSync } from '../src/index.js';
import { cases, type Execution } from './cases.js';
import { closeEngines, evaluate, findEngines, halfInstructionSets } from './engines.js';
import { goldenCases } from './golden.js';
import { assignToEach, findGpus, findSoftwareGpus } from './gpus.js';
import { expectWithinLimits, halfLimits } from './metrics.js';
import { makeProblem } from './problems.js';
import { reference } from './reference.js';

const engines = await findEngines(halfInstructionSets);
const softwareGpus = await findSoftwareGpus();
const gpus = await findGpus();
afterAll(closeEngines);
const available = engines.filter(({ missing }) => missing === undefined);

const precisions = ['bfloat16', 'float16'] as const;
const ways: readonly Execution[] = [
  { call: 'valueAndGrad', shards: 1, threads: 2, workspace: 'keep', arrays: 'whole' },
  { call: 'valueAndGradSync', shards: 3, threads: 1, workspace: 'recompute', arrays: 'inside' },
  { call: 'forward and backward', shards: 2, threads: 2, workspace: 'keep', arrays: 'whole' },
];

/** One execution of each case; above s = 64 the limits are not stated. */
const table = [...new Map(cases.map((entry) => [entry.name, entry])).values()].filter(
  ({ name, make }) => /^\d+x\d+x\d+,/.test(name) && make().options.scale <= 64,
);

describe.each(available)('engine $name', (engine) => {
  describe.each(precisions)('with %s operands', (precision) => {
    test.each(goldenCases)('meets golden case $name', async ({ problem, options }) => {
      const expected = reference(problem, options);
      for (const way of ways) {
        const { result } = await evaluate(engine, problem, options, { ...way, precision });
        expectWithinLimits(result, expected, halfLimits(precision));
      }
    });

    test.each(table)('agrees with the reference: $name', async ({ make, execution }) => {
      const { problem, options } = make();
      const { result } = await evaluate(engine, problem, options, { ...execution, precision });
      expectWithinLimits(result, reference(problem, options), halfLimits(precision, options));
    });
  });
});

// test/cases.test.ts has the table on GPUs.
test.each(
  assignToEach(goldenCases, softwareGpus, gpus, precisions).map(({ entry, engine, precision }, k) => {
    const execution = { ...ways[k % ways.length]!, precision };
    const title = `${entry.name} on engine ${engine.name}, shards ${execution.shards}, ${precision} operands`;
    return [title, engine, entry, execution] as const;
  }),
)('meets golden case %s', async (_, engine, { problem, options }, execution) => {
  const { result } = await evaluate(engine, problem, options, execution);
  expectWithinLimits(result, reference(problem, options), halfLimits(execution.precision));
});

test('bfloat16 operands are rounded alike in hardware and without it', async () => {
  const problem = makeProblem({ rows: 33, dim: 65, classes: 131 }, 'spread', 'random', 3);
  const options = goldenCases[0]?.options;
  if (options === undefined) throw new Error('there is no golden case');
  const results = await Promise.all(
    available.map((engine) => evaluate(engine, problem, options, { ...ways[0]!, precision: 'bfloat16' })),
  );
  const [first, ...others] = results.map(({ result }) => result);
  const largest = Math.max(...first!.dWeights!.map(Math.abs));
  for (const other of others) {
    const apart = other.dWeights!.map((value, i) => Math.abs(value - first!.dWeights![i]!));
    // Sums in another order, and the few E that fall on the other side of a tie: not another rounding of every operand.
    expect(apart.filter((value) => value > 2e-6 * largest).length).toBeLessThan(apart.length / 100);
    expect(other.loss).toBeCloseTo(first!.loss!, 4);
  }
});

test.each(precisions)('a head with %s operands finds the hardest negative', async (precision) => {
  const { weights, dim } = makeProblem({ rows: 1, dim: 48, classes: 131 }, 'spread', 'random', 5);
  const labels = Int32Array.from({ length: 40 }, (_, row) => (row * 17) % 131);
  // Every third row lies on another class than its own, first and last classes among them.
  const nearest = labels.map((label, row) => (row % 3 === 0 ? (label + 65) % 131 : label));
  const features = Float32Array.from(
    { length: labels.length * dim },
    (_, i) => weights[nearest[Math.floor(i / dim)]! * dim + (i % dim)]!,
  );
  const head = await MarginHead.create({ dim, classes: 131, init: weights, precision });
  expect((await head.evaluate({ features, labels })).accuracy).toBeCloseTo(26 / 40, 6);
  head.dispose();
});

/** 16-bit floats of float32 values, by truncation: any of their neighbours will do here. */
function halves(values: Float32Array, dtype: HalfArray['dtype']): { half: HalfArray; wide: Float32Array } {
  const bits = new Uint32Array(values.slice().buffer);
  const data = new Uint16Array(values.length);
  const wide = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const word = bits[i]!;
    if (dtype === 'bfloat16') {
      data[i] = word >>> 16;
      wide[i] = new Float32Array(new Uint32Array([word & 0xffff0000]).buffer)[0]!;
    } else {
      // Magnitudes in [2^-14, 65504] only: exponent rebiased from 127 to 15, mantissa cut to 10 bits.
      const exponent = ((word >>> 23) & 0xff) - 112;
      if (exponent <= 0 || exponent >= 31) continue;
      data[i] = ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff);
      wide[i] = new Float32Array(new Uint32Array([word & 0xffffe000]).buffer)[0]!;
    }
  }
  return { half: { data, dtype }, wide };
}

describe.each(precisions)('rows stored as %s', (dtype) => {
  const { features, weights, labels, dim } = makeProblem(
    { rows: 33, dim: 31, classes: 131 },
    'spread',
    'ignored',
    8,
  );
  const x = halves(features, dtype);
  const w = halves(weights, dtype);

  test('give what the same values give in float32, bit for bit', () => {
    for (const shards of [1, 3]) {
      const got = valueAndGradSync({ features: x.half, weights: w.half, labels, dim }, { shards });
      const expected = valueAndGradSync({ features: x.wide, weights: w.wide, labels, dim }, { shards });
      expect(got).toEqual(expected);
    }
  });

  test('are refused with the wrong length, type or tag', () => {
    const call = (rows: unknown) => () =>
      valueAndGradSync({ features: rows as HalfArray, weights: w.half, labels, dim });
    expect(call({ data: x.half.data.subarray(1), dtype })).toThrow(
      /^features.length must be 1023 .*, received 1022$/,
    );
    expect(call({ data: features, dtype })).toThrow(
      /^features.data must be a Uint16Array, received Float32Array/,
    );
    expect(call({ data: x.half.data, dtype: 'int8' })).toThrow(MarginFcError);
    expect(call(x.half.data)).toThrow(/^features must be a Float32Array, received Uint16Array/);
  });
});
