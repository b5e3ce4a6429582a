/** Classes of several rows, without a head: every instruction set and GPU against the float64 reference. */

import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import {
  countSubCenters,
  dominantSubCenters,
  interLoss,
  MarginHead,
  type Precision,
  presets,
  valueAndGradSync,
} from '../src/index.js';
import type { Execution } from './cases.js';
import { closeEngines, evaluate, findEngines, halfInstructionSets } from './engines.js';
import { expectFailure } from './failures.js';
import { assign, assignToEach, findGpus, findSomeSoftwareGpus } from './gpus.js';
import { cases as losses, optionsOf, referenceOptions, rowsOf } from './loss_cases.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { type Arrangement, makeProblem, type Problem, type Size } from './problems.js';
import { arcfaceMean, type ReferenceOptions, reference } from './reference.js';
import { nearnessOf, problemOf, shape } from './sub_center_problems.js';

const engines = (await findEngines(halfInstructionSets)).filter(({ missing }) => missing === undefined);
const [softwareGpus, gpus] = [await findSomeSoftwareGpus(), await findGpus()];
afterAll(closeEngines);

/** Several blocks and row blocks, odd ends of vectors and tiles, more rows a class than a tile has. */
const cases: readonly {
  readonly size: Size;
  readonly subCenters: number;
  readonly arrangement: Arrangement;
  readonly options?: Partial<ReferenceOptions>;
  readonly execution: Execution;
}[] = [
  {
    size: shape(31, 33, 131),
    subCenters: 3,
    arrangement: 'clustered',
    execution: { shards: 1, threads: 2, workspace: 'keep', call: 'valueAndGrad', arrays: 'whole' },
  },
  {
    size: shape(1, 1, 1),
    subCenters: 2,
    arrangement: 'spread',
    execution: { shards: 2, threads: 1, workspace: 'recompute', call: 'valueAndGradSync', arrays: 'inside' },
  },
  {
    size: shape(131, 17, 401),
    subCenters: 2,
    arrangement: 'spread',
    options: { reduction: 'sum', gradient: 'straightThrough' },
    execution: {
      shards: 3,
      threads: 2,
      workspace: 'recompute',
      call: 'forward and backward',
      arrays: 'inside',
    },
  },
  {
    size: shape(33, 131, 31),
    subCenters: 37,
    arrangement: 'clustered',
    options: { margin: { kind: 'cosface', m: 0.35 }, scale: 100 },
    execution: { shards: 7, threads: 2, workspace: 'keep', call: 'forward and backward', arrays: 'inside' },
  },
  {
    size: shape(31, 64, 2),
    subCenters: 5,
    arrangement: 'extremeNorms',
    options: { margin: { kind: 'x2softmax', a: -0.9, h: 0, k: 0.65 } },
    execution: { shards: 3, threads: 1, workspace: 'recompute', call: 'valueAndGrad', arrays: 'whole' },
  },
  {
    size: shape(31, 33, 50),
    subCenters: 4,
    arrangement: 'parallel',
    execution: { shards: 2, threads: 2, workspace: 'recompute', call: 'valueAndGradSync', arrays: 'inside' },
  },
  {
    size: shape(16, 9, 40),
    subCenters: 3,
    arrangement: 'spread',
    options: { scale: 1000, margin: { kind: 'softmax' } },
    execution: { shards: 1, threads: 2, workspace: 'keep', call: 'valueAndGrad', arrays: 'inside' },
  },
];
const named = cases.map((entry) => {
  const { size, subCenters, arrangement } = entry;
  return { ...entry, name: `${size.rows}x${size.dim}x${size.classes} x ${subCenters}, ${arrangement}` };
});

const precisions = ['float32', 'float16', 'bfloat16'] as const;
/** Of the others 16-bit operands have no limits: rounding decides which row of a class is the nearest. */
const namedInHalves = named.slice(0, 4);
const changing = losses.filter(({ negative }) => negative);
/** The reference and its limits, of losses that change other logits by derivatives of at most 3. */
function expectedOf(
  tested: (typeof losses)[number],
  problem: Problem,
  subCenters: number,
  precision: Precision,
) {
  const nearness = precision === 'float32' ? undefined : nearnessOf(problem, 64, precision, 'unit rows');
  const options = { ...referenceOptions(tested, rowsOf(problem, 64, subCenters), 'exact'), subCenters };
  const limits = precision === 'float32' ? float32Limits(3 * 64) : halfLimits(precision, { scale: 3 * 64 });
  return {
    options,
    expected: reference(problem, nearness ? { ...options, nearness } : options),
    // Of a binary reduction a part of the loss.
    limits: tested.binary ? { ...limits, logSumExp: limits.loss } : limits,
  };
}

