/** What a {@link MarginHead} and the forward passes made on it share, and the types of their results. */

import type { DeviceArray } from './device_array.js';
import { engineName } from './engines.js';
import type { RowResults, SkippedMass } from './evaluation.js';
import { checkOutput, type HostOutputs, type OutputArray } from './gradients.js';
import type { HeadSettings } from './head_options.js';
import type { NativeForwardResult, NativeHead, NativeWeightGradient } from './native.js';
import { checkLearningRate } from './optimizers.js';
import type { EngineName, Precision } from './options.js';
import type { CallQueue } from './queue.js';
import type { CheckedRows } from './rows.js';
import { checkOptions, mustBe } from './validate.js';

export interface HeadState {
  /** These two change together, when classes come or go. */
  native: NativeHead;
  settings: HeadSettings;
  /** Every call on the head goes through it, so that none sees the weights of a half-made update. */
  readonly queue: CallQueue;
  /** Calls that add or remove classes and have not ended. */
  reshaping: number;
  disposed: boolean;
}

/** Loss, row results and accuracy of a batch on a head. */
export interface HeadResult extends RowResults, SampledClasses {
  /** Mean over the rows that are not ignored, weighted by `rowWeights`; 0 if there are none. */
  readonly loss: number;
  /** Share of the rows not ignored whose own class has the largest cosine, without margin; NaN if there are none. */
  readonly accuracy: number;
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

export function headResult(
  rows: RowResults,
  { loss, accuracy, workspace, classes }: NativeForwardResult,
  { compute, sampling }: HeadSettings,
  sampled: boolean,
): HeadResult {
  const engine = engineName(compute.devices, compute.shards);
  return {
    loss,
    ...rows,
    accuracy,
    engine,
    precision: compute.precision,
    workspace,
    ...(sampled && sampling.sampleRate < 1 && { sampledClasses: classes }),
  };
}

export function assertOpen({ disposed }: HeadState): void {
  if (disposed) throw mustBe('ERR_DISPOSED', 'head', 'open', 'one that has been disposed');
}

/** The update a call makes. A learning rate of 0 leaves weights and optimiser state as they are. */
export function weightUpdate(
  learningRate: number | undefined,
  { settings }: HeadState,
): NativeWeightGradient {
  const rate =
    learningRate === undefined
      ? settings.optimizer.learningRate
      : checkLearningRate(learningRate, 'learningRate');
  return rate === 0 ? { kind: 'none' } : { kind: 'update', learningRate: rate };
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
