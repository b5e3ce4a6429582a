/**
 * The core under every call: arguments that have been checked become a NativeProblem, and a NativeProblem
 * goes through its phases, blocking or not.
 */

import { watchAbort } from './abort.js';
import { type BatchMargin, batchLearner, isBatchMargin, type Learner } from './batch_margins.js';
import { publicError } from './errors.js';
import { interPass, withKept } from './inter_pass.js';
import { type MemoryTrack, noMemory } from './loss_memory.js';
import { phasesToGradients, phasesToLoss, resolveMargin } from './margin_resolution.js';
import { type CustomMargin, nativeMargin } from './margins.js';
import { noteUse } from './memory.js';
import {
  addon,
  type NativeEvaluation,
  type NativeGradients,
  type NativeHead,
  type NativeMode,
  type NativeProblem,
  type NativeRows,
} from './native.js';
import type { NativeMargin } from './native_loss.js';
import { type Compute, type PlainLoss, type Reduction, transformOf } from './options.js';
import { newRows } from './row_arrays.js';
import { nativeRowFunction } from './row_functions.js';
import { type CheckedRows, checkRowsOf, type Rows } from './rows.js';
import { checkSubCentersOf } from './sub_centers.js';
import { type BatchResult, type TermPlan, withNativeTerms, withTerms } from './term_state.js';
import { refuseCenters, termOf } from './terms.js';
import { settled, type Twin } from './twin.js';
import { checkFloats, checkInt32Array, checkLabels, checkValues, mustBe, show } from './validate.js';

/** What is known of each row. */
export interface RowResults {
  /** [B], `logSumExp - scale F(theta)` (with label smoothing, `sphereface2` and `uniface` see there); 0 where the label is -1. */
  readonly rowLoss: Float32Array;
  /**
   * [B], logarithm of the sum over all classes of exp of the logits, the row's own with its margin. With `sphereface2` and
   * `uniface`, which have no such sum, the part of the row's loss that other classes have.
   */
  readonly logSumExp: Float32Array;
  /** [B], cosine to the row's own class, without margin; 0 where the label is -1. */
  readonly targetCosine: Float32Array;
}

/** What `gradientTolerance` left out. */
export interface SkippedMass {
  /**
   * Only with a `gradientTolerance`: sum over the classes left out and all rows of |dLoss/dcos|, over the sum over rows of
   * |dLoss/dlogit| that their weights allow; at most the tolerance.
   */
  readonly skippedMass?: number;
}

/** One batch against one set of classes, checked. */
export interface Plan {
  readonly problem: NativeProblem;
  readonly margin: NativeMargin | CustomMargin | BatchMargin;
  /** Of a head's draws; 0 without one. */
  readonly seed: number;
  readonly memory: MemoryTrack;
  /** What it teaches once its loss is known. */
  readonly learners: readonly Learner[];
  readonly terms: TermPlan;
  /** Cosine from which on negatives are filtered; 0: none are. */
  readonly filterThreshold: number;
  readonly rows: number;
  readonly classes: number;
  /** Of which a training step looks at. */
  readonly trainedClasses: number;
  /** Whether each row's largest negative cosine is wanted. */
  readonly hardest: boolean;
}

/** What is wanted to know of a batch beside its loss. */
export interface Diagnostics {
  readonly topFive: boolean;
  readonly hardest: boolean;
}

/** What forward leaves: results, and the evaluation to go backward with or to dispose of. */
export interface Forwarded {
  readonly plan: Plan;
  readonly rows: NativeRows;
  readonly result: BatchResult;
  readonly evaluation: NativeEvaluation;
  readonly cancel: Int32Array;
}

