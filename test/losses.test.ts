/** Losses that are margins over a whole batch: against their formulas in float64, on shards and over groups of processes. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { normalOf, philox } from '../src/counter_random.js';
import {
  adaface,
  arcface,
  type BatchMargin,
  cosface,
  elasticArcFace,
  elasticCosFace,
  forward,
  linear,
  type Margin,
  MarginHead,
  magface,
  type OverflowPolicy,
  presets,
  randomSoftmax,
  sgd,
  sphereface,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { expectFailure } from './failures.js';
import {
  cases,
  clustered,
  expected,
  optionsOf,
  presetFormulas,
  referenceOptions,
  rowsOf,
  size,
  spread,
  withNorms,
} from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { makeProblem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { reference } from './reference.js';

/** Of negatives' derivatives: they multiply the errors of cosines as the scale does. */
const steepest = 3;

describe.each(cases)('$name', (tested) => {
  const options = optionsOf(tested);
  const { margin } = options;
  const ofHead = tested.head;
  test.each([
    ['spread rows', spread, 64],
    ['rows near their class', clustered, 64],
    ['a scale that needs a maximum', clustered, 100],
  ] as const)('%s: loss and both gradients are those of the formula', async (_, problem, scale) => {
    for (const gradient of ['exact', 'straightThrough'] as const) {
      const limits = float32Limits(tested.negative ? steepest * scale : scale);
      const out = await valueAndGrad(problem, { ...options, gradient, scale, shards: 3 });
      expectWithinLimits(out, expected(problem, { ...tested, gradient, scale }), limits);
    }
  });

  test.skipIf(tested.derivative)('the gradient of features is the difference quotient of the loss', () => {
    const small = withNorms(makeProblem({ rows: 4, dim: 3, classes: size.classes }, 'spread', 'random', 5));
    const { dFeatures } = valueAndGradSync(small, { ...options, scale: 4 });
    const far = dFeatures.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    // Of the batch as it is, so that no margin or threshold changes meanwhile.
    const formulas = referenceOptions(tested, rowsOf(small, 4), 'exact');
    const lossAt = (at: number, by: number) => {
      const features = Float64Array.from(small.features);
      features[at]! += by;
      return reference({ ...small, features }, formulas).loss;
    };
    for (const [at, value] of dFeatures.entries()) {
      const quotient = (lossAt(at, 1e-5) - lossAt(at, -1e-5)) / 2e-5;
      expect(Math.abs(value - quotient)).toBeLessThan(1e-4 * far);
    }
  });

  test('poles, zero rows and norms of any size give finite numbers', () => {
    for (const arrangement of ['parallel', 'extremeNorms', 'opposite'] as const) {
      const out = valueAndGradSync(makeProblem(size, arrangement, 'ignored', 3), options);
      for (const values of [out.rowLoss, out.dFeatures, out.dWeights])
        expect(values.every(Number.isFinite)).toBe(true);
    }
  });

  test.skipIf(ofHead !== undefined)('is plain data', () => {
    expect(JSON.parse(JSON.stringify(margin))).toEqual(margin);
    const copy: Margin = JSON.parse(JSON.stringify(margin));
    expect(valueAndGradSync(spread, { ...options, margin: copy })).toEqual(valueAndGradSync(spread, options));
  });

  test('forward and backward are valueAndGrad', async () => {
    const recomputed = { ...options, workspace: 'recompute' } as const;
    const [pass, whole] = [await forward(spread, recomputed), await valueAndGrad(spread, recomputed)];
    const { dFeatures, dWeights } = await pass.backward();
    expect({ loss: pass.loss, dFeatures, dWeights }).toEqual({
      loss: whole.loss,
      dFeatures: whole.dFeatures,
      dWeights: whole.dWeights,
    });
    pass.dispose();
  });

  test.each([1, 2, 4])('steps of a head over %i processes are those of one', async (ranks) => {
    const init = spread.weights;
    const given = {
      ...options,
      margin: ofHead ?? margin,
      dim: size.dim,
      classes: size.classes,
      init,
      seed: 7,
    };
    const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 });
    const alone = await MarginHead.create({ ...given, optimizer, shards: 3 });
    const heads = await Promise.all(
      processGroup(ranks).map((group) => MarginHead.create({ ...given, optimizer, group })),
    );
    // Uneven, and none for the second of several.
    const bounds = ranks === 1 ? [0, 31] : ranks === 2 ? [0, 31, 31] : [0, 9, 9, 30, 31];
    for (const problem of [spread, clustered, spread]) {
      const one = await alone.step(rowsBetween(problem, 0, 31));
      const outs = await Promise.all(
        heads.map((head, rank) => head.step(rowsBetween(problem, bounds[rank]!, bounds[rank + 1]!))),
      );
      for (const { loss } of outs) expect(loss).toBeCloseTo(one.loss, 4);
      expect(new Set(outs.map(({ loss }) => loss)).size).toBe(1);
      const rowLoss = outs.flatMap((out) => [...out.rowLoss]);
      const furthest = rowLoss.reduce(
        (most, value, i) => Math.max(most, Math.abs(value - one.rowLoss[i]!)),
        0,
      );
      expect(furthest).toBeLessThan(1e-3);
      const dFeatures = outs.flatMap((out) => [...out.dFeatures]);
      const largest = one.dFeatures.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const off = dFeatures.reduce(
        (most, value, i) => Math.max(most, Math.abs(value - one.dFeatures[i]!)),
        0,
      );
      expect(off).toBeLessThan(1e-4 * largest);
    }
    const weights = heads.flatMap((head) => [...head.weights()]);
    const own = alone.weights();
    const apart = weights.reduce((most, value, i) => Math.max(most, Math.abs(value - own[i]!)), 0);
    expect(apart).toBeLessThan(1e-4);
    for (const head of [...heads, alone]) head.dispose();
  });
});

