/**
 * The one door between TypeScript and native code: the types of everything the addon exports, and the
 * loader. Nothing else in src/ may touch `.node` files. Arguments are checked by src/validate.ts before
 * they come here; the addon checks again only what would read or write out of bounds.
 */

import { loadAddon } from './load_addon.js';
import type {
  NativeMargin,
  NativeNegatives,
  NativeRowFunction,
  NativeTerms,
  NativeTermValues,
} from './native_loss.js';

/** A GPU's memory as the addon reads it. */
export interface NativeDeviceArray {
  readonly devicePtr: bigint;
  /** Elements. */
  readonly length: number;
}

export type NativePrecision = 'float32' | 'bfloat16' | 'float16';

/** What one evaluation computes; fixed when the evaluation is made. */
export interface NativeProblem {
  /** [B, D], borrowed until dispose(); a Uint16Array, which is copied, where featuresType is of 16 bits. */
  readonly features: Float32Array | Uint16Array | NativeDeviceArray;
  readonly featuresType: NativePrecision;
  /** [B]; copied. */
  readonly labels: Int32Array;
  readonly dim: number;
  /** Rows of each class, default 1; those of a head where it owns the weights. */
  readonly subCenters?: number;
  /** [C, subCenters, D], borrowed until dispose(), of weightsType; or a head that owns its weights, in float32; or those of another evaluation. */
  readonly weights: Float32Array | Uint16Array | NativeDeviceArray | NativeHead | NativeEvaluation;
  readonly weightsType: NativePrecision;
  /** Part of the gradient's mass that may be left out of the weights' gradient; 0 for none. */
  readonly gradientTolerance: number;
  /** Of the multiply operands. */
  readonly precision: NativePrecision;
  readonly scale: number;
  /** Row losses are sums of the angles to all other classes; with scale ln 2, reduction 'none' and float32. */
  readonly angles?: boolean;
  readonly straightThrough: boolean;
  readonly onOverflow: 'none' | 'fallback' | 'easy';
  readonly reduction: 'mean' | 'sum' | 'none';
  /** [B], mean and sum only. */
  readonly rowWeights?: Float32Array;
  readonly workspace: 'keep' | 'recompute' | 'auto';
  readonly workspaceBytes: number;
  /** Class shards; ignored when a head owns the weights. */
  readonly shards: number;
  /** `cpu` or `cuda:N`; shard r is on engines[r mod n]. Ignored when a head owns the weights. */
  readonly engines: readonly string[];
  readonly checkFinite: boolean;
  /** Whether a head's sampling applies, rather than all its classes take part. */
  readonly sampled: boolean;
  /** In [0, 1]: part of the target distribution that all classes share. */
  readonly labelSmoothing: number;
  /** Of the probability of a row's own class, instead of -log p. */
  readonly rowFunction?: NativeRowFunction;
  /** Companion terms, if there are. */
  readonly terms?: NativeTerms;
  /** Also find each row's largest negative cosine and the accuracy. */
  readonly diagnostics: boolean;
  /** With diagnostics: also accuracyTop5. */
  readonly topFive: boolean;
  /** Phase 2 may get a transform. */
  readonly transforms: boolean;
}

/** Row results, written by the addon. */
export interface NativeRows {
  /** [B] */
  readonly rowLoss: Float32Array;
  /** [B]; with a NativeBinary the part of the row's loss that other classes have. */
  readonly logSumExp: Float32Array;
  /** [B] */
  readonly targetCosine: Float32Array;
  /** [B], the largest cosine to another class, -2 where there is none; with diagnostics. */
  readonly hardestCosine?: Float32Array;
  /** [B], logarithm of the sum over all other classes of exp(logit). */
  readonly logNegatives?: Float64Array;
  /** [B], dLoss/dF of the loss as it is reduced; 0 where the label is -1. */
  readonly targetGradient?: Float64Array;
  /** [B], each row's part of dLoss/dbias likewise; only with a NativeBinary. */
  readonly biasGradient?: Float64Array;
}

