/** The nearest classes of a head, which may be one of several processes'. */

import { watchAbort } from './abort.js';
import { agree, attempt } from './agreement.js';
import { rangeOf } from './class_ranges.js';
import { publicError } from './errors.js';
import { shareOf } from './group_batch.js';
import { nearestInGroup } from './group_nearest.js';
import type { HeadState } from './head_state.js';
import { addon, type NativeMode } from './native.js';
import { classSize } from './sub_centers.js';
import { settled, type Twin } from './twin.js';

/** Result of {@link MarginHead.nearest}. */
export interface Nearest {
  /** [B, k], class ids, the largest cosine first; equal cosines in the order of their ids. */
  readonly classes: Int32Array;
  /** [B, k] */
  readonly cosines: Float32Array;
}

/** `features` [B, dim] of this process, and how many of each class's rows; `counts`: the rows of each process. */
export function* findNearest(
  mode: NativeMode,
  { native, settings }: Pick<HeadState, 'native' | 'settings'>,
  query: {
    readonly features: Float32Array;
    readonly k: number;
    readonly signal: AbortSignal | undefined;
  },
  counts: readonly number[] | undefined,
): Twin<Nearest> {
  const { features, k, signal } = query;
  const { group, dim } = settings;
  if (group && counts) return yield* nearestInGroup(shareOf(group, counts), native, settings, query);
  const length = (features.length / dim) * k;
  const watch = watchAbort(signal);
  try {
    const nearest = {
      classes: new Int32Array(addon().allocate(length).buffer),
      cosines: addon().allocate(length),
    };
    yield* settled(native.nearest(mode, features, k, nearest, watch.cancel));
    return nearest;
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    watch.stop();
  }
}

/** Classes that are looked up at a time. */
const blockClasses = 1024;

/**
 * [C], the angle between each class and the one nearest to it, on all processes; pi where there is no other. Of classes of several
 * rows, between their nearest. Costs (C subCenters)^2 dim.
 */
export function* neighbourAngles(
  mode: NativeMode,
  head: Pick<HeadState, 'native' | 'settings'>,
  signal: AbortSignal | undefined,
): Twin<Float64Array> {
  const { classes, dim, subCenters, range, group } = head.settings;
  const k = Math.min(2, classes);
  const ranges = group
    ? Array.from({ length: group.size }, (_, rank) => rangeOf(classes, group, rank))
    : [range];
  const longest = ranges.reduce((most, { start, end }) => Math.max(most, end - start), 0);
  const own = new Float64Array(range.end - range.start).fill(Math.PI);
  for (let first = 0; first < longest; first += blockClasses) {
    const counts = ranges.map(
      ({ start, end }) => subCenters * Math.min(Math.max(end - start - first, 0), blockClasses),
    );
    const read = attempt(() => {
      const start = Math.min(range.start + first, range.end);
      const end = Math.min(start + blockClasses, range.end);
      const features = addon().allocate((end - start) * classSize(head.settings));
      if (end > start) head.native.read('weights', start, end, features);
      return { start, features };
    });
    const { start, features } = yield* agree(group, read);
    const found = yield* findNearest(mode, head, { features, k, signal }, group && counts);
    for (let i = 0; i < features.length / dim; i++) {
      const at = first + Math.floor(i / subCenters);
      const id = start - first + at;
      const other = found.classes.subarray(i * k, (i + 1) * k).findIndex((near) => near !== id);
      if (other === -1) continue;
      own[at] = Math.min(own[at] as number, Math.acos(found.cosines[i * k + other] as number));
    }
  }
  if (!group) return own;
  const all = new Float64Array(classes);
  yield* settled(group.allGather(own, all));
  return all;
}
