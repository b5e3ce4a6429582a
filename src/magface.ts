/** MagFace: a margin that follows from the feature's norm, and is trained through it. */

import { checkScheduled, type Schedule } from './schedule.js';
import { additiveAngle, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** `F = cos(theta + m(|x|))`. Made by {@link magface}. */
export interface MagFaceMargin {
  readonly kind: 'magface';
  /** l_a: norms below it count as it. */
  readonly lowerNorm: number;
  /** u_a: norms above it count as it. */
  readonly upperNorm: number;
  /** l_m, radians, of the lower norm. */
  readonly lowerMargin: number | Schedule;
  /** u_m, radians, of the upper norm. */
  readonly upperMargin: number | Schedule;
}

/**
 * MagFace: with a = min(max(|x|, l_a), u_a)
 *
 *     F = cos(theta + m(a)),   m(a) = l_m + (u_m - l_m) (a - l_a) / (u_a - l_a)
 *     dF/dc = sin(theta + m) / sin(theta),   dF/d|x| = -sin(theta + m) (u_m - l_m) / (u_a - l_a),  0 where |x| is cut off
 *
 * The gradient flows into the feature's norm, also with `gradient: 'straightThrough'`, which only takes dF/dc as 1. Policies of
 * `onOverflow` are those of arcface.
 *
 * Source: Meng et al., arXiv 2103.06627. Released code: IrvingMeng/MagFace, models/magface.py, whose default is
 * `onOverflow: 'easy'`; `'fallback'` is its `easy_margin=False`. Its gradient is exact, with a pole at theta = 0.
 *
 * The regulariser, lambda_g times the mean of `g(a) = a / u_a^2 + 1 / a` (lambda_g 20; 35 in the released script), is not part of
 * this loss: without it nothing makes norms grow. It concerns the features alone, so a trainer adds it to what the
 * loss gives; for a mean over n rows, to each row with l_a < |x_i| < u_a:
 *
 *     loss += (lambda_g / n) g(a_i)  (of all rows),   dFeatures_i += (lambda_g / n) (1 / u_a^2 - 1 / |x_i|^2) x_i / |x_i|
 *
 * @param parameters `lowerNorm` default 10, `upperNorm` 110, `lowerMargin` 0.45, `upperMargin` 0.8, of the released script.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function magface(parameters: Partial<Omit<MagFaceMargin, 'kind'>> = {}): MagFaceMargin {
  const known = { lowerNorm: true, upperNorm: true, lowerMargin: true, upperMargin: true } as const;
  const {
    lowerNorm = 10,
    upperNorm = 110,
    lowerMargin = 0.45,
    upperMargin = 0.8,
  } = checkOptions(parameters, known, 'magface parameters');
  return checkedBy(magfaceRule, { kind: 'magface', lowerNorm, upperNorm, lowerMargin, upperMargin });
}

const norm = { least: 0, magnitude: largestFactor, code: 'ERR_MARGIN' } as const;
const angle = { magnitude: largestFactor, code: 'ERR_MARGIN' } as const;

export const magfaceRule: BatchRule<MagFaceMargin> = {
  parameters: {
    lowerNorm: (value, argument) => checkNumber(value, argument, norm),
    upperNorm: (value, argument) => checkNumber(value, argument, norm),
    lowerMargin: (value, argument) => checkScheduled(value, argument, angle),
    upperMargin: (value, argument) => checkScheduled(value, argument, angle),
  },
  together({ lowerNorm, upperNorm }) {
    if (!(lowerNorm < upperNorm))
      throw mustBe('ERR_MARGIN', 'margin.upperNorm', `more than lowerNorm ${lowerNorm}`, String(upperNorm));
  },
  overflow: ['fallback', 'easy'],
  resolve({ lowerNorm, upperNorm, lowerMargin, upperMargin }, rows) {
    const slope = (upperMargin - lowerMargin) / (upperNorm - lowerNorm);
    return targetsOf(rows, (cosine, row) => {
      const length = rows.featureNorm[row] as number;
      const m = lowerMargin + slope * (Math.min(Math.max(length, lowerNorm), upperNorm) - lowerNorm);
      const { target, dTarget, dMargin } = additiveAngle(cosine, m, rows.onOverflow);
      const inside = length > lowerNorm && length < upperNorm;
      return { target, dTarget, dFeatureNorm: inside ? dMargin * slope : 0 };
    });
  },
};
