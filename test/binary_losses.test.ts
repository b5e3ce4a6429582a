/** SphereFace2 and UniFace: the bias, how a head learns and keeps it, logits of any size, and what they are not with. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  adacos,
  adamw,
  type ForwardOptions,
  focal,
  forward,
  type LossOptions,
  linear,
  MarginHead,
  presets,
  sgd,
  sphereface2,
  uniface,
  type ValueAndGradOptions,
  valueAndGradSync,
} from '../src/index.js';
import { closeEngines, evaluate } from './engines.js';
import { expectFailure } from './failures.js';
import { findEveryKindOfEngine } from './gpus.js';
import {
  type Case,
  cases,
  clustered,
  optionsOf,
  referenceOptions,
  rowsOf,
  size,
  spread,
} from './loss_cases.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { makeProblem, type Problem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { type ReferenceOptions, reference } from './reference.js';

const engines = await findEveryKindOfEngine();
afterAll(closeEngines);

const binary = cases.filter((tested) => tested.binary);
const { dim, classes } = size;
const options = { dim, classes, init: spread.weights, optimizer: sgd({ learningRate: 0.5 }) };
const margins = [sphereface2({ weight: 50 }), uniface()] as const;

/** Of the bias, by the functional call. */
function gradientOf(head: MarginHead, bias: number, { features, labels }: Problem): number {
  return valueAndGradSync(
    { features, labels, dim, weights: head.weights() },
    { margin: { ...head.margin, bias } as never, gradients: 'features' },
  ).dBias!;
}

describe.each(binary)('dBias of $name', (tested) => {
  const small = makeProblem({ rows: 9, dim: 3, classes: 5 }, 'spread', 'ignored', 5);
  const rowWeights = Float32Array.from({ length: 9 }, (_, i) => (i % 3) / 2);

  test.each<[string, ValueAndGradOptions]>([
    ['of the mean', { reduction: 'mean' }],
    ['of a weighted sum, times dLoss', { reduction: 'sum', rowWeights, dLoss: 3 }],
    ['of each row', { reduction: 'none', dLoss: rowWeights }],
  ])('%s is the difference quotient', async (_, given) => {
    const lossAt = (by: number) => {
      const formula = referenceOptions(
        { ...tested, binary: (s) => ({ ...tested.binary!(s), bias: tested.binary!(s).bias + by }) },
        rowsOf(small, 4),
        'exact',
      );
      return reference(small, { ...formula, ...given } as ReferenceOptions).loss;
    };
    const factor = typeof given.dLoss === 'number' ? given.dLoss : 1;
    const call = { ...optionsOf(tested), scale: 4, ...given } as ValueAndGradOptions;
    const { dBias } = valueAndGradSync(small, { ...call, shards: 2 });
    expect(dBias).toBeCloseTo((factor * (lossAt(1e-5) - lossAt(-1e-5))) / 2e-5, 5);
    const { dLoss, ...forwarded } = call;
    using pass = await forward(small, forwarded as ForwardOptions);
    expect((await pass.backward(dLoss)).dBias).toBeCloseTo(dBias!, 4);
  });
});

/** Rows that are their class, and opposite to others of it: logits from -(2 s + 10) to 2 s + 10. */
const extreme: Problem = {
  features: Float32Array.of(1, 0, -1, 0, 0, 1),
  weights: Float32Array.of(1, 0, -1, 0, 1, 0, 0, -1, 1, 0),
  labels: Int32Array.of(0, 0, 3),
  dim: 2,
};

/** Orthogonal to all classes, whose logits are the bias alone. */
const orthogonal: Problem = {
  features: Float32Array.of(1, 0, 1, 0),
  weights: Float32Array.from({ length: 2 * 1009 }, (_, i) => i % 2),
  labels: Int32Array.of(5, 1008),
  dim: 2,
};

/** A row that is its class, so that all of its gradient is of others: too unlikely for 16 bits, one by one. */
const manyOrthogonal: Problem = {
  features: Float32Array.of(1, 0),
  weights: Float32Array.from({ length: 2 * 20000 }, (_, i) => (i < 2 ? 1 - i : i % 2)),
  labels: Int32Array.of(0),
  dim: 2,
};
const unlikelyBias = -17;

