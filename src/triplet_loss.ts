/** Triplet loss: rows nearer to those of their class than to others. */

import { checkedTerm, type TermRule, type WeightedTerm } from './term_rules.js';
import { checkNumber, checkOneOf, checkOptions, largestFactor } from './validate.js';

/** Which triplets of a batch count. */
export type TripletMining = 'hard' | 'semihard';

/** Mean of max(0, d_ap^2 - d_an^2 + margin). Made by {@link tripletLoss}. */
export interface TripletLoss extends WeightedTerm {
  readonly kind: 'triplet';
  /** In squared distances of unit rows. */
  readonly margin: number;
  readonly mining: TripletMining;
}

/**
 * Triplet loss within the batch, on normalised features: d_ij^2 = |xh_i - xh_j|^2 = 2 - 2 cos_ij, and the mean over triplets of an
 * anchor a, a positive p of its class and a negative n of another one of
 *
 *     max(0, d_ap^2 - d_an^2 + margin)
 *
 * `hard`: each row that has a positive and a negative with its furthest positive and its nearest negative. `semihard`: each such row
 * with each of its positives, and the nearest negative that is further away than it; where there is none, the furthest negative. A
 * triplet weighs what its anchor's row does. In a group of processes triplets are of the rows of all.
 *
 * Rows are compared by float32 products, a block of anchors at a time: never B x B memory, but for `semihard` some numbers for each pair
 * of a class. Chosen triplets are computed in float64.
 *
 * Sources: FaceNet, Schroff et al., arXiv 1503.03832 (`semihard`, as TensorFlow Addons chooses); Hermans et al., arXiv 1703.07737
 * (`hard`); margin and normalised rows of InsightFace's train_triplet.py.
 *
 * @param parameters `weight` default 1, `margin` 0.3, `mining` `'semihard'`.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function tripletLoss(parameters: Partial<Omit<TripletLoss, 'kind'>> = {}): TripletLoss {
  const known = { weight: true, margin: true, mining: true } as const;
  const {
    weight = 1,
    margin = 0.3,
    mining = 'semihard',
  } = checkOptions(parameters, known, 'tripletLoss parameters');
  return checkedTerm(tripletRule, { kind: 'triplet', weight, margin, mining });
}

export const tripletRule: TermRule<TripletLoss> = {
  parameters: {
    margin: (value, argument) => checkNumber(value, argument, { least: 0, magnitude: largestFactor }),
    mining: (value, argument) => checkOneOf(value, ['hard', 'semihard'], argument),
  },
};
