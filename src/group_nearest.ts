/** The nearest classes of all processes of a group: each finds those of its own, for the rows of all. */

import { watchAbort } from './abort.js';
import { agree, attempt, attemptTwin } from './agreement.js';
import { bytesOf } from './bytes.js';
import { rangeOf } from './class_ranges.js';
import { publicError } from './errors.js';
import { gatherFeatures, type Share } from './group_batch.js';
import type { HeadSettings } from './head_options.js';
import { addon, type NativeHead } from './native.js';
import type { Nearest } from './nearest.js';
import { settled, type Twin } from './twin.js';

interface Query {
  /** [own rows, dim] */
  readonly features: Float32Array;
  readonly k: number;
  readonly signal: AbortSignal | undefined;
}

export function* nearestInGroup(
  share: Share,
  native: NativeHead,
  { classes, dim, range }: HeadSettings,
  { features, k, signal }: Query,
): Twin<Nearest> {
  const { group, rows } = share;
  const watch = yield* agree(
    group,
    attempt(() => watchAbort(signal)),
    ({ stop }) => stop(),
  );
  try {
    const whole = (yield* gatherFeatures(share, features, dim)) as Float32Array;
    const best = Math.min(k, range.end - range.start);
    const own = newLists(rows * best);
    const found = best === 0 || native.nearest('async', whole, best, own, watch.cancel);
    yield* agree(group, yield* attemptTwin(settled(found)));

    const lengths = Array.from({ length: group.size }, (_, rank) => {
      const { start, end } = rangeOf(classes, group, rank);
      return Math.min(k, end - start);
    });
    const all = newLists(lengths.reduce((sum, length) => sum + length * rows, 0));
    yield* settled(group.allGather(own.cosines, all.cosines));
    yield* settled(group.allGather(bytesOf(own.classes), bytesOf(all.classes)));
    return merge(share, k, lengths, all);
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    watch.stop();
  }
}

function newLists(length: number): Nearest {
  return { classes: new Int32Array(length), cosines: addon().allocate(length) };
}

/** Lists come in the order of their classes, so that equal cosines go to the smaller id. */
function merge({ rows, start, count }: Share, k: number, lengths: readonly number[], all: Nearest): Nearest {
  const merged = newLists(count * k);
  for (let i = 0; i < count; i++) {
    let first = 0;
    const lists = lengths.map((length) => {
      const next = first + (start + i) * length;
      first += rows * length;
      return { next, end: next + length };
    });
    for (let n = 0; n < k; n++) {
      let best: (typeof lists)[number] | undefined;
      for (const list of lists)
        if (list.next < list.end && (!best || all.cosines[list.next]! > all.cosines[best.next]!)) best = list;
      if (!best) break;
      merged.classes[i * k + n] = all.classes[best.next]!;
      merged.cosines[i * k + n] = all.cosines[best.next]!;
      best.next++;
    }
  }
  return merged;
}
