/** What each call on a {@link MarginHead} takes, checks and does. */

import { throwIfAborted } from './abort.js';
import { isAdaCos, nextAdaCosScale } from './adacos.js';
import { applyMarginGradient } from './adaptiveface.js';
import { agree, attemptTwin } from './agreement.js';
import { checkBins } from './angles.js';
import { batchPrepared, checkOnHead, isBatchMargin } from './batch_margins.js';
import { saveCheckpoint } from './checkpoint.js';
import { publicError } from './errors.js';
import { forwardPass, gradientPass, type Plan, planEvaluation } from './evaluation.js';
import { checkPath } from './files.js';
import type { HostOutputs, OutputArray } from './gradients.js';
import { shareOf } from './group_batch.js';
import { groupPass, measuredTogether } from './group_pass.js';
import {
  type FeatureGradientOutput,
  featureGradientOutput,
  type HeadPlan,
  type HeadResult,
  type HeadState,
  headResult,
  keepMemory,
  type StepResult,
  type WeightGradient,
  weightUpdate,
} from './head_state.js';
import { headView } from './head_view.js';
import { applyBiasGradient } from './learned_bias.js';
import type { LossMemory } from './loss_memory.js';
import { addon, type NativeMode } from './native.js';
import { findNearest, type Nearest } from './nearest.js';
import { checkLoss, isScheduled, type LossOptions, lossAt, lossNames } from './options.js';
import type { Rows } from './rows.js';
import { checkWholeLoss } from './sampling.js';
import { centerRate, type TermPlan } from './term_state.js';
import { settled, type Twin } from './twin.js';
import {
  checkBoolean,
  checkFloat32Array,
  checkInteger,
  checkNumber,
  checkObject,
  checkOptions,
  checkSignal,
  largestFactor,
  mustBe,
} from './validate.js';

/** A batch for a head: borrowed, never copied or written, as {@link Batch}. */
export interface HeadBatch {
  /** [B, dim], one embedding a row, of any norm. B may be 0. */
  readonly features: Rows;
  /** [B], class ids in [0, classes), or -1: the row has no loss, no gradient and no part in the mean. */
  readonly labels: Int32Array;
}

