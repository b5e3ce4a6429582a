/** The rows that a head keeps of its classes, wherever they lie: in native memory, or here, as centres of a centre loss do. */

import type { ClassRange } from './class_ranges.js';
import type { NativeClassArray, NativeHead } from './native.js';
import { type ClassShape, classSize } from './sub_centers.js';

export type HeadArray = NativeClassArray | 'centers';

/** Floats that an array has of each class: a row of `dim`, of which centres have one and the others `subCenters`. */
export function arrayWidth(shape: ClassShape, array: HeadArray): number {
  return array === 'centers' ? shape.dim : classSize(shape);
}

/** Of one process's classes. */
export interface HeadArrays extends ClassShape {
  readonly native: NativeHead;
  readonly centers: Float32Array | undefined;
  readonly range: ClassRange;
}

/** Copies classes start .. end-1 out, {@link arrayWidth} floats each; centres are 0 while there are none. */
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

/** Copies values of as many classes as they fill into start, start + 1, ... of an array that there is. */
export function writeClasses(
  { native, centers, range, dim }: HeadArrays,
  array: HeadArray,
  start: number,
  values: Float32Array,
): void {
  if (array !== 'centers') native.write(array, start, values);
  else centers?.set(values, (start - range.start) * dim);
}
