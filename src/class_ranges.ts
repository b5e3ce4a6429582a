/** How classes are split: over the processes of a group, and those of a process over its shards. */

import type { ProcessGroup } from './group.js';

/** Classes start .. end-1. */
export interface ClassRange {
  readonly start: number;
  readonly end: number;
}

/** Part `index` of `count` contiguous ones, the first of which have one class more; as engine/engine.h's shard_range. */
function partOf({ start, end }: ClassRange, count: number, index: number): ClassRange {
  const [base, extra] = [Math.floor((end - start) / count), (end - start) % count];
  const first = start + index * base + Math.min(index, extra);
  return { start: first, end: first + base + (index < extra ? 1 : 0) };
}

/** The classes of a process of a group, by default this one; all of them without a group. */
export function rangeOf(classes: number, group: ProcessGroup | undefined, rank = group?.rank): ClassRange {
  const all = { start: 0, end: classes };
  return group && rank !== undefined ? partOf(all, group.size, rank) : all;
}

/** All parts that have classes. */
export function partsOf(range: ClassRange, count: number): ClassRange[] {
  const length = Math.min(range.end - range.start, count);
  return Array.from({ length }, (_, index) => partOf(range, count, index));
}

/** Where two ranges meet; one of no class where they do not. */
export function overlap(a: ClassRange, b: ClassRange): ClassRange {
  const start = Math.max(a.start, b.start);
  return { start, end: Math.max(start, Math.min(a.end, b.end)) };
}
