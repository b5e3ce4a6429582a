/** Circle loss in its classification form: each cosine is weighted by how far it is from where it should be. */

import type { NativeTransform } from './native_loss.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkOptions } from './validate.js';

/** `F = [1 + m - c]+ (c - (1 - m))`, and `G = [c_j + m]+ (c_j - m)` of negatives. Made by {@link circleLoss}. */
export interface CircleLossMargin {
  readonly kind: 'circleLoss';
  /** Cosine units, in [0, 1]. */
  readonly m: number | Schedule;
}

/**
 * Circle loss between features and class weights, gamma being the `scale`:
 *
 *     F    = w (c - (1 - m)),      w = max(1 + m - c, 0),    dF/dc = w
 *     z_ij = s w_ij (c_ij - m),    w_ij = max(c_ij + m, 0),  derivative s w_ij
 *
 * The weights are constants to the gradient, whatever its mode. The paper's gamma of 256 and 80 are scales that need their largest
 * logit found first, at the cost of one more product. No policies of `onOverflow`.
 *
 * Source: Sun et al., arXiv 2002.10857, section 3. Released code: FaceX-Zoo, head/CircleLoss.py, which is `presets.circleLoss` (scale 256).
 *
 * @param parameters `m` default 0.25.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function circleLoss(parameters: Partial<Omit<CircleLossMargin, 'kind'>> = {}): CircleLossMargin {
  const { m = 0.25 } = checkOptions(parameters, { m: true }, 'circleLoss parameters');
  return checkedBy(circleLossRule, { kind: 'circleLoss', m });
}

export const circleLossRule: BatchRule<CircleLossMargin> = {
  parameters: {
    m: (value, argument) => checkScheduled(value, argument, { least: 0, magnitude: 1, code: 'ERR_MARGIN' }),
  },
  overflow: [],
  transforms: true,
  resolve({ m }, rows) {
    const targets = targetsOf(rows, (cosine) => {
      const weight = Math.max(1 + m - cosine, 0);
      return { target: weight * (cosine - (1 - m)), dTarget: weight };
    });
    const transform: NativeTransform = {
      below: { value: [0, 0, 0], slope: [0, 0] },
      above: { value: [-m * m, 0, 1], slope: [m, 1] },
      threshold: new Float64Array(rows.labels.length).fill(-m),
    };
    return { ...targets, transform };
  },
};