describe.each(engines)('engine $name', (engine) => {
  test.each(named)('$name', async ({ size, subCenters, arrangement, options, execution }) => {
    const problem = problemOf(size, subCenters, arrangement, 3);
    const given = { ...arcfaceMean, ...options, subCenters };
    const { result, ...intact } = await evaluate(engine, problem, given, execution);
    expectWithinLimits(result, reference(problem, given), float32Limits(given.scale));
    expect(intact).toMatchObject({ inputsIntact: true, paddingIntact: true });
  });

  test.each(namedInHalves)(
    '$name, 16-bit operands',
    async ({ size, subCenters, arrangement, options, execution }) => {
      const problem = problemOf(size, subCenters, arrangement, 3);
      const given = { ...arcfaceMean, ...options, subCenters };
      for (const precision of ['bfloat16', 'float16'] as const) {
        const { result } = await evaluate(engine, problem, given, { ...execution, precision });
        const nearness = nearnessOf(
          problem,
          given.scale,
          precision,
          precision === 'float16' ? 'unit rows' : 'given',
        );
        expectWithinLimits(result, reference(problem, { ...given, nearness }), halfLimits(precision, given));
      }
    },
  );

  test('with losses that change other logits', async () => {
    const problem = problemOf(shape(31, 17, 130), 3, 'clustered', 4);
    for (const [i, tested] of changing.entries()) {
      const { options, expected, limits } = expectedOf(tested, problem, 3, 'float32');
      const { execution } = cases[i % 4]!;
      const { result } = await evaluate(engine, problem, options, execution, optionsOf(tested));
      expectWithinLimits(result, expected, limits);
    }
  });
});

/** Of GPUs: from two rows a class to the most, whole classes in fewer and fewer of a thread's columns; several tiles and chunks. */
const onGpus = [
  ...named
    .filter(({ subCenters }) => subCenters <= 16)
    .map((entry) => ({
      ...entry,
      precisions: namedInHalves.includes(entry) ? precisions : (['float32'] as const),
    })),
  ...([2, 3, 4, 5, 7, 9, 16] as const).map((subCenters, i) => {
    const size = shape([31, 140, 3][i % 3]!, [40, 33, 136][i % 3]!, [131, 57, 300][i % 3]!);
    const execution = { ...cases[i % cases.length]!.execution, shards: 1 + (i % 3) };
    const options = i % 3 === 2 ? { scale: 128 } : {};
    const name = `${size.rows}x${size.dim}x${size.classes} x ${subCenters}`;
    return { name, size, subCenters, arrangement: 'clustered' as const, options, execution, precisions };
  }),
];

test.each(
  assign<(typeof onGpus)[number], Precision>(onGpus, softwareGpus, gpus, (entry) => entry.precisions).map(
    ({ entry, engine, precision }) => {
      return [
        `${entry.name} on engine ${engine.name}, ${precision} operands`,
        engine,
        entry,
        precision,
      ] as const;
    },
  ),
)('%s', async (_, engine, { size, subCenters, arrangement, options, execution }, precision) => {
  const problem = problemOf(size, subCenters, arrangement, 3);
  const given = { ...arcfaceMean, ...options, subCenters };
  const { result, ...intact } = await evaluate(engine, problem, given, { ...execution, precision });
  const nearness = nearnessOf(problem, Math.min(given.scale, 64), precision, 'unit rows');
  const limits = precision === 'float32' ? float32Limits(given.scale) : halfLimits(precision, given);
  expectWithinLimits(result, reference(problem, { ...given, nearness }), limits);
  expect(intact).toMatchObject({ inputsIntact: true, paddingIntact: true });
});

const changingOnGpus = [
  // Thresholds of theirs are near cosines that 16 bits move to the other side.
  ...assign(
    changing.filter(({ binary }) => !binary),
    softwareGpus,
    gpus,
    () => ['float32'] as const,
  ),
  ...assignToEach(
    changing.filter(({ binary }) => binary),
    softwareGpus,
    gpus,
    precisions,
  ),
].map(({ entry, engine, precision }, i) => {
  const subCenters = [3, 2, 16, 5][i % 4]!;
  return [
    `${entry.name} x ${subCenters} on engine ${engine.name}, ${precision} operands`,
    { engine, entry, precision, subCenters, execution: cases[i % 4]!.execution },
  ] as const;
});
test.each(changingOnGpus)('%s', async (_, { engine, entry, precision, subCenters, execution }) => {
  const problem = problemOf(shape(31, 17, 130), subCenters, 'clustered', 4);
  const { options, expected, limits } = expectedOf(entry, problem, subCenters, precision);
  const { result } = await evaluate(engine, problem, options, { ...execution, precision }, optionsOf(entry));
  expectWithinLimits(result, expected, limits);
});

