/** The reference earns its place here: against published values, and against its own differences. */
import { describe, expect, test } from 'vitest';
import { goldenCases } from './golden.js';
import { gradientError, lossError } from './metrics.js';
import { seeded } from './random.js';
import {
  type CustomTarget,
  type ReferenceMargin,
  type ReferenceOptions,
  type ReferenceProblem,
  reference,
} from './reference.js';

/** Two float64 implementations agree to rounding; near a pole F' of up to 1e6 multiplies it. */
const LOSS_LIMIT = 1e-14;
const GRADIENT_LIMIT = 1e-13;
const POLE_GRADIENT_LIMIT = 1e-10;

describe.each(goldenCases)('reference on golden case $name', ({ problem, options, expected, nearPole }) => {
  const got = reference(problem, options);

  test('loss and logSumExp agree to float64 rounding', () => {
    expect(Math.abs(got.loss - expected.loss)).toBeLessThan(LOSS_LIMIT * Math.max(1, expected.loss));
    expect(lossError(got.logSumExp, expected.logSumExp)).toBeLessThan(LOSS_LIMIT);
  });

  test('target logits and cosines agree where there is a target', () => {
    const counted = [...problem.labels.keys()].filter((i) => problem.labels[i]! >= 0);
    const pick = (values: Float64Array) => counted.map((i) => values[i]!);
    expect(lossError(pick(got.targetLogit), pick(expected.targetLogit))).toBeLessThan(LOSS_LIMIT);
    expect(lossError(pick(got.targetCosine), pick(expected.targetCosine))).toBeLessThan(LOSS_LIMIT);
  });

  test('gradients agree to float64 rounding', () => {
    const limit = nearPole ? POLE_GRADIENT_LIMIT : GRADIENT_LIMIT;
    expect(gradientError(got.dFeatures, expected.dFeatures, got.featureNorm)).toBeLessThan(limit);
    expect(gradientError(got.dWeights, expected.dWeights, got.weightNorm)).toBeLessThan(limit);
  });
});

test.each(goldenCases.filter(({ shards }) => shards.length > 0))(
  'reference on golden case $name: a shard with local labels has the logSumExp of its own classes',
  ({ problem, options, shards }) => {
    for (const { start, end, labels, logSumExp } of shards) {
      const { dim, features } = problem;
      const weights = problem.weights.subarray(start * dim, end * dim);
      const part = reference({ features, weights, labels, dim }, options);
      expect(lossError(part.logSumExp, logSumExp)).toBeLessThan(LOSS_LIMIT);
    }
  },
);

test('there are 14 golden cases', () => {
  expect(goldenCases).toHaveLength(14);
});

/** A margin that depends on angle, class and feature norm, with its derivatives by hand. */
const magnitudeMargin: CustomTarget = ({ cosine, label, featureNorm }) => ({
  target: cosine * (1 - 0.1 * label) - 0.02 * featureNorm ** 2 + 0.1 * cosine ** 3,
  dTarget: 1 - 0.1 * label + 0.3 * cosine ** 2,
  dFeatureNorm: -0.04 * featureNorm,
});

const margins: Record<string, ReferenceMargin> = {
  arcface: { kind: 'arcface', m: 0.5 },
  'arcface per row': { kind: 'arcface', m: { perRow: Float32Array.of(0.1, 0.5, -0.2, 0.9) } },
  cosface: { kind: 'cosface', m: 0.35 },
  'cosface per class': { kind: 'cosface', m: { perClass: Float32Array.of(0.1, 0.2, 0.3, 0.4, 0.5) } },
  x2softmax: { kind: 'x2softmax', a: -0.9, h: 0.1, k: 0.65 },
  combined: { kind: 'combined', m1: 1.2, m2: 0.3, m3: 0.1 },
  softmax: { kind: 'softmax' },
  custom: { kind: 'custom', callback: magnitudeMargin },
};
const overflowing: ReadonlySet<string> = new Set(['arcface', 'arcface per row', 'combined']);
const settings = Object.keys(margins).flatMap((name) =>
  (['none', 'fallback', 'easy'] as const)
    .filter((onOverflow) => onOverflow === 'none' || overflowing.has(name))
    .map((onOverflow) => ({ name, onOverflow })),
);

const rows = 4;
const classes = 5;
const dim = 6;

function smallProblem(): ReferenceProblem & { features: Float64Array; weights: Float64Array } {
  const random = seeded(7);
  const normals = (count: number) => Float64Array.from({ length: count }, () => random.normal());
  const features = normals(rows * dim);
  const weights = normals(classes * dim);
  // Row 1 points away from its class, far enough for every policy to act.
  for (let d = 0; d < dim; d++) features[dim + d] = -weights[3 * dim + d]! + 0.2 * random.normal();
  return { features, weights, labels: Int32Array.of(0, 3, -1, 3), dim };
}

/** d total / d values by central differences. The step balances s^3 h^2 against rounding. */
function differences(values: Float64Array, total: () => number): Float64Array {
  const step = 3e-6;
  return values.map((_, i) => {
    const before = values[i]!;
    values[i] = before + step;
    const above = total();
    values[i] = before - step;
    const below = total();
    values[i] = before;
    return (above - below) / (2 * step);
  });
}

