/** Arrays in a GPU's memory, for trainers that keep features, weights and gradients there. */

import type { NativeDeviceArray, NativePrecision } from './native.js';
import type { DeviceName } from './options.js';
import { checkInteger, checkOneOf, checkOptions, mustBe, show } from './validate.js';

/**
 * Memory of a GPU of this process that the caller owns, such as a framework's tensor: nothing crosses the bus but labels and
 * row results. It may lie on another GPU than the one that computes. It belongs to CUDA's primary context, as what the
 * runtime API and frameworks allocate does. Work that writes it must be complete before the call, and results are complete
 * when the call returns or its promise settles: no stream is shared.
 */
export interface DeviceArray {
  /** Address of the first element, as cuMemAlloc returns it. */
  readonly devicePtr: bigint;
  /** Elements. */
  readonly length: number;
  /** Features and gradients are float32; weights may be any. */
  readonly dtype: 'float32' | 'bfloat16' | 'float16';
}

/** Whether somebody meant to hand over a GPU's memory. */
export function isDeviceArray(value: unknown): value is DeviceArray {
  return typeof value === 'object' && value !== null && 'devicePtr' in value;
}

export function checkDeviceArray(
  value: DeviceArray,
  argument: string,
  devices: readonly DeviceName[],
  types: readonly NativePrecision[] = ['float32', 'bfloat16', 'float16'],
): { array: NativeDeviceArray; type: NativePrecision } {
  const { devicePtr, length, dtype } = checkOptions<DeviceArray>(
    value,
    { devicePtr: true, length: true, dtype: true },
    argument,
  );
  if (devices.some((name) => name === 'cpu'))
    throw mustBe('ERR_OPTION', argument, `in the host's memory with the cpu engine`, show(value));
  if (typeof devicePtr !== 'bigint' || devicePtr <= 0n || devicePtr >= 1n << 64n)
    throw mustBe('ERR_TYPE', `${argument}.devicePtr`, 'an address as a bigint', show(devicePtr));
  checkInteger(length, `${argument}.length`, { least: 0, most: Number.MAX_SAFE_INTEGER, code: 'ERR_SHAPE' });
  const type = checkOneOf(dtype, types, `${argument}.dtype`);
  const bytes = type === 'float32' ? 4n : 2n;
  if (devicePtr % bytes !== 0n)
    throw mustBe('ERR_OPTION', `${argument}.devicePtr`, `a multiple of ${bytes}`, show(devicePtr));
  return { array: { devicePtr, length: length as number }, type };
}
