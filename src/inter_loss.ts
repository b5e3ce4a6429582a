/** Inter-loss: the angles between class centres. */

import { checkedTerm, type TermRule, type WeightedTerm } from './term_rules.js';
import { checkOptions } from './validate.js';

/** Minus the mean angle, over pi, between the rows' classes and all others. Made by {@link interLoss}. */
export interface InterLoss extends WeightedTerm {
  readonly kind: 'inter';
}

/**
 * The ArcFace paper's inter-loss, which drives the class centres apart: the mean over rows of
 *
 *     -1 / (pi (C - 1)) sum_{j != y} arccos(cos_yj),   cos_yj = wh_y . wh_j
 *     d/dcos_yj = 1 / (pi (C - 1) sin(theta_yj)),   for the gradients of both w_y and w_j
 *
 * It has no part in the gradient of features. Computed as the loss is, by tiles and without a matrix of angles, in float32 whatever the
 * `precision`; sin(theta) is floored at 1e-3 in the quotient, as the cosine is that of float32 products. Costs about as much as the loss
 * itself for as many rows as the batch has different classes, and its gradient C x dim floats where the weights are, which a head keeps.
 * Of all classes: not with a `sampleRate` below 1.
 *
 * Source: Deng et al., arXiv 1801.07698, equation 6.
 *
 * @param parameters `weight` default 1: the paper gives none.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function interLoss(parameters: Partial<Omit<InterLoss, 'kind'>> = {}): InterLoss {
  const { weight = 1 } = checkOptions(parameters, { weight: true }, 'interLoss parameters');
  return checkedTerm(interRule, { kind: 'inter', weight });
}

export const interRule: TermRule<InterLoss> = { parameters: {} };
