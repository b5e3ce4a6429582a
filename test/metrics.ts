/**
 * The one place that says how far an engine may be from the float64 reference, and how that is measured:
 * the metrics and limits of docs/numerics.md, which are those of test/golden/README.md.
 */
import { expect } from 'vitest';
import { NORM_FLOOR, type ReferenceResult } from './reference.js';

export interface Limits {
  /** loss, rowLoss: error relative to max(1, reference). */
  readonly loss: number;
  /** logSumExp: error relative to max(1, |reference|). */
  readonly logSumExp: number;
  /** dFeatures, dWeights: error of the row-scaled gradient, relative to its largest entry. */
  readonly gradient: number;
  /** targetCosine: absolute error. */
  readonly cosine: number;
}

/**
 * float32 cosines are good to about 2e-7, and the scale multiplies that in the exponent: four times that
 * for gradients, never less than 1e-5; loss and lse average it over classes, so they stay below 4e-6 at
 * s = 64. Above, that grows with s like the exponent's error does. A loss can be much smaller than the two
 * numbers it is the difference of, lse and the target logit: where those are near s, a unit in the last place
 * of a float32 of that size, s 2^-23, is added. Target cosines are computed in float64 and rounded once.
 */
export function float32Limits(scale: number): Limits {
  const logSumExp = 4e-6 * Math.max(1, scale / 64);
  return {
    loss: logSumExp + scale * 2 ** -23,
    logSumExp,
    gradient: Math.max(1e-5, 4 * 2.4e-7 * scale),
    cosine: 6e-8,
  };
}

/**
 * 16-bit operands: unit vectors rounded to 2^-9 (bfloat16) or 2^-12 (float16) move a cosine by about 1e-3 in the first, and
 * the exponent by s times that. float16 has ten times less. Target cosines are of the rows as given. `hostile` problems have
 * cosines far from 0 in every row: rounding moves all their logits by up to s 2^-9 one way, and a loss near 0 with them; a
 * quarter of that is added. Above s = 64 a gradient's error grows with s like the exponent's.
 */
export function halfLimits(precision: 'bfloat16' | 'float16', hostile?: { readonly scale: number }): Limits {
  const unit = precision === 'bfloat16' ? 1 : 0.1;
  const moved = hostile === undefined ? 0 : (hostile.scale * 2 ** -9) / 4;
  const steeper = Math.max(1, (hostile?.scale ?? 64) / 64);
  return {
    loss: (1e-2 + moved) * unit,
    logSumExp: 1e-2 * unit,
    gradient: 6e-2 * unit * steeper,
    cosine: 6e-8,
  };
}

/** What an engine computed; absent parts are not compared. */
export interface Measured {
  readonly loss?: number | undefined;
  readonly rowLoss?: ArrayLike<number>;
  readonly logSumExp?: ArrayLike<number>;
  readonly targetCosine?: ArrayLike<number>;
  readonly dFeatures?: ArrayLike<number> | undefined;
  readonly dWeights?: ArrayLike<number> | undefined;
  readonly accuracy?: number;
}

const SMALLEST_NORMAL = 2 ** -126;

function largest(values: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < values.length; i++) result = Math.max(result, Math.abs(values[i]!));
  return result;
}

/** max |got - ref|; NaN or Inf in `got` stays NaN or Inf, which no limit admits. */
function distance(got: ArrayLike<number>, ref: ArrayLike<number>): number {
  expect(got.length).toBe(ref.length);
  let result = 0;
  for (let i = 0; i < ref.length; i++) result = Math.max(result, Math.abs(got[i]! - ref[i]!));
  return result;
}

/** max |got - ref| / max(1, max |ref|), of what `excused` does not cover. */
export function lossError(got: ArrayLike<number>, ref: ArrayLike<number>, excused = 0): number {
  return Math.max(0, distance(got, ref) - excused) / Math.max(1, largest(ref));
}

/**
 * What rounding may move a loss by where a row lies along classes other than its own. A sum of D products of one sign, one after
 * another, is off by up to 2^-24 sqrt(D) (Higham and Mary, SIAM J. Sci. Comput. 41, 2019; four times its root mean square as
 * measured), and nothing averages it when few classes have all the probability.
 */
function alongRounding({ lossSlopeAlong, dFeatures, rowLoss }: ReferenceResult): number {
  return lossSlopeAlong * 2 ** -24 * Math.sqrt(dFeatures.length / Math.max(1, rowLoss.length));
}

