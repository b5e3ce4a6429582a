/** What becomes of negatives' cosines before the softmax, as data: two quadratics, of which a row's threshold decides. */

import type { NativeQuadratic, NativeTransform } from './native_loss.js';

/** `G(c) = c` */
export const unchanged: NativeQuadratic = { value: [0, 1, 0], slope: [1, 0] };

/** `G(c) = constant + linear c + square c^2`, with the derivative of that. */
export function quadratic(constant: number, linear: number, square = 0): NativeQuadratic {
  return { value: [constant, linear, square], slope: [linear, 2 * square] };
}

/** Negatives above each row's threshold, which are the hard ones, become `above` and the others stay. */
export function ofHard(threshold: Float64Array, above: NativeQuadratic): NativeTransform {
  return { below: unchanged, above, threshold };
}

/**
 * Thresholds [B], each by a row's target cosine. Without a target there are no hard negatives.
 */
export function thresholdsOf(
  { cosine, labels }: { readonly cosine: Float64Array; readonly labels: Int32Array },
  of: (cosine: number) => number,
): Float64Array {
  return cosine.map((value, row) => (labels[row] === -1 ? Number.POSITIVE_INFINITY : of(value)));
}

/** Inter-class filtering: negatives above `threshold` count as orthogonal, and have no gradient. */
export function filtered(threshold: number, rows: number): NativeTransform {
  return ofHard(new Float64Array(rows).fill(threshold), quadratic(0, 0));
}
