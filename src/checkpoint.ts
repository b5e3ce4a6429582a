/**
 * Checkpoints of a head: a folder with one safetensors file a shard, and an index with their checksums. Files of a save have names
 * of their own, and the index is replaced last and at once: whenever a save ends, the folder has the checkpoint of before or the new
 * one. Arrays go through one block of memory, so there is no second copy of them.
 */

import { createHash, randomInt } from 'node:crypto';
import { mkdir, readdir, realpath, unlink } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { throwIfAborted } from './abort.js';
import { agree, attemptTwin, exchangeJson, sameCall } from './agreement.js';
import { narrowBfloat16, widenBfloat16 } from './bfloat16.js';
import { bytesOf } from './bytes.js';
import { writeClassArrays } from './checkpoint_classes.js';
import {
  type CheckpointIndex,
  classArraysFileName,
  decodeIndex,
  dtypeOf,
  encodeIndex,
  indexName,
  isCheckpointFile,
  makeIndex,
  type ShardFile,
  shardArrays,
  shardFileName,
  shardMetadata,
} from './checkpoint_index.js';
import { type ClassRange, overlap, partsOf } from './class_ranges.js';
import { MarginFcError, publicError } from './errors.js';
import { fileError, fileMust, type OpenFile, syncFolder, withFile, writeWhole } from './files.js';
import { shareOf } from './group_batch.js';
import { arrayWidth, type HeadArray, type HeadArrays, readClasses, writeClasses } from './head_arrays.js';
import type { HeadSettings } from './head_options.js';
import type { LossMemory } from './loss_memory.js';
import type { NativeHead } from './native.js';
import { readSafetensors, safetensorsStart, type Tensor } from './safetensors.js';
import { settled, type Twin } from './twin.js';
import { mustBe, show } from './validate.js';

/** Of the memory that arrays go through. */
export const blockBytes = 2 ** 22;

/** An index has some 200 bytes a shard, of at most 65536. */
const longestIndex = 2 ** 26;

/** Folders that this process is writing to. */
const busy = new Set<string>();

interface Saved {
  readonly native: NativeHead;
  readonly settings: HeadSettings;
  readonly memory: LossMemory;
  readonly centers: Float32Array | undefined;
}

/**
 * Writes a checkpoint. The head must not change meanwhile. Each process of a group writes its own files, the first one the index,
 * when all of them are on the disk.
 */
export function* saveCheckpoint(
  { native, settings, memory, centers }: Saved,
  folder: string,
  signal: AbortSignal | undefined,
): Twin<void> {
  const { group, range, compute } = settings;
  const leads = !group || group.rank === 0;
  const { stepCount, accumulated } = native;
  const steps = { stepCount, accumulated, memory, ...(centers && { centers: true as const }) };
  const from = { native, centers, range, dim: settings.dim, subCenters: settings.subCenters };
  const claimed = yield* attemptTwin(settled(leads ? claim(folder) : undefined));
  const real = yield* agree(group, claimed, release);
  try {
    const ranges = partsOf(range, compute.shards);
    const counts = group ? yield* sameCall(group, 'save', steps, ranges.length) : [ranges.length];
    // Files are numbered as rows are.
    const { start: before, rows: count } = group ? shareOf(group, counts) : { start: 0, rows: ranges.length };
    const tag = Int32Array.of(randomInt(2 ** 31));
    if (group) yield* settled(group.broadcast(tag, 0));
    const names = ranges.map((_, i) => shardFileName(stepCount, tag[0] as number, before + i, count));
    const write = writeShards(from, makeIndex(settings, steps, []), folder, ranges, names, signal);
    const own = yield* agree(group, yield* attemptTwin(settled(write)), () => unlinkAll(folder, names));
    const files = group ? (yield* exchangeJson(group, own)).flat() : own;
    const arrays = classArraysFileName(stepCount, tag[0] as number);
    const commit = leads ? writeIndex(folder, settings, steps, files, arrays) : undefined;
    yield* agree(group, yield* attemptTwin(settled(commit)));
    if (leads) yield* settled(removeOthers(folder, new Set([arrays, ...files.map(({ name }) => name)])));
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    release(real);
  }
}

