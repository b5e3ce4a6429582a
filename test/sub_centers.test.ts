/** Classes of several rows: every instruction set against the float64 reference, and heads that train them. */

import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import {
  adamw,
  centerLoss,
  countSubCenters,
  dominantSubCenters,
  dynArcFace,
  interLoss,
  MarginHead,
  type MarginHeadOptions,
  presets,
  sgd,
  valueAndGradSync,
} from '../src/index.js';
import type { Execution } from './cases.js';
import { futureOf, kept, newFolder, stateOf } from './checkpoint_heads.js';
import { takingPart } from './draw.js';
import { closeEngines, evaluate, findEngines, halfInstructionSets } from './engines.js';
import { expectFailure } from './failures.js';
import { cases as losses, optionsOf, referenceOptions, rowsOf } from './loss_cases.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { untrained, update } from './optimizer_rules.js';
import { type Arrangement, makeProblem, type Problem, type Size } from './problems.js';
import { processGroup } from './process_group.js';
import { arcfaceMean, type ReferenceOptions, reference } from './reference.js';

const engines = (await findEngines(halfInstructionSets)).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

/** Labels of the first row of a class become those of the class. */
function problemOf(size: Size, subCenters: number, arrangement: Arrangement, seed: number): Problem {
  const rows = { ...size, classes: size.classes * subCenters };
  const problem = makeProblem(rows, arrangement, 'ignored', seed);
  return { ...problem, labels: problem.labels.map((row) => Math.floor(row / subCenters)) };
}

const shape = (rows: number, dim: number, classes: number): Size => ({ rows, dim, classes });

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

function rounded(value: number, precision: 'bfloat16' | 'float16'): number {
  const bits = precision === 'bfloat16' ? 8 : 11;
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(value))) - bits + 1);
  if (value === 0) return 0;
  const whole = value / unit;
  const down = Math.floor(whole);
  const even = whole - down === 0.5 ? down + (down & 1) : Math.round(whole);
  return even * unit;
}