export interface PlanInput {
  readonly features: Rows;
  readonly labels: Int32Array;
  readonly dim: number;
  readonly classes: number;
  readonly subCenters: number;
  readonly weights: CheckedRows | NativeHead;
  readonly loss: PlainLoss;
  readonly compute: Compute;
  readonly reduction: Reduction;
  readonly rowWeights: Float32Array | undefined;
  /** Undefined: not even the accuracy. */
  readonly diagnostics: Diagnostics | undefined;
  /** Whether a head's sampling applies. */
  readonly sampled: boolean;
  /** Of the head, if there is one. */
  readonly seed?: number;
  readonly sampleRate?: number;
  readonly memory?: MemoryTrack;
  /** Of the scale, where that is learned. */
  readonly scaleLearner?: Learner | undefined;
  /** Of a head; without one the terms' own data are all there is. */
  readonly remembered?: TermPlan['remembered'];
}

/** Checks what depends on the batch: lengths, labels, and arrays with one entry per row or class. */
export function planEvaluation(input: PlanInput): Plan {
  const { dim, classes, subCenters, loss, compute, reduction, rowWeights, diagnostics, sampled, weights } =
    input;
  const labels = checkInt32Array(input.labels, 'labels');
  const rows = labels.length;
  const { devices } = compute;
  checkSubCentersOf({ subCenters, classes }, loss, devices);
  const features = checkRowsOf(
    input.features,
    'features',
    devices,
    rows * dim,
    `labels.length ${rows} * dim ${dim}`,
  );
  if (!ArrayBuffer.isView(features.array) && features.type !== 'float32')
    throw mustBe('ERR_OPTION', 'features.dtype', `'float32' in a GPU's memory`, show(features.type));
  checkLabels(labels, classes);
  const { margin } = loss;
  const { memory = noMemory() } = input;
  return {
    margin: margin.kind === 'custom' || isBatchMargin(margin) ? margin : nativeMargin(margin, rows, classes),
    seed: input.seed ?? 0,
    memory,
    learners: memory.training
      ? [input.scaleLearner, isBatchMargin(margin) ? batchLearner(margin) : undefined].filter(
          (learner) => learner !== undefined,
        )
      : [],
    terms: planTerms(input),
    filterThreshold: loss.filterThreshold,
    rows,
    classes,
    trainedClasses: classes * (input.sampleRate ?? 1),
    hardest: diagnostics?.hardest === true,
    problem: {
      features: features.array,
      featuresType: features.type,
      labels,
      dim,
      subCenters,
      weights: 'array' in weights ? weights.array : weights,
      weightsType: 'array' in weights ? weights.type : 'float32',
      precision: compute.precision,
      gradientTolerance: compute.gradientTolerance,
      scale: loss.scale,
      straightThrough: loss.gradient === 'straightThrough',
      onOverflow: loss.onOverflow,
      reduction,
      workspace: compute.workspace,
      workspaceBytes: compute.workspaceBytes,
      shards: compute.shards,
      engines: compute.devices,
      checkFinite: compute.checkFinite,
      labelSmoothing: loss.labelSmoothing,
      diagnostics: diagnostics !== undefined,
      topFive: diagnostics?.topFive === true,
      transforms: transformOf(loss) !== undefined,
      sampled,
      ...(rowWeights !== undefined && { rowWeights: checkRowWeights(rowWeights, rows, reduction) }),
      ...nativeRowFunction(loss.rowFunction, loss.scale),
    },
  };
}

function planTerms({ loss: { terms }, dim, classes, reduction, remembered }: PlanInput): TermPlan {
  if (terms.length > 0 && reduction === 'none')
    throw mustBe(
      'ERR_OPTION',
      'terms',
      `left out with reduction 'none', which has no loss to add them to`,
      'some',
    );
  if (remembered) {
    refuseCenters(terms);
    return { terms, remembered };
  }
  const at = terms.findIndex(({ kind }) => kind === 'center');
  const given = termOf(terms, 'center')?.centers;
  const centers =
    at < 0 ? undefined : checkFloats(given, `terms[${at}].centers`, classes * dim, 'classes * dim');
  return {
    terms,
    remembered: () => ({
      radius: undefined,
      range: { start: 0, end: classes },
      centers: () => centers as Float32Array,
    }),
  };
}