describe.each(settings)('reference gradient of $name, onOverflow $onOverflow', ({ name, onOverflow }) => {
  test.each([
    { reduction: 'mean', scale: 64 },
    { reduction: 'mean', scale: 1, rowWeights: Float32Array.of(1, 2, 3, 0.5), dLoss: -2 },
    { reduction: 'sum', scale: 30 },
    { reduction: 'none', scale: 10, dLoss: Float32Array.of(1, -0.5, 5, 2) },
  ] as const)('equals central differences of the loss (scale $scale, reduction $reduction)', (weighting) => {
    const problem = smallProblem();
    const options: ReferenceOptions = { margin: margins[name]!, gradient: 'exact', onOverflow, ...weighting };
    const upstream = typeof options.dLoss === 'number' ? options.dLoss : 1;
    const total = () => upstream * reference(problem, options).loss;
    const got = reference(problem, options);
    const limit = 1e-6;
    expect(gradientError(got.dFeatures, differences(problem.features, total), got.featureNorm)).toBeLessThan(
      limit,
    );
    expect(gradientError(got.dWeights, differences(problem.weights, total), got.weightNorm)).toBeLessThan(
      limit,
    );
  });
});

describe('reference conventions', () => {
  const plain: ReferenceOptions = {
    margin: margins.arcface!,
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
    reduction: 'mean',
  };

  test('each policy changes the row that points away from its class, and no other', () => {
    const problem = smallProblem();
    const [none, fallback, easy] = (['none', 'fallback', 'easy'] as const).map((onOverflow) =>
      reference(problem, { ...plain, onOverflow }),
    );
    const cosine = none!.targetCosine[1]!;
    expect(none!.targetLogit[1]).toBeCloseTo(64 * Math.cos(Math.acos(cosine) + 0.5), 9);
    expect(fallback!.targetLogit[1]).toBeCloseTo(64 * (cosine - 0.5 * Math.sin(0.5)), 9);
    expect(easy!.targetLogit[1]).toBeCloseTo(64 * cosine, 9);
    expect(fallback!.targetLogit[0]).toBe(none!.targetLogit[0]);
  });

  test('straight-through gradients are those of a constant shift of the target cosine', () => {
    const problem = smallProblem();
    const straight = reference(problem, { ...plain, gradient: 'straightThrough' });
    const shift = Float64Array.from(
      straight.targetCosine,
      (c, i) => c - (straight.targetLogit[i]! || 0) / 64,
    );
    const constant: CustomTarget = ({ cosine, row }) => ({ target: cosine - shift[row]!, dTarget: 1 });
    const shifted = reference(problem, { ...plain, margin: { kind: 'custom', callback: constant } });
    expect(gradientError(straight.dFeatures, shifted.dFeatures, shifted.featureNorm)).toBeLessThan(1e-12);
    expect(gradientError(straight.dWeights, shifted.dWeights, shifted.weightNorm)).toBeLessThan(1e-12);
  });

  test('ignored rows count nowhere but in logSumExp', () => {
    const problem = smallProblem();
    const all = reference(problem, plain);
    const keep = [0, 1, 3];
    const features = Float64Array.from(
      keep.flatMap((i) => [...problem.features.subarray(i * dim, (i + 1) * dim)]),
    );
    const without = reference({ ...problem, features, labels: Int32Array.of(0, 3, 3) }, plain);
    expect(all.loss).toBe(without.loss);
    expect(all.dWeights).toEqual(without.dWeights);
    expect(all.rowLoss[2]).toBe(0);
    expect(all.targetCosine[2]).toBe(0);
    expect(all.dFeatures.subarray(2 * dim, 3 * dim)).toEqual(new Float64Array(dim));
    expect(all.logSumExp[2]).toBeGreaterThan(0);
  });

  test('with all rows ignored, or all weights 0, loss and gradients are 0', () => {
    const problem = smallProblem();
    const ignored = reference({ ...problem, labels: new Int32Array(rows).fill(-1) }, plain);
    const weightless = reference(problem, { ...plain, rowWeights: new Float32Array(rows) });
    for (const got of [ignored, weightless]) {
      expect(got.loss).toBe(0);
      expect(got.dFeatures.every((value) => value === 0)).toBe(true);
      expect(got.dWeights.every((value) => value === 0)).toBe(true);
    }
  });

  test('the loss does not underflow above s = 64: all cosines -0.6, s = 128', () => {
    // x = (1, 0); every class at cosine -0.6.
    const weights = Float64Array.of(-0.6, 0.8, -0.6, -0.8, -0.6, 0.8);
    const features = Float64Array.of(1, 0);
    const got = reference(
      { features, weights, labels: Int32Array.of(0), dim: 2 },
      { ...plain, margin: { kind: 'softmax' }, scale: 128 },
    );
    expect(got.logSumExp[0]).toBeCloseTo(128 * -0.6 + Math.log(3), 10);
    expect(got.loss).toBeCloseTo(Math.log(3), 10);
  });

  test('a confident row keeps the digits of its loss and gradient', () => {
    const features = Float64Array.of(1, 0);
    const weights = Float64Array.of(1, 0, 0, 1);
    const got = reference(
      { features, weights, labels: Int32Array.of(0), dim: 2 },
      { ...plain, margin: { kind: 'softmax' } },
    );
    const other = Math.exp(-64);
    expect(got.loss / other).toBeCloseTo(1, 12);
    expect(got.dFeatures[1]! / (64 * other)).toBeCloseTo(1, 12);
  });

  test('a row shorter than 1e-12 is divided by 1e-12, and so is its gradient', () => {
    const weights = Float64Array.of(1, 0, 0, 1);
    const got = reference(
      { features: Float64Array.of(0, 0, 1e-13, 0), weights, labels: Int32Array.of(0, 0), dim: 2 },
      { ...plain, margin: { kind: 'softmax' }, reduction: 'sum', scale: 1 },
    );
    expect(got.targetCosine[0]).toBe(0);
    expect(got.targetCosine[1]).toBeCloseTo(0.1, 14);
    expect(got.dFeatures[0]! * 1e-12).toBeCloseTo(-0.5, 12);
    expect(got.dFeatures[1]! * 1e-12).toBeCloseTo(0.5, 12);
  });
});
