/** Memory for what the phases of an evaluation say of its rows. */

import { isBinary } from './batch_margins.js';
import type { Plan } from './evaluation.js';
import type { NativeRows, NativeStatistics } from './native.js';

/** [B] each, of all rows of the batch. */
export interface Angles {
  readonly cosine: Float64Array;
  readonly featureNorm: Float64Array;
}

/** Of phase 1. */
export function newAngles(rows: number): Angles {
  return { cosine: new Float64Array(rows), featureNorm: new Float64Array(rows) };
}

/** Of phase 2. */
export function newStatistics({
  rows,
  problem,
}: Pick<Plan, 'rows'> & {
  readonly problem: Pick<Plan['problem'], 'labelSmoothing' | 'topFive'>;
}): NativeStatistics {
  return {
    cosine: new Float64Array(rows),
    sine: new Float64Array(rows),
    logNegatives: new Float64Array(rows),
    hardest: new Float32Array(rows),
    ...(problem.labelSmoothing > 0 && { cosineSum: new Float64Array(rows) }),
    ...(problem.topFive && { above: new Float64Array(rows) }),
  };
}

/** What late margins ask of it besides. */
export function hardStatistics({ rows }: Pick<Plan, 'rows'>) {
  return { hardSum: new Float64Array(rows), hardCount: new Float64Array(rows) };
}

/** What binary margins ask of it besides. */
export function slopeStatistics({ rows, margin }: Pick<Plan, 'rows' | 'margin'>) {
  return isBinary(margin) ? { slopeSum: new Float64Array(rows) } : {};
}

/** Of phase 3. */
export function newRows({
  rows,
  hardest,
  learners,
  margin,
}: Pick<Plan, 'rows' | 'hardest' | 'learners' | 'margin'>): NativeRows {
  return {
    rowLoss: new Float32Array(rows),
    logSumExp: new Float32Array(rows),
    targetCosine: new Float32Array(rows),
    ...(hardest && { hardestCosine: new Float32Array(rows) }),
    ...(learners.length > 0 && {
      logNegatives: new Float64Array(rows),
      targetGradient: new Float64Array(rows),
      ...(isBinary(margin) && { biasGradient: new Float64Array(rows) }),
    }),
  };
}
