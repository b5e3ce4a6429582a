/** AdaFace: a margin that follows from how a feature's norm lies among those seen so far. */

import type { NormStatistics } from './loss_memory.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { angleOf, type BatchRows, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** `F = cos(theta - m z) - m - m z`, z from the norm. Made by {@link adaface}. */
export interface AdaFaceMargin {
  readonly kind: 'adaface';
  /** Radians and cosine units. */
  readonly m: number | Schedule;
  /** Of z by the number of deviations. */
  readonly h: number | Schedule;
  /** t_alpha: a batch's weight in the running mean and deviation, in [0, 1]. */
  readonly rate: number;
  /** Mean of the norms at first. */
  readonly mean: number;
  /** Deviation of the norms at first. */
  readonly deviation: number;
}

/**
 * AdaFace: with the norm |x| cut off to [0.001, 100], its running mean mu and deviation sigma, and eps = 0.001
 *
 *     z = min(max(h (|x| - mu) / (sigma + eps), -1), 1)
 *     F = cos(min(max(theta - m z, eps), pi - eps)) - (m + m z)
 *     dF/dc = sin(theta - m z) / sin(theta), 0 where the angle is cut off;   dF/d|x| = 0: norms are detached
 *
 * Each training batch first moves the statistics, over its rows that are not ignored, in a group those of all processes:
 *
 *     mu = rate mean(|x|) + (1 - rate) mu,   sigma = rate std(|x|) + (1 - rate) sigma    (std with n - 1; n = 1 leaves sigma)
 *
 * A head keeps them (`head.normStatistics`), in checkpoints too. They stay moved only with what changes the head: a `step` or
 * `backwardSync` with a learning rate that is not 0, or `accumulate`; `evaluate` uses them as they are. Calls without a head move
 * `mean` and `deviation`, and forget it. No policies of `onOverflow`.
 *
 * Source: Kim et al., arXiv 2204.00964. Released code: mk-minchul/AdaFace, head.py. Its gradient is exact; it also cuts off all
 * cosines at 1 - 0.001, where here only the target's angle is, and has statistics of each process's own rows. CVLface, by the same
 * author, has the gradient of `'straightThrough'` and does not cut off the angle.
 *
 * @param parameters `m` default 0.4, `h` 0.333, `rate` 0.01 (the paper's; 1 in the class's signature), `mean` 20, `deviation` 100.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function adaface(parameters: Partial<Omit<AdaFaceMargin, 'kind'>> = {}): AdaFaceMargin {
  const known = { m: true, h: true, rate: true, mean: true, deviation: true } as const;
  const {
    m = 0.4,
    h = 0.333,
    rate = 0.01,
    mean = 20,
    deviation = 100,
  } = checkOptions(parameters, known, 'adaface parameters');
  return checkedBy(adafaceRule, { kind: 'adaface', m, h, rate, mean, deviation });
}

const code = 'ERR_MARGIN';
const range = { magnitude: largestFactor, code } as const;
const eps = 1e-3;
const [shortest, longest] = [1e-3, 100];

export const adafaceRule: BatchRule<AdaFaceMargin> = {
  parameters: {
    m: (value, argument) => checkScheduled(value, argument, range),
    h: (value, argument) => checkScheduled(value, argument, { ...range, least: 0 }),
    rate(value, argument) {
      if (checkNumber(value, argument, { least: 0, code }) > 1)
        throw mustBe(code, argument, 'a number in [0, 1]', String(value));
    },
    mean: (value, argument) => checkNumber(value, argument, { ...range, least: 0 }),
    deviation: (value, argument) => checkNumber(value, argument, { ...range, least: 0 }),
  },
  overflow: [],
  resolve({ m, h, rate, ...first }, rows) {
    const before = rows.memory.norms ?? { mean: first.mean, deviation: first.deviation };
    const norms = rows.training ? moved(before, rate, rows) : before;
    const targets = targetsOf(rows, (cosine, row) => {
      const deviations = (cutOff(rows.featureNorm[row] as number) - norms.mean) / (norms.deviation + eps);
      const z = Math.min(Math.max(h * deviations, -1), 1);
      const { theta, divisor } = angleOf(cosine);
      const angle = Math.min(Math.max(theta - m * z, eps), Math.PI - eps);
      const inside = angle === theta - m * z;
      return { target: Math.cos(angle) - (m + m * z), dTarget: inside ? Math.sin(angle) / divisor : 0 };
    });
    return { ...targets, memory: { norms } };
  },
};

function cutOff(norm: number): number {
  return Math.min(Math.max(norm, shortest), longest);
}

function moved({ mean, deviation }: NormStatistics, rate: number, rows: BatchRows): NormStatistics {
  const norms = rows.featureNorm.filter((_, row) => rows.labels[row] !== -1).map(cutOff);
  const count = norms.length;
  const average = norms.reduce((sum, norm) => sum + norm, 0) / count;
  const square = norms.reduce((sum, norm) => sum + (norm - average) ** 2, 0);
  // Of no rows, or of NaN that was let through on request.
  if (!Number.isFinite(average)) return { mean, deviation };
  return {
    mean: rate * average + (1 - rate) * mean,
    deviation: count < 2 ? deviation : rate * Math.sqrt(square / (count - 1)) + (1 - rate) * deviation,
  };
}
