/** The rows that a head keeps of its classes, wherever they lie: in native memory, or here, as centres of a centre loss do. */

import type { ClassRange } from './class_ranges.js';
import type { NativeClassArray, NativeHead } from './native.js';

export type HeadArray = NativeClassArray | 'centers';

/** Of one process's classes, a row of `dim` floats each. */
export interface HeadArrays {
  readonly native: NativeHead;
  readonly centers: Float32Array | undefined;
  readonly range: ClassRange;
  readonly dim: number;
}

/** Copies classes start .. end-1 out, [end - start, dim]; centres are 0 while there are none. */
export function readClasses(
  { native, centers, range, dim }: HeadArrays,
  array: HeadArray,
  start: number,
  end: number,
  values: Float32Array,
): void {
  if (array !== 'centers') native.read(array, start, end, values);
  else if (centers) values.set(centers.subarray((start - range.start) * dim, (end - range.start) * dim));
  else values.fill(0);
}

/** Copies values [count, dim] into classes start, start + 1, ... of an array that there is. */
export function writeClasses(
  { native, centers, range, dim }: HeadArrays,
  array: HeadArray,
  start: number,
  values: Float32Array,
): void {
  if (array !== 'centers') native.write(array, start, values);
  else centers?.set(values, (start - range.start) * dim);
}