/** What becomes of the weights' gradient: written out, kept, added to the head's sum, or used up by its optimiser. */
export type NativeWeightGradient =
  | { readonly kind: 'none' }
  /** [own classes, D] */
  | { readonly kind: 'write'; readonly dWeights: Float32Array | NativeDeviceArray }
  /** Where the classes are, for `addsKept` of another evaluation of them. */
  | { readonly kind: 'keep' }
  | { readonly kind: 'accumulate' }
  | { readonly kind: 'update'; readonly learningRate: number; readonly clip?: NativeClip };

/**
 * Largest norm of each class's gradient, or of the whole; undefined: no limit. `square`: sum of squares of the whole gradient; without
 * it the update measures its own classes first.
 */
export type NativeClip =
  | { readonly perClass: number }
  | { readonly global: number; readonly square?: number }
  | undefined;

/** What classes say of each row, [B] each: those of this process, or of all that share them. */
export interface NativeStatistics {
  /** To the row's own class; 0 where that is another process's. */
  readonly cosine: Float64Array;
  /** Likewise. */
  readonly sine: Float64Array;
  /** Logarithm of the sum over all other classes of exp(logit), with a NativeBinary of softplus(logit); -infinity without any. */
  readonly logNegatives: Float64Array;
  /** Largest cosine of another class, -2 without any. Only with `diagnostics`. */
  readonly hardest: Float32Array;
  /** Sum of the cosines of all classes. Only with `labelSmoothing`. */
  readonly cosineSum?: Float64Array;
  /** Other classes with a larger cosine than the own one, from 5 on any number that is not smaller. Only with `topFive`. */
  readonly above?: Float64Array;
  /** In, for phase 2 with `topFive`, where others share the rows: to the row's own class, whosever that is. */
  readonly targetCosine?: Float64Array;
  /** Sum and number of the cosines of other classes above a transform's threshold. Only where a transform needs them. */
  readonly hardSum?: Float64Array;
  readonly hardCount?: Float64Array;
  /** Sum over all other classes of sigmoid(logit). Only with a NativeBinary. */
  readonly slopeSum?: Float64Array;
}

export interface NativeGradients {
  /** Multiplies every gradient: a number, or one per row [B] (required when reduction is 'none'). */
  readonly dLoss: number | Float32Array;
  /** [B, D], or absent when not wanted. */
  readonly dFeatures?: Float32Array | NativeDeviceArray;
  readonly weightGradient: NativeWeightGradient;
  /** Where weights change, how far centres follow; default: not at all. */
  readonly centerRate?: number;
  /** Whether what was kept is added to the weights' gradient. */
  readonly addsKept?: boolean;
}

export interface NativeBackwardResult {
  /** The part that was left out. */
  readonly skippedMass: number;
}

export interface NativeForwardResult {
  /** NaN when reduction is 'none' and no dLoss was given; without terms. */
  readonly loss: number;
  /** Where the problem has terms. */
  readonly terms?: NativeTermValues;
  readonly workspace: 'keep' | 'recompute';
  /** Fraction of counted rows whose own class has the largest cosine; NaN unless `diagnostics`. */
  readonly accuracy: number;
  /** Classes that took part. */
  readonly classes: number;
  /** Likewise one of the five largest; NaN unless `topFive`. */
  readonly accuracyTop5: number;
}

export type NativeMode = 'sync' | 'async';

/** An async call returns a promise; a sync call returns the value. Failures throw or reject with NativeFailure. */
export type NativeReturn<T> = T | Promise<T>;

/** What the addon throws: src/errors.ts turns it into MarginFcError. */
export interface NativeFailure {
  readonly nativeCode:
    | 'ERR_NOT_FINITE'
    | 'ERR_OUT_OF_MEMORY'
    | 'ERR_ABORTED'
    | 'ERR_LABEL_RANGE'
    | 'ERR_MARGIN'
    | 'ERR_DISPOSED'
    | 'ERR_SHAPE'
    | 'ERR_TYPE'
    | 'ERR_ENGINE_UNAVAILABLE'
    | 'ERR_GROUP'
    | 'ERR_GROUP_TIMEOUT'
    | 'ERR_INTERNAL';
  readonly message: string;
}