/** Options of every call that looks at a batch. Those of the loss replace the head's own for this call. */
export interface EvaluateOptions extends LossOptions {
  /**
   * Whether the result has `accuracyTop5`. Costs next to nothing: negatives above the target are counted; on GPUs, with
   * losses that change other logits, a product. Default false.
   */
  readonly accuracyTop5?: boolean | undefined;
  /**
   * Whether the result has `angles`: true for 180 bins of a degree each, or a number of bins in [1, 65536] that share 180 degrees.
   * Default false.
   */
  readonly histograms?: boolean | number | undefined;
  /** [B], >= 0. The mean is divided by the sum of the weights of the rows that are not ignored. */
  readonly rowWeights?: Float32Array | undefined;
  /** Ends the call with ERR_ABORTED, in the queue or at work. A Sync call looks at it only when it starts. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of {@link MarginHead.step}. */
export interface StepOptions<O extends FeatureGradientOutput = HostOutputs> extends EvaluateOptions {
  /** For this update; 0 changes nothing. Default: the optimiser's. */
  readonly learningRate?: number | undefined;
  /** An array to write dFeatures to, instead of a new one. */
  readonly out?: O | undefined;
}

/** Options of {@link MarginHead.accumulate}. */
export interface AccumulateOptions<O extends FeatureGradientOutput = HostOutputs> extends EvaluateOptions {
  /** Multiplies both gradients, not the loss. Default 1. */
  readonly gradientScale?: number | undefined;
  /** An array to write dFeatures to, instead of a new one. */
  readonly out?: O | undefined;
}

/** Options of {@link MarginHead.apply}. */
export interface ApplyOptions {
  /** For this update; 0 changes nothing. Default: the optimiser's. */
  readonly learningRate?: number | undefined;
  /** Takes the call out of the queue, with ERR_ABORTED. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of {@link MarginHead.nearest}. */
export interface NearestOptions {
  /** Ends the call with ERR_ABORTED, in the queue or at work. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of {@link MarginHead.save}. */
export interface SaveOptions {
  /** Ends the call with ERR_ABORTED, in the queue or at work; the checkpoint of before is still there. */
  readonly signal?: AbortSignal | undefined;
}

export const evaluateNames = {
  ...lossNames,
  accuracyTop5: true,
  histograms: true,
  rowWeights: true,
  signal: true,
} as const;
const stepNames = { ...evaluateNames, learningRate: true, out: true } as const;
const accumulateNames = { ...evaluateNames, gradientScale: true, out: true } as const;

/** A call whose arguments have been checked. */
export interface HeadCall<T> {
  readonly signal: AbortSignal | undefined;
  /** What the processes of a group must have in common. */
  readonly terms: unknown;
  /** Rows of this process. */
  readonly rows: number;
  /** `counts`: the rows of each process of the head's group, if it has one. */
  readonly twin: (mode: NativeMode, counts?: readonly number[]) => Twin<T>;
}

/** What a batch's evaluation has in common on all processes. */
function termsOf({ problem, margin, terms, filterThreshold, hardest }: Plan): unknown {
  const { featuresType, scale, straightThrough, onOverflow, rowWeights, labelSmoothing, topFive } = problem;
  const formula = { scale, straightThrough, onOverflow, labelSmoothing, filterThreshold };
  return { featuresType, ...formula, rowWeights, margin, terms: terms.terms, topFive, hardest };
}

/**
 * A batch checked against the head. `sampled`: of a step, where the head may look at some classes only. `planNow`: the plan at the
 * head's step count, for a call whose turn has come.
 */
export function planEvaluationOn(
  state: HeadState,
  batch: HeadBatch,
  options: EvaluateOptions,
  sampled: boolean,
): {
  plan: HeadPlan;
  planNow: (mode: NativeMode) => Twin<HeadPlan>;
  terms: unknown;
  signal: AbortSignal | undefined;
} {
  checkObject(batch, 'batch');
  const { native, settings } = state;
  const signal = checkSignal(options.signal);
  const loss = checkLoss(options, settings.loss);
  if (isBatchMargin(loss.margin)) checkOnHead(loss.margin);
  if (sampled) checkWholeLoss(loss, settings.sampling);
  const { accuracyTop5: topFive = false, histograms = false } = options;
  checkBoolean(topFive, 'accuracyTop5');
  const bins = checkBins(histograms);
  const adaptive = isAdaCos(loss.scale) && !loss.scale.fixed;
  const planAt = (step: number, memory: LossMemory) => {
    const at = lossAt(loss, { step, memory, classes: settings.classes });
    return {
      ...planEvaluation({
        features: batch.features,
        labels: batch.labels,
        dim: settings.dim,
        classes: settings.classes,
        subCenters: settings.subCenters,
        weights: native,
        loss: at,
        compute: settings.compute,
        reduction: 'mean',
        rowWeights: options.rowWeights,
        diagnostics: { topFive, hardest: bins > 0 },
        sampled,
        seed: settings.sampling.seed,
        sampleRate: settings.sampling.sampleRate,
        memory: { before: () => state.memory, training: sampled },
        scaleLearner: adaptive ? (rows) => ({ scale: nextAdaCosScale(rows, at.scale) }) : undefined,
        remembered: () => remembered(state),
      }),
      bins,
    };
  };
  // What is checked, and compared between processes, is the same wherever they are in their steps.
  const plan = planAt(0, {});
  if (settings.group && !ArrayBuffer.isView(plan.problem.features))
    throw mustBe(
      'ERR_OPTION',
      'features',
      `in the host's memory where processes share the classes`,
      `a GPU's`,
    );
  const scheduled = isScheduled(loss);
  return {
    plan,
    *planNow(mode) {
      const now = scheduled ? planAt(native.stepCount, state.memory) : plan;
      if (isBatchMargin(now.margin)) {
        const prepared = yield* batchPrepared(now.margin, state.memory, headView(mode, state, signal));
        state.memory = { ...state.memory, ...prepared };
      }
      return now;
    },
    terms: [termsOf(plan), loss.rowFunction, scheduled && [loss.scale, loss.margin, loss.terms]],
    signal,
  };
}

/** What terms remember when a call's turn has come. */
function remembered(state: HeadState): ReturnType<TermPlan['remembered']> {
  const { range, dim } = state.settings;
  const centers = () => {
    state.centers ??= new Float32Array((range.end - range.start) * dim);
    return state.centers;
  };
  return { radius: state.memory.radius, range, centers };
}

export function stepCall<O extends FeatureGradientOutput>(
  state: HeadState,
  batch: HeadBatch,
  options: StepOptions<O> | undefined,
): HeadCall<StepResult<O>> {
  const checked = checkOptions(options, stepNames);
  const gradients = { dLoss: 1, weightGradient: weightUpdate(checked.learningRate, state) };
  return gradientCall(state, batch, checked, gradients);
}

export function accumulateCall<O extends FeatureGradientOutput>(
  state: HeadState,
  batch: HeadBatch,
  options: AccumulateOptions<O> | undefined,
): HeadCall<StepResult<O>> {
  const checked = checkOptions(options, accumulateNames);
  const { gradientScale = 1 } = checked;
  const dLoss = checkNumber(gradientScale, 'gradientScale', { magnitude: largestFactor });
  const weightGradient: WeightGradient = { terms: 'accumulate', now: () => ({ kind: 'accumulate' }) };
  return gradientCall(state, batch, checked, { dLoss, weightGradient });
}

function gradientCall<O extends FeatureGradientOutput>(
  state: HeadState,
  batch: HeadBatch,
  options: EvaluateOptions & { readonly out?: O | undefined },
  { dLoss, weightGradient }: { readonly dLoss: number; readonly weightGradient: WeightGradient },
): HeadCall<StepResult<O>> {
  const { plan, planNow, terms, signal } = planEvaluationOn(state, batch, options, true);
  const { settings } = state;
  const { features, featuresType } = plan.problem;
  const output = featureGradientOutput(options.out, settings, { array: features, type: featuresType });
  const { group } = settings;
  return {
    signal,
    terms: [terms, dLoss, weightGradient.terms],
    rows: plan.rows,
    *twin(mode, counts) {
      let dFeatures = output;
      const array = () => {
        dFeatures ??= addon().allocate(features.length);
        return dFeatures;
      };
      const now = yield* planNow(mode);
      const update = weightGradient.now();
      const wanted = { dLoss, weightGradient: update, ...centerRate(now.terms) };
      const done =
        group && counts
          ? yield* groupPass(shareOf(group, counts), now, settings, signal, {
              ...wanted,
              dFeatures: array as () => Float32Array,
            })
          : yield* gradientPass(mode, now, signal, () => ({ ...wanted, dFeatures: array() }));
      keepMemory(state, now, done, update, dLoss);
      return {
        ...headResult(now, done, settings),
        dFeatures: dFeatures as OutputArray<O, 'dFeatures'>,
        ...done.skipped,
      };
    },
  };
}

export function applyCall(state: HeadState, options: ApplyOptions | undefined): HeadCall<boolean> {
  const checked = checkOptions(options, { learningRate: true, signal: true });
  const signal = checkSignal(checked.signal);
  const { terms, now } = weightUpdate(checked.learningRate, state);
  const { native, settings } = state;
  return {
    signal,
    terms,
    rows: 0,
    *twin(mode) {
      throwIfAborted(signal);
      const update = now();
      if (update.kind !== 'update') return false;
      try {
        const { learningRate } = update;
        const { group } = settings;
        let { clip } = update;
        if (group && clip && 'global' in clip) {
          const square = yield* agree(group, yield* attemptTwin(settled(native.measure(mode))));
          clip = yield* measuredTogether(group, clip, square);
        }
        const applied = yield* attemptTwin(settled(native.apply(mode, learningRate, clip)));
        const done = yield* agree(group, applied);
        if (done)
          state.memory = applyBiasGradient(applyMarginGradient(state.memory, learningRate), learningRate);
        return done;
      } catch (error) {
        throw publicError(error, signal);
      }
    },
  };
}

export function evaluateCall(
  state: HeadState,
  batch: HeadBatch,
  options: EvaluateOptions | undefined,
): HeadCall<HeadResult> {
  const { plan, planNow, terms, signal } = planEvaluationOn(
    state,
    batch,
    checkOptions(options, evaluateNames),
    false,
  );
  const { settings } = state;
  const { group } = settings;
  return {
    signal,
    terms,
    rows: plan.rows,
    *twin(mode, counts) {
      const now = yield* planNow(mode);
      // No gradients will be asked for, so there is nothing to keep.
      const forgetful = { ...now, problem: { ...now.problem, workspace: 'recompute' } } as const;
      if (group && counts) {
        const passed = yield* groupPass(shareOf(group, counts), forgetful, settings, signal);
        return headResult(now, passed, settings);
      }
      const { evaluation, ...passed } = yield* forwardPass(mode, forgetful, signal);
      evaluation.dispose();
      return headResult(now, passed, settings);
    },
  };
}

export function nearestCall(
  state: HeadState,
  features: Float32Array,
  k: number,
  options: NearestOptions | undefined,
): HeadCall<Nearest> {
  const signal = checkSignal(checkOptions(options, { signal: true }).signal);
  const { dim, classes } = state.settings;
  checkFloat32Array(features, 'features');
  if (features.length % dim !== 0)
    throw mustBe('ERR_SHAPE', 'features.length', `a multiple of dim ${dim}`, String(features.length));
  checkInteger(k, 'k', { least: 1, most: classes });
  return {
    signal,
    terms: k,
    rows: features.length / dim,
    twin: (mode, counts) => findNearest(mode, state, { features, k, signal }, counts),
  };
}

export function saveCall(
  state: HeadState,
  folder: string | URL,
  options: SaveOptions | undefined,
): HeadCall<void> {
  const path = checkPath(folder, 'folder');
  const signal = checkSignal(checkOptions(options, { signal: true }).signal);
  return { signal, terms: null, rows: 0, twin: () => saveCheckpoint(state, path, signal) };
}