/** Makes the folder, and keeps other heads of this process out of it until release. */
async function claim(folder: string): Promise<string> {
  let real: string;
  try {
    await makeFolder(folder);
    real = await realpath(folder);
  } catch (error) {
    throw fileError(error, folder, 'written');
  }
  if (busy.has(real))
    throw mustBe('ERR_BUSY', 'folder', 'one that no other head is being saved to', show(folder));
  busy.add(real);
  return real;
}

function release(claimed: string | undefined): void {
  if (claimed !== undefined) busy.delete(claimed);
}

/** With the names of all folders that are new on the disk. */
async function makeFolder(folder: string): Promise<void> {
  const path = resolve(folder);
  const first = await mkdir(path, { recursive: true });
  if (first === undefined) return;
  for (let made = path; made.length >= first.length; made = dirname(made)) await syncFolder(dirname(made));
}

async function writeShards(
  arrays: HeadArrays,
  index: CheckpointIndex,
  folder: string,
  ranges: readonly ClassRange[],
  names: readonly string[],
  signal: AbortSignal | undefined,
): Promise<ShardFile[]> {
  const files: ShardFile[] = [];
  try {
    for (const [i, range] of ranges.entries()) {
      const name = names[i] as string;
      const written = await writeWhole(folder, name, shardPieces(arrays, index, range, signal));
      files.push({ name, ...written, ...range });
    }
    await syncFolder(folder);
    throwIfAborted(signal);
    return files;
  } catch (error) {
    await unlinkAll(folder, names);
    throw error;
  }
}

async function unlinkAll(folder: string, names: readonly string[]): Promise<void> {
  for (const name of names) await unlink(join(folder, name)).catch(() => {});
}

/** The arrays that all processes have, and the index. One that may be in place keeps its files, also where this fails. */
async function writeIndex(
  folder: string,
  settings: HeadSettings,
  steps: Pick<CheckpointIndex, 'stepCount' | 'accumulated' | 'memory'>,
  files: readonly ShardFile[],
  arraysName: string,
): Promise<void> {
  const arrays = await writeClassArrays(folder, arraysName, steps.memory);
  await syncFolder(folder);
  await writeWhole(folder, indexName, [encodeIndex(makeIndex(settings, steps, files, arrays))]);
  await syncFolder(folder);
}

/** The bytes of a shard's file, each piece good until the next. */
function* shardPieces(
  from: HeadArrays,
  index: CheckpointIndex,
  { start, end }: ClassRange,
  signal: AbortSignal | undefined,
): Generator<Uint8Array> {
  const arrays = shardArrays(index);
  const tensors = arrays.map(({ array, tensor }) => ({
    name: tensor,
    dtype: dtypeOf(array, index),
    shape: shapeOf(array, index, end - start),
  }));
  yield safetensorsStart(shardMetadata(index, { start, end }), tensors);
  const block = new Float32Array(blockFloats(index, end - start));
  const halves = new Uint16Array(index.storage === 'bfloat16' ? block.length : 0);
  for (const { array } of arrays) {
    const width = arrayWidth(index, array);
    for (const [first, last] of blocks(start, end, width)) {
      throwIfAborted(signal);
      const values = block.subarray(0, (last - first) * width);
      readClasses(from, array, first, last, values);
      if (dtypeOf(array, index) === 'F32') {
        yield bytesOf(values);
      } else {
        narrowBfloat16(values, halves);
        yield bytesOf(halves.subarray(0, values.length));
      }
    }
  }
}

/** Removes what older saves and those that were interrupted have left. */
async function removeOthers(folder: string, kept: ReadonlySet<string>): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names)
    if (isCheckpointFile(name) && !kept.has(name)) await unlink(join(folder, name)).catch(() => {});
}

/** The index of the checkpoint in `folder`. */
export function readIndex(folder: string): Promise<CheckpointIndex> {
  return withFile(join(folder, indexName), async (file) => {
    if (file.bytes > longestIndex)
      throw fileMust(file.path, 'the index of a checkpoint', `${file.bytes} bytes`);
    return decodeIndex(await file.read(0, file.bytes), file.path);
  });
}

/** Checks sizes and headers of all files, before there is memory for what they say they have. */
export async function checkShardFiles(
  folder: string,
  index: CheckpointIndex,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const shard of index.files) {
    throwIfAborted(signal);
    await withFile(join(folder, shard.name), (file) => shardTensors(file, shard, index));
  }
}

