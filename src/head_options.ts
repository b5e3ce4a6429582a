/** What a {@link MarginHead} is made from: types, defaults, checks and the filling of its weights. */

import { checkGroup } from './agreement.js';
import { checkOnHead, isBatchMargin } from './batch_margins.js';
import { type ClassRange, overlap, rangeOf } from './class_ranges.js';
import { checkClip, type GradientClip } from './clipping.js';
import { checkDevices } from './engines.js';
import type { ProcessGroup } from './group.js';
import {
  addon,
  type NativeHead,
  type NativeMode,
  type NativeOptimizer,
  type NativeSampling,
} from './native.js';
import { nativeOptimizer, type Optimizer, sgd } from './optimizers.js';
import {
  type Compute,
  type ComputeOptions,
  checkCompute,
  checkLoss,
  computeNames,
  type DeviceName,
  type Loss,
  type LossOptions,
  lossAt,
  lossNames,
  type Precision,
} from './options.js';
import {
  checkDraw,
  checkSampling,
  checkSeed,
  checkWholeLoss,
  type SamplingOptions,
  samplingNames,
} from './sampling.js';
import {
  type ClassShape,
  checkSubCenters,
  checkSubCentersOf,
  classSize,
  classSizeName,
} from './sub_centers.js';
import { refuseCenters } from './terms.js';
import { settled, type Twin } from './twin.js';
import { checkCount, checkFloats, checkNumber, checkOneOf, checkOptions, mustBe, show } from './validate.js';

/** Normal deviates with mean 0; the same for a seed whatever the shards. */
export interface NormalInit {
  /** Standard deviation, >= 0. Default 0.01. */
  readonly std?: number | undefined;
  /** Default: the head's seed. */
  readonly seed?: number | undefined;
}

/**
 * Gives the weights of classes start .. end-1, [end - start, dim], or [end - start, subCenters, dim]; {@link weightsFrom} makes one
 * that reads files.
 */
export type WeightSource = (start: number, end: number) => Float32Array | Promise<Float32Array>;

export type FeatureGradientScale = 'mean' | 'worldSize';

/** What a head's weights are stored in. */
export type WeightStorage = 'float32' | 'bfloat16';

/** Options of {@link MarginHead.create}. */
export interface MarginHeadOptions extends LossOptions, ComputeOptions, SamplingOptions {
  /** Length of an embedding, D. */
  readonly dim: number;
  /** Number of classes, C. */
  readonly classes: number;
  /**
   * Rows K that each class has: the cosine to a class is the largest to its rows, and gradients go to that row alone (of equal ones
   * the first). Sub-center ArcFace (Deng et al., ECCV 2020): rows that noise or hard examples pull away find a centre of their own.
   * Weights and optimiser state are [C, K, dim] then, memory and time about K times those of one row a class; Partial FC draws
   * classes, whole. With every margin; not with `labelSmoothing` or an `interLoss`. {@link dominantSubCenters}
   * goes back to one row. In [1, 1024], on GPUs [1, 16]. Default 1.
   */
  readonly subCenters?: number | undefined;
  /** Default `sgd()`. */
  readonly optimizer?: Optimizer | undefined;
  /** Scales gradients of the weights that are too long before the optimiser has them. Default: as they are. */
  readonly clipWeightGradient?: GradientClip | undefined;
  /**
   * The first weights: normal deviates; an array [C, dim], or [C, K, dim] with `subCenters`, which is copied; or a function that is called with
   * one range of at most 65536 classes after the other, for weights that do not fit in one array. Default
   * `{ std: 0.01 }`.
   */
  readonly init?: NormalInit | Float32Array | WeightSource | undefined;
  /**
   * Where the weights live: shards go round the devices. GPUs as `['cuda:0', 'cuda:1']`, or `['cuda']` for all; on GPUs only
   * features, labels and dFeatures cross the bus. Default `['cpu']`.
   */
  readonly devices?: readonly string[] | undefined;
  /**
   * What the weights are stored in; the optimiser's state is float32. `bfloat16` takes half the memory: given weights are rounded
   * to nearest, and each update is rounded up or down by chance, so that its mean is the float32 result and updates too small for
   * bfloat16 are not lost. The chances follow from `seed`, step, class and column, whatever the shards and threads. Only where all
   * devices are `cpu`. Default `float32`.
   */
  readonly storage?: WeightStorage | undefined;
  /**
   * Processes to share the classes with, from {@link mpi}, {@link nccl} or a transport of the trainer's own. Each has a
   * contiguous range of them, and makes the same calls on its head in the same order, with rows of its own: any number of them,
   * also none. Loss and accuracy are those of all rows, dFeatures and row results those of the own ones. Where a process fails,
   * the call fails on all of them and changes nothing. Default: none.
   */
  readonly group?: ProcessGroup | undefined;
  /**
   * dFeatures is the gradient of the mean over the rows of all processes (`mean`), or that times their number (`worldSize`), for
   * trainers that average the embedding's gradients over processes afterwards, as PyTorch's DDP does. Default `mean`.
   */
  readonly featureGradientScale?: FeatureGradientScale | undefined;
}

