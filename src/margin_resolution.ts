/**
 * What stands between the phases of an evaluation where a margin or the negatives' transform depends on the batch: targets and
 * thresholds from phase 1's cosines, and targets from what phase 2 says of the negatives.
 */

import { isBatchMargin, resolution } from './batch_margins.js';
import { customTargets } from './custom_margin.js';
import type { Plan } from './evaluation.js';
import type {
  NativeBackwardResult,
  NativeEvaluation,
  NativeForwardResult,
  NativeGradients,
  NativeMode,
  NativeRows,
  NativeStatistics,
} from './native.js';
import type { NativeMargin, NativeNegatives, NativeTransform } from './native_loss.js';
import { filtered } from './negatives_transform.js';
import { type Angles, hardStatistics, newAngles, newStatistics } from './row_arrays.js';
import { settled, type Twin } from './twin.js';

/** What phases 2 and 3 are told. */
export interface Resolved {
  /** Or how it follows from phase 2's statistics. */
  readonly margin: NativeMargin | ((statistics: NativeStatistics) => NativeMargin);
  readonly negatives?: NativeNegatives;
}

/** Whether the margin asks for phase 1's angles. */
export function asksForAngles({ margin }: Plan): boolean {
  return 'callback' in margin || isBatchMargin(margin);
}

/** With the `angles` that the margin asks for. */
export function resolve(plan: Plan, angles: Angles): Resolved {
  const { margin, problem } = plan;
  if ('callback' in margin)
    return { margin: customTargets(margin.callback, problem.labels, angles), ...filterOf(plan) };
  if (!isBatchMargin(margin)) return { margin, ...filterOf(plan) };
  const { labels, scale, onOverflow, weights } = problem;
  const step = 'stepCount' in weights ? weights.stepCount : 0;
  const { seed, trainedClasses, memory: track } = plan;
  const { training } = track;
  const memoryBefore = { memory: track.before(), training };
  const rows = { labels, scale, onOverflow, seed, step, trainedClasses, ...memoryBefore, ...angles };
  const { transform, binary, memory, ...targets } = resolution(margin, rows);
  const negatives = transform ?? binary;
  if (memory && training) track.after = memory;
  return {
    margin: targets.kind === 'late' ? (statistics) => targets.targets(meanHardCosine(statistics)) : targets,
    ...(negatives ? { negatives } : filterOf(plan)),
  };
}

/** Of plans whose margin leaves the negatives alone. */
export function filterOf({ filterThreshold, rows }: Plan): { readonly negatives?: NativeTransform } {
  return filterThreshold > 0 ? { negatives: filtered(filterThreshold, rows) } : {};
}

function meanHardCosine({ hardSum, hardCount }: NativeStatistics): Float64Array {
  const [sums, counts] = [hardSum, hardCount] as [Float64Array, Float64Array];
  return sums.map((sum, row) => sum / Math.max(counts[row] as number, 1));
}

/** Phase 1, if the margin asks for it. */
export function* resolveMargin(mode: NativeMode, plan: Plan, evaluation: NativeEvaluation): Twin<Resolved> {
  const asked = asksForAngles(plan);
  const angles = newAngles(asked ? plan.rows : 0);
  if (asked) yield* settled(evaluation.targets(mode, angles));
  return resolve(plan, angles);
}

/** Phases up to 3. `gradients`: what will be asked for afterwards, if that is known. */
export function* phasesToLoss(
  mode: NativeMode,
  plan: Plan,
  evaluation: NativeEvaluation,
  { margin, negatives }: Resolved,
  rows: NativeRows,
  gradients?: NativeGradients,
): Twin<NativeForwardResult> {
  if (typeof margin !== 'function') return yield* settled(evaluation.forward(mode, margin, rows, negatives));
  const statistics = { ...newStatistics(plan), ...hardStatistics(plan) };
  yield* settled(evaluation.negatives(mode, statistics, gradients, negatives));
  return yield* settled(evaluation.epilogue(mode, margin(statistics), rows, statistics));
}

/** Phases up to 5. */
export function* phasesToGradients(
  mode: NativeMode,
  plan: Plan,
  evaluation: NativeEvaluation,
  resolved: Resolved,
  rows: NativeRows,
  gradients: NativeGradients,
): Twin<NativeForwardResult & NativeBackwardResult> {
  const { margin, negatives } = resolved;
  if (typeof margin !== 'function')
    return yield* settled(evaluation.valueAndGrad(mode, margin, rows, gradients, negatives));
  const result = yield* phasesToLoss(mode, plan, evaluation, resolved, rows, gradients);
  return { ...result, ...(yield* settled(evaluation.backward(mode, gradients))) };
}
