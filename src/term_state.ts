/** What companion terms remember from batch to batch, and how they go to native code and come back. */

import type { ClassRange } from './class_ranges.js';
import type { NativeForwardResult, NativeProblem } from './native.js';
import { type PlainTerm, type TermValues, termOf } from './terms.js';

/** Terms of one batch. */
export interface TermPlan {
  readonly terms: readonly PlainTerm[];
  /** What they remember when the batch's turn has come. */
  readonly remembered: () => {
    readonly radius: number | undefined;
    /** The process's classes. */
    readonly range: ClassRange;
    /** Of `range`; asked for only where there is a centre loss. */
    readonly centers: () => Float32Array;
  };
}

/** A ring loss's radius in a batch. */
export interface RingRadius {
  /** R: the one given, or the mean norm of the rows. */
  readonly radius: number;
  /** dLoss/dR, with the term's weight. */
  readonly dRadius: number;
}

/** A batch's results with its terms: the loss has them. */
export interface BatchResult extends Omit<NativeForwardResult, 'terms'> {
  readonly terms?: TermValues;
  readonly ring?: RingRadius;
}

/** The problem with its terms as native code reads them. `anchors`: rows start .. end-1 of the batch are this process's. */
export function withNativeTerms(
  problem: NativeProblem,
  { terms, remembered }: TermPlan,
  anchors: { readonly start: number; readonly end: number },
): NativeProblem {
  if (terms.length === 0) return problem;
  const [intra, ring, center, triplet] = [
    termOf(terms, 'intra'),
    termOf(terms, 'ring'),
    termOf(terms, 'center'),
    termOf(terms, 'triplet'),
  ];
  const { radius, centers, range } = remembered();
  return {
    ...problem,
    terms: {
      ...(intra && { intra: { weight: intra.weight } }),
      ...(ring && { ring: { weight: ring.weight, radius: radius ?? ring.radius ?? Number.NaN } }),
      ...(center && { center: { weight: center.weight, centers: centers(), start: range.start } }),
      ...(triplet && {
        triplet: {
          weight: triplet.weight,
          margin: triplet.margin,
          mining: triplet.mining,
          anchorStart: anchors.start,
          anchorEnd: anchors.end,
        },
      }),
    },
  };
}

/** How far centres follow where weights change. */
export function centerRate({ terms }: TermPlan): { readonly centerRate?: number } {
  const center = termOf(terms, 'center');
  return center ? { centerRate: center.learningRate } : {};
}

/** R after a batch; `update`: the learning rate where the term has none of its own. */
export function nextRadius(
  { terms }: TermPlan,
  { ring }: BatchResult,
  rates: { readonly update: number; readonly dLoss: number },
): { readonly radius?: number } {
  // No row, no mean norm.
  if (!ring || Number.isNaN(ring.radius)) return {};
  const rate = termOf(terms, 'ring')?.learningRate ?? rates.update;
  return { radius: Math.max(0, ring.radius - rate * rates.dLoss * ring.dRadius) };
}

/** Adds the terms to the loss; `inter` is what interPass() has found. */
export function withTerms(
  { terms: plan }: TermPlan,
  result: NativeForwardResult,
  inter: number,
): BatchResult {
  const withoutTerms: Omit<NativeForwardResult, 'terms'> = result;
  if (!result.terms) return withoutTerms;
  const values = { ...result.terms, inter };
  const ring = termOf(plan, 'ring');
  return {
    ...withoutTerms,
    loss: plan.reduce((loss, { kind, weight }) => loss + weight * values[kind], result.loss),
    terms: Object.fromEntries(plan.map(({ kind }) => [kind, values[kind]])),
    ...(ring && { ring: { radius: values.radius, dRadius: ring.weight * values.radiusGradient } }),
  };
}
