/**
 * Classes that come and go. A new native head gets the rows that stay, with their optimiser state, and the new ones, in shards of
 * equal size again; then it takes the place of the old one. Until then nothing has changed.
 */

import { createHash } from 'node:crypto';
import { throwIfAborted } from './abort.js';
import { agree, attempt, attemptTwin } from './agreement.js';
import { blocks } from './checkpoint.js';
import { shardArrays } from './checkpoint_index.js';
import { overlap, rangeOf } from './class_ranges.js';
import { publicError } from './errors.js';
import { arrayWidth, type HeadArrays, readClasses, writeClasses } from './head_arrays.js';
import type { HeadCall } from './head_calls.js';
import {
  checkInit,
  drawSeed,
  fillWeights,
  type HeadSettings,
  mostAdditions,
  type NormalInit,
  newNativeHead,
  type WeightSource,
} from './head_options.js';
import { type HeadState, headArrays } from './head_state.js';
import { memoryOfClasses } from './loss_memory.js';
import { isPerClass, type Margin, marginOfClasses } from './margins.js';
import type { NativeMode } from './native.js';
import { checkLoss } from './options.js';
import { checkDraw } from './sampling.js';
import { checkSubCentersOf, classSize, classSizeName } from './sub_centers.js';
import { giveWay, settled, type Twin } from './twin.js';
import {
  checkFloat32Array,
  checkInteger,
  checkOptions,
  checkSignal,
  maxCount,
  mustBe,
  show,
} from './validate.js';

