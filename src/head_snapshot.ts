/** What a head has learnt as arrays in memory, so that training can go on from one point more than once. */

import { types } from 'node:util';
import { throwIfAborted } from './abort.js';
import { agree, attemptTwin } from './agreement.js';
import { blocks } from './checkpoint.js';
import { shardArrays } from './checkpoint_index.js';
import { publicError } from './errors.js';
import { arrayWidth, type HeadArray, readClasses, writeClasses } from './head_arrays.js';
import type { HeadCall } from './head_calls.js';
import { type HeadState, headArrays } from './head_state.js';
import { checkMemory, classArrays, type LossMemory, memoryNumbers } from './loss_memory.js';
import { addon, type NativeMode } from './native.js';
import { classSizeName } from './sub_centers.js';
import { giveWay, type Twin } from './twin.js';
import {
  checkFloats,
  checkInteger,
  checkObject,
  checkOptions,
  checkSignal,
  mustBe,
  show,
} from './validate.js';

/**
 * Weights, optimiser state, accumulated gradient and step count of a head, or of a process's part of it: plain data, whose arrays
 * are [end - start, dim], with sub-centres but for the centres [end - start, subCenters, dim], in float32 whatever the head stores. Made by {@link MarginHead.snapshot}.
 */
export interface HeadSnapshot {
  readonly dim: number;
  /** Default 1. */
  readonly subCenters?: number | undefined;
  /** Classes start .. end-1. */
  readonly start: number;
  readonly end: number;
  /** Updates made. */
  readonly stepCount: number;
  /** What the head's loss remembers. */
  readonly memory: LossMemory;
  readonly weights: Float32Array;
  /** With sgd's momentum, and adamw. */
  readonly momentum?: Float32Array | undefined;
  /** With adamw. */
  readonly variance?: Float32Array | undefined;
  /** Where something has been accumulated that `apply` has not used. */
  readonly accumulated?: Float32Array | undefined;
  /** Of a centre loss that has met a batch. */
  readonly centers?: Float32Array | undefined;
}

/** Options of {@link MarginHead.snapshot} and {@link MarginHead.restore}. */
export interface SnapshotOptions {
  /** Ends the call with ERR_ABORTED in the queue; a restore that has begun goes on. */
  readonly signal?: AbortSignal | undefined;
}

const snapshotNames = {
  dim: true,
  subCenters: true,
  start: true,
  end: true,
  stepCount: true,
  memory: true,
  weights: true,
  momentum: true,
  variance: true,
  accumulated: true,
  centers: true,
} as const satisfies Record<keyof HeadSnapshot, true>;

export function snapshotCall(state: HeadState, options: SnapshotOptions | undefined): HeadCall<HeadSnapshot> {
  const signal = checkSignal(checkOptions(options, { signal: true }).signal);
  return {
    signal,
    terms: null,
    rows: 0,
    *twin(mode) {
      throwIfAborted(signal);
      const taken = yield* attemptTwin(takeSnapshot(state, mode, signal));
      return yield* agree(state.settings.group, taken);
    },
  };
}

function* takeSnapshot(
  state: HeadState,
  mode: NativeMode,
  signal: AbortSignal | undefined,
): Twin<HeadSnapshot> {
  const { native, settings, memory, centers } = state;
  const { dim, subCenters, range, optimizer } = settings;
  const { start, end } = range;
  const { stepCount, accumulated } = native;
  const from = headArrays(state);
  const arrays: Partial<Record<HeadArray, Float32Array>> = {};
  try {
    for (const { array } of shardArrays({ optimizer, accumulated, ...(centers && { centers: true }) })) {
      const width = arrayWidth(settings, array);
      const values = addon().allocate((end - start) * width);
      for (const [first, last] of blocks(start, end, width)) {
        yield* giveWay(mode);
        throwIfAborted(signal);
        readClasses(from, array, first, last, rowsOf(values, first - start, last - start, width));
      }
      arrays[array] = values;
    }
  } catch (error) {
    throw publicError(error, signal);
  }
  const { weights = new Float32Array(0), ...others } = arrays;
  const shape = { dim, ...(subCenters > 1 && { subCenters }) };
  return { ...shape, start, end, stepCount, memory: structuredClone(memory), weights, ...others };
}

