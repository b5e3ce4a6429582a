/** L2-softmax: the length that features are given. */

import { checkInteger, checkNumber, maxCount, mustBe } from './validate.js';

/**
 * The lower bound of L2-softmax's alpha, the length that all features are given: below it a row that lies on its class's centre has a
 * probability less than `probability`, where one other class is opposite and all the rest are at right angles,
 *
 *     alpha = ln(p (C - 2) / (1 - p))
 *
 * for `{ margin: softmax(), scale: l2SoftmaxScale(classes) }`. That is alpha cos(theta) for every class: features as in the paper, and
 * class rows of length 1. The paper's class rows have lengths of their own, and biases, which this package has not: as no
 * logit here depends on a class's length, rows are trained by their directions alone, and classes of many rows get no larger ones.
 * The paper's second variant, a trained alpha, is not provided.
 *
 * Source: Ranjan et al., L2-constrained Softmax Loss for Discriminative Face Verification, arXiv 1703.09507.
 *
 * @param classes C, at least 3.
 * @param probability p in (0, 1), default 0.9.
 * @throws MarginFcError ERR_TYPE or ERR_OPTION; also where the bound is not above 0, and so no scale.
 */
export function l2SoftmaxScale(classes: number, probability = 0.9): number {
  checkInteger(classes, 'classes', { least: 3, most: maxCount });
  checkNumber(probability, 'probability', { least: 0, exclusive: true, below: 1 });
  const alpha = Math.log((probability * (classes - 2)) / (1 - probability));
  if (!(alpha > 0))
    throw mustBe(
      'ERR_OPTION',
      'probability',
      `above 1 / ${classes - 1} with ${classes} classes`,
      String(probability),
    );
  return alpha;
}
