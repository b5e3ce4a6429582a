/** What a {@link MarginHead} and the forward passes made on it share, and the types of their results. */

import { type AngleHistograms, angleHistograms } from './angles.js';
import type { DeviceArray } from './device_array.js';
import { engineName } from './engines.js';
import { type Plan, type RowResults, rowResults, type SkippedMass } from './evaluation.js';
import { checkOutput, type HostOutputs, type OutputArray } from './gradients.js';
import type { HeadArrays } from './head_arrays.js';
import type { HeadSettings } from './head_options.js';
import type { LossMemory } from './loss_memory.js';
import type { NativeHead, NativeRows, NativeWeightGradient } from './native.js';
import { checkLearningRate } from './optimizers.js';
import type { EngineName, Precision } from './options.js';
import type { CallQueue } from './queue.js';
import type { CheckedRows } from './rows.js';
import { valueAt } from './schedule.js';
import { type BatchResult, nextRadius } from './term_state.js';
import type { TermValues } from './terms.js';
import { checkOptions, mustBe } from './validate.js';

export interface HeadState {
  /** These two change together, when classes come or go. */
  native: NativeHead;
  settings: HeadSettings;
  /** Every call on the head goes through it, so that none sees the weights of a half-made update. */
  readonly queue: CallQueue;
  memory: LossMemory;
  /** [classes of the process, dim], of a centre loss, once there is one. */
  centers: Float32Array | undefined;
  /** Calls that add or remove classes and have not ended. */
  reshaping: number;
  /** Snapshots put in place of the head's own state. */
  restores: number;
  disposed: boolean;
}

/** Loss, row results and accuracy of a batch on a head. */
export interface HeadResult extends RowResults, SampledClasses {
  /** Mean over the rows that are not ignored, weighted by `rowWeights`; 0 if there are none. With `terms`: plus these. */
  readonly loss: number;
  /** Share of the rows not ignored whose own class has the largest cosine, without margin; NaN if there are none. */
  readonly accuracy: number;
  /** Only with `accuracyTop5: true`: share of those rows whose own class has one of the five largest. */
  readonly accuracyTop5?: number;
  /** Only with `histograms`. */
  readonly angles?: AngleHistograms;
  /** Only with `terms`: their values, without their weights. */
  readonly terms?: TermValues;
  readonly engine: EngineName;
  readonly precision: Precision;
  readonly workspace: 'keep' | 'recompute';
}

/** How many classes a call looked at. */
export interface SampledClasses {
  /** Only with a `sampleRate` below 1, of calls that sample: the classes that were drawn or that a row of the batch owns. */
  readonly sampledClasses?: number;
}

/** HeadResult with the gradient to train the embedding with. */
export interface StepResult<O extends FeatureGradientOutput = HostOutputs> extends HeadResult, SkippedMass {
  /** [B, dim] */
  readonly dFeatures: OutputArray<O, 'dFeatures'>;
}

/** An array to write dFeatures to, instead of a new one. Its contents are unspecified after an error. */
export interface FeatureGradientOutput {
  /** [B, dim]; a {@link DeviceArray} of float32 only where all devices are GPUs. */
  readonly dFeatures?: Float32Array | DeviceArray | undefined;
}

/** What a pass leaves. `whole`: of the rows of all processes, where they share the classes; else the rows are all. */
interface Passed {
  readonly rows: NativeRows;
  readonly result: BatchResult;
  readonly whole?: { readonly labels: Int32Array; readonly rows: NativeRows };
}

export function headResult(
  { bins, problem }: HeadPlan,
  { rows: own, result, whole = { labels: problem.labels, rows: own } }: Passed,
  { compute, sampling }: HeadSettings,
): HeadResult {
  const engine = engineName(compute.devices, compute.shards);
  const { loss, accuracy, accuracyTop5, workspace, classes, terms } = result;
  const { targetCosine, hardestCosine } = whole.rows;
  return {
    loss,
    ...rowResults(own),
    accuracy,
    ...(problem.topFive && { accuracyTop5 }),
    ...(hardestCosine && { angles: angleHistograms(whole.labels, targetCosine, hardestCosine, bins) }),
    ...(terms && { terms }),
    engine,
    precision: compute.precision,
    workspace,
    ...(problem.sampled && sampling.sampleRate < 1 && { sampledClasses: classes }),
  };
}

/** The rows that a head keeps of its classes. */
export function headArrays({ native, settings, centers }: HeadState): HeadArrays {
  const { range, dim, subCenters } = settings;
  return { native, centers, range, dim, subCenters };
}

/** A batch checked against a head. */
export interface HeadPlan extends Plan {
  /** Of the histograms of angles; 0 for none. */
  readonly bins: number;
}

export function assertOpen({ disposed }: HeadState): void {
  if (disposed) throw mustBe('ERR_DISPOSED', 'head', 'open', 'one that has been disposed');
}

/** What a call does with the weights' gradient, known in its turn; and what processes that share the head agree on before. */
export interface WeightGradient {
  readonly terms: unknown;
  readonly now: () => NativeWeightGradient;
}

/**
 * The update a call makes. A learning rate of 0 leaves weights and optimiser state as they are; a schedule that
 * is at 0 does not, or its step would never come to an end.
 */
export function weightUpdate(learningRate: number | undefined, state: HeadState): WeightGradient {
  const rate =
    learningRate === undefined
      ? state.settings.optimizer.learningRate
      : checkLearningRate(learningRate, 'learningRate');
  if (rate === 0) return { terms: rate, now: () => ({ kind: 'none' }) };
  const now = (): NativeWeightGradient => {
    const clip = state.settings.clipWeightGradient;
    const learningRate = valueAt(rate, state.native.stepCount);
    return { kind: 'update', learningRate, ...(clip && { clip }) };
  };
  return { terms: rate, now };
}

/** Keeps what a batch has taught the loss, once its call has succeeded; not where that changes nothing else. */
export function keepMemory(
  state: HeadState,
  plan: HeadPlan,
  { rows, result, whole = { labels: plan.problem.labels, rows } }: Passed,
  update: NativeWeightGradient,
  dLoss: number,
): void {
  if (update.kind === 'none') return;
  let memory = { ...state.memory, ...plan.memory.after };
  const { targetCosine, logNegatives, targetGradient, biasGradient } = whole.rows;
  if (logNegatives && targetGradient) {
    const { labels } = whole;
    const learned = { labels, targetCosine, logNegatives, targetGradient, biasGradient, dLoss, update };
    for (const learn of plan.learners)
      memory = { ...memory, ...learn(learned, memory, state.settings.classes) };
  }
  const { optimizer } = state.settings;
  const rate =
    update.kind === 'update' ? update.learningRate : valueAt(optimizer.learningRate, state.native.stepCount);
  state.memory = { ...memory, ...nextRadius(plan.terms, result, { update: rate, dLoss }) };
}

/** The caller's array for dFeatures, checked, if there is one. */
export function featureGradientOutput(
  out: FeatureGradientOutput | undefined,
  { compute }: HeadSettings,
  features: CheckedRows,
): Float32Array | DeviceArray | undefined {
  const { dFeatures } = checkOptions(out, { dFeatures: true }, 'out');
  if (dFeatures === undefined) return undefined;
  return checkOutput(dFeatures, 'out.dFeatures', compute.devices, features, 'as features', { features });
}
