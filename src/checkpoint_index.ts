/** The index of a checkpoint: what a head is, apart from its arrays, and which files have those. */

import { createHash } from 'node:crypto';
import { checkClip, type GradientClip } from './clipping.js';
import { fileMust } from './files.js';
import type { HeadArray } from './head_arrays.js';
import { type HeadSettings, mostAdditions, type WeightStorage } from './head_options.js';
import { checkMemory, type LossMemory, memoryNumbers } from './loss_memory.js';
import { type StoredMargin, storedMargin } from './margins.js';
import { nativeOptimizer, type Optimizer } from './optimizers.js';
import {
  type Compute,
  type ComputeOptions,
  checkCompute,
  checkLoss,
  computeNames,
  type Loss,
  lossNames,
} from './options.js';
import { isRecord } from './safetensors.js';
import { checkSampling, checkSeed, type SamplingOptions, samplingNames } from './sampling.js';
import { checkSubCenters } from './sub_centers.js';
import {
  checkBoolean,
  checkCount,
  checkInteger,
  checkNumber,
  checkOneOf,
  checkOptions,
  mustBe,
  show,
} from './validate.js';

/** Written last: a folder without it has no checkpoint, and with it a whole one. */
export const indexName = 'head.json';

const format = 'marginfc.head';
const version = 1;

export interface WrittenFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Of one file. */
export interface ShardFile extends WrittenFile {
  /** Its classes are start .. end-1. */
  readonly start: number;
  readonly end: number;
}

export interface CheckpointIndex {
  readonly format: typeof format;
  readonly version: typeof version;
  readonly dim: number;
  readonly classes: number;
  /** Where it is not 1. */
  readonly subCenters?: number;
  readonly stepCount: number;
  /** Whether there is an accumulated gradient. */
  readonly accumulated: boolean;
  /** Without its arrays. */
  readonly memory: LossMemory;
  /** Those, null where there are none. */
  readonly classArrays: WrittenFile | null;
  /** Whether there are centres of a centre loss. */
  readonly centers?: true;
  /** Null for one with arrays or a callback, which only the program has. */
  readonly margin: StoredMargin | null;
  readonly loss: Omit<Loss, 'margin'>;
  readonly optimizer: Optimizer;
  readonly clipWeightGradient?: GradientClip;
  readonly compute: Omit<Compute, 'devices' | 'shards'>;
  /** Of the weights. */
  readonly storage: WeightStorage;
  readonly sampling: HeadSettings['sampling'];
  /** Of the normal deviates for classes to come. */
  readonly normal: HeadSettings['normal'];
  /** In the order of their classes, which they have between them. */
  readonly files: readonly ShardFile[];
}

export function makeIndex(
  settings: HeadSettings,
  steps: Pick<CheckpointIndex, 'stepCount' | 'accumulated' | 'memory' | 'centers'>,
  files: readonly ShardFile[],
  classArrays: WrittenFile | null = null,
): CheckpointIndex {
  const { dim, classes, subCenters, loss, compute, optimizer, clipWeightGradient } = settings;
  const { storage, sampling, normal } = settings;
  const { margin, ...formula } = loss;
  const { devices: _, shards: __, ...numerics } = compute;
  const { memory, ...counts } = steps;
  return {
    format,
    version,
    dim,
    classes,
    ...(subCenters > 1 && { subCenters }),
    ...counts,
    memory: memoryNumbers(memory),
    classArrays,
    margin: storedMargin(margin) ?? null,
    loss: formula,
    optimizer,
    ...(clipWeightGradient && { clipWeightGradient }),
    compute: numerics,
    storage,
    sampling,
    normal,
    files,
  };
}

/** A shard's metadata: for people and other programs; the index is what is loaded. */
export function shardMetadata(
  settings: CheckpointIndex,
  range: { readonly start: number; readonly end: number },
): Record<string, string> {
  const { stepCount, classes, dim, subCenters, margin, loss, optimizer, sampling } = settings;
  return {
    format,
    version: String(version),
    class_start: String(range.start),
    class_end: String(range.end),
    classes: String(classes),
    dim: String(dim),
    ...(subCenters && { sub_centers: String(subCenters) }),
    step: String(stepCount),
    margin: JSON.stringify(margin),
    scale: JSON.stringify(loss.scale),
    gradient: loss.gradient,
    on_overflow: loss.onOverflow,
    optimizer: JSON.stringify(optimizer),
    sample_rate: String(sampling.sampleRate),
    sampled_update: sampling.sampledUpdate,
    seed: String(sampling.seed),
  };
}

/** A shard's tensors, in the order of the file; the names that PyTorch's and PartialFC's checkpoints have. */
export function shardArrays({
  optimizer,
  accumulated,
  centers,
}: Pick<CheckpointIndex, 'optimizer' | 'accumulated' | 'centers'>): { array: HeadArray; tensor: string }[] {
  const adamw = optimizer.kind === 'adamw';
  return [
    { array: 'weights', tensor: 'weight' },
    ...(adamw || optimizer.momentum !== 0 ? [{ array: 'momentum', tensor: 'momentum' } as const] : []),
    ...(adamw ? [{ array: 'variance', tensor: 'variance' } as const] : []),
    ...(accumulated ? [{ array: 'accumulated', tensor: 'accumulated' } as const] : []),
    ...(centers ? [{ array: 'centers', tensor: 'centers' } as const] : []),
  ];
}