/** MarginHeadOptions checked, with every default filled in, but for the first weights. */
export interface HeadSettings {
  readonly dim: number;
  readonly classes: number;
  readonly subCenters: number;
  readonly loss: Loss;
  readonly compute: Compute;
  readonly optimizer: Optimizer;
  readonly nativeOptimizer: NativeOptimizer;
  readonly sampling: NativeSampling;
  readonly clipWeightGradient: GradientClip | undefined;
  readonly group: ProcessGroup | undefined;
  readonly featureGradientScale: FeatureGradientScale;
  /** The classes of this process: all, without a group. */
  readonly range: ClassRange;
  readonly storage: WeightStorage;
  /** For classes to come. */
  readonly normal: NormalDraw;
}

export type FirstWeights = Pick<NormalDraw, 'std' | 'seed'> | Float32Array | WeightSource;

/** Normal deviates, other ones for each addition of classes. */
export interface NormalDraw {
  readonly std: number;
  /** The user's, below 2^32. */
  readonly seed: number;
  /** How often classes have been added so far. */
  readonly additions: number;
}

/** Each addition of classes has 2^32 seeds of its own, and all of them are integers. */
export const mostAdditions = 2 ** 20;

/** The seed in effect. */
export function drawSeed({ seed, additions }: NormalDraw): number {
  return seed + additions * 2 ** 32;
}

const names = {
  ...lossNames,
  ...computeNames,
  ...samplingNames,
  dim: true,
  classes: true,
  subCenters: true,
  optimizer: true,
  clipWeightGradient: true,
  init: true,
  devices: true,
  storage: true,
  group: true,
  featureGradientScale: true,
} as const satisfies Record<keyof MarginHeadOptions, true>;

/** Classes a {@link WeightSource} is asked for at once. */
const rangeSize = 65536;

export function checkHeadOptions(options: MarginHeadOptions): {
  settings: HeadSettings;
  init: FirstWeights;
} {
  const checked = checkOptions(options, names);
  const { optimizer = sgd(), init = {}, storage = 'float32' } = checked;
  const dim = checkCount(checked.dim, 'dim');
  const classes = checkCount(checked.classes, 'classes');
  const subCenters = checkSubCenters(checked.subCenters ?? 1);
  const devices = checkDevices(checked.devices === undefined ? ['cpu'] : checked.devices, 'devices');
  const compute = checkCompute(checked, devices);
  if (compute.shards < devices.length)
    throw mustBe(
      'ERR_OPTION',
      'shards',
      `at least ${devices.length}, one for each device`,
      String(compute.shards),
    );
  const loss = checkLoss(checked);
  const sampling = checkSampling(checked);
  checkDraw(sampling, classes);
  if (isBatchMargin(loss.margin)) checkOnHead(loss.margin);
  lossAt(loss, { step: 0, memory: {}, classes });
  checkSubCentersOf({ subCenters, classes }, loss, devices);
  refuseCenters(loss.terms);
  checkWholeLoss(loss, sampling);
  checkStorage(storage, devices);
  const { seed } = sampling;
  const native = { ...nativeOptimizer(optimizer), storage, seed };
  const first = checkInit(init, { classes, dim, subCenters, std: 0.01, seed });
  const { std, seed: drawn } = 'std' in first ? first : { std: 0.01, seed };
  const group = checkGroup(checked.group, 'group');
  const clipWeightGradient = checkClip(checked.clipWeightGradient);
  const { featureGradientScale = 'mean' } = checked;
  checkOneOf(featureGradientScale, ['mean', 'worldSize'], 'featureGradientScale');
  const settings: HeadSettings = {
    dim,
    classes,
    subCenters,
    loss,
    compute,
    optimizer,
    nativeOptimizer: native,
    clipWeightGradient,
    storage,
    sampling,
    group,
    featureGradientScale,
    range: rangeOf(classes, group),
    normal: { std, seed: drawn, additions: 0 },
  };
  return { settings, init: first };
}

