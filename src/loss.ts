/** The loss as a function of features and weights, with or without gradients. */

import { type MarginGradient, marginGradient } from './adaptiveface.js';
import { checkWithoutHead, isBatchMargin } from './batch_margins.js';
import { checkEngine, engineName } from './engines.js';
import { forwardPass, gradientPass, type Plan, planEvaluation, type SkippedMass } from './evaluation.js';
import { ForwardPass, type LossResult } from './forward_pass.js';
import {
  type GradientArrays,
  type GradientChoice,
  type GradientOutputs,
  gradientArrays,
  gradientRequest,
  type HostOutputs,
  type Shape,
} from './gradients.js';
import { type BiasGradient, biasGradient } from './learned_bias.js';
import type { NativeMode } from './native.js';
import {
  type ComputeOptions,
  checkCompute,
  checkLoss,
  computeNames,
  type EngineChoice,
  type EngineName,
  type LossOptions,
  lossNames,
  type Precision,
  plainLoss,
} from './options.js';
import { checkRows, type Rows } from './rows.js';
import { checkSubCenters, classSize, classSizeName } from './sub_centers.js';
import type { BatchResult } from './term_state.js';
import { runAsync, runSync, type Twin } from './twin.js';
import { checkCount, checkObject, checkOneOf, checkOptions, checkSignal, mustBe } from './validate.js';

/**
 * The inputs: borrowed, never copied or written. Until a promise settles, and until a {@link ForwardPass} is
 * disposed, they must not be written, transferred or detached. SharedArrayBuffers, views with an offset and
 * arrays of another realm will do; resizable buffers will not.
 */
export interface Batch {
  /** [B, dim], one embedding a row, of any norm. B may be 0. */
  readonly features: Rows;
  /** [C, dim], one class centre a row, of any norm; with `subCenters` K [C, K, dim], row j K + k the k-th of class j. */
  readonly weights: Rows;
  /** [B], class ids in [0, C), or -1: the row has no loss, no gradient and no part in the mean. */
  readonly labels: Int32Array;
  /** Length of an embedding, D. */
  readonly dim: number;
}

/** How row losses become the loss. */
export type ReductionOptions =
  | {
      /**
       * `mean` over the rows that are not ignored, or their `sum`. Default `mean`. No such row, or a sum of
       * row weights of 0: the loss is 0 and so are all gradients.
       */
      readonly reduction?: 'mean' | 'sum' | undefined;
      /** [B], >= 0. The mean is divided by the sum of the weights of the rows that are not ignored. */
      readonly rowWeights?: Float32Array | undefined;
    }
  | {
      /** No reduction: gradients are those of `sum_i dLoss_i rowLoss_i`. */
      readonly reduction: 'none';
      readonly rowWeights?: undefined;
    };