/** One batch against one set of classes. Holds what forward leaves for backward. */
export interface NativeEvaluation {
  /** Phases 0 and 1: margin-free target cosines and feature norms, [B] each (0 where the label is -1). */
  targets(
    mode: NativeMode,
    result: { cosine: Float64Array; featureNorm: Float64Array },
  ): NativeReturn<undefined>;
  /** Phases 0 to 3. */
  forward(
    mode: NativeMode,
    margin: NativeMargin,
    rows: NativeRows,
    negatives?: NativeNegatives,
  ): NativeReturn<NativeForwardResult>;
  /** Phases 4 and 5; after forward. May be called again with another dLoss. */
  backward(mode: NativeMode, gradients: NativeGradients): NativeReturn<NativeBackwardResult>;
  /** Phases 0 to 5 in one go; cheaper than forward and backward when `gradients` are known to be wanted. */
  valueAndGrad(
    mode: NativeMode,
    margin: NativeMargin,
    rows: NativeRows,
    gradients: NativeGradients,
    negatives?: NativeNegatives,
  ): NativeReturn<NativeForwardResult & NativeBackwardResult>;
  /** Phases 0 to 2, with what `gradients` allow to be begun. */
  negatives(
    mode: NativeMode,
    statistics: NativeStatistics,
    gradients?: NativeGradients,
    negatives?: NativeNegatives,
  ): NativeReturn<undefined>;
  /** Phase 3, with what the classes of all processes say. */
  epilogue(
    mode: NativeMode,
    margin: NativeMargin,
    rows: NativeRows,
    statistics: NativeStatistics,
  ): NativeReturn<NativeForwardResult>;
  /** Sum of squares of the weights' gradient that an update would have, of this process's classes; after `epilogue`. */
  measure(mode: NativeMode, gradients: NativeGradients): NativeReturn<{ readonly square: number }>;
  /** Takes all memory that `finish` needs, which cannot fail afterwards if it changes weights. */
  reserve(mode: NativeMode, gradients: NativeGradients): NativeReturn<undefined>;
  /** Phases 4 and 5 of the gradients that were reserved; or in two calls of those for the features and those for the weights. */
  finish(mode: NativeMode, gradients: NativeGradients): NativeReturn<NativeBackwardResult>;
  /** Weights of these classes, [n, D]; rows of those of other processes stay as they are. */
  classRows(mode: NativeMode, classes: Int32Array, rows: Float32Array): NativeReturn<undefined>;
  /** Adds [B, D] to what is kept of the classes of the rows, no two of which have the same one. */
  addToKept(mode: NativeMode, rows: Float32Array): NativeReturn<undefined>;
  /** For benchmarks: how long each phase took when it last ran. */
  phaseSeconds(): NativePhaseSeconds;
  /** Frees the workspace and lets go of the borrowed arrays (after the calls in flight). Idempotent. */
  dispose(): void;
}

/** As engine/evaluation.h has them. */
export interface NativePhaseSeconds {
  readonly prepare: number;
  readonly targets: number;
  readonly negatives: number;
  readonly epilogue: number;
  readonly gradients: number;
}

/** ArcFace by separate passes, in float32: see cpu/unfused.h. */
export interface NativeUnfused {
  /** [B, D] */
  readonly features: Float32Array;
  /** [C, D] */
  readonly weights: Float32Array;
  /** [B], class ids */
  readonly labels: Int32Array;
  readonly dim: number;
  readonly scale: number;
  readonly m: number;
  /** Results, [B], [B, D] and [C, D]; of the mean loss. */
  readonly rowLoss: Float32Array;
  readonly dFeatures: Float32Array;
  readonly dWeights: Float32Array;
}

export type NativeOptimizerRule =
  | {
      readonly kind: 'sgd';
      readonly momentum: number;
      readonly weightDecay: number;
      readonly nesterov: boolean;
    }
  | {
      readonly kind: 'adamw';
      readonly beta1: number;
      readonly beta2: number;
      readonly epsilon: number;
      readonly weightDecay: number;
    };

/** An optimiser's rule, the type of the weights it moves, and the seed of their stochastic rounding. */
export type NativeOptimizer = NativeOptimizerRule & {
  readonly storage: 'float32' | 'bfloat16';
  /** An integer >= 0. */
  readonly seed: number;
};