export function restoreCall(
  state: HeadState,
  snapshot: HeadSnapshot,
  options: SnapshotOptions | undefined,
): HeadCall<void> {
  const signal = checkSignal(checkOptions(options, { signal: true }).signal);
  const { memory, stepCount, accumulated } = checkSnapshot(state, snapshot);
  return {
    signal,
    terms: { stepCount, memory, accumulated },
    rows: 0,
    *twin(mode) {
      throwIfAborted(signal);
      yield* agree(state.settings.group, yield* attemptTwin(writeSnapshot(state, snapshot, mode)));
    },
  };
}

function checkSnapshot({ settings }: HeadState, snapshot: HeadSnapshot): HeadSnapshot {
  const { dim, subCenters, classes, range, optimizer } = settings;
  checkObject(snapshot, 'snapshot');
  checkOptions(snapshot, snapshotNames, 'snapshot');
  for (const [name, own] of [
    ['dim', dim],
    ['subCenters', subCenters],
    ['start', range.start],
    ['end', range.end],
  ] as const)
    if ((name === 'subCenters' ? (snapshot[name] ?? 1) : snapshot[name]) !== own)
      throw mustBe('ERR_SHAPE', `snapshot.${name}`, `the head's, ${own}`, String(snapshot[name]));
  checkInteger(snapshot.stepCount, 'snapshot.stepCount', { least: 0, most: Number.MAX_SAFE_INTEGER });
  checkClassNumbers(snapshot.memory, classes);
  const kept = shardArrays({
    optimizer,
    accumulated: snapshot.accumulated !== undefined,
    ...(snapshot.centers && { centers: true }),
  });
  for (const { array } of kept)
    checkFloats(
      snapshot[array],
      `snapshot.${array}`,
      (range.end - range.start) * arrayWidth(settings, array),
      `classes of this process * ${array === 'centers' ? 'dim' : classSizeName(settings)}`,
    );
  for (const array of ['momentum', 'variance'] as const)
    if (snapshot[array] !== undefined && !kept.some((own) => own.array === array))
      throw mustBe(
        'ERR_OPTION',
        `snapshot.${array}`,
        `undefined, as the head's optimiser has none`,
        'an array',
      );
  return snapshot;
}

function checkClassNumbers(memory: LossMemory, classes: number): void {
  checkObject(memory, 'snapshot.memory');
  checkMemory(memoryNumbers(memory), 'snapshot.memory');
  for (const name of Object.keys(classArrays) as (keyof typeof classArrays)[]) {
    const values: unknown = memory[name];
    if (values !== undefined && !(types.isFloat64Array(values) && values.length <= classes))
      throw mustBe(
        'ERR_TYPE',
        `snapshot.memory.${name}`,
        `a Float64Array of at most ${classes} numbers`,
        show(values),
      );
  }
}

/** What needs memory that the head may not have yet comes first: if there is none, nothing has changed. */
function* writeSnapshot(state: HeadState, snapshot: HeadSnapshot, mode: NativeMode): Twin<void> {
  const { native, settings } = state;
  const { range, optimizer } = settings;
  const accumulated = snapshot.accumulated !== undefined;
  const arrays = shardArrays({ optimizer, accumulated: accumulated || native.accumulated });
  const to = headArrays(state);
  let zeros = new Float32Array(0);
  let centers: Float32Array | undefined;
  try {
    centers = snapshot.centers?.slice();
    for (const { array } of arrays.reverse()) {
      const width = arrayWidth(settings, array);
      for (const [first, last] of blocks(range.start, range.end, width)) {
        yield* giveWay(mode);
        const values = snapshot[array];
        if (!values && zeros.length < (last - first) * width)
          zeros = new Float32Array((last - first) * width);
        const rows = values
          ? rowsOf(values, first - range.start, last - range.start, width)
          : rowsOf(zeros, 0, last - first, width);
        writeClasses(to, array, first, rows);
      }
    }
    native.resume(snapshot.stepCount, accumulated);
  } catch (error) {
    throw publicError(error);
  }
  state.memory = structuredClone(snapshot.memory);
  state.centers = centers;
  state.restores++;
}

function rowsOf(values: Float32Array, first: number, last: number, width: number): Float32Array {
  return values.subarray(first * width, last * width);
}
