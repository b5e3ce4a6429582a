/** MV-Softmax: negatives that come too near to a row are pushed harder than the others. */

import { ofHard, quadratic, thresholdsOf } from './negatives_transform.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { additiveAngle, angleOf, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkBoolean, checkOneOf, checkOptions, largestFactor } from './validate.js';

/** A margin on the own class, and `G = (1 + t) c_j + t` of negatives above it. Made by {@link mvSoftmax}. */
export interface MvSoftmaxMargin {
  readonly kind: 'mvSoftmax';
  /** The margin of the own class: MV-AM-Softmax has cosface's, MV-Arc-Softmax arcface's. */
  readonly target: 'cosface' | 'arcface';
  /** Of cosface in cosine units, of arcface in radians. */
  readonly m: number | Schedule;
  /** How much hard negatives count more. */
  readonly t: number | Schedule;
  /** Whether that is the same for all of them: `G = c_j + t`. */
  readonly fixed: boolean;
}

/**
 * MV-Softmax, with the target F = c - m (`target: 'cosface'`) or cos(theta + m) (`'arcface'`) of a row's own class:
 *
 *     z_ij = s ((1 + t) c_ij + t)    where c_ij > F, a hard negative; fixed: s (c_ij + t)
 *     z_ij = s c_ij                  elsewhere
 *
 * with the derivatives of that. `onOverflow: 'easy'` has the margin only where c > 0; which negatives are hard does not change. With
 * t = 0 it is cosface or arcface.
 *
 * Source: Wang et al., arXiv 1912.00833. Released code: xiaoboCASIA/SV-X-Softmax, fc_layers.py, which is `presets.mvSoftmaxCosFace`
 * and `mvSoftmaxArcFace` (`easy`, scale 32). FaceX-Zoo's has t = 0.12, and with
 * cosface the margin only where c > m.
 *
 * @param parameters `target` default 'cosface', `m` 0.35, `t` 0.2, `fixed` false.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function mvSoftmax(parameters: Partial<Omit<MvSoftmaxMargin, 'kind'>> = {}): MvSoftmaxMargin {
  const known = { target: true, m: true, t: true, fixed: true } as const;
  const {
    target = 'cosface',
    m = 0.35,
    t = 0.2,
    fixed = false,
  } = checkOptions(parameters, known, 'mvSoftmax parameters');
  return checkedBy(mvSoftmaxRule, { kind: 'mvSoftmax', target, m, t, fixed });
}

const code = 'ERR_MARGIN';

export const mvSoftmaxRule: BatchRule<MvSoftmaxMargin> = {
  parameters: {
    target: (value, argument) => checkOneOf(value, ['cosface', 'arcface'], argument),
    m: (value, argument) => checkScheduled(value, argument, { magnitude: largestFactor, code }),
    t: (value, argument) => checkScheduled(value, argument, { least: 0, magnitude: 10, code }),
    fixed: checkBoolean,
  },
  overflow: ['easy'],
  transforms: true,
  resolve({ target, m, t, fixed }, rows) {
    const arc = target === 'arcface';
    const threshold = thresholdsOf(rows, (cosine) =>
      arc ? Math.cos(angleOf(cosine).theta + m) : cosine - m,
    );
    const targets = targetsOf(rows, (cosine) => {
      if (!arc)
        return { target: rows.onOverflow === 'easy' && !(cosine > 0) ? cosine : cosine - m, dTarget: 1 };
      const { target, dTarget } = additiveAngle(cosine, m, rows.onOverflow);
      return { target, dTarget };
    });
    return { ...targets, transform: ofHard(threshold, quadratic(t, fixed ? 1 : 1 + t)) };
  },
};