/** How an array lies in a file: as the head has it. */
export function dtypeOf(array: HeadArray, { storage }: Pick<CheckpointIndex, 'storage'>): 'F32' | 'BF16' {
  return array === 'weights' && storage === 'bfloat16' ? 'BF16' : 'F32';
}

const shardName = /^head-\d+-[0-9a-f]{8}-\d{5}-of-\d{5}\.safetensors$/;
const classArraysName = /^head-\d+-[0-9a-f]{8}-classes\.safetensors$/;

/** `tag` < 2^32 is another one for each save, so that no save writes over the files of one before. */
export function shardFileName(stepCount: number, tag: number, index: number, count: number): string {
  const digits = (value: number) => String(value).padStart(5, '0');
  return fileName(stepCount, tag, `${digits(index + 1)}-of-${digits(count)}`);
}

export function classArraysFileName(stepCount: number, tag: number): string {
  return fileName(stepCount, tag, 'classes');
}

function fileName(stepCount: number, tag: number, part: string): string {
  return `head-${stepCount}-${tag.toString(16).padStart(8, '0')}-${part}.safetensors`;
}

/** Whether a file is, or was to become, one of a checkpoint. */
export function isCheckpointFile(name: string): boolean {
  const whole = name.startsWith('.') && name.endsWith('.tmp') ? name.slice(1, -4) : name;
  return shardName.test(whole) || classArraysName.test(whole) || (whole !== name && whole === indexName);
}

export function encodeIndex(index: CheckpointIndex): Uint8Array {
  return new TextEncoder().encode(
    `${JSON.stringify({ sha256: digestOf(index), checkpoint: index }, undefined, 2)}\n`,
  );
}

/** Of the text that JSON.stringify makes of what it read, so that only what is said counts. */
function digestOf(index: unknown): string {
  return createHash('sha256').update(JSON.stringify(index)).digest('hex');
}

export function decodeIndex(bytes: Uint8Array, path: string): CheckpointIndex {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw fileMust(path, 'the index of a checkpoint', 'something that is not JSON', { cause });
  }
  const index = isRecord(json) ? json.checkpoint : undefined;
  if (!isRecord(json) || !isRecord(index) || index.format !== format)
    throw fileMust(path, `the index of a checkpoint of format ${format}`, 'another file');
  if (index.version !== version)
    throw fileMust(path, `of version ${version}, which this version of marginfc reads`, show(index.version));
  if (json.sha256 !== digestOf(index))
    throw fileMust(path, 'as it was written, with the checksum it carries', 'changed contents');
  try {
    return checkIndex(index as unknown as CheckpointIndex);
  } catch (cause) {
    throw fileMust(path, 'a sound index', cause instanceof Error ? cause.message : show(cause), { cause });
  }
}

/** Values as options are checked, whose messages decodeIndex wraps. */
function checkIndex(index: CheckpointIndex): CheckpointIndex {
  const { dim, classes, stepCount, accumulated, margin, loss, optimizer, clipWeightGradient } = index;
  const { compute, sampling, normal, files } = index;
  checkOneOf(index.storage, ['float32', 'bfloat16'], 'storage');
  checkCount(dim, 'dim');
  checkCount(classes, 'classes');
  if (index.subCenters !== undefined) checkSubCenters(index.subCenters);
  checkInteger(stepCount, 'stepCount', { least: 0, most: Number.MAX_SAFE_INTEGER });
  checkBoolean(accumulated, 'accumulated');
  checkMemory(index.memory, 'memory');
  if (index.centers !== undefined) checkBoolean(index.centers, 'centers');
  checkLoss({ ...checkOptions<Partial<Loss>>(loss, lossNames, 'loss'), margin: margin ?? undefined });
  nativeOptimizer(optimizer);
  checkClip(clipWeightGradient);
  checkCompute(checkOptions<ComputeOptions>(compute, computeNames, 'compute'), ['cpu']);
  checkSampling(checkOptions<SamplingOptions>(sampling, samplingNames, 'sampling'));
  checkNumber(normal.std, 'normal.std', { least: 0 });
  checkSeed(normal.seed, 'normal.seed');
  checkInteger(normal.additions, 'normal.additions', { least: 0, most: mostAdditions });
  if (index.classArrays !== null) checkFile(index.classArrays, classArraysName);
  let next = 0;
  if (!Array.isArray(files)) throw mustBe('ERR_TYPE', 'files', 'an array', show(files));
  for (const file of files as ShardFile[]) {
    const { name, start, end } = file;
    checkFile(file, shardName);
    checkInteger(start, `start of ${name}`, { least: next, most: next });
    checkInteger(end, `end of ${name}`, { least: start + 1, most: classes });
    next = end;
  }
  if (next !== classes) throw mustBe('ERR_SHAPE', 'classes of all files', String(classes), String(next));
  return index;
}

function checkFile({ name, bytes, sha256 }: WrittenFile, names: RegExp): void {
  if (typeof name !== 'string' || !names.test(name))
    throw mustBe('ERR_OPTION', 'name of a file', 'one that save gives', show(name));
  if (typeof sha256 !== 'string' || !/^[0-9a-f]{64}$/.test(sha256))
    throw mustBe('ERR_OPTION', `sha256 of ${name}`, '64 hexadecimal digits', show(sha256));
  checkInteger(bytes, `bytes of ${name}`, { least: 8, most: Number.MAX_SAFE_INTEGER });
}