test('more processes than classes know the norms of all rows', async () => {
  const { features, labels, weights, dim } = withNorms(
    makeProblem({ rows: 5, dim: 3, classes: 2 }, 'spread', 'random', 4),
  );
  const options = { dim, classes: 2, init: weights, margin: magface({ lowerNorm: 1 }) };
  const alone = await MarginHead.create(options);
  const { loss, rowLoss } = await alone.evaluate({ features, labels });
  const heads = await Promise.all(processGroup(3).map((group) => MarginHead.create({ ...options, group })));
  const outs = await Promise.all(
    heads.map((head, rank) =>
      head.evaluate(
        rank === 2 ? { features, labels } : { features: features.slice(0, 0), labels: labels.slice(0, 0) },
      ),
    ),
  );
  expect(outs.map((out) => out.loss)).toEqual([loss, loss, loss].map((value) => expect.closeTo(value, 5)));
  expect([...outs[2]!.rowLoss]).toEqual([...rowLoss].map((value) => expect.closeTo(value, 5)));
  for (const head of [alone, ...heads]) head.dispose();
});

test.each(Object.entries(presetFormulas))('preset %s is what its options say', (name, formulas) => {
  const { margin, scale, gradient, onOverflow } = presets[name as keyof typeof presetFormulas];
  const limits = float32Limits('negative' in formulas ? steepest * scale : scale);
  for (const problem of [spread, clustered]) {
    const out = valueAndGradSync(problem, { margin, scale, gradient, onOverflow });
    expectWithinLimits(out, expected(problem, { ...formulas, scale, gradient }), limits);
  }
});

describe('identities', () => {
  test.each<[string, BatchMargin, Margin, OverflowPolicy]>([
    ['elasticArcFace without deviation is arcface', elasticArcFace({ sigma: 0 }), arcface(), 'none'],
    ['elasticArcFace without deviation, easy', elasticArcFace({ sigma: 0 }), arcface(), 'easy'],
    [
      'elasticArcFace plus without deviation is arcface',
      elasticArcFace({ sigma: 0, plus: true }),
      arcface(),
      'fallback',
    ],
    ['elasticCosFace without deviation is cosface', elasticCosFace({ sigma: 0 }), cosface(), 'none'],
    [
      'magface of one margin is arcface',
      magface({ lowerMargin: 0.5, upperMargin: 0.5 }),
      arcface(),
      'fallback',
    ],
    ['sphereface with m 1 has no margin', sphereface({ m: 1, lambda: 0 }), cosface({ m: 0 }), 'none'],
    ['randomSoftmax with a = 0 has no margin', randomSoftmax({ a: 0 }), cosface({ m: 0 }), 'none'],
    ...[-0.5, -10, -42900].map((a): [string, BatchMargin, Margin, OverflowPolicy] => [
      `randomSoftmax with a = ${a} is cosface with m = ln(1 - a) / s`,
      randomSoftmax({ a }),
      cosface({ m: Math.log(1 - a) / 64 }),
      'none',
    ]),
  ])('%s', (_, margin, same, onOverflow) => {
    for (const problem of [spread, clustered]) {
      const [out, wanted] = [
        valueAndGradSync(problem, { margin, onOverflow }),
        valueAndGradSync(problem, { margin: same, onOverflow }),
      ];
      expect(out.loss).toBeCloseTo(wanted.loss, 6);
      for (const name of ['rowLoss', 'dFeatures', 'dWeights'] as const) {
        const largest = wanted[name].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const apart = out[name].reduce(
          (most, value, i) => Math.max(most, Math.abs(value - wanted[name][i]!)),
          0,
        );
        expect(apart).toBeLessThan(1e-6 * largest);
      }
    }
  });
});

