/** Random-softmax: the unified form of Search-Softmax with a modulating factor that is given or drawn. */

import { normalOf } from './counter_random.js';
import { type DrawnMargin, drawParameters } from './elasticface.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { type AtStep, type BatchRows, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkInteger, checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** `F = cos(theta) - ln(1 - a) / s`. Made by {@link randomSoftmax}. */
export interface RandomSoftmaxMargin extends DrawnMargin {
  readonly kind: 'randomSoftmax';
  /** The factor, <= 0. Without it one is drawn. */
  readonly a?: number;
  /** Standard deviation of the draw. */
  readonly sigma: number | Schedule;
  /** What the draw is multiplied with is exp(exponent * scale). */
  readonly exponent: number | Schedule;
  /** Steps that a draw lasts. */
  readonly every: number;
}

const known = { a: true, sigma: true, exponent: true, every: true, seed: true, step: true } as const;

type Parameters = {
  readonly [K in Exclude<keyof RandomSoftmaxMargin, 'kind'>]?: RandomSoftmaxMargin[K] | undefined;
};

/**
 * Random-softmax: with p the probability of the row's class without a margin, the loss is -log p_m of
 *
 *     p_m = p / (a p + 1 - a),   a <= 0
 *
 * which is CosFace with the margin m = ln(1 - a) / scale, in loss and gradients:
 *
 *     F = cos(theta) - ln(1 - a) / scale,   dF/dc = 1
 *
 * a is given, or one for all rows is drawn for each `every` steps: a = -|n| exp(exponent scale), n ~ N(0, sigma^2), so that m is
 * about exponent + ln|n| / scale. Draws follow from `seed` and `step` as those of {@link elasticArcFace}. No policies of
 * `onOverflow`.
 *
 * Source: Wang et al., Loss Function Search for Face Recognition, arXiv 2007.06542, equation 8; there a changes with each epoch:
 * `every` is then the steps of one. The defaults' distribution is that of the released code's agent in mode `global`, with mean 0,
 * where it stays (its gradient by the mean is 0), at scale 32.
 *
 * @param parameters `a`; or `sigma` default 0.2, `exponent` default 1/3, `every` default 1.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function randomSoftmax(parameters: Parameters = {}): RandomSoftmaxMargin {
  const checked = checkOptions(parameters, known, 'randomSoftmax parameters');
  const { a, sigma = 0.2, exponent = 1 / 3, every = 1, seed, step } = checked;
  return checkedBy(randomSoftmaxRule, {
    kind: 'randomSoftmax',
    ...(a !== undefined && { a }),
    sigma,
    exponent,
    every,
    ...(seed !== undefined && { seed }),
    ...(step !== undefined && { step }),
  });
}

const range = { least: 0, magnitude: largestFactor, code: 'ERR_MARGIN' } as const;

export const randomSoftmaxRule: BatchRule<RandomSoftmaxMargin> = {
  parameters: {
    a(value, argument) {
      if (value === undefined) return;
      if (checkNumber(value, argument, { code: 'ERR_MARGIN' }) > 0)
        throw mustBe('ERR_MARGIN', argument, 'a finite number <= 0', String(value));
    },
    sigma: (value, argument) => checkScheduled(value, argument, range),
    exponent: (value, argument) => checkScheduled(value, argument, range),
    every: (value, argument) =>
      checkInteger(value, argument, { least: 1, most: Number.MAX_SAFE_INTEGER, code: 'ERR_MARGIN' }),
    ...drawParameters,
  },
  overflow: [],
  resolve(margin, rows) {
    const m = logOfOneMinus(margin, rows) / rows.scale;
    return targetsOf(rows, (cosine) => ({ target: cosine - m, dTarget: 1 }));
  },
};

/** ln(1 - a), also where a itself leaves float64. */
function logOfOneMinus(margin: AtStep<RandomSoftmaxMargin>, rows: BatchRows): number {
  const { a, sigma, exponent, every, seed = rows.seed, step = rows.step } = margin;
  if (a !== undefined) return Math.log1p(-a);
  const drawn = sigma * Math.abs(normalOf(seed, Math.floor(step / every), 0));
  return logOfOnePlus(Math.log(drawn) + exponent * rows.scale);
}

/** ln(1 + e^log): ln(1 - a) of a = -e^log. */
export function logOfOnePlus(log: number): number {
  return log > 0 ? log + Math.log1p(Math.exp(-log)) : Math.log1p(Math.exp(log));
}