/** Fills a new head's classes from their files, whose checksums are known only at the end. */
export async function readShardFiles(
  to: HeadArrays,
  folder: string,
  index: CheckpointIndex,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const shard of index.files) {
    const wanted = overlap(to.range, shard);
    if (wanted.start === wanted.end) continue;
    await withFile(join(folder, shard.name), async (file) => {
      const tensors = await shardTensors(file, shard, index);
      const hash = createHash('sha256');
      const dataStart = tensors[0]?.offset ?? file.bytes;
      hash.update(await file.read(0, dataStart));
      const block = new Float32Array(blockFloats(index, shard.end - shard.start));
      const halves = new Uint16Array(index.storage === 'bfloat16' ? block.length : 0);
      for (const [i, { array }] of shardArrays(index).entries()) {
        const width = arrayWidth(index, array);
        for (const [first, last] of blocks(shard.start, shard.end, width)) {
          throwIfAborted(signal);
          const values = block.subarray(0, (last - first) * width);
          const stored = dtypeOf(array, index) === 'F32' ? values : halves.subarray(0, values.length);
          const offset = (tensors[i]?.offset ?? 0) + (first - shard.start) * width * stored.BYTES_PER_ELEMENT;
          hash.update(await file.read(offset, stored.byteLength, bytesOf(stored)));
          if (stored instanceof Uint16Array) widenBfloat16(stored, values);
          const { start, end } = overlap(wanted, { start: first, end: last });
          const own = values.subarray((start - first) * width, (end - first) * width);
          if (start < end) writeClasses(to, array, start, own);
        }
      }
      if (hash.digest('hex') !== shard.sha256)
        throw fileMust(file.path, `as it was written, with the checksum of ${indexName}`, 'changed contents');
    });
  }
  to.native.resume(index.stepCount, index.accumulated);
}

async function shardTensors(
  file: OpenFile,
  { bytes, start, end }: ShardFile,
  index: CheckpointIndex,
): Promise<readonly Tensor[]> {
  if (file.bytes !== bytes) throw fileMust(file.path, `${bytes} bytes long`, `${file.bytes} bytes`);
  const { tensors } = await readSafetensors(file);
  const describe = (name: string, dtype: string, shape: readonly number[]) =>
    `${name} ${dtype} [${shape.join(', ')}]`;
  const expected = shardArrays(index).map(({ array, tensor }) =>
    describe(tensor, dtypeOf(array, index), shapeOf(array, index, end - start)),
  );
  const found = tensors.map(({ name, dtype, shape }) => describe(name, dtype, shape));
  if (found.join() !== expected.join())
    throw fileMust(file.path, `a shard with ${expected.join(', ')}`, found.slice(0, 8).join(', ') || 'none');
  return tensors;
}

/** Of a tensor: rows of `dim` numbers, as PyTorch's modules have them with sub-centres too. */
function shapeOf(array: HeadArray, index: CheckpointIndex, classes: number): [number, number] {
  return [(classes * arrayWidth(index, array)) / index.dim, index.dim];
}

/** Classes of so many floats that a block of memory has room for. */
function blockClasses(width: number, most: number): number {
  return Math.min(Math.max(1, Math.floor(blockBytes / (4 * width))), most);
}

/** Floats of a block of any array. */
function blockFloats(index: CheckpointIndex, classes: number): number {
  return Math.max(
    ...shardArrays(index).map(({ array }) => {
      const width = arrayWidth(index, array);
      return blockClasses(width, classes) * width;
    }),
  );
}

/** Ranges of as many classes, of `width` floats, as a block of memory has room for. */
export function* blocks(start: number, end: number, width: number): Generator<[number, number]> {
  const rows = blockClasses(width, end - start);
  for (let first = start; first < end; first += rows) yield [first, Math.min(first + rows, end)];
}

/** Whether a file of the checkpoint has gone: another process may have saved a new one meanwhile. */
export function isMissing(error: unknown): boolean {
  if (!(error instanceof MarginFcError) || !(error.cause instanceof Error)) return false;
  return 'code' in error.cause && error.cause.code === 'ENOENT';
}