/** Which classes take part in a step, and what becomes of the others. */
export interface NativeSampling {
  readonly sampleRate: number;
  readonly sampledUpdate: 'sampled' | 'all';
  readonly seed: number;
}

export interface NativeHeadOptions {
  readonly dim: number;
  /** Default 1. */
  readonly subCenters?: number;
  /** Of all processes. */
  readonly classes: number;
  /** Those of this process are start .. end-1. */
  readonly start: number;
  readonly end: number;
  readonly shards: number;
  /** As of a NativeProblem. */
  readonly engines: readonly string[];
  readonly optimizer: NativeOptimizer;
  readonly sampling: NativeSampling;
}

/**
 * What a head keeps of each class, a row of D floats: `momentum` with sgd's momentum (velocity) and adamw (mean), `variance` with
 * adamw; `accumulated` reads as 0 while there is none.
 */
export type NativeClassArray = 'weights' | 'momentum' | 'variance' | 'accumulated';

/** One process's class weights in shards with their optimiser state. Class ids are those of the whole head. */
export interface NativeHead {
  /** Fills weights of classes start..end-1 with normal deviates (mean 0) that depend on seed, class and column alone. */
  initialize(
    mode: NativeMode,
    std: number,
    seed: number,
    start: number,
    end: number,
  ): NativeReturn<undefined>;
  /**
   * Copies values [count, D] into classes start, start + 1, ... of an array that the optimiser keeps; weights of 16 bits are rounded
   * to nearest.
   */
  write(array: NativeClassArray, start: number, values: Float32Array): void;
  /** Copies classes start..end-1 out, [end - start, D]. */
  read(array: NativeClassArray, start: number, end: number, values: Float32Array): void;
  /** Goes on where another head stopped, whose arrays have been written to this one. */
  resume(stepCount: number, accumulated: boolean): void;
  /** Whether there is an accumulated gradient for apply() to use. */
  readonly accumulated: boolean;
  /** The k classes of this process with the largest cosine for each row, best first; ties go to the smaller id. */
  nearest(
    mode: NativeMode,
    features: Float32Array,
    k: number,
    result: { classes: Int32Array; cosines: Float32Array },
    cancel?: Int32Array,
  ): NativeReturn<undefined>;
  /** Sum of squares of the accumulated gradient of this process's classes. */
  measure(mode: NativeMode): NativeReturn<number>;
  /** One optimiser update with the accumulated gradient, which is then zero again. False if nothing was accumulated. */
  apply(mode: NativeMode, learningRate: number, clip: NativeClip): NativeReturn<boolean>;
  /** Updates made so far. */
  readonly stepCount: number;
  /** Frees the weights after the calls in flight. Idempotent. */
  dispose(): void;
}

export type NativeGroupOptions = {
  /** Seconds that a call may take. */
  readonly timeout: number;
} & (
  | {
      readonly transport: 'mpi';
      /** Path of the compiled shim. */
      readonly library: string;
    }
  | {
      readonly transport: 'nccl';
      /** Of makeNcclId() on one rank. */
      readonly id: Uint8Array;
      readonly rank: number;
      readonly size: number;
      /** The N of `cuda:N`. */
      readonly device: number;
    }
);

export type NativeGroupArray = Float32Array | Float64Array | Int32Array | Uint8Array;

/** Processes that exchange arrays, one collective after the other on a thread of their own. */
export interface NativeGroup {
  /** The first call. Resolves when every process has made it. */
  open(): Promise<{ readonly rank: number; readonly size: number }>;
  /**
   * `input` and `output` of allGather: part and whole; of reduceScatter: whole and part, always added; of allReduce and
   * broadcast: only `output`, in place; of barrier: none.
   */
  run(
    kind: 'allGather' | 'allReduce' | 'reduceScatter' | 'broadcast' | 'barrier',
    options: { readonly operation?: 'sum' | 'max'; readonly root?: number },
    input?: NativeGroupArray,
    output?: NativeGroupArray,
  ): Promise<undefined>;
  close(): Promise<undefined>;
  /** close() that blocks; where calls are pending, does nothing. */
  closeAtExit(): void;
}

