/** AdaCos: a scale that follows from the number of classes, and from how far training has come. */

import type { LossMemory } from './loss_memory.js';
import type { LearnedRows } from './target_rows.js';
import { checkBoolean, checkOptions, largestFactor, mustBe } from './validate.js';

/** A scale of a head's own. Made by {@link adacos}. */
export interface AdaCosScale {
  readonly kind: 'adacos';
  /** Whether it stays what it is at first. */
  readonly fixed: boolean;
}

/**
 * AdaCos, a value of the option `scale`, usually with the margin {@link softmax}: at first, and always if it is `fixed`,
 *
 *     s = sqrt(2) ln(C - 1)
 *
 * and after each training batch of n rows that count, for the next one,
 *
 *     s = ln(B) / cos(min(pi / 4, theta)),   B = (1 / n) sum_i sum_{j != y_i} exp(s cos(theta_ij)) with the s of the batch
 *
 * where theta is the median of the rows' angles to their own classes, the lower one of two. B is known when the batch's loss is, so it
 * costs no second pass over the classes. In a group the rows are those of all processes, of a sampled step the classes are
 * those drawn. It moves with what changes the head: a `step` or `backwardSync` of a learning rate other than 0 or an `accumulate`;
 * `evaluate` uses it as it is. It is in checkpoints. A batch that gives no positive finite number leaves it as it was. Calls
 * without a head remember nothing, and take the `fixed` one alone.
 *
 * Source: Zhang et al., arXiv 1905.00292. Released code: 4uiiurz1/pytorch-adacos, which uses the new s for the same batch, whose
 * logits it holds; here it is one batch late.
 *
 * @param options `fixed` default false.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE.
 */
export function adacos(options: { readonly fixed?: boolean | undefined } = {}): AdaCosScale {
  const { fixed = false } = checkOptions(options, { fixed: true }, 'adacos options');
  return checkAdaCos({ kind: 'adacos', fixed }, 'adacos options');
}

export function isAdaCos(scale: unknown): scale is AdaCosScale {
  return typeof scale === 'object' && scale !== null && Reflect.get(scale, 'kind') === 'adacos';
}

export function checkAdaCos(scale: AdaCosScale, argument: string): AdaCosScale {
  checkOptions(scale, { kind: true, fixed: true }, argument);
  checkBoolean(scale.fixed, `${argument}.fixed`);
  return scale;
}

/** The scale of the next batch. */
export function adaCosScale({ fixed }: AdaCosScale, classes: number, { scale }: LossMemory): number {
  if (classes < 3)
    throw mustBe('ERR_OPTION', 'scale', `a number with ${classes} classes, ln(C - 1) being none`, 'adacos');
  return (fixed ? undefined : scale) ?? Math.SQRT2 * Math.log(classes - 1);
}

/** What a batch makes of the scale; the old one where that is no scale. */
export function nextAdaCosScale({ labels, targetCosine, logNegatives }: LearnedRows, before: number): number {
  const counted = [...labels.keys()].filter((row) => labels[row] !== -1);
  const logs = counted.map((row) => logNegatives[row] as number);
  const largest = logs.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const sum = logs.reduce((total, value) => total + Math.exp(value - largest), 0);
  const angles = Float64Array.from(counted, (row) => Math.acos(targetCosine[row] as number)).sort();
  const median = angles[Math.floor((angles.length - 1) / 2)] as number;
  const next = (largest + Math.log(sum / counted.length)) / Math.cos(Math.min(Math.PI / 4, median));
  return next > 0 && next <= largestFactor ? next : before;
}