test('one row a class changes no bit', () => {
  const problem = makeProblem(shape(31, 33, 131), 'clustered', 'ignored', 1);
  for (const options of [{}, { shards: 3, workspace: 'recompute', precision: 'bfloat16' }] as const)
    expect(valueAndGradSync(problem, { ...options, subCenters: 1 })).toEqual(
      valueAndGradSync(problem, options),
    );
});

test('the preset is what its options say', () => {
  const preset = presets.insightFaceSubCenterArcFace;
  const problem = problemOf(shape(31, 33, 40), 3, 'clustered', 7);
  const options: ReferenceOptions = { ...arcfaceMean, subCenters: preset.subCenters };
  expectWithinLimits(valueAndGradSync(problem, preset), reference(problem, options), float32Limits(64));
});

test('of equal rows the first stands for the class', () => {
  const [dim, subCenters] = [33, 3];
  const plain = makeProblem(shape(31, dim, 131), 'clustered', 'ignored', 2);
  const row = (values: Float32Array, j: number) => values.subarray(j * dim, (j + 1) * dim);
  const classes = Array.from({ length: 131 }, (_, j) => row(plain.weights, j));
  const weights = Float32Array.from(
    classes.flatMap((own) => Array.from({ length: subCenters }, () => [...own]).flat()),
  );
  for (const workspace of ['keep', 'recompute'] as const) {
    const out = valueAndGradSync({ ...plain, weights }, { subCenters, workspace, shards: 2 });
    const firsts = Float32Array.from(classes.flatMap((_, j) => [...row(out.dWeights, j * subCenters)]));
    const expected = reference(plain, arcfaceMean);
    expectWithinLimits({ ...out, dWeights: firsts }, expected, float32Limits(64));
    for (let r = 0; r < 131 * subCenters; r++)
      if (r % subCenters !== 0) expect(row(out.dWeights, r).every((value) => value === 0)).toBe(true);
  }
});

test('gradients are the difference quotients of the loss', () => {
  const problem = problemOf(shape(5, 4, 6), 2, 'spread', 5);
  const options = { ...arcfaceMean, scale: 8, subCenters: 2 };
  const { dFeatures, dWeights } = reference(problem, options);
  for (const [name, gradient] of [
    ['features', dFeatures],
    ['weights', dWeights],
  ] as const)
    for (const [i, value] of gradient.entries()) {
      const at = (step: number) => {
        const moved = Float64Array.from(problem[name], (element, e) => (e === i ? element + step : element));
        return reference({ ...problem, [name]: moved }, options).loss;
      };
      expect((at(1e-6) - at(-1e-6)) / 2e-6).toBeCloseTo(value, 5);
    }
});

test('random problems agree with the reference (property)', () => {
  fc.assert(
    fc.property(
      fc.record({
        rows: fc.integer({ min: 1, max: 40 }),
        dim: fc.integer({ min: 2, max: 40 }),
        classes: fc.integer({ min: 1, max: 90 }),
        subCenters: fc.integer({ min: 2, max: 9 }),
        shards: fc.integer({ min: 1, max: 4 }),
        workspace: fc.constantFrom('keep' as const, 'recompute' as const),
        scale: fc.constantFrom(1, 30, 64, 100),
        seed: fc.nat(1000),
      }),
      ({ subCenters, shards, workspace, scale, seed, ...size }) => {
        const problem = problemOf(size, subCenters, seed % 2 === 0 ? 'spread' : 'clustered', seed);
        const options = { ...arcfaceMean, scale, subCenters };
        const out = valueAndGradSync(problem, { scale, subCenters, shards, workspace });
        expectWithinLimits(out, reference(problem, options), float32Limits(scale));
      },
    ),
    { numRuns: 60, seed: 3 },
  );
});