export interface NativeEngineRow {
  readonly name: string;
  readonly available: boolean;
  /** Instruction set, threads and the like; when available. */
  readonly detail?: string;
  /** Why not; when not available. */
  readonly reason?: string;
}

/** What there is of CUDA. */
export interface NativeCuda {
  /** Architectures and compiler of the kernels in this build; or `kernelsMissing`, why it has none. */
  readonly kernels?: string;
  readonly kernelsMissing?: string;
  /** The newest CUDA version that the driver serves; absent where it could not be asked. */
  readonly driver?: string;
  /** Why there is no driver or device to use. */
  readonly driverMissing?: string;
  /** GPUs that the driver counts, whether they can be used or not. */
  readonly devices: number;
}

/** One launch of a kernel. */
export interface NativeLaunchTime {
  readonly kernel: string;
  readonly milliseconds: number;
}

/** What calls run on. */
export interface NativeCpu {
  /** As MARGINFC_ISA takes it. */
  readonly instructionSet: string;
  readonly threads: number;
  /** Whether the instruction set multiplies bfloat16 in pairs; elsewhere they cost as much as float32. */
  readonly pairedBfloat16: boolean;
  /** Name and version of what compiled the addon. */
  readonly compiler: string;
}

/** Everything the addon exports. */
export interface Addon {
  /**
   * Keeps `problem`, whose arrays must stay in it. `cancel` is a shared int32: the work stops soon after it becomes non-zero.
   */
  readonly Evaluation: new (
    problem: NativeProblem,
    cancel?: Int32Array,
  ) => NativeEvaluation;
  readonly Head: new (options: NativeHeadOptions) => NativeHead;
  readonly Group: new (options: NativeGroupOptions) => NativeGroup;
  /** Name and version of the MPI library that the shim at this path opens, or why it cannot. */
  describeMpi(library: string): { readonly library?: string; readonly missing?: string };
  /** Version of the NCCL library, such as 2.21.5, or why there is none to use. */
  describeNccl(): { readonly version?: string; readonly missing?: string };
  /** Why a group over NCCL cannot have its place on `cuda:N`; undefined where it can. */
  ncclMissing(device: number): string | undefined;
  /** What the ranks of one group must have in common, 128 bytes. */
  makeNcclId(): Uint8Array;
  listEngines(): NativeEngineRow[];
  /** Output memory: `length` floats, contents unspecified. */
  allocate(length: number): Float32Array;
  /** Gives idle workspaces and result blocks of this environment back to the system; returns their bytes. */
  releaseMemory(): number;
  /** Opens GPU `cuda:N`, or finds it open, and keeps it. */
  openGpu(name: string): NativeEngineRow & {
    /** Whether it multiplies bfloat16; when available. */
    readonly bfloat16?: boolean;
  };
  /** Loads the driver where there is one, and occupies no GPU. */
  describeCuda(): NativeCuda;
  /**
   * For benchmarks. `on`: from now on each launch on GPU `cuda:N` runs alone, with other data in the L2 cache, and is timed by
   * the device's clock. Else ends that, and returns the times.
   */
  timeLaunches(name: string, on: boolean): NativeLaunchTime[];
  /** For benchmarks: whether launches on GPU `cuda:N` that follow each other may go to the driver as a CUDA graph. */
  useGraphs(name: string, on: boolean): void;
  /** For benchmarks. */
  describeCpu(): NativeCpu;
  /**
   * What this machine can do at most, for benchmarks: keeps all threads busy for some `seconds`. `float32` and
   * `bfloat16`: floating-point operations per second of multiply-adds on registers; `read` and `copy`: bytes per
   * second of main memory.
   */
  measurePeak(kind: 'float32' | 'bfloat16' | 'read' | 'copy', seconds: number): number;
  /** For benchmarks: what fusion is compared with. */
  unfused(problem: NativeUnfused): void;
}

let loaded: Addon | undefined;

/** The addon, loaded on first use, so that importing the package never fails for want of a native build. */
export function addon(): Addon {
  loaded ??= loadAddon();
  return loaded;
}