/** What multiplies the gradient of an inter-loss, of the weights alone. */
export function interFactor({
  dLoss,
  weightGradient,
}: Pick<NativeGradients, 'dLoss' | 'weightGradient'>): number | undefined {
  return weightGradient.kind === 'none' ? undefined : (dLoss as number);
}

/** A plan's problem when its turn has come. */
function problemNow({ problem, terms, rows }: Plan): NativeProblem {
  return withNativeTerms(problem, terms, { start: 0, end: rows });
}

function checkRowWeights(rowWeights: Float32Array, rows: number, reduction: Reduction): Float32Array {
  if (reduction === 'none')
    throw mustBe(
      'ERR_OPTION',
      'rowWeights',
      `left out with reduction 'none', where dLoss weighs the rows`,
      'some',
    );
  checkFloats(rowWeights, 'rowWeights', rows, 'rows of the batch');
  return checkValues(rowWeights, 'rowWeights', 'ERR_OPTION', 0);
}

/** Phases 0 to 3; the caller disposes of the evaluation. */
export function* forwardPass(mode: NativeMode, plan: Plan, signal: AbortSignal | undefined): Twin<Forwarded> {
  const watch = watchAbort(signal);
  let evaluation: NativeEvaluation | undefined;
  try {
    evaluation = new (addon().Evaluation)(problemNow(plan), watch.cancel);
    const resolved = yield* resolveMargin(mode, plan, evaluation);
    const rows = newRows(plan);
    const result = yield* phasesToLoss(mode, plan, evaluation, resolved, rows);
    const { inter } = yield* interPass(mode, plan, evaluation, watch.cancel, undefined);
    return { plan, rows, result: withTerms(plan.terms, result, inter), evaluation, cancel: watch.cancel };
  } catch (error) {
    evaluation?.dispose();
    throw publicError(error, signal);
  } finally {
    watch.stop();
    noteUse();
  }
}

/** Phases 4 and 5 of an evaluation that went forward. `gradients` is asked for its arrays when work begins. */
export function* backwardPass(
  mode: NativeMode,
  { plan, evaluation, cancel }: Pick<Forwarded, 'plan' | 'evaluation' | 'cancel'>,
  signal: AbortSignal | undefined,
  gradients: () => NativeGradients,
): Twin<NativeGradients> {
  const watch = watchAbort(signal, cancel);
  try {
    const wanted = gradients();
    const inter = yield* interPass(mode, plan, evaluation, cancel, interFactor(wanted));
    yield* settled(evaluation.backward(mode, withKept(wanted, inter)));
    return wanted;
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    watch.stop();
    noteUse();
  }
}

/** Phases 0 to 5 in one go. `gradients` is asked for its arrays when work begins. */
export function* gradientPass(
  mode: NativeMode,
  plan: Plan,
  signal: AbortSignal | undefined,
  gradients: () => NativeGradients,
): Twin<{
  rows: NativeRows;
  result: BatchResult;
  gradients: NativeGradients;
  skipped: SkippedMass;
}> {
  const watch = watchAbort(signal);
  let evaluation: NativeEvaluation | undefined;
  try {
    evaluation = new (addon().Evaluation)(problemNow(plan), watch.cancel);
    const resolved = yield* resolveMargin(mode, plan, evaluation);
    const rows = newRows(plan);
    const wanted = gradients();
    const inter = yield* interPass(mode, plan, evaluation, watch.cancel, interFactor(wanted));
    const all = withKept(wanted, inter);
    const result = yield* phasesToGradients(mode, plan, evaluation, resolved, rows, all);
    const skipped = plan.problem.gradientTolerance > 0 ? { skippedMass: result.skippedMass } : {};
    return { rows, result: withTerms(plan.terms, result, inter.inter), gradients: wanted, skipped };
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    evaluation?.dispose();
    watch.stop();
    noteUse();
  }
}

/** What callers are told of the rows. */
export function rowResults({ rowLoss, logSumExp, targetCosine }: NativeRows): RowResults {
  return { rowLoss, logSumExp, targetCosine };
}
