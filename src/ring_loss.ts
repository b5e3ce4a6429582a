/** Ring loss: features of one norm, which is learned. */

import { checkedTerm, optional, type TermRule, type WeightedTerm } from './term_rules.js';
import { checkNumber, checkOptions, largestFactor } from './validate.js';

/** Mean of (|x| - R)^2. Made by {@link ringLoss}. */
export interface RingLoss extends WeightedTerm {
  readonly kind: 'ring';
  /** R, of a head R at first. Default: the mean norm of the (first) batch. */
  readonly radius?: number | undefined;
  /** What a head moves R with. Default: the learning rate of the update. */
  readonly learningRate?: number | undefined;
}

/**
 * Ring loss, which draws the norms of features to a radius R: the mean over rows of
 *
 *     (|x_i| - R)^2,   d/d|x_i| = 2 (|x_i| - R),   d/dR = -2 (|x_i| - R)
 *
 * A head learns R by gradient descent without momentum, `R -= learningRate * dLoss/dR`, not below 0 ({@link MarginHead.ringRadius});
 * elsewhere results have `ring`, with dLoss/dR.
 *
 * Source: Zheng et al., arXiv 1803.00130; with their code's `type='l2'`, whose R too starts from the first batch.
 *
 * @param parameters `weight` default 0.01, as that code recommends.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function ringLoss(parameters: Partial<Omit<RingLoss, 'kind'>> = {}): RingLoss {
  const known = { weight: true, radius: true, learningRate: true } as const;
  const { weight = 0.01, radius, learningRate } = checkOptions(parameters, known, 'ringLoss parameters');
  return checkedTerm(ringRule, {
    kind: 'ring',
    weight,
    ...(radius !== undefined && { radius }),
    ...(learningRate !== undefined && { learningRate }),
  });
}

const positive = { least: 0, magnitude: largestFactor } as const;

export const ringRule: TermRule<RingLoss> = {
  parameters: {
    radius: optional((value, argument) => checkNumber(value, argument, positive)),
    learningRate: optional((value, argument) => checkNumber(value, argument, positive)),
  },
};