describe('draws', () => {
  test('are those of Philox 4x32-10, by the vectors of its authors', () => {
    const all = 0xffffffff;
    expect(philox([0, 0], [0, 0, 0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    expect(philox([all, all], [all, all, all, all])).toEqual([
      0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd,
    ]);
    expect(philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });

  test('are normal, and different for each row, step and seed', () => {
    const rows = Array.from({ length: 10000 }, (_, row) => normalOf(1, 2, row));
    const mean = rows.reduce((sum, value) => sum + value, 0) / rows.length;
    const square = rows.reduce((sum, value) => sum + value * value, 0) / rows.length;
    expect(Math.abs(mean)).toBeLessThan(0.05);
    expect(Math.abs(square - 1)).toBeLessThan(0.05);
    const several = [...rows, normalOf(2, 2, 0), normalOf(1, 3, 0), normalOf(1, 2 + 2 ** 32, 0)];
    expect(new Set(several).size).toBe(several.length);
  });

  test('of a head follow its seed and step, in a checkpoint too', async () => {
    const { dim, classes } = size;
    const make = (seed: number) =>
      MarginHead.create({ dim, classes, margin: elasticCosFace(), init: spread.weights, seed });
    const [head, other] = [await make(5), await make(6)];
    const given = (margin: BatchMargin) => valueAndGradSync(spread, { margin }).loss;
    const loss = (await head.evaluate(spread)).loss;
    expect(loss).toBeCloseTo(given(elasticCosFace({ seed: 5 })), 5);
    expect((await other.evaluate(spread)).loss).not.toBeCloseTo(loss, 3);
    await head.step(spread, { learningRate: 1e-9 });
    const second = (await head.evaluate(spread)).loss;
    expect(second).toBeCloseTo(given(elasticCosFace({ seed: 5, step: 1 })), 5);
    expect(second).not.toBeCloseTo(loss, 3);
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-losses-'));
    try {
      await head.save(folder);
      const loaded = await MarginHead.load(folder, { shards: 2 });
      expect(loaded.margin).toEqual(head.margin);
      expect((await loaded.evaluate(spread)).loss).toBeCloseTo(second, 6);
      loaded.dispose();
    } finally {
      await rm(folder, { recursive: true });
    }
    for (const used of [head, other]) used.dispose();
  });

  test('of calls in the queue are of their turn', async () => {
    const { dim, classes } = size;
    const options = { dim, classes, margin: elasticArcFace(), init: spread.weights };
    const [queued, waited] = [await MarginHead.create(options), await MarginHead.create(options)];
    const [, second] = await Promise.all([queued.step(spread), queued.step(spread)]);
    await waited.step(spread);
    expect(second.loss).toBe((await waited.step(spread)).loss);
    for (const head of [queued, waited]) head.dispose();
  });
});

test('a parameter may follow a schedule over the steps of a head, in a checkpoint too', async () => {
  const { dim, classes } = size;
  const margin = sphereface({ lambda: linear({ from: 1000, to: 5, steps: 2 }) });
  let head = await MarginHead.create({ dim, classes, margin, init: spread.weights });
  const folder = await mkdtemp(join(tmpdir(), 'marginfc-annealing-'));
  try {
    for (const lambda of [1000, 502.5, 5, 5]) {
      const batch = { ...clustered, weights: head.weights() };
      const { loss } = valueAndGradSync(batch, { margin: sphereface({ lambda }), gradients: 'features' });
      expect((await head.step(clustered)).loss).toBeCloseTo(loss, 4);
      await head.save(folder);
      head.dispose();
      head = await MarginHead.load(folder);
      expect(head.margin).toEqual(margin);
    }
  } finally {
    await rm(folder, { recursive: true });
    head.dispose();
  }
});

test.each<[string, () => unknown, string, RegExp]>([
  [
    'a rate above 1',
    () => adaface({ rate: 1.5 }),
    'ERR_MARGIN',
    /^margin\.rate must be a number in \[0, 1\], received 1\.5$/,
  ],
  [
    'a negative deviation of norms',
    () => adaface({ deviation: -1 }),
    'ERR_MARGIN',
    /^margin\.deviation must be a finite number >= 0, received -1$/,
  ],
  [
    'an unknown name',
    () => magface({ la: 1 } as never),
    'ERR_OPTION',
    /^a name in magface parameters must be/,
  ],
  [
    'norms in the wrong order',
    () => magface({ lowerNorm: 5, upperNorm: 5 }),
    'ERR_MARGIN',
    /^margin\.upperNorm must be more than lowerNorm 5, received 5$/,
  ],
  [
    'a negative norm',
    () => magface({ lowerNorm: -1 }),
    'ERR_MARGIN',
    /^margin\.lowerNorm must be a finite number >= 0, received -1$/,
  ],
  [
    'a margin that is not a number',
    () => magface({ upperMargin: '1' as never }),
    'ERR_TYPE',
    /^margin\.upperMargin must be a finite number, received '1'$/,
  ],
  [
    'a negative deviation',
    () => elasticArcFace({ sigma: -0.1 }),
    'ERR_MARGIN',
    /^margin\.sigma must be a finite number >= 0, received -0\.1$/,
  ],
  [
    'plus that is no boolean',
    () => elasticCosFace({ plus: 1 as never }),
    'ERR_TYPE',
    /^margin\.plus must be a boolean, received 1$/,
  ],
  [
    'released without plus',
    () => elasticCosFace({ released: true }),
    'ERR_MARGIN',
    /^margin\.released must be false without plus,.* received true$/,
  ],
  [
    'a seed that is no integer',
    () => elasticArcFace({ seed: 0.5 }),
    'ERR_OPTION',
    /^margin\.seed must be an integer in \[0, 4294967295\], received 0\.5$/,
  ],
  [
    'a negative step',
    () => randomSoftmax({ step: -1 }),
    'ERR_OPTION',
    /^margin\.step must be an integer in \[0, \d+\], received -1$/,
  ],
  [
    'm below 1',
    () => sphereface({ m: 0.5 }),
    'ERR_MARGIN',
    /^margin\.m must be a finite number >= 1, received 0\.5$/,
  ],
  [
    'a negative lambda',
    () => sphereface({ lambda: -5 }),
    'ERR_MARGIN',
    /^margin\.lambda must be a finite number >= 0, received -5$/,
  ],
  [
    'a schedule that leaves the range',
    () => sphereface({ lambda: linear({ from: 5, to: -5, steps: 2 }) }),
    'ERR_MARGIN',
    /^margin\.lambda\.to must be a finite number >= 0, received -5$/,
  ],
  [
    'a schedule without a head',
    () =>
      valueAndGrad(spread, { margin: magface({ upperMargin: linear({ from: 0.5, to: 0.8, steps: 2 }) }) }),
    'ERR_OPTION',
    /^margin\.upperMargin must be without a schedule, .* received a linear one$/,
  ],
  [
    'a positive a',
    () => randomSoftmax({ a: 0.5 }),
    'ERR_MARGIN',
    /^margin\.a must be a finite number <= 0, received 0\.5$/,
  ],
  [
    'an infinite a',
    () => randomSoftmax({ a: Number.NEGATIVE_INFINITY }),
    'ERR_MARGIN',
    /^margin\.a must be a finite number, received -Infinity$/,
  ],
  [
    'a draw that lasts no step',
    () => randomSoftmax({ every: 0 }),
    'ERR_MARGIN',
    /^margin\.every must be an integer in \[1, \d+\], received 0$/,
  ],
  [
    'data without a parameter',
    () => valueAndGrad(spread, { margin: { kind: 'sphereface', m: 2 } as never }),
    'ERR_TYPE',
    /^margin\.lambda must be a finite number >= 0, received undefined$/,
  ],
  [
    'data with a parameter too many',
    () => valueAndGrad(spread, { margin: { ...sphereface(), h: 1 } as never }),
    'ERR_OPTION',
    /^a name in margin must be one of kind, m, lambda, received 'h'$/,
  ],
  ...(['adaface', 'elasticCosFace', 'sphereface', 'randomSoftmax'] as const).map(
    (kind): [string, () => unknown, string, RegExp] => [
      `a policy with ${kind}`,
      () =>
        valueAndGrad(spread, {
          margin: { adaface, elasticCosFace, sphereface, randomSoftmax }[kind](),
          onOverflow: 'easy',
        }),
      'ERR_OPTION',
      new RegExp(`^onOverflow must be 'none' with margin ${kind}, received 'easy'$`),
    ],
  ),
])('%s is an error', (_, call, code, message) => expectFailure(call, code, message));