/** Options of {@link MarginHead.addClasses}. */
export interface AddClassesOptions {
  /**
   * The weights of so many new classes: normal deviates, or a function that is called with ranges of at most 65536 of them,
   * counted from 0. Default: normal deviates of the head's own deviation, never the same twice.
   */
  readonly init?: NormalInit | WeightSource | undefined;
  /** The margin from now on. Needed where the head's has `perClass` parameters. Default: as it is. */
  readonly margin?: Margin | undefined;
  /** Ends the call with ERR_ABORTED, in the queue or at work. A Sync call looks at it only when it starts. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of {@link MarginHead.removeClasses}. */
export interface RemoveClassesOptions {
  /** Ends the call with ERR_ABORTED, in the queue or at work. A Sync call looks at it only when it starts. */
  readonly signal?: AbortSignal | undefined;
}

export function addClassesCall(
  state: HeadState,
  added: number | Float32Array,
  options: AddClassesOptions | undefined,
): HeadCall<Int32Array> {
  const { init, margin, signal: given } = checkOptions(options, { init: true, margin: true, signal: true });
  const signal = checkSignal(given);
  const { settings } = state;
  const { dim, subCenters, classes, loss, normal } = settings;
  const count = countAdded(added, settings);
  checkSubCentersOf({ subCenters, classes: classes + count }, loss, []);
  if (typeof added !== 'number' && init !== undefined)
    throw mustBe('ERR_OPTION', 'init', 'undefined where the weights are given', show(init));
  if (margin === undefined && isPerClass(loss.margin))
    throw mustBe(
      'ERR_OPTION',
      'margin',
      `given for the new classes, as the head's has perClass parameters`,
      'undefined',
    );
  const nextLoss = checkLoss({ margin }, loss);
  const draw = { ...normal, additions: normal.additions + 1 };
  checkInteger(draw.additions, 'number of additions', { least: 1, most: mostAdditions });
  const first =
    typeof added === 'number'
      ? checkInit(init ?? {}, { classes: count, dim, subCenters, std: draw.std, seed: draw.seed })
      : added;
  const weights = 'std' in first ? { std: first.std, seed: drawSeed({ ...draw, seed: first.seed }) } : first;
  return {
    signal,
    terms: { count, nextLoss, weights },
    rows: 0,
    *twin(mode) {
      const total = classes + count;
      const range = rangeOf(total, settings.group);
      const next = { ...settings, classes: total, range, loss: nextLoss, normal: draw };
      yield* reshape(state, next, signal, function* (from, to) {
        yield* copyClasses(mode, { from, settings }, to, undefined, signal);
        yield* agree(
          settings.group,
          yield* attemptTwin(
            fillWeights(mode, to.native, weights, { dim, subCenters, range, first: classes, count }),
          ),
        );
      });
      return Int32Array.from({ length: count }, (_, i) => classes + i);
    },
  };
}

function countAdded(added: number | Float32Array, settings: HeadSettings): number {
  const most = maxCount - settings.classes;
  const [size, name] = [classSize(settings), classSizeName(settings)];
  if (typeof added === 'number') return checkInteger(added, 'added', { least: 1, most, code: 'ERR_SHAPE' });
  const { length } = checkFloat32Array(added, 'added');
  if (length === 0 || length % size !== 0)
    throw mustBe('ERR_SHAPE', 'added.length', `a multiple of ${name} ${size}, not 0`, String(length));
  return checkInteger(length / size, `added.length / (${name})`, { least: 1, most, code: 'ERR_SHAPE' });
}

export function removeClassesCall(
  state: HeadState,
  ids: Iterable<number>,
  options: RemoveClassesOptions | undefined,
): HeadCall<Int32Array> {
  const signal = checkSignal(checkOptions(options, { signal: true }).signal);
  const { settings } = state;
  const { classes, loss } = settings;
  const { map, count } = newIds(ids, classes);
  if (count === 0) throw mustBe('ERR_SHAPE', 'ids', 'fewer than all classes', `all ${classes}`);
  checkDraw(settings.sampling, count);
  return {
    signal,
    terms: createHash('sha256').update(map).digest('hex'),
    rows: 0,
    *twin(mode) {
      const margin = marginOfClasses(loss.margin, map);
      const range = rangeOf(count, settings.group);
      const next = { ...settings, classes: count, range, loss: { ...loss, margin } };
      yield* reshape(state, next, signal, (from, to) =>
        copyClasses(mode, { from, settings }, to, map, signal),
      );
      state.memory = memoryOfClasses(state.memory, map);
      return map;
    },
  };
}

/** Of each class its id without `ids`, or -1; and how many are left. */
function newIds(ids: Iterable<number>, classes: number): { map: Int32Array; count: number } {
  if (typeof ids !== 'object' || ids === null || typeof Reflect.get(ids, Symbol.iterator) !== 'function')
    throw mustBe('ERR_TYPE', 'ids', 'an array or a Set of class ids', show(ids));
  const map = new Int32Array(classes);
  let i = 0;
  for (const id of ids) {
    checkInteger(id, `ids[${i}]`, { least: 0, most: classes - 1, code: 'ERR_LABEL_RANGE' });
    if (map[id] === -1)
      throw mustBe('ERR_OPTION', `ids[${i}]`, 'another class than those before', String(id));
    map[id] = -1;
    i++;
  }
  let count = 0;
  for (let id = 0; id < classes; id++) if (map[id] === 0) map[id] = count++;
  return { map, count };
}

type Fill = (from: HeadArrays, to: HeadArrays) => Twin<void>;

/** Puts a head of other classes in the place of the present one. */
function* reshape(
  state: HeadState,
  settings: HeadSettings,
  signal: AbortSignal | undefined,
  fill: Fill,
): Twin<void> {
  const from = headArrays(state);
  const { native } = from;
  const { range, dim, subCenters } = settings;
  let next: HeadArrays | undefined;
  try {
    const made = attempt(() => {
      throwIfAborted(signal);
      const centers = from.centers && new Float32Array((range.end - range.start) * dim);
      return { native: newNativeHead(settings), centers, range, dim, subCenters };
    });
    next = yield* agree(settings.group, made, (unwanted) => unwanted.native.dispose());
    yield* fill(from, next);
    next.native.resume(native.stepCount, native.accumulated);
  } catch (error) {
    next?.native.dispose();
    throw publicError(error, signal);
  }
  state.native = next.native;
  state.settings = settings;
  state.centers = next.centers;
  native.dispose();
}

/**
 * Copies all that a head keeps of its classes to their new ids, block by block. Without `map` these are the old ones. Blocks of
 * other processes come from those.
 */
function* copyClasses(
  mode: NativeMode,
  { from, settings }: { from: HeadArrays; settings: HeadSettings },
  to: HeadArrays,
  map: Int32Array | undefined,
  signal: AbortSignal | undefined,
): Twin<void> {
  const { classes, optimizer, group } = settings;
  let memory = new Float32Array(0);
  const { accumulated } = from.native;
  for (const { array } of shardArrays({ optimizer, accumulated, ...(from.centers && { centers: true }) })) {
    const width = arrayWidth(settings, array);
    for (let owner = 0; owner < (group?.size ?? 1); owner++) {
      const range = rangeOf(classes, group, owner);
      for (const [start, end] of blocks(range.start, range.end, width)) {
        yield* giveWay(mode);
        const read = attempt(() => {
          throwIfAborted(signal);
          if (memory.length < (end - start) * width) memory = new Float32Array((end - start) * width);
          const rows = memory.subarray(0, (end - start) * width);
          if (!group || owner === group.rank) readClasses(from, array, start, end, rows);
          return rows;
        });
        const rows = yield* agree(group, read);
        if (group) yield* settled(group.broadcast(rows, owner));
        const moved = map ? closeUp(rows, map, start, end, width) : { first: start, count: end - start };
        const own = overlap(to.range, { start: moved.first, end: moved.first + moved.count });
        const [first, last] = [own.start - moved.first, own.end - moved.first];
        if (own.start < own.end)
          writeClasses(to, array, own.start, rows.subarray(first * width, last * width));
      }
    }
  }
}

/** Moves the rows of classes that stay to the front. */
function closeUp(rows: Float32Array, map: Int32Array, start: number, end: number, width: number) {
  let first = 0;
  let count = 0;
  for (let id = start; id < end; id++) {
    const next = map[id] as number;
    if (next < 0) continue;
    if (count === 0) first = next;
    const at = (id - start) * width;
    if (next - first !== id - start) rows.copyWithin((next - first) * width, at, at + width);
    count++;
  }
  return { first, count };
}
