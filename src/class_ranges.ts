/** How classes are split: over the processes of a group, and those of a process over its shards. */

/** Classes start .. end-1. */
export interface ClassRange {
  readonly start: number;
  readonly end: number;
}

/** Part `index` of `count` contiguous ones, the first of which have one class more; as engine/engine.h's shard_range. */
export function partOf({ start, end }: ClassRange, count: number, index: number): ClassRange {
  const [base, extra] = [Math.floor((end - start) / count), (end - start) % count];
  const first = start + index * base + Math.min(index, extra);
  return { start: first, end: first + base + (index < extra ? 1 : 0) };
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
