/** Arrays in a GPU's memory, as another library of the caller's process has them. */
import { createRequire } from 'node:module';
import type { DeviceArray } from '../src/index.js';

export interface GpuMemory {
  allocate(gpu: number, bytes: number): bigint;
  write(gpu: number, pointer: bigint, values: NodeJS.TypedArray): void;
  read(gpu: number, pointer: bigint, bytes: number): ArrayBuffer;
  free(gpu: number, pointer: bigint): void;
}
export const memory: GpuMemory = createRequire(import.meta.url)('../build/test/gpu_memory.node');

const taken: (() => void)[] = [];

/** Gives back what placed() has taken; for afterAll. */
export function freePlaced(): void {
  for (const free of taken.splice(0)) free();
}

/** A copy in a GPU's memory, `lead` elements behind the start of an allocation that ends with it. */
export function placed(
  gpu: number,
  values: Float32Array | Uint16Array,
  dtype: DeviceArray['dtype'],
  lead = 0,
): DeviceArray {
  const before = lead * values.BYTES_PER_ELEMENT;
  const start = memory.allocate(gpu, before + values.byteLength);
  taken.push(() => memory.free(gpu, start));
  const devicePtr = start + BigInt(before);
  memory.write(gpu, devicePtr, values);
  return { devicePtr, length: values.length, dtype };
}

/** What it holds. */
export const floats = (gpu: number, { devicePtr, length }: DeviceArray) =>
  new Float32Array(memory.read(gpu, devicePtr, 4 * length));
