/**
 * Partial FC: the draw against its definition written out (test/draw.ts), and steps against the float64 reference on the rows that
 * take part, with the optimisers' rules on top.
 */
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import {
  adamw,
  cosface,
  type HeadBatch,
  MarginHead,
  type MarginHeadOptions,
  type Optimizer,
  type Precision,
  type SampledUpdate,
  sgd,
  softmax,
} from '../src/index.js';
import { newFolder, stateOf } from './checkpoint_heads.js';
import { type Draw, drawn, philox, takingPart } from './draw.js';
import { closeEngines, type Engine, findEngines, halfInstructionSets, train } from './engines.js';
import { expectFailure } from './failures.js';
import { assign, everything, findGpus, findSomeSoftwareGpus } from './gpus.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { untrained, update } from './optimizer_rules.js';
import { pairwise } from './pairwise.js';
import { makeProblem, type Size } from './problems.js';
import { processGroup } from './process_group.js';
import { NORM_FLOOR, reference } from './reference.js';

afterAll(closeEngines);

const heads: MarginHead[] = [];
afterAll(() => {
  for (const head of heads) head.dispose();
});
function kept(head: MarginHead): MarginHead {
  heads.push(head);
  return head;
}

/** Classes that an update changed: with weight decay, all that took part in it. */
const decaying = sgd({ learningRate: 0.5, momentum: 0, weightDecay: 0.1 });

function changed(before: Float32Array, after: Float32Array, dim: number): number[] {
  const ids: number[] = [];
  for (let j = 0; j < before.length / dim; j++)
    if (before.subarray(j * dim, (j + 1) * dim).some((value, d) => value !== after[j * dim + d])) ids.push(j);
  return ids;
}

function batchOf(size: Size, labels: ArrayLike<number>, seed = 1): HeadBatch {
  const { features } = makeProblem({ ...size, classes: 1, rows: labels.length }, 'spread', 'random', seed);
  return { features, labels: Int32Array.from(labels) };
}

test('philox is that of the paper', () => {
  // Known answers of Random123, kat_vectors.
  expect(philox(0n, 0n)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  expect(philox(2n ** 64n - 1n, 2n ** 128n - 1n)).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
});

describe('the draw', () => {
  test.each<[string, Draw, number[]]>([
    ['of one short block', { classes: 131, sampleRate: 0.3, seed: 5, step: 0 }, [3, 3, 77]],
    ['of several blocks', { classes: 9000, sampleRate: 0.01, seed: 1, step: 0 }, [0, 4095, 4096, 8999]],
    ['of a whole number of blocks', { classes: 8192, sampleRate: 0.1, seed: 4294967295, step: 0 }, [8191]],
    ['of a last block without any', { classes: 4100, sampleRate: 0.1, seed: 2, step: 0 }, [5]],
    ['without owned classes', { classes: 200, sampleRate: 0.25, seed: 3, step: 0 }, [-1, -1]],
    ['with every class owned', { classes: 20, sampleRate: 0.5, seed: 3, step: 0 }, [...Array(20).keys()]],
    [
      'with more owned than drawn',
      { classes: 300, sampleRate: 0.01, seed: 3, step: 0 },
      [...Array(90).keys()],
    ],
    ['where an odd half rounds up', { classes: 5, sampleRate: 0.5, seed: 3, step: 0 }, [-1]],
  ])('is as defined: %s', async (_, draw, labels) => {
    const dim = 2;
    const { classes, sampleRate, seed } = draw;
    const batch = batchOf({ rows: 0, dim, classes }, labels);
    for (const shards of [1, 2, 3, 7]) {
      const head = kept(
        await MarginHead.create({ dim, classes, sampleRate, seed, shards, optimizer: decaying }),
      );
      for (let step = 0; step < 2; step++) {
        const before = head.weights();
        const { sampledClasses } = await head.step(batch);
        const expected = takingPart({ ...draw, step }, batch.labels);
        expect(changed(before, head.weights(), dim)).toEqual(expected);
        expect(sampledClasses).toBe(expected.length);
      }
    }
  });

  test('does not depend on shards, and follows seed and step (property)', async () => {
    const dim = 3;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          classes: fc.integer({ min: 30, max: 6000 }),
          sampleRate: fc.double({ min: 0.05, max: 0.99 }),
          seed: fc.nat(),
          shards: fc.integer({ min: 2, max: 9 }),
          sampledUpdate: fc.constantFrom<SampledUpdate>('sampled', 'all'),
          labels: fc.array(fc.integer({ min: -1, max: 29 }), { maxLength: 9 }),
        }),
        async ({ labels, shards, ...options }) => {
          const made = [1, shards].map((count) =>
            MarginHead.create({ ...options, dim, shards: count, init: { std: 1 }, optimizer: decaying }),
          );
          const [one, several] = await Promise.all(made);
          for (let step = 0; step < 2; step++) {
            const batch = batchOf({ rows: 0, dim, classes: options.classes }, labels, step);
            const [a, b] = [await one!.step(batch), await several!.step(batch)];
            const draw = { ...options, step };
            expect(a.sampledClasses).toBe(takingPart(draw, batch.labels).length);
            expect(b.sampledClasses).toBe(a.sampledClasses);
            expect(Math.abs(a.loss - b.loss)).toBeLessThan(float32Limits(64).loss * Math.max(1, a.loss));
          }
          const [x, y] = [one!.weights(), several!.weights()];
          expect(Math.max(...x.map((value, i) => Math.abs(value - y[i]!)))).toBeLessThan(1e-4);
          one!.dispose();
          several!.dispose();
        },
      ),
      { numRuns: 25, seed: 7 },
    );
  });

  test('is the same for every micro-batch until apply', async () => {
    const [dim, classes, seed, sampleRate] = [4, 500, 9, 0.1];
    const head = kept(await MarginHead.create({ dim, classes, seed, sampleRate, optimizer: decaying }));
    const labels = [Int32Array.of(1, 2), Int32Array.of(499)];
    for (let step = 0; step < 2; step++) {
      const before = head.weights();
      for (const own of labels) {
        const { sampledClasses } = await head.accumulate(batchOf({ rows: 0, dim, classes }, own));
        expect(sampledClasses).toBe(takingPart({ classes, seed, sampleRate, step }, own).length);
      }
      await head.apply();
      const all = Int32Array.from(labels.flatMap((own) => [...own]));
      expect(changed(before, head.weights(), dim)).toEqual(
        takingPart({ classes, seed, sampleRate, step }, all),
      );
    }
  });
});