/** Which row of a class operands of 16 bits are nearest to. float16 are unit rows, bfloat16 rows as they are. */
function nearnessOf(problem: Problem, scale: number, precision: 'bfloat16' | 'float16') {
  const { features, weights, dim } = problem;
  const norms = (values: Float32Array) =>
    Array.from({ length: values.length / dim }, (_, i) =>
      Math.hypot(...values.subarray(i * dim, (i + 1) * dim)),
    );
  const [featureNorms, weightNorms] = [norms(features), norms(weights)];
  const factor = scale * Math.LOG2E;
  const x = features.map((v, e) =>
    rounded(Math.fround((v * factor) / featureNorms[Math.floor(e / dim)]!), precision),
  );
  const w = weights.map((v, e) => {
    const norm = precision === 'float16' ? weightNorms[Math.floor(e / dim)]! : 1;
    return rounded(Math.fround(v / norm), precision);
  });
  return (row: number, classRow: number) => {
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += x[row * dim + d]! * w[classRow * dim + d]!;
    return precision === 'float16' ? sum : sum / weightNorms[classRow]!;
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

  test.each(named.slice(0, 4))(
    '$name, 16-bit operands',
    async ({ size, subCenters, arrangement, options, execution }) => {
      const problem = problemOf(size, subCenters, arrangement, 3);
      const given = { ...arcfaceMean, ...options, subCenters };
      for (const precision of ['bfloat16', 'float16'] as const) {
        const { result } = await evaluate(engine, problem, given, { ...execution, precision });
        const nearness = nearnessOf(problem, given.scale, precision);
        expectWithinLimits(result, reference(problem, { ...given, nearness }), halfLimits(precision, given));
      }
    },
  );

  test('with losses that change other logits', async () => {
    const problem = problemOf(shape(31, 17, 130), 3, 'clustered', 4);
    for (const [i, tested] of losses.filter(({ negative, binary }) => negative || binary).entries()) {
      const execution = cases[i % 4]!.execution;
      const options = { ...referenceOptions(tested, rowsOf(problem, 64, 3), 'exact'), subCenters: 3 };
      const { result } = await evaluate(engine, problem, options, execution, optionsOf(tested));
      expectWithinLimits(result, reference(problem, options), float32Limits(3 * 64));
    }
  });
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

describe('heads', () => {
  const size = shape(33, 17, 61);
  const { dim, classes } = size;
  const subCenters = 3;
  const problems = [1, 2, 3].map((seed) => problemOf(size, subCenters, 'clustered', seed));
  const init = problems[0]!.weights;
  const formula = { ...arcfaceMean, scale: 16, subCenters };
  const shared = { dim, classes, subCenters, init, scale: 16 } satisfies MarginHeadOptions;

  const optimizers = {
    sgd: sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01, nesterov: true }),
    adamw: adamw({ learningRate: 0.01, weightDecay: 0.1, epsilon: 1e-2 }),
  };

  test.each([
    ['sgd', 'step', {}],
    ['sgd', 'step', { sampleRate: 0.3, sampledUpdate: 'sampled', shards: 3 }],
    ['sgd', 'accumulate', { sampleRate: 0.3, sampledUpdate: 'sampled' }],
    ['adamw', 'step', { sampleRate: 0.3, sampledUpdate: 'all', workspace: 'recompute' }],
    ['adamw', 'accumulate', { shards: 7 }],
  ] as const)('%s, %s %j: all rows of the classes that take part move', async (rule, call, options) => {
    const optimizer = optimizers[rule];
    const head = kept(await MarginHead.create({ ...shared, ...options, optimizer, seed: 4 }));
    const { sampleRate, sampledUpdate } = head;
    const state = untrained(init);
    for (const [step, { features, labels }] of problems.entries()) {
      const before = head.weights();
      state.weights.set(before);
      const ids =
        sampleRate < 1
          ? takingPart({ classes, sampleRate, seed: 4, step }, labels)
          : [...Array(classes).keys()];
      const place = new Map(ids.map((id, n) => [id, n]));
      const length = subCenters * dim;
      const weights = Float32Array.from(
        ids.flatMap((id) => [...before.subarray(id * length, (id + 1) * length)]),
      );
      const own = labels.map((label) => place.get(label) ?? -1);
      const expected = reference({ features, weights, labels: own, dim }, formula);
      const out = await head[call]({ features, labels });
      if (call === 'accumulate') await head.apply();
      expectWithinLimits(out, { ...expected, dWeights: new Float64Array() }, float32Limits(16));
      expect(out.sampledClasses).toBe(sampleRate < 1 ? ids.length : undefined);
      const gradient = new Float64Array(before.length);
      for (const [id, n] of place)
        gradient.set(expected.dWeights.subarray(n * length, (n + 1) * length), id * length);
      const moves = (i: number) => sampledUpdate === 'all' || place.has(Math.floor(i / length));
      update(state, gradient, optimizer, optimizer.learningRate as number, moves);
      const after = head.weights();
      const apart = after.reduce((most, value, i) => Math.max(most, Math.abs(value - state.weights[i]!)), 0);
      expect(apart).toBeLessThan(2e-5);
      expect([...after.keys()].every((i) => moves(i) || after[i] === before[i])).toBe(true);
    }
  });

  test('accuracy, angles and nearest go by class', async () => {
    const problem = problemOf(size, subCenters, 'clustered', 8);
    const head = kept(await MarginHead.create({ ...shared, init: problem.weights, shards: 2 }));
    const expected = reference(problem, formula);
    const out = await head.evaluate(problem, { accuracyTop5: true, histograms: 18 });
    expect(out).toMatchObject({ accuracy: expected.accuracy, accuracyTop5: expected.accuracyTop5 });
    const counted = problem.labels.filter((label) => label >= 0).length;
    const bins = new Uint32Array(18);
    for (const [i, label] of problem.labels.entries())
      if (label >= 0) bins[Math.floor((Math.acos(expected.hardestCosine[i]!) * 18) / Math.PI)]!++;
    expect(out.angles!.hardestNegative.reduce((sum, count) => sum + count, 0)).toBe(counted);
    expect([...out.angles!.hardestNegative]).toEqual([...bins]);
    const { classes: ids, cosines } = await head.nearest(problem.features, 4);
    const { cosines: all } = rowsOf(problem, 16, subCenters);
    for (const [i, row] of all.entries()) {
      const order = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 4);
      expect([...ids.subarray(4 * i, 4 * i + 4)]).toEqual(order);
      for (const [n, j] of order.entries()) expect(cosines[4 * i + n]).toBeCloseTo(row[j]!, 5);
    }
  });

  test.each([2, 4])('%i processes do what one does', async (ranks) => {
    const optimizer = optimizers.sgd;
    const margin = dynArcFace({ k1: 0.5, k2: 0.3, k3: 0.4, every: 2 });
    const given = { ...shared, margin, optimizer, sampleRate: 0.5, seed: 2 };
    const alone = kept(await MarginHead.create(given));
    const heads = await Promise.all(
      processGroup(ranks).map((group) => MarginHead.create({ ...given, group })),
    );
    heads.map(kept);
    for (const { features, labels } of problems) {
      const one = await alone.step({ features, labels });
      const outs = await Promise.all(
        heads.map((head, rank) => {
          const [start, end] = [rank, rank + 1].map((r) => Math.floor((33 * r) / ranks)) as [number, number];
          return head.step({
            features: features.slice(start * dim, end * dim),
            labels: labels.slice(start, end),
          });
        }),
      );
      for (const { loss } of outs) expect(loss).toBeCloseTo(one.loss, 4);
    }
    const weights = heads.flatMap((head) => [...head.weights()]);
    const apart = alone
      .weights()
      .reduce((most, value, i) => Math.max(most, Math.abs(value - weights[i]!)), 0);
    expect(weights).toHaveLength(classes * subCenters * dim);
    expect(apart).toBeLessThan(2e-5);
    const found = await Promise.all(heads.map((head) => head.nearest(problems[0]!.features, 3)));
    for (const { classes: ids } of found)
      expect(ids).toEqual((await alone.nearest(problems[0]!.features, 3)).classes);
  });

  const trained = async (options: Partial<MarginHeadOptions> = {}) => {
    const head = kept(
      await MarginHead.create({
        ...shared,
        optimizer: optimizers.adamw,
        terms: [centerLoss({ weight: 0.1 })],
        ...options,
      }),
    );
    for (const problem of problems.slice(0, 2)) await head.step(problem);
    await head.accumulate(problems[2]!);
    return head;
  };

  test.each(['float32', 'bfloat16'] as const)(
    'checkpoints and snapshots keep all rows, %s',
    async (storage) => {
      const folder = newFolder();
      const head = await trained({ storage, shards: 2 });
      await head.save(folder);
      const loaded = kept(await MarginHead.load(folder, { shards: 2 }));
      expect(loaded).toMatchObject({ dim, classes, subCenters });
      const restored = kept(
        await MarginHead.create({
          ...shared,
          optimizer: optimizers.adamw,
          storage,
          terms: head.terms,
          shards: 2,
        }),
      );
      await restored.restore(await head.snapshot());
      expect(loaded.centers()).toEqual(head.centers());
      const future = await futureOf(head);
      expect(await futureOf(loaded)).toEqual(future);
      expect(await futureOf(restored)).toEqual(future);
      const plain = kept(await MarginHead.create({ dim, classes, optimizer: optimizers.adamw }));
      const message = /^snapshot\.subCenters must be the head's, 1, received 3$/;
      const snapshot = await restored.snapshot();
      await expectFailure(() => plain.restore(snapshot), 'ERR_SHAPE', message);
    },
  );

  test('classes come and go with all their rows', async () => {
    const head = await trained({ shards: 2 });
    const length = subCenters * dim;
    const before = await stateOf(head);
    const added = Float32Array.from({ length: 2 * length }, (_, i) => Math.sin(i));
    expect(await head.addClasses(added)).toEqual(Int32Array.of(61, 62));
    expect(await head.addClasses(1)).toEqual(Int32Array.of(63));
    expect(head.weights(61, 63)).toEqual(added);
    await head.removeClasses([0, 7, 62]);
    const after = await stateOf(head);
    for (const name of ['weight', 'momentum', 'variance', 'accumulated', 'centers']) {
      const width = name === 'centers' ? dim : length;
      const old = before[name]!;
      expect(after[name]).toHaveLength(61 * width);
      expect(after[name]!.subarray(0, 59 * width)).toEqual(
        Float32Array.from([...old.subarray(width, 7 * width), ...old.subarray(8 * width)]),
      );
    }
  });
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
