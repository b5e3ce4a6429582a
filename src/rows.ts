/** Features and weights as a caller may hand them over: float32 or tagged 16-bit floats, of the host or in a GPU's memory. */

import { checkDeviceArray, type DeviceArray, isDeviceArray } from './device_array.js';
import type { NativeDeviceArray, NativePrecision } from './native.js';
import type { DeviceName } from './options.js';
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
 * Float32Array, {@link HalfArray}, a Float16Array where the runtime has it, or, where all devices are GPUs, a
 * {@link DeviceArray}.
 */
export type Rows = Float32Array | HalfArray | Float16ArrayLike | DeviceArray;

/** The part of Float16Array that tells it apart, for runtimes and libraries that do not know it yet. */
export interface Float16ArrayLike {
  readonly [Symbol.toStringTag]: 'Float16Array';
  readonly buffer: ArrayBufferLike;
  readonly byteOffset: number;
  readonly length: number;
}

/** Rows that have been checked. */
export interface CheckedRows {
  readonly array: Float32Array | Uint16Array | NativeDeviceArray;
  readonly type: NativePrecision;
}

/** Rows whose memory stays where it is, for these devices. */
export function checkRows(value: unknown, argument: string, devices: readonly DeviceName[]): CheckedRows {
  if (isDeviceArray(value)) return checkDeviceArray(value, argument, devices);
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
export function checkRowsOf(
  value: unknown,
  argument: string,
  devices: readonly DeviceName[],
  length: number,
  meaning: string,
): CheckedRows {
  const rows = checkRows(value, argument, devices);
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