const optimizers: Record<string, Optimizer> = {
  sgd: sgd({ learningRate: 0.5, momentum: 0, weightDecay: 0.01 }),
  'sgd with momentum': sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01, nesterov: true }),
  adamw: adamw({ learningRate: 0.01, weightDecay: 0.1, epsilon: 1e-2 }),
};
const sizes: Record<string, Size> = {
  'one block': { rows: 33, dim: 35, classes: 131 },
  'two blocks': { rows: 20, dim: 8, classes: 4500 },
  'no class left out of its block by much': { rows: 150, dim: 17, classes: 400 },
};
const factors = {
  size: Object.keys(sizes),
  sampleRate: [0.02, 0.3, 0.9],
  optimizer: Object.keys(optimizers),
  sampledUpdate: ['sampled', 'all'],
  shards: [1, 2, 3, 7],
  threads: [1, 3],
  workspace: ['keep', 'recompute'],
  call: ['step', 'accumulate'],
  scale: [16, 100],
  arrangement: ['spread', 'extremeNorms'],
} as const;

const cases = pairwise(factors, 5);

/** Of the margin that the heads below have. */
const formula = { gradient: 'exact', onOverflow: 'none', reduction: 'mean' } as const;

/** Steps in a row with other batches, each judged from the weights before it; the optimiser's state runs on in float64. */
async function expectStepsAsReference(
  engine: Engine,
  precision: Precision,
  { size: name, optimizer: rule, arrangement, threads, call, ...options }: (typeof cases)[number],
): Promise<void> {
  const { dim, classes, rows } = sizes[name]!;
  const optimizer = optimizers[rule]!;
  const { scale, sampleRate, sampledUpdate } = options;
  const seed = 11;
  // Rows of 1e-13 move so far that another step would say little.
  const labelings =
    arrangement === 'extremeNorms' ? (['ignored'] as const) : (['random', 'ignored', 'random'] as const);
  const problems = labelings.map((labeling, n) =>
    makeProblem({ rows, dim, classes }, arrangement, labeling, n),
  );
  const init = problems[0]!.weights;
  const batches = problems.map(({ features, labels }) => ({ features, labels }));
  const head = { ...options, dim, classes, init, optimizer, precision, seed, margin: cosface() };
  const steps = await train(engine, threads, { options: head, batches, call });

  const limits = precision === 'float32' ? float32Limits(scale) : halfLimits(precision, { scale });
  const state = untrained(init);
  // What the gradients of all steps so far may be off by, of each class.
  const off = new Float64Array(classes);
  let before = init;
  for (const [step, { result, weights: after }] of steps.entries()) {
    const { features, labels } = batches[step]!;
    const ids = takingPart({ classes, sampleRate, seed, step }, labels);
    const place = new Map(ids.map((id, n) => [id, n]));
    const expected = reference(
      {
        features,
        weights: Float32Array.from(ids.flatMap((id) => [...before.subarray(id * dim, (id + 1) * dim)])),
        labels: labels.map((label) => place.get(label) ?? -1),
        dim,
      },
      { ...formula, margin: { kind: 'cosface', m: 0.35 }, scale },
    );
    const { loss, rowLoss, logSumExp, targetCosine, accuracy, dFeatures, sampledClasses } = result;
    expect(sampledClasses).toBe(ids.length);
    const measured = { loss, rowLoss, logSumExp, targetCosine, dFeatures };
    expectWithinLimits(measured, expected, limits);
    // Rounded operands may put another class in front. On GPUs the cosines of rows so short that halves of 16 bits are 0 are
    // 0 too, and any class may come first.
    if (precision === 'float32') {
      const counted = [...labels.keys()].filter((i) => labels[i]! >= 0);
      const short = counted.filter((i) => expected.featureNorm[i]! < NORM_FLOOR);
      const undecided = engine.choice === 'cpu' ? 0 : short.length / counted.length;
      expect(Math.abs(accuracy! - expected.accuracy)).toBeLessThanOrEqual(undecided);
    }

    const gradient = new Float64Array(classes * dim);
    for (const [id, n] of place) gradient.set(expected.dWeights.subarray(n * dim, (n + 1) * dim), id * dim);
    const scaled = expected.dWeights.map((g, i) => Math.abs(g) * expected.weightNorm[Math.floor(i / dim)]!);
    const size = Math.max(expected.dWeightsUnprojected / 100, ...scaled);
    for (const [id, n] of place) off[id] = off[id]! + (limits.gradient * size) / expected.weightNorm[n]!;
    state.weights.set(before);
    const everyone = sampledUpdate === 'all';
    const learningRate = optimizer.learningRate as number;
    update(state, gradient, optimizer, learningRate, (i) => everyone || place.has(Math.floor(i / dim)));
    // Nesterov's momentum and the correction of adamw's bias make up to 4 of it, adamw divides it by its epsilon.
    const factor = (4 * learningRate) / (optimizer.kind === 'adamw' ? optimizer.epsilon : 1);
    const moved: number[] = [];
    let farthest = 0;
    for (let i = 0; i < after.length; i++) {
      const j = Math.floor(i / dim);
      if (!everyone && !place.has(j)) {
        if (!Object.is(after[i], before[i])) moved.push(j);
      } else if (arrangement === 'spread') {
        const error = Math.abs(after[i]! - state.weights[i]!);
        farthest = Math.max(farthest, error / (2e-6 + factor * off[j]!));
      }
    }
    expect(moved).toEqual([]);
    expect(farthest).toBeLessThanOrEqual(1);
    before = after;
  }
}