test('a tolerance leaves out no more than it says', () => {
  const [gradientTolerance, dim, subCenters] = [0.02, 8, 3];
  const options = { scale: 32, subCenters };
  const batch = problemOf(shape(5, dim, 700), subCenters, 'spread', 6);
  const exact = valueAndGradSync(batch, options);
  const out = valueAndGradSync(batch, { ...options, gradientTolerance });
  expect(out.dFeatures).toEqual(exact.dFeatures);
  expect(out.skippedMass).toBeGreaterThan(0);
  expect(out.skippedMass).toBeLessThanOrEqual(gradientTolerance);
  let moved = 0;
  for (let j = 0; j < 700 * subCenters; j++) {
    const of = (values: Float32Array) => values.subarray(dim * j, dim * (j + 1));
    const change = of(exact.dWeights).map((value, d) => value - of(out.dWeights)[d]!);
    moved += Math.hypot(...of(batch.weights)) * Math.hypot(...change);
  }
  expect(moved).toBeLessThanOrEqual(32 * gradientTolerance);
});

test('the dominant row is the one that most rows of the class are nearest to', async () => {
  const [dim, subCenters, classes] = [9, 3, 20];
  const batches = [1, 2, 3].map((seed) => problemOf(shape(60, dim, classes), subCenters, 'clustered', seed));
  const { weights } = batches[0]!;
  const row = (values: Float32Array, i: number) => [...values.subarray(i * dim, (i + 1) * dim)];
  const expected = new Float64Array(classes * subCenters);
  for (const { features, labels } of batches)
    for (const [i, label] of labels.entries()) {
      if (label < 0) continue;
      const near = [0, 1, 2].map((k) => {
        const w = row(weights, label * subCenters + k);
        return row(features, i).reduce((sum, x, d) => sum + x * w[d]!, 0) / Math.hypot(...w);
      });
      expected[label * subCenters + near.indexOf(Math.max(...near))]! += 1;
    }
  const centers = { weights, dim, subCenters };
  const counts = new Float64Array(classes * subCenters);
  for (const batch of batches) countSubCenters(centers, batch, counts);
  expect(counts).toEqual(expected);
  // Of two processes each counts its own classes.
  const halves = [0, 12].map((start) => {
    const part = { dim, subCenters, start };
    const own = weights.subarray(start * subCenters * dim, (start === 0 ? 12 : 20) * subCenters * dim);
    return countSubCenters({ ...part, weights: own }, batches[0]!);
  });
  expect(Float64Array.from(halves.flatMap((half) => [...half]))).toEqual(
    countSubCenters(centers, batches[0]!),
  );
  const dominant = dominantSubCenters(centers, counts);
  for (let j = 0; j < classes; j++) {
    const own = [...expected.subarray(j * subCenters, (j + 1) * subCenters)];
    const most = j * subCenters + own.indexOf(Math.max(...own));
    expect(row(dominant, j)).toEqual(row(weights, most));
  }
  const message = /^counts\.length must be 60 \(classes \* subCenters\), received 20$/;
  await expectFailure(async () => dominantSubCenters(centers, new Float64Array(20)), 'ERR_SHAPE', message);
});

test.each<[string, () => unknown, Parameters<typeof expectFailure>[1], RegExp]>([
  [
    'label smoothing',
    () => valueAndGradSync(problemOf(shape(2, 3, 4), 2, 'spread', 1), { subCenters: 2, labelSmoothing: 0.1 }),
    'ERR_OPTION',
    /^subCenters must be 1 with labelSmoothing 0\.1, which adds up the cosines to all classes, received 2$/,
  ],
  [
    'an inter-loss',
    () => MarginHead.create({ dim: 3, classes: 4, subCenters: 2, terms: [interLoss()] }),
    'ERR_OPTION',
    /^subCenters must be 1 with an interLoss, whose classes have one centre each, received 2$/,
  ],
  [
    'weights of half a class',
    () => valueAndGradSync(problemOf(shape(2, 3, 4), 1, 'spread', 1), { subCenters: 3 }),
    'ERR_SHAPE',
    /^weights\.length must be a positive multiple of subCenters \* dim 9, received 12$/,
  ],
  [
    'first weights of one row a class',
    () => MarginHead.create({ dim: 3, classes: 4, subCenters: 2, init: new Float32Array(12) }),
    'ERR_SHAPE',
    /^init\.length must be 24 \(classes \* subCenters \* dim\), received 12$/,
  ],
  [
    'no row',
    () => MarginHead.create({ dim: 3, classes: 4, subCenters: 0 }),
    'ERR_OPTION',
    /^subCenters must be an integer in \[1, 1024\], received 0$/,
  ],
  [
    'more rows than can be counted',
    () => MarginHead.create({ dim: 3, classes: 2 ** 30, subCenters: 3 }),
    'ERR_SHAPE',
    /^subCenters must be at most 1 with 1073741824 classes, received 3$/,
  ],
])('%s is refused', async (_, call, code, message) => {
  await expectFailure(call as () => Promise<unknown>, code, message);
});