/** What the processes of a group must have in common. */
export function commonTerms(settings: HeadSettings): unknown {
  const { dim, classes, subCenters, loss, compute, optimizer, clipWeightGradient: clip } = settings;
  const { storage, sampling, featureGradientScale, normal } = settings;
  const shape = { dim, classes, subCenters };
  const { devices: _, shards: __, workspace: ___, workspaceBytes: ____, ...numerics } = compute;
  return { shape, loss, numerics, optimizer, clip, storage, sampling, featureGradientScale, normal };
}

/** A head of these settings in native memory, its weights zero. */
export function newNativeHead({
  dim,
  classes,
  subCenters,
  range,
  compute,
  nativeOptimizer: optimizer,
  sampling,
}: HeadSettings): NativeHead {
  const { shards, devices: engines } = compute;
  return new (addon().Head)({ dim, classes, subCenters, ...range, shards, engines, optimizer, sampling });
}

function checkStorage(storage: WeightStorage, devices: readonly DeviceName[]): void {
  const given = checkOneOf<Precision>(storage, ['float32', 'bfloat16', 'float16'], 'storage');
  if (given === 'float32') return;
  const code = 'ERR_PRECISION_UNSUPPORTED';
  if (given === 'float16')
    throw mustBe(
      code,
      'storage',
      `'float32' or 'bfloat16' (weights and updates leave the range of float16: below 6e-8 they are 0)`,
      show(storage),
    );
  const gpu = devices.find((name) => name !== 'cpu');
  if (gpu !== undefined)
    throw mustBe(
      code,
      'storage',
      `'float32' on ${gpu} (the update on GPUs does not round stochastically)`,
      show(storage),
    );
}

/** First weights of so many classes; `std` and `seed` are the defaults of normal deviates. */
export function checkInit(
  init: NormalInit | Float32Array | WeightSource,
  shape: Required<ClassShape> & { readonly classes: number; readonly std: number; readonly seed: number },
): FirstWeights {
  const { classes, dim, subCenters, ...normal } = shape;
  if (typeof init === 'function') {
    for (const [name, value] of Object.entries({ classes, dim, subCenters })) {
      const own: unknown = Reflect.get(init, name);
      if (own !== undefined && own !== value)
        throw mustBe('ERR_SHAPE', `init.${name}`, String(value), show(own));
    }
    return init;
  }
  if (ArrayBuffer.isView(init))
    return checkFloats(init, 'init', classes * classSize(shape), `classes * ${classSizeName(shape)}`);
  const { std = normal.std, seed = normal.seed } = checkOptions<NormalInit>(
    init,
    { std: true, seed: true },
    'init',
  );
  return { std: checkNumber(std, 'init.std', { least: 0 }), seed: checkSeed(seed, 'init.seed') };
}

/** Gives this process's part of classes first .. first+count-1 of a head their first weights; a source counts them from 0. */
export function* fillWeights(
  mode: NativeMode,
  head: NativeHead,
  init: FirstWeights,
  {
    range,
    first,
    count,
    ...shape
  }: ClassShape & { readonly range: ClassRange; readonly first: number; readonly count: number },
): Twin<void> {
  const size = classSize(shape);
  const own = overlap(range, { start: first, end: first + count });
  if (own.start === own.end) return;
  if (typeof init !== 'function') {
    if (ArrayBuffer.isView(init))
      head.write('weights', own.start, init.subarray((own.start - first) * size, (own.end - first) * size));
    else yield* settled(head.initialize(mode, init.std, init.seed, own.start, own.end));
    return;
  }
  for (let at = own.start; at < own.end; at += rangeSize) {
    const [start, end] = [at - first, Math.min(at + rangeSize, own.end) - first];
    const values = yield* settled(init(start, end));
    const name = `init(${start}, ${end})`;
    const meaning = `${end - start} * ${classSizeName(shape)} ${size}`;
    head.write('weights', at, checkFloats(values, name, (end - start) * size, meaning));
  }
}
