/** Features and weights as a caller may hand them over: float32, or 16-bit floats with a tag that says which. */

import type { NativePrecision } from './native.js';
import { checkFloat32Array, checkOneOf, checkOptions, checkUint16Array, mustBe, show } from './validate.js';

/**
 * 16-bit floats: their bits in a Uint16Array, and which they are. The rows are widened to float32 where they are used;
 * gradients are float32.
 */
export interface HalfArray {
  readonly data: Uint16Array;
  readonly dtype: 'bfloat16' | 'float16';
}

/**
 * Float32Array, {@link HalfArray}, or a Float16Array where the runtime has it.
 */
export type Rows = Float32Array | HalfArray | Float16ArrayLike;

/** The part of Float16Array that tells it apart, for runtimes and libraries that do not know it yet. */
export interface Float16ArrayLike {
  readonly [Symbol.toStringTag]: 'Float16Array';
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly length: number;
}

/** Rows that have been checked. */
export interface CheckedRows {
  readonly array: Float32Array | Uint16Array;
  readonly type: NativePrecision;
}

/** Rows whose memory stays where it is. */
export function checkRows(value: unknown, argument: string): CheckedRows {
  if (isFloat16Array(value)) {
    const bits = new Uint16Array(value.buffer, value.byteOffset, value.length);
    return { array: checkUint16Array(bits, argument), type: 'float16' };
  }
  if (isPlainObject(value)) {
    const half = checkOptions<HalfArray>(value as HalfArray, { data: true, dtype: true }, argument);
    return {
      array: checkUint16Array(half.data, `${argument}.data`),
      type: checkOneOf(half.dtype, ['bfloat16', 'float16'], `${argument}.dtype`),
    };
  }
  return { array: checkFloat32Array(value, argument), type: 'float32' };
}

/** Rows of exactly `length` values; `meaning` says where the length comes from. */
export function checkRowsOf(value: unknown, argument: string, length: number, meaning: string): CheckedRows {
  const rows = checkRows(value, argument);
  if (rows.array.length !== length)
    throw mustBe('ERR_SHAPE', `${argument}.length`, `${length} (${meaning})`, show(rows.array.length));
  return rows;
}

function isPlainObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && 'data' in value && !ArrayBuffer.isView(value);
}

function isFloat16Array(value: unknown): value is Float16ArrayLike {
  return ArrayBuffer.isView(value) && Object.prototype.toString.call(value) === '[object Float16Array]';
}