/** UniFace with a bias. */
function biased(bias: number): Case {
  return {
    name: 'uniface',
    margin: uniface({ bias }),
    formula: (c) => c - 0.4,
    negative: { value: (c) => c },
    binary: () => ({ bias, positive: 1, negative: 1 }),
  };
}
const unlikely = biased(unlikelyBias);

describe.each(engines)('on $name', (engine) => {
  test.each<[string, number, Problem]>([
    ['extreme', 64, extreme],
    ['extreme', 1000, extreme],
    ['orthogonal', 64, orthogonal],
  ])('logits of %s rows at s = %i neither overflow nor vanish', async (_, scale, problem) => {
    for (const bias of [-150, -10, 0, 10, 150]) {
      const tested = biased(bias);
      const formula = referenceOptions(tested, rowsOf(problem, scale), 'exact');
      for (const workspace of ['keep', 'recompute'] as const) {
        const execution = {
          shards: 2,
          threads: 2,
          workspace,
          call: 'valueAndGrad',
          arrays: 'whole',
        } as const;
        const { result } = await evaluate(engine, problem, formula, execution, optionsOf(tested));
        expectWithinLimits(result, reference(problem, formula), float32Limits(scale));
      }
    }
  });

  test.each(engine.precisions)('many unlikely classes add up with %s operands', async (precision) => {
    const limits = precision === 'float32' ? float32Limits(64) : halfLimits(precision, { scale: 64 });
    const formula = referenceOptions(unlikely, rowsOf(manyOrthogonal, 64), 'exact');
    const execution = {
      shards: 1,
      threads: 2,
      workspace: 'recompute',
      call: 'valueAndGrad',
      arrays: 'whole',
    } as const;
    const { result } = await evaluate(
      engine,
      manyOrthogonal,
      formula,
      { ...execution, precision },
      optionsOf(unlikely),
    );
    expectWithinLimits(result, reference(manyOrthogonal, formula), limits);
    const others = (manyOrthogonal.weights.length / 2 - 1) * Math.log1p(Math.exp(unlikelyBias));
    expect(Math.abs(result.logSumExp![0]! / others - 1)).toBeLessThan(1e-5);
  });
});

describe('the first bias', () => {
  const first = async (given: LossOptions & { readonly sampleRate?: number }, count = classes) => {
    const head = await MarginHead.create({ dim: 2, classes: count, optimizer: options.optimizer, ...given });
    await head.step({ features: Float32Array.of(1, 0), labels: Int32Array.of(0) }, { learningRate: 1e-30 });
    const { bias } = head;
    head.dispose();
    return bias!;
  };

  test('is the given one, or that of the paper', async () => {
    expect(await first({ margin: uniface({ bias: 2 }) })).toBe(2);
    expect(await first({ margin: uniface() })).toBeCloseTo(-Math.log(1310), 10);
    expect(await first({ margin: uniface(), sampleRate: 0.25 })).toBeCloseTo(-Math.log(1310 / 4), 10);
  });

  // Where z_y and z_j are those of orthogonal rows, dLoss/db is 0 there.
  test.each([
    [sphereface2(), 131],
    [sphereface2({ form: 'A', m: 0.5, t: 2 }), 1000],
    [sphereface2({ form: 'M', m: 1.7, lambda: 0.9 }), 2],
    [sphereface2({ lambda: 0.99, m: 1 }), 2],
  ] as const)('of SphereFace2 has no gradient where all angles are right, %#', async (margin, count) => {
    const bias = await first({ margin, scale: 40 }, count);
    const batch = {
      features: Float32Array.of(1, 0),
      weights: Float32Array.from({ length: 2 * count }, (_, i) => i % 2),
      labels: Int32Array.of(0),
      dim: 2,
    };
    const { dBias } = valueAndGradSync(batch, { margin: { ...margin, bias }, scale: 40 });
    const { dBias: near } = valueAndGradSync(batch, { margin: { ...margin, bias: bias + 0.1 }, scale: 40 });
    expect(Math.abs(dBias!)).toBeLessThan(1e-5 * Math.abs(near!));
  });
});

