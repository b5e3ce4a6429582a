/** CurricularFace: hard negatives count the more the further training is. */

import { ofHard, quadratic, thresholdsOf } from './negatives_transform.js';
import { checkScheduled, type Schedule } from './schedule.js';
import {
  additiveAngle,
  angleOf,
  type BatchRows,
  type BatchRule,
  checkedBy,
  targetsOf,
} from './target_rows.js';
import { checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** `F = cos(theta + m)`, and `G = c_j (t + c_j)` of negatives above it. Made by {@link curricularface}. */
export interface CurricularFaceMargin {
  readonly kind: 'curricularface';
  /** Radians. */
  readonly m: number | Schedule;
  /** A batch's weight in the running mean, in [0, 1]. */
  readonly rate: number;
  /** The running mean at first, in [-1, 1]. */
  readonly t: number;
}

/**
 * CurricularFace: F = cos(theta + m) of a row's own class, and
 *
 *     z_ij = s c_ij (t + c_ij)    where c_ij > cos(theta_iy + m), a hard negative; derivative s (t + 2 c_ij)
 *     z_ij = s c_ij               elsewhere
 *
 * t is the running mean of target cosines. Each training batch first moves it, by its rows that are not ignored, in a group by those
 * of all processes:
 *
 *     t = rate mean(c_iy) + (1 - rate) t
 *
 * A head keeps it (`head.curriculum`), in checkpoints too; what moves it for good is as with {@link adaface}. Calls without a head
 * start from `t`, and forget it. `onOverflow` as of {@link arcface}; which negatives are hard does not change with it.
 *
 * Source: Huang et al., arXiv 2004.00288. Released code: HuangYG123/CurricularFace, which is `presets.curricularFace` (`fallback`,
 * scale 64) but for statistics of each process's own rows. TFace has rate 0.1.
 *
 * @param parameters `m` default 0.5, `rate` 0.01, `t` 0.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function curricularface(
  parameters: Partial<Omit<CurricularFaceMargin, 'kind'>> = {},
): CurricularFaceMargin {
  const known = { m: true, rate: true, t: true } as const;
  const { m = 0.5, rate = 0.01, t = 0 } = checkOptions(parameters, known, 'curricularface parameters');
  return checkedBy(curricularfaceRule, { kind: 'curricularface', m, rate, t });
}

const code = 'ERR_MARGIN';

export const curricularfaceRule: BatchRule<CurricularFaceMargin> = {
  parameters: {
    m: (value, argument) => checkScheduled(value, argument, { magnitude: largestFactor, code }),
    rate(value, argument) {
      if (checkNumber(value, argument, { least: 0, code }) > 1)
        throw mustBe(code, argument, 'a number in [0, 1]', String(value));
    },
    t: (value, argument) => checkNumber(value, argument, { magnitude: 1, code }),
  },
  overflow: ['fallback', 'easy'],
  transforms: true,
  resolve({ m, rate, t: first }, rows) {
    const before = rows.memory.curriculum ?? first;
    const curriculum = rows.training ? moved(before, rate, rows) : before;
    const threshold = thresholdsOf(rows, (cosine) => Math.cos(angleOf(cosine).theta + m));
    const targets = targetsOf(rows, (cosine) => {
      const { target, dTarget } = additiveAngle(cosine, m, rows.onOverflow);
      return { target, dTarget };
    });
    return { ...targets, transform: ofHard(threshold, quadratic(0, curriculum, 1)), memory: { curriculum } };
  },
};

function moved(t: number, rate: number, { cosine, labels }: BatchRows): number {
  const counted = cosine.filter((_, row) => labels[row] !== -1);
  const mean = counted.reduce((sum, value) => sum + value, 0) / counted.length;
  // Of no rows, or of NaN that was let through on request.
  return Number.isFinite(mean) ? rate * mean + (1 - rate) * t : t;
}