/** What a gradient of hardly anything but rounding is measured against, and allowed. */
interface Slack {
  /** Stands for max |ref| where that is less. */
  readonly least: number;
  /** Taken off the error then. */
  readonly excused: number;
}

/**
 * Row i of both times max(|row i|, 1e-12), so that rows of every norm count alike; then max |got - ref| over
 * max |ref|. Where that is 0 the error is absolute. Entries
 * below the smallest normal float32 may be anything that small: outputs have no digits there.
 */
export function gradientError(
  got: ArrayLike<number>,
  ref: ArrayLike<number>,
  rowNorms: ArrayLike<number>,
  { least, excused }: Slack = { least: 0, excused: 0 },
): number {
  expect(got.length).toBe(ref.length);
  const dim = ref.length / rowNorms.length;
  let error = 0;
  let size = 0;
  for (let i = 0; i < ref.length; i++) {
    const norm = Math.max(rowNorms[Math.floor(i / dim)]!, NORM_FLOOR);
    const denormal = Math.abs(ref[i]!) < SMALLEST_NORMAL ? SMALLEST_NORMAL : 0;
    error = Math.max(error, norm * Math.max(0, Math.abs(got[i]! - ref[i]!) - denormal));
    size = Math.max(size, norm * Math.abs(ref[i]!));
  }
  return size < least ? Math.max(0, error - excused) / least : error / (size || 1);
}

/**
 * Where hardly anything is left of what the tangent projection was given (dim 1, parallel rows), the difference of two nearly equal
 * float32 vectors has no more digits: a hundredth of that is the least size, and a unit in its last place is allowed besides. Where terms of
 * several rows or classes cancel, a quarter of what a change of each logit by 1 moves is: gradient limits are the rounding of a logit four
 * times over.
 */
const slackOf = (unprojected: number, moved: number): Slack => ({
  least: Math.max(unprojected / 100, moved / 4),
  excused: unprojected * 2 ** -23,
});

export type Errors = { [Name in keyof Measured]?: number };

export function errorsOf(got: Measured, ref: ReferenceResult): Errors {
  const excused = alongRounding(ref);
  return {
    ...(got.loss !== undefined && {
      loss: Math.max(0, Math.abs(got.loss - ref.loss) - excused) / Math.max(1, ref.lossMagnitude),
    }),
    ...(got.rowLoss && { rowLoss: lossError(got.rowLoss, ref.rowLoss, excused) }),
    ...(got.logSumExp && { logSumExp: lossError(got.logSumExp, ref.logSumExp) }),
    ...(got.targetCosine && { targetCosine: distance(got.targetCosine, ref.targetCosine) }),
    ...(got.dFeatures && {
      dFeatures: gradientError(
        got.dFeatures,
        ref.dFeatures,
        ref.featureNorm,
        slackOf(ref.dFeaturesUnprojected, ref.dFeaturesMoved),
      ),
    }),
    ...(got.dWeights && {
      dWeights: gradientError(
        got.dWeights,
        ref.dWeights,
        ref.weightNorm,
        slackOf(ref.dWeightsUnprojected, ref.dWeightsMoved),
      ),
    }),
    ...(got.accuracy !== undefined && {
      accuracy: Object.is(got.accuracy, ref.accuracy) ? 0 : Math.abs(got.accuracy - ref.accuracy),
    }),
  };
}

export function limitOf(name: keyof Measured, limits: Limits): number {
  switch (name) {
    case 'loss':
    case 'rowLoss':
      return limits.loss;
    case 'logSumExp':
      return limits.logSumExp;
    case 'targetCosine':
      return limits.cosine;
    case 'dFeatures':
    case 'dWeights':
      return limits.gradient;
    case 'accuracy':
      return 0;
  }
}

/** The largest entry of a row-scaled gradient. */
export const gradientSize = (gradient: ArrayLike<number>, rowNorms: ArrayLike<number>): number =>
  gradientError(gradient, new Float64Array(gradient.length), rowNorms);

/** Every error within its limit; the failure lists those that are not. */
export function expectErrorsWithin(errors: Errors, limits: Limits): void {
  const names = Object.keys(errors) as (keyof Measured)[];
  expect(names.length).toBeGreaterThan(0);
  const over = names
    .map((name) => ({ name, error: errors[name]!, limit: limitOf(name, limits) }))
    .filter(({ error, limit }) => !(error <= limit));
  expect(over).toEqual([]);
}

export function expectWithinLimits(got: Measured, ref: ReferenceResult, limits: Limits): void {
  expectErrorsWithin(errorsOf(got, ref), limits);
}
