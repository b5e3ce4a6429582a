/** Intra-loss: the mean angle between rows and their classes. */

import { checkedTerm, type TermRule, type WeightedTerm } from './term_rules.js';
import { checkOptions } from './validate.js';

/** Mean of theta / pi. Made by {@link intraLoss}. */
export interface IntraLoss extends WeightedTerm {
  readonly kind: 'intra';
}

/**
 * The ArcFace paper's intra-loss, which draws rows to their class: the mean over rows of
 *
 *     theta_iy / pi,   d/dcos = -1 / (pi sin(theta))
 *
 * Source: Deng et al., arXiv 1801.07698, equation 5. Exact near the poles, as the margins: sin(theta), taken from the rows, is floored at
 * 1e-6 in the quotient.
 *
 * @param parameters `weight` default 1: the paper gives none.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function intraLoss(parameters: Partial<Omit<IntraLoss, 'kind'>> = {}): IntraLoss {
  const { weight = 1 } = checkOptions(parameters, { weight: true }, 'intraLoss parameters');
  return checkedTerm(intraRule, { kind: 'intra', weight });
}

export const intraRule: TermRule<IntraLoss> = { parameters: {} };
