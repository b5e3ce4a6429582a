/** A loss as the addon reads it: plain data. */

/** A margin parameter as the addon reads it: one value, one per row of the batch, or one per class. */
export type NativeParameter =
  | number
  | { readonly perRow: Float32Array }
  | { readonly perClass: Float32Array };

/**
 * A margin as the addon reads it. `parameters` in the order of engine/margin.h: arcface [m], cosface [m],
 * x2softmax [a, h, k], combined [m1, m2, m3], softmax []. `custom` carries a JavaScript margin's results.
 */
export type NativeMargin =
  | {
      readonly kind: 'arcface' | 'cosface' | 'x2softmax' | 'combined' | 'softmax';
      readonly parameters: readonly NativeParameter[];
    }
  | {
      readonly kind: 'custom';
      /** [B], cosine units. */
      readonly target: Float64Array;
      /** [B], d target / d cosine. */
      readonly dTarget: Float64Array;
      /** [B], d target / d |x|, when the margin depends on the feature norm. */
      readonly dFeatureNorm?: Float64Array;
    };

/** `G(c) = value[0] + value[1] c + value[2] c^2`, with `slope[0] + slope[1] c` for its derivative. */
export interface NativeQuadratic {
  readonly value: readonly [number, number, number];
  readonly slope: readonly [number, number];
}

/** What negatives' cosines become: logits are scale * G(c). */
export interface NativeTransform {
  /** Where c <= threshold. */
  readonly below: NativeQuadratic;
  readonly above: NativeQuadratic;
  /** [B] */
  readonly threshold: Float64Array;
}

/** A binary cross-entropy for each logit, as engine/engine.h has it. */
export interface NativeBinary {
  readonly bias: number;
  readonly positive: number;
  readonly negative: number;
  readonly shift: number;
  /** An integer >= 1. */
  readonly power: number;
}

/** What becomes of negatives' logits, or of each one's part in the loss. */
export type NativeNegatives = NativeTransform | NativeBinary;

/** A function of p as the addon reads it; `values` as of engine/row_function.h. */
export interface NativeRowFunction {
  readonly kind: 'focal' | 'search' | 'piecewise';
  readonly values: Float64Array;
}

/** Companion terms with their weights, as engine/row_terms.h and engine/feature_terms.h have them. */
export interface NativeTerms {
  readonly intra?: { readonly weight: number };
  /** `radius` NaN: the mean norm of the rows. */
  readonly ring?: { readonly weight: number; readonly radius: number };
  /** `centers` [n, D], of classes start .. start + n - 1; borrowed until dispose(). */
  readonly center?: { readonly weight: number; readonly centers: Float32Array; readonly start: number };
  /** Anchors are rows anchorStart .. anchorEnd - 1. */
  readonly triplet?: {
    readonly weight: number;
    readonly margin: number;
    readonly mining: 'hard' | 'semihard';
    readonly anchorStart: number;
    readonly anchorEnd: number;
  };
}

/** Terms without their weights, 0 for those that were not asked for; `center` of the given centres, `triplet` of the given anchors. */
export interface NativeTermValues {
  readonly intra: number;
  readonly ring: number;
  /** That was used; NaN where no row counts. */
  readonly radius: number;
  /** d ring / d radius */
  readonly radiusGradient: number;
  readonly center: number;
  readonly triplet: number;
}
