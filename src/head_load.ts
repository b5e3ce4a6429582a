/** A head from a checkpoint. */

import { checkShardFiles, isMissing, readIndex, readShardFiles } from './checkpoint.js';
import { type CheckpointIndex, shardArrays } from './checkpoint_index.js';
import { publicError } from './errors.js';
import { checkHeadOptions, type HeadSettings, type MarginHeadOptions } from './head_options.js';
import { addon, type NativeHead } from './native.js';
import { nativeOptimizer, type Optimizer } from './optimizers.js';
import { type ComputeOptions, computeNames, type LossOptions, lossNames } from './options.js';
import { checkOptions, checkSignal, mustBe } from './validate.js';

/** Options of {@link MarginHead.load}. Those of the loss, of computing and of the optimiser are by default as they were saved. */
export interface LoadOptions extends LossOptions, ComputeOptions {
  /** As of {@link MarginHeadOptions}; any, whatever the head was saved from. Default `['cpu']`. */
  readonly devices?: readonly string[] | undefined;
  /** One of the same kind, with momentum if there was one before. */
  readonly optimizer?: Optimizer | undefined;
  /** Ends the call with ERR_ABORTED. */
  readonly signal?: AbortSignal | undefined;
}

const names = {
  ...lossNames,
  ...computeNames,
  devices: true,
  optimizer: true,
  signal: true,
} as const satisfies Record<keyof LoadOptions, true>;

/** How often a new checkpoint may take the place of the one being read. */
const mostTries = 5;

export async function loadHead(
  folder: string,
  options: LoadOptions | undefined,
): Promise<{ native: NativeHead; settings: HeadSettings }> {
  const { signal: given, ...checked } = checkOptions(options, names);
  const signal = checkSignal(given);
  let index = await readIndex(folder);
  for (let tries = 1; ; tries++) {
    try {
      return await loadIndexed(folder, index, checked, signal);
    } catch (error) {
      if (!isMissing(error) || tries === mostTries) throw error;
      const now = await readIndex(folder);
      if (now.files[0]?.name === index.files[0]?.name) throw error;
      index = now;
    }
  }
}

async function loadIndexed(
  folder: string,
  index: CheckpointIndex,
  given: Omit<LoadOptions, 'signal'>,
  signal: AbortSignal | undefined,
) {
  const settings = settingsOf(index, given);
  await checkShardFiles(folder, index, signal);
  const { dim, classes, compute, nativeOptimizer: optimizer } = settings;
  let native: NativeHead | undefined;
  try {
    native = new (addon().Head)({
      dim,
      classes,
      shards: compute.shards,
      engines: compute.devices,
      optimizer,
    });
    await readShardFiles(native, folder, index, signal);
    return { native, settings };
  } catch (error) {
    native?.dispose();
    throw publicError(error, signal);
  }
}

function settingsOf(index: CheckpointIndex, given: Omit<LoadOptions, 'signal'>): HeadSettings {
  const { dim, classes, margin, loss, compute, optimizer, normal } = index;
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
    ...(margin !== null && { margin }),
    optimizer,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    dim,
    classes,
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
