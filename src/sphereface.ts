/** SphereFace: a multiplicative angular margin that keeps falling up to pi. */

import { checkScheduled, type Schedule } from './schedule.js';
import { angleOf, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkOptions, largestFactor } from './validate.js';

/** `F = (lambda cos(theta) + psi(theta)) / (1 + lambda)`. Made by {@link sphereface}. */
export interface SphereFaceMargin {
  readonly kind: 'sphereface';
  /** A factor on the angle, >= 1. */
  readonly m: number | Schedule;
  /** Weight of the plain cosine, >= 0. */
  readonly lambda: number | Schedule;
}

/**
 * SphereFace (A-Softmax): with k = floor(m theta / pi)
 *
 *     F = (lambda cos(theta) + psi(theta)) / (1 + lambda),   psi = (-1)^k cos(m theta) - 2 k
 *     dF/dc = (lambda + (-1)^k m sin(m theta) / sin(theta)) / (1 + lambda)
 *
 * psi falls without a break, so there is nothing for `onOverflow`. m need not be an integer. lambda anneals the margin: the authors'
 * network starts with 1000 and lets it fall to 5: on a head, `sphereface({ lambda: linear({ from: 1000, to: 5, steps: 10000 }) })`.
 *
 * Source: Liu et al., arXiv 1704.08063. The authors' code (wy1iu/sphereface) multiplies all logits of a row by |x|; here, as in
 * later work, features are normalised and `scale` takes its place. opensphere's SphereFace is m 1.5, lambda 0 with
 * `gradient: 'straightThrough'` and scale 30, but for its clamp of the cosine to 1 - 1e-5.
 *
 * @param parameters `m` default 4, `lambda` default 5, where the released annealing ends. 0 is the paper's psi alone.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function sphereface(parameters: Partial<Omit<SphereFaceMargin, 'kind'>> = {}): SphereFaceMargin {
  const { m = 4, lambda = 5 } = checkOptions(parameters, { m: true, lambda: true }, 'sphereface parameters');
  return checkedBy(spherefaceRule, { kind: 'sphereface', m, lambda });
}

export const spherefaceRule: BatchRule<SphereFaceMargin> = {
  parameters: {
    m: (value, argument) =>
      checkScheduled(value, argument, { least: 1, magnitude: 1000, code: 'ERR_MARGIN' }),
    lambda: (value, argument) =>
      checkScheduled(value, argument, { least: 0, magnitude: largestFactor, code: 'ERR_MARGIN' }),
  },
  overflow: [],
  resolve: ({ m, lambda }, rows) =>
    targetsOf(rows, (cosine) => {
      const { theta, divisor } = angleOf(cosine);
      const k = Math.floor((m * theta) / Math.PI);
      const sign = k % 2 === 0 ? 1 : -1;
      const psi = sign * Math.cos(m * theta) - 2 * k;
      const dPsi = (sign * m * Math.sin(m * theta)) / divisor;
      return { target: (lambda * cosine + psi) / (1 + lambda), dTarget: (lambda + dPsi) / (1 + lambda) };
    }),
};