describe.each(margins)('the bias of a head with $kind', (margin) => {
  test.each([1, 3])('descends along its gradient, on %i processes alike', async (ranks) => {
    const heads = await Promise.all(
      processGroup(ranks).map((group) => MarginHead.create({ ...options, margin, group })),
    );
    const alone = await MarginHead.create({ ...options, margin, shards: 3 });
    expect(alone.bias).toBeUndefined();
    await alone.step(spread, { learningRate: 1e-30 });
    let bias = alone.bias!;
    const bounds = ranks === 1 ? [0, size.rows] : [0, 9, 9, size.rows];
    for (const problem of [spread, clustered, spread]) {
      const before = bias;
      bias -= 0.5 * gradientOf(alone, bias, problem);
      expect(Math.abs(bias - before)).toBeGreaterThan(1e-4);
      await alone.step(problem);
      expect(alone.bias).toBeCloseTo(bias, 5);
      await Promise.all(
        heads.map((head, rank) => head.step(rowsBetween(problem, bounds[rank]!, bounds[rank + 1]!))),
      );
      for (const head of heads) expect(head.bias).toBe(heads[0]!.bias);
      expect(heads[0]!.bias).toBeCloseTo(bias, 4);
    }
    for (const head of [...heads, alone]) head.dispose();
  });

  test('moves with what changes the head, and with nothing else', async () => {
    const given = { ...margin, bias: -4 };
    const head = await MarginHead.create({
      ...options,
      margin: given,
      optimizer: adamw({ learningRate: 0.01 }),
    });
    await head.evaluate(spread);
    await head.step(spread, { learningRate: 0 });
    await head.step(spread, { margin: { kind: 'softmax' } });
    await expectFailure(() => head.step(spread, { signal: AbortSignal.abort() }), 'ERR_ABORTED', /./);
    expect(head.bias).toBeUndefined();
    await head.accumulate(spread, { gradientScale: 0.5 });
    await head.accumulate(clustered, { gradientScale: 0.5 });
    expect(await head.apply({ learningRate: 0 })).toBe(false);
    expect(head.bias).toBe(-4);
    const mean = (gradientOf(head, -4, spread) + gradientOf(head, -4, clustered)) / 2;
    await head.apply({ learningRate: 0.02 });
    const second = -4 - 0.02 * mean;
    expect(head.bias).toBeCloseTo(second, 6);
    // Used up.
    await head.accumulate(spread, { margin: { kind: 'softmax' } });
    await head.apply();
    expect(head.bias).toBeCloseTo(second, 6);

    const evaluated = await head.evaluate(clustered);
    const same = valueAndGradSync(
      { ...clustered, weights: head.weights() },
      { margin: { ...margin, bias: head.bias! } },
    );
    expect(evaluated.loss).toBeCloseTo(same.loss, 4);
    using pass = head.forwardSync(clustered);
    const gradient = gradientOf(head, head.bias!, clustered);
    pass.backwardSync({ learningRate: 0 });
    pass.backwardSync({ learningRate: 0.1, dLoss: 2 });
    expect(head.bias).toBeCloseTo(second - 0.2 * gradient, 5);
    head.dispose();
  });

  test('is in checkpoints and snapshots with what has been accumulated, for any shards and processes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-bias-'));
    const head = await MarginHead.create({ ...options, margin });
    try {
      await head.step(spread);
      await head.accumulate(clustered);
      const snapshot = await head.snapshot();
      await head.save(folder);
      const loaded = await MarginHead.load(folder, { shards: 3 });
      const regrouped = await Promise.all(processGroup(2).map((group) => MarginHead.load(folder, { group })));
      const others = [loaded, ...regrouped];
      expect(loaded.margin).toEqual(margin);
      for (const other of others) expect(other.bias).toBe(head.bias);
      const before = head.bias;
      await Promise.all([head, ...others].map((each) => each.apply()));
      expect(head.bias).not.toBe(before);
      for (const other of others) expect(other.bias).toBe(head.bias);
      const applied = head.bias;
      await head.restore(snapshot);
      expect(head.bias).toBe(before);
      await head.apply();
      expect(head.bias).toBe(applied);
      await head.addClasses(9);
      await head.removeClasses([0]);
      expect(head.bias).toBe(applied);
      for (const other of others) other.dispose();
    } finally {
      await rm(folder, { recursive: true });
      head.dispose();
    }
  });
});