describe.each(await findEngines(halfInstructionSets))('steps on engine $name', (engine) => {
  const skipped = engine.missing !== undefined;
  const narrow = ['avx512bf16', 'amx'].some((isa) => engine.name.endsWith(isa));
  const runs = cases.map((one, n) => {
    const precision = narrow ? 'bfloat16' : engine.precisions[n % engine.precisions.length]!;
    return [precision, JSON.stringify(one), one] as const;
  });
  test.skipIf(skipped).each(runs)(
    'are those of the classes that take part: %s %s',
    async (precision, _, one) => {
      await expectStepsAsReference(engine, precision, one);
    },
  );
});

const onGpus = assign(
  cases.filter(({ workspace }, k) => workspace === 'recompute' && (everything || k % 2 === 0)),
  await findSomeSoftwareGpus(),
  await findGpus(),
  () => ['float32', 'bfloat16', 'float16'] as const,
);
test.each(onGpus.map((one) => [one.engine.name, one.precision, JSON.stringify(one.entry), one] as const))(
  'steps on %s are those of the classes that take part: %s %s',
  async (_, precision, __, { engine, entry }) => {
    await expectStepsAsReference(engine, precision, entry);
  },
);

describe('a head that samples', () => {
  const size = { rows: 40, dim: 19, classes: 900 };
  const { dim, classes } = size;
  const problems = [1, 2, 3].map((seed) => makeProblem(size, 'spread', 'ignored', seed));
  const { weights } = problems[0]!;
  const make = async (options: Partial<MarginHeadOptions>) =>
    kept(
      await MarginHead.create({
        ...{ dim, classes, init: weights, margin: softmax(), scale: 16, seed: 3 },
        optimizer: optimizers['sgd with momentum']!,
        ...options,
      }),
    );

  test('is at rate 1 the head that does not, bit for bit', async () => {
    const [plain, whole] = [await make({}), await make({ sampleRate: 1, sampledUpdate: 'all' })];
    for (const problem of problems) {
      const result = await whole.step(problem);
      expect(result).toEqual(await plain.step(problem));
      expect(result).not.toHaveProperty('sampledClasses');
    }
    expect(await stateOf(whole)).toEqual(await stateOf(plain));
  });

  test('evaluates and searches all classes', async () => {
    const [plain, some] = [await make({}), await make({ sampleRate: 0.1 })];
    const [{ features }] = problems as [(typeof problems)[0]];
    expect(await some.evaluate(problems[1]!)).toEqual(await plain.evaluate(problems[1]!));
    expect(await some.nearest(features, 5)).toEqual(await plain.nearest(features, 5));
  });

  test('goes forward and backward as it steps', async () => {
    const [apart, once] = [await make({ sampleRate: 0.1 }), await make({ sampleRate: 0.1 })];
    for (const problem of problems) {
      using pass = apart.forwardSync(problem);
      const dFeatures = pass.backwardSync();
      const step = await once.step(problem);
      expect(pass.sampledClasses).toBe(step.sampledClasses);
      expect(pass.loss).toBe(step.loss);
      expect(dFeatures).toEqual(step.dFeatures);
    }
    expect(await stateOf(apart)).toEqual(await stateOf(once));
  });

  test.each<[SampledUpdate, number]>([
    ['sampled', 3],
    ['all', 1],
  ])('goes on after a checkpoint as without it: %s, %i shards', async (sampledUpdate, shards) => {
    const head = await make({ sampleRate: 0.1, sampledUpdate, optimizer: optimizers.adamw! });
    await head.step(problems[0]!);
    await head.accumulate(problems[1]!);
    const folder = newFolder();
    await head.save(folder);
    const loaded = kept(await MarginHead.load(folder, { shards }));
    expect([loaded.sampleRate, loaded.sampledUpdate]).toEqual([0.1, sampledUpdate]);
    for (const each of [head, loaded]) await each.apply();
    expect(await stateOf(loaded)).toEqual(await stateOf(head));
    const [a, b] = [await head.step(problems[2]!), await loaded.step(problems[2]!)];
    expect(b.sampledClasses).toBe(a.sampledClasses);
    expect(b.loss).toBeCloseTo(a.loss, 5);
    const other = kept(await MarginHead.load(folder, { sampleRate: 0.5, sampledUpdate: 'all', seed: 8 }));
    const { sampledClasses } = await other.step(problems[2]!);
    const draw = { classes, sampleRate: 0.5, seed: 8, step: 1 };
    expect(sampledClasses).toBe(takingPart(draw, problems[2]!.labels).length);
  });

  test('gathers rows of bfloat16 too', async () => {
    const half = await make({ storage: 'bfloat16', sampleRate: 0.2 });
    const rounded = half.weights();
    const full = await make({ init: rounded, sampleRate: 0.2 });
    const [a, b] = [await half.step(problems[0]!), await full.step(problems[0]!)];
    expect(a.loss).toBeCloseTo(b.loss, 5);
    expect(a.sampledClasses).toBe(b.sampledClasses);
    // An update that is small enough may round to what was there before.
    const took = new Set(changed(rounded, full.weights(), dim));
    const moved = changed(rounded, half.weights(), dim);
    expect(moved.every((id) => took.has(id))).toBe(true);
    expect(moved.length).toBeGreaterThan(0.9 * took.size);
  });

  test.each<[number, SampledUpdate, 'step' | 'accumulate']>([
    [2, 'all', 'step'],
    [4, 'sampled', 'step'],
    [3, 'sampled', 'accumulate'],
  ])('is on %i processes the head of one: %s, %s', async (ranks, sampledUpdate, call) => {
    const options = { sampleRate: 0.2, sampledUpdate };
    const one = await make(options);
    const several = await Promise.all(processGroup(ranks).map((group) => make({ ...options, group })));
    const { rows } = size;
    // The last process has no rows.
    const bound = (rank: number) => Math.min(rows, Math.ceil((rank * rows) / (ranks - 1)));
    for (const { features, labels } of problems) {
      const { loss, sampledClasses } = await one[call]({ features, labels });
      const outs = await Promise.all(
        several.map((head, rank) => {
          const [start, end] = [bound(rank), bound(rank + 1)];
          const own = { features: features.slice(start * dim, end * dim), labels: labels.slice(start, end) };
          return head[call](own);
        }),
      );
      for (const out of outs) {
        expect(out.sampledClasses).toBe(sampledClasses);
        expect(out.loss).toBeCloseTo(loss, 5);
      }
      if (call === 'accumulate') await Promise.all([one, ...several].map((head) => head.apply()));
    }
    const [got, expected] = [several.flatMap((head) => [...head.weights()]), one.weights()];
    expect(Math.max(...got.map((value, i) => Math.abs(value - expected[i]!)))).toBeLessThan(1e-5);
    const moved = changed(weights, Float32Array.from(got), dim);
    expect(moved).toEqual(changed(weights, expected, dim));
    if (sampledUpdate === 'sampled') expect(moved.length).toBeLessThan(0.7 * classes);
  });

  test('leaves rows out of the gradient within the tolerance', async () => {
    const [some, fewer] = [
      await make({ sampleRate: 0.5, scale: 64 }),
      await make({ sampleRate: 0.5, scale: 64, gradientTolerance: 0.5 }),
    ];
    const [exact, skipping] = [await some.step(problems[0]!), await fewer.step(problems[0]!)];
    expect(skipping.skippedMass).toBeGreaterThan(0);
    expect(skipping.skippedMass).toBeLessThanOrEqual(0.5);
    expect(skipping.dFeatures).toEqual(exact.dFeatures);
  });

  test('changes nothing when a class that takes part is not finite, and does not look at the others', async () => {
    const ids = drawn({ classes, sampleRate: 0.1, seed: 3, step: 0 });
    const batch = batchOf(size, [-1, -1]);
    const inside = ids[20]!;
    const outside = [...Array(classes).keys()].find((id) => id > 500 && !ids.includes(id))!;
    for (const [id, fails] of [
      [inside, true],
      [outside, false],
    ] as const) {
      const init = weights.slice();
      init[id * dim] = NaN;
      const head = await make({ init, sampleRate: 0.1, shards: 2 });
      if (!fails) await head.step(batch);
      else {
        await expectFailure(
          () => head.step(batch),
          'ERR_NOT_FINITE',
          new RegExp(`^weights must be finite, row ${id} `),
        );
        expect(head.weights()).toEqual(init);
      }
    }
  });

  test.each<[string, Record<string, unknown>, string, RegExp]>([
    ['sampleRate', { sampleRate: 0 }, 'ERR_OPTION', /^sampleRate must be a finite number > 0, received 0$/],
    [
      'sampleRate',
      { sampleRate: 1.1 },
      'ERR_OPTION',
      /^sampleRate must be a number in \(0, 1\], received 1\.1$/,
    ],
    ['sampleRate', { sampleRate: '0.1' }, 'ERR_TYPE', /^sampleRate must be/],
    [
      'sampleRate',
      { sampleRate: 1e-5 },
      'ERR_OPTION',
      /^sampleRate must be at least 0\.5 \/ 900, which draws a class, received 0\.00001$/,
    ],
    [
      'sampledUpdate',
      { sampledUpdate: 'none' },
      'ERR_OPTION',
      /^sampledUpdate must be 'sampled' or 'all', received 'none'$/,
    ],
  ])('refuses a bad %s: %o', async (_, options, code, message) => {
    await expectFailure(() => make(options), code, message);
  });

  test('refuses to lose classes until none would be drawn', async () => {
    const head = kept(await MarginHead.create({ dim, classes: 60, sampleRate: 0.01 }));
    await expectFailure(
      () => head.removeClasses([...Array(20).keys()]),
      'ERR_OPTION',
      /^sampleRate must be at least 0\.5 \/ 40, /,
    );
    expect(head.classes).toBe(60);
  });
});
