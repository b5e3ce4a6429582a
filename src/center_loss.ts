/** Centre loss: features near a centre of their class, which follows them. */

import { checkedTerm, optional, type TermRule, type WeightedTerm } from './term_rules.js';
import { checkFloat32Array, checkNumber, checkOptions } from './validate.js';

/** Mean of |x - c_y|^2 / 2. Made by {@link centerLoss}. */
export interface CenterLoss extends WeightedTerm {
  readonly kind: 'center';
  /** The paper's alpha, in [0, 1]: how far a head's centres follow. */
  readonly learningRate: number;
  /** [C, dim], borrowed and not moved; only of calls without a head, which need it. */
  readonly centers?: Float32Array | undefined;
}

/**
 * Centre loss, which draws features, as they are, to a centre of their class: the mean over rows of
 *
 *     |x_i - c_y|^2 / 2,   d/dx_i = x_i - c_y
 *
 * A head has centres of its own, 0 at first ({@link MarginHead.centers}). Each update moves those of the classes that the batch has, after
 * the batch has been compared with them, by the paper's rule over the n_j rows of class j:
 *
 *     c_j -= alpha sum_i (c_j - x_i) / (1 + n_j)
 *
 * They take C x dim floats of the host's memory, of which systems like Linux provide only what classes have been met. The host computes
 * the term whatever the engine: features and dFeatures in a GPU's memory cross the bus for it, B x dim floats each.
 *
 * Source: Wen et al., ECCV 2016, equations 2 to 4 and algorithm 1.
 *
 * @param parameters `weight` default 0.003, `learningRate` (alpha) default 0.5, as in the paper.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function centerLoss(parameters: Partial<Omit<CenterLoss, 'kind'>> = {}): CenterLoss {
  const known = { weight: true, learningRate: true, centers: true } as const;
  const {
    weight = 0.003,
    learningRate = 0.5,
    centers,
  } = checkOptions(parameters, known, 'centerLoss parameters');
  return checkedTerm(centerRule, { kind: 'center', weight, learningRate, ...(centers && { centers }) });
}

export const centerRule: TermRule<CenterLoss> = {
  parameters: {
    learningRate: (value, argument) => checkNumber(value, argument, { least: 0, magnitude: 1 }),
    centers: optional(checkFloat32Array),
  },
};