test('parameters may follow schedules on a head', async () => {
  const m = linear({ from: 0, to: 0.4, steps: 2 });
  const head = await MarginHead.create({ ...options, margin: uniface({ m, bias: -7 }) });
  const { loss } = await head.step(spread);
  expect(loss).toBeCloseTo(valueAndGradSync(spread, { margin: uniface({ m: 0, bias: -7 }) }).loss, 4);
  head.dispose();
});

test('a batch without labels has no loss and moves nothing', () => {
  const none = { ...spread, labels: spread.labels.map(() => -1) };
  for (const margin of margins)
    expect(valueAndGradSync(none, { margin })).toMatchObject({ loss: 0, dBias: 0 });
});

test('a preset takes the derivatives of all margins as 1', () => {
  const { dBias: _, ...exact } = valueAndGradSync(spread, { ...presets.sphereFace2, gradient: 'exact' });
  const released = valueAndGradSync(spread, presets.sphereFace2);
  expect(released.loss).toBe(exact.loss);
  expect(released.dFeatures).not.toEqual(exact.dFeatures);
});

test.each<[string, LossOptions | (() => LossOptions), string, RegExp]>([
  [
    'label smoothing',
    { margin: uniface(), labelSmoothing: 0.1 },
    'ERR_OPTION',
    /^labelSmoothing must be 0 with margin uniface, received 0\.1$/,
  ],
  [
    'a filter',
    { margin: uniface(), filterThreshold: 0.4 },
    'ERR_OPTION',
    /^filterThreshold must be 0 with margin uniface, received 0\.4$/,
  ],
  [
    'a function of the probability',
    { margin: sphereface2(), rowFunction: focal() },
    'ERR_OPTION',
    /^rowFunction must be 'none' with margin sphereface2, received focal$/,
  ],
  [
    'a scale by probabilities',
    { margin: sphereface2(), scale: adacos({ fixed: true }) },
    'ERR_OPTION',
    /^scale must be a number or a schedule with margin sphereface2, received adacos$/,
  ],
  [
    'a policy',
    { margin: sphereface2(), onOverflow: 'easy' },
    'ERR_OPTION',
    /^onOverflow must be 'none' with margin sphereface2, received 'easy'$/,
  ],
  [
    'a form of no paper',
    () => ({ margin: sphereface2({ form: 'B' as never }) }),
    'ERR_OPTION',
    /^margin\.form must be 'C', 'A' or 'M', received 'B'$/,
  ],
  [
    'a factor below 1',
    () => ({ margin: sphereface2({ form: 'M' }) }),
    'ERR_MARGIN',
    /^margin\.m must be at least 1 with form 'M', .* received 0\.4$/,
  ],
  [
    'an exponent that is no integer',
    () => ({ margin: sphereface2({ t: 2.5 }) }),
    'ERR_MARGIN',
    /^margin\.t must be an integer in \[1, 16\], received 2\.5$/,
  ],
  [
    'lambda of 1',
    () => ({ margin: sphereface2({ lambda: 1 }) }),
    'ERR_MARGIN',
    /^margin\.lambda must be a finite number > 0 and < 1, received 1$/,
  ],
  [
    'a bias that is not finite',
    () => ({ margin: uniface({ bias: Number.NaN }) }),
    'ERR_MARGIN',
    /^margin\.bias must be a finite number, received NaN$/,
  ],
])('%s is an error', async (_, given, code, message) => {
  const make = () => (typeof given === 'function' ? given() : given);
  await expectFailure(() => valueAndGradSync(spread, make()), code, message);
  await expectFailure(async () => MarginHead.create({ dim, classes, ...make() }), code, message);
});
