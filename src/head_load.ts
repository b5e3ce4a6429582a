/** A head from a checkpoint. */

import { agree, attempt, attemptTwin, checkGroup, sameCall } from './agreement.js';
import { checkShardFiles, isMissing, readIndex, readShardFiles } from './checkpoint.js';
import { readClassArrays } from './checkpoint_classes.js';
import { type CheckpointIndex, shardArrays } from './checkpoint_index.js';
import type { GradientClip } from './clipping.js';
import { publicError } from './errors.js';
import { checkPath } from './files.js';
import type { ProcessGroup } from './group.js';
import type { HeadArrays } from './head_arrays.js';
import type { MadeHead } from './head_create.js';
import {
  checkHeadOptions,
  commonTerms,
  type FeatureGradientScale,
  type HeadSettings,
  type MarginHeadOptions,
  newNativeHead,
  type WeightStorage,
} from './head_options.js';
import type { ClassArrays } from './loss_memory.js';
import type { NativeHead } from './native.js';
import { nativeOptimizer, type Optimizer } from './optimizers.js';
import { type ComputeOptions, computeNames, type LossOptions, lossNames } from './options.js';
import { type SamplingOptions, samplingNames } from './sampling.js';
import { settled, type Twin } from './twin.js';
import { checkOptions, checkSignal, mustBe } from './validate.js';

/**
 * Options of {@link MarginHead.load}. Those of the loss, of computing, of sampling (where `seed` is for steps to come) and of the
 * optimiser are by default as they were saved.
 */
export interface LoadOptions extends LossOptions, ComputeOptions, SamplingOptions {
  /** As of {@link MarginHeadOptions}; any, whatever the head was saved from. Default `['cpu']`. */
  readonly devices?: readonly string[] | undefined;
  /**
   * What the weights are stored in from now on; by default as they were. Weights saved in float32 are rounded to the nearest
   * bfloat16; the other way they stay as they are.
   */
  readonly storage?: WeightStorage | undefined;
  /** One of the same kind, with momentum if there was one before. */
  readonly optimizer?: Optimizer | undefined;
  /** Default: as it was saved. */
  readonly clipWeightGradient?: GradientClip | undefined;
  /** As of {@link MarginHeadOptions}; of any size, whatever the head was saved from. All processes must see the folder. */
  readonly group?: ProcessGroup | undefined;
  /** As of {@link MarginHeadOptions}. */
  readonly featureGradientScale?: FeatureGradientScale | undefined;
  /** Ends the call with ERR_ABORTED. */
  readonly signal?: AbortSignal | undefined;
}

const names = {
  ...lossNames,
  ...computeNames,
  ...samplingNames,
  devices: true,
  storage: true,
  optimizer: true,
  clipWeightGradient: true,
  group: true,
  featureGradientScale: true,
  signal: true,
} as const satisfies Record<keyof LoadOptions, true>;

/** How often a new checkpoint may take the place of the one being read. */
const mostTries = 5;

export function* loadHead(from: string | URL, options: LoadOptions | undefined): Twin<MadeHead> {
  const group = checkGroup(options?.group, 'group');
  const checked = attempt(() => {
    const { signal, ...given } = checkOptions(options, names);
    return { signal: checkSignal(signal), given, folder: checkPath(from, 'folder') };
  });
  const { signal, given, folder } = yield* agree(group, checked);
  let index = yield* agree(group, yield* attemptTwin(settled(readIndex(folder))));
  for (let tries = 1; ; tries++) {
    try {
      return yield* loadIndexed(folder, index, given, signal);
    } catch (error) {
      // Processes would not all see the same index.
      if (!isMissing(error) || tries === mostTries || group) throw error;
      const now = yield* settled(readIndex(folder));
      if (now.files[0]?.name === index.files[0]?.name) throw error;
      index = now;
    }
  }
}

function* loadIndexed(
  folder: string,
  index: CheckpointIndex,
  given: Omit<LoadOptions, 'signal'>,
  signal: AbortSignal | undefined,
): Twin<MadeHead> {
  const group = given.group;
  const settings = yield* agree(
    group,
    attempt(() => settingsOf(index, given)),
  );
  if (group) yield* sameCall(group, 'MarginHead.load', [commonTerms(settings), index.files], 0);
  const read = yield* attemptTwin(readHead(settings, folder, index, signal));
  const { native, centers, arrays } = yield* agree(group, read, (unwanted) => unwanted.native.dispose());
  return { native, settings, memory: { ...index.memory, ...arrays }, centers };
}

function* readHead(
  settings: HeadSettings,
  folder: string,
  index: CheckpointIndex,
  signal: AbortSignal | undefined,
): Twin<HeadArrays & { readonly arrays: ClassArrays }> {
  let native: NativeHead | undefined;
  try {
    yield* settled(checkShardFiles(folder, index, signal));
    const arrays = yield* settled(readClassArrays(folder, index));
    native = newNativeHead(settings);
    const { range, dim, subCenters } = settings;
    const centers = index.centers && new Float32Array((range.end - range.start) * dim);
    const to = { native, centers, range, dim, subCenters };
    yield* settled(readShardFiles(to, folder, index, signal));
    return { ...to, arrays };
  } catch (error) {
    native?.dispose();
    throw publicError(error, signal);
  }
}

function settingsOf(index: CheckpointIndex, given: Omit<LoadOptions, 'signal'>): HeadSettings {
  const { dim, classes, subCenters, margin, loss, compute, optimizer, clipWeightGradient } = index;
  const { storage, sampling, normal } = index;
  if (margin === null && given.margin === undefined)
    throw mustBe(
      'ERR_OPTION',
      'margin',
      'given, as the one that was saved has arrays or a callback, which checkpoints have not',
      'undefined',
    );
  const options: MarginHeadOptions = {
    ...compute,
    ...loss,
    ...sampling,
    ...(margin !== null && { margin }),
    optimizer,
    ...(clipWeightGradient && { clipWeightGradient }),
    storage,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    dim,
    classes,
    subCenters,
  };
  const { settings } = checkHeadOptions(options);
  const kept = (of: Optimizer) => shardArrays({ optimizer: of, accumulated: false }).length;
  if (settings.optimizer.kind !== optimizer.kind || kept(settings.optimizer) !== kept(optimizer))
    throw mustBe(
      'ERR_OPTION',
      'optimizer',
      `${describe(optimizer)}, whose state the checkpoint has`,
      describe(settings.optimizer),
    );
  return { ...settings, normal };
}

function describe(optimizer: Optimizer): string {
  const { kind } = nativeOptimizer(optimizer);
  if (optimizer.kind !== 'sgd') return kind;
  return optimizer.momentum === 0 ? 'sgd without momentum' : `sgd with momentum`;
}
