/** NPCFace: hard negatives count more, and make the margin of their row larger. */

import { ofHard, quadratic, thresholdsOf } from './negatives_transform.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { additiveAngle, angleOf, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkOptions, largestFactor } from './validate.js';

/** `F = cos(theta + m0 + m1 h)`, h the mean of hard negatives, which become `G = t c_j + a`. Made by {@link npcface}. */
export interface NpcFaceMargin {
  readonly kind: 'npcface';
  /** Radians: negatives nearer than the own class with this margin are hard. */
  readonly m: number | Schedule;
  /** Radians: the margin of a row without hard negatives. */
  readonly m0: number | Schedule;
  /** Radians for a mean cosine of 1. */
  readonly m1: number | Schedule;
  /** A factor. */
  readonly t: number | Schedule;
  /** Cosine units. */
  readonly a: number | Schedule;
}

/**
 * NPCFace: with h_i the mean cosine of a row's hard negatives, 0 without any,
 *
 *     F    = cos(theta + m0 + m1 h_i),  h_i a constant to the gradient
 *     z_ij = s (t c_ij + a)    where c_ij > cos(theta_iy + m), a hard negative
 *     z_ij = s c_ij            elsewhere
 *
 * `onOverflow` as of {@link arcface}.
 *
 * Source: Zeng et al., arXiv 2007.10172. Released code: FaceX-Zoo, head/NPCFace.py, which is `presets.npcFace` (`easy`, scale 64).
 *
 * @param parameters `m` default 0.5, `m0` 0.4, `m1` 0.2, `t` 1.1, `a` 0.2.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function npcface(parameters: Partial<Omit<NpcFaceMargin, 'kind'>> = {}): NpcFaceMargin {
  const known = { m: true, m0: true, m1: true, t: true, a: true } as const;
  const {
    m = 0.5,
    m0 = 0.4,
    m1 = 0.2,
    t = 1.1,
    a = 0.2,
  } = checkOptions(parameters, known, 'npcface parameters');
  return checkedBy(npcfaceRule, { kind: 'npcface', m, m0, m1, t, a });
}

const code = 'ERR_MARGIN';
const angle = (value: unknown, argument: string) =>
  checkScheduled(value, argument, { magnitude: largestFactor, code });
const factor = (value: unknown, argument: string) => checkScheduled(value, argument, { magnitude: 10, code });

export const npcfaceRule: BatchRule<NpcFaceMargin> = {
  parameters: { m: angle, m0: angle, m1: angle, t: factor, a: factor },
  overflow: ['fallback', 'easy'],
  transforms: true,
  resolve({ m, m0, m1, t, a }, rows) {
    const threshold = thresholdsOf(rows, (cosine) => Math.cos(angleOf(cosine).theta + m));
    const targets = (hard: Float64Array) =>
      targetsOf(rows, (cosine, row) => {
        const margin = m0 + m1 * (hard[row] as number);
        const { target, dTarget } = additiveAngle(cosine, margin, rows.onOverflow);
        return { target, dTarget };
      });
    return { kind: 'late', targets, transform: ofHard(threshold, quadratic(a, t)) };
  },
};