interface CallOptions extends LossOptions, ComputeOptions {
  /** Rows of each class, as of {@link MarginHeadOptions}: gradients of the weights are 0 for rows that are nobody's nearest. Default 1. */
  readonly subCenters?: number | undefined;
  /**
   * Default `auto`: the cpu engine, also where there is a GPU, because a call with weights in the host's memory pays for their
   * upload, and because the default precision differs. An engine that is missing is an error, never replaced by another.
   */
  readonly engine?: EngineChoice | undefined;
  /** Ends the call early with ERR_ABORTED. A Sync call blocks the thread and looks at it only when it starts. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of {@link forward}. */
export type ForwardOptions = CallOptions & ReductionOptions;

/** Options of {@link valueAndGrad}. */
export type ValueAndGradOptions<
  G extends GradientChoice = GradientChoice,
  O extends GradientOutputs = HostOutputs,
> = CallOptions & {
  /** Default `both`. */
  readonly gradients?: G | undefined;
  /** Arrays to write gradients to, instead of new ones. */
  readonly out?: O | undefined;
} & (
    | (Exclude<ReductionOptions, { reduction: 'none' }> & {
        /** Multiplies every gradient, not the loss. Default 1. */
        readonly dLoss?: number | undefined;
      })
    | (Extract<ReductionOptions, { reduction: 'none' }> & {
        /** [B], multiplies each row's loss. */
        readonly dLoss: Float32Array;
      })
  );

/**
 * Result of {@link valueAndGrad}. New arrays of 4 MiB and more are external memory that cannot be transferred to another
 * thread; copy them, or give `out`.
 */
export type ValueAndGrad<
  G extends GradientChoice = 'both',
  O extends GradientOutputs = HostOutputs,
> = LossResult & GradientArrays<G, O> & MarginGradient & BiasGradient & SkippedMass;

/** Everything a call needs, checked. */
interface Call {
  readonly plan: Plan;
  readonly engine: EngineName;
  readonly precision: Precision;
  readonly signal: AbortSignal | undefined;
  readonly shape: Shape;
}

const forwardNames = {
  ...lossNames,
  ...computeNames,
  reduction: true,
  rowWeights: true,
  subCenters: true,
  engine: true,
  signal: true,
} as const;
const valueAndGradNames = { ...forwardNames, gradients: true, out: true, dLoss: true } as const;

/**
 * Loss and gradients, off the calling thread.
 *
 * loss = reduction over rows of `logSumExp_i - scale F(theta_iy)`, where logSumExp runs over
 * `scale F(theta_iy)` for the row's own class and `scale cos(theta_ij)` for the others. Gradients are with
 * respect to features and weights as given, before normalisation.
 *
 * @example
 * ```ts
 * import { arcface, valueAndGrad } from 'marginfc';
 *
 * const batch = {
 *   features: Float32Array.from([1, 0, 0, 1]),
 *   weights: Float32Array.from([1, 0.1, 0.2, 1, -1, 0]),
 *   labels: Int32Array.from([0, 1]),
 *   dim: 2,
 * };
 * const { loss, dFeatures, dWeights } = await valueAndGrad(batch, { margin: arcface({ m: 0.5 }), scale: 64 });
 * ```
 *
 * Rejects with MarginFcError: ERR_TYPE, ERR_SHAPE, ERR_DETACHED, ERR_LABEL_RANGE, ERR_OPTION or ERR_MARGIN for
 * arguments, ERR_NOT_FINITE, ERR_ENGINE_UNAVAILABLE, ERR_PRECISION_UNSUPPORTED, ERR_OUT_OF_MEMORY, ERR_ABORTED,
 * ERR_NATIVE_LOAD. It never throws at once.
 */
export async function valueAndGrad<
  G extends GradientChoice = 'both',
  O extends GradientOutputs = HostOutputs,
>(batch: Batch, options?: ValueAndGradOptions<G, O>): Promise<ValueAndGrad<G, O>> {
  return runAsync(valueAndGradTwin('async', batch, options));
}

/** {@link valueAndGrad}, blocking. Throws what that rejects with. */
export function valueAndGradSync<G extends GradientChoice = 'both', O extends GradientOutputs = HostOutputs>(
  batch: Batch,
  options?: ValueAndGradOptions<G, O>,
): ValueAndGrad<G, O> {
  return runSync(valueAndGradTwin('sync', batch, options));
}

/**
 * The loss without gradients, off the calling thread, and the means to get them later. Dispose of the result
 * when it is no longer needed: it borrows the inputs and with workspace `keep` holds B x C floats.
 *
 * Rejects as {@link valueAndGrad}.
 */
export async function forward(batch: Batch, options?: ForwardOptions): Promise<ForwardPass> {
  return runAsync(forwardTwin('async', batch, options));
}

/** {@link forward}, blocking. Throws what that rejects with. */
export function forwardSync(batch: Batch, options?: ForwardOptions): ForwardPass {
  return runSync(forwardTwin('sync', batch, options));
}

function* valueAndGradTwin<G extends GradientChoice, O extends GradientOutputs>(
  mode: NativeMode,
  batch: Batch,
  options: ValueAndGradOptions<G, O> | undefined,
): Twin<ValueAndGrad<G, O>> {
  const checked = checkOptions(options, valueAndGradNames);
  const call = checkCall(batch, checked);
  const gradients = gradientRequest(call.shape, checked.dLoss, checked);
  const done = yield* gradientPass(mode, call.plan, call.signal, gradients);
  const { dLoss } = done.gradients;
  const loss = typeof dLoss === 'number' ? done.result.loss : weightedSum(dLoss, done.rows.rowLoss);
  const { rowLoss, logSumExp, targetCosine } = done.rows;
  const { engine, precision } = call;
  const { workspace } = done.result;
  const { dFeatures, dWeights } = gradientArrays<G, O>(done.gradients);
  // Spreads last: V8 makes a hidden class anew for what is added to a spread object, in every call.
  return {
    loss,
    rowLoss,
    logSumExp,
    targetCosine,
    engine,
    precision,
    workspace,
    dFeatures,
    dWeights,
    ...termResults(done.result),
    ...marginGradient(call.plan, done.rows, dLoss),
    ...biasGradient(done.rows, dLoss),
    ...done.skipped,
  };
}

function* forwardTwin(
  mode: NativeMode,
  batch: Batch,
  options: ForwardOptions | undefined,
): Twin<ForwardPass> {
  const call = checkCall(batch, checkOptions(options, forwardNames));
  const forwarded = yield* forwardPass(mode, call.plan, call.signal);
  return new ForwardPass(forwarded, call);
}

function checkCall(batch: Batch, options: ForwardOptions): Call {
  checkObject(batch, 'batch');
  const { reduction = 'mean', rowWeights } = options;
  checkOneOf(reduction, ['mean', 'sum', 'none'], 'reduction');
  const devices = checkEngine(
    options.engine === undefined ? 'auto' : options.engine,
    'engine',
    options.shards,
  );

  const loss = checkLoss(options);
  const compute = checkCompute(options, devices);
  const signal = checkSignal(options.signal);
  const dim = checkCount(batch.dim, 'dim');
  const weights = checkRows(batch.weights, 'weights', devices);
  const { length } = weights.array;
  const subCenters = checkSubCenters(options.subCenters ?? 1);
  const shape = { dim, subCenters };
  const [size, name] = [classSize(shape), classSizeName(shape)];
  if (length === 0 || length % size !== 0)
    throw mustBe('ERR_SHAPE', 'weights.length', `a positive multiple of ${name} ${size}`, String(length));
  const classes = checkCount(
    length / size,
    subCenters === 1 ? 'weights.length / dim' : `weights.length / (${name})`,
  );
  if (isBatchMargin(loss.margin)) checkWithoutHead(loss.margin, classes);
  const plan = planEvaluation({
    features: batch.features,
    labels: batch.labels,
    dim,
    classes,
    subCenters,
    weights,
    loss: plainLoss(loss, classes),
    compute,
    reduction,
    rowWeights,
    diagnostics: undefined,
    sampled: false,
  });
  const engine = engineName(devices, Math.min(compute.shards, classes));
  const features = { array: plan.problem.features, type: plan.problem.featuresType };
  const arrays = { features, weights, rows: plan.rows, reduction, devices };
  return { plan, engine, precision: compute.precision, signal, shape: arrays };
}

function termResults({ terms, ring }: BatchResult): Pick<LossResult, 'terms' | 'ring'> {
  return { ...(terms && { terms }), ...(ring && { ring }) };
}

function weightedSum(factors: Float32Array, values: Float32Array): number {
  return values.reduce((sum, value, i) => sum + value * (factors[i] as number), 0);
}
