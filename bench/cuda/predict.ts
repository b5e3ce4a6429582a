/**
 * How long a launch would take if the unit that has most to do were never idle: a bound from counts and data sheets, which
 * is no measurement. docs/performance.md states the formula.
 */

import type { Counters } from './counters.js';
import type { Gpu } from './gpus.js';

export const resources = ['mma', 'issue', 'shared', 'exp2', 'float64', 'l2', 'dram'] as const;
export type Resource = (typeof resources)[number];

/** Clocks of the whole GPU that each unit needs by itself. */
export function clocksOf(counters: Counters, gpu: Gpu, dramBytes: number): Record<Resource, number> {
  const { instructions, bulkBytes } = counters;
  const per = gpu.multiprocessors;
  const tensorRate = gpu.flops * (instructions.wgmma ? 1 : gpu.mmaSync);
  return {
    mma: counters.tensorFlops / (tensorRate * per),
    issue: counters.warpInstructions / (4 * per),
    shared: (counters.sharedWavefronts + (bulkBytes + wgmmaBytes(counters)) / 128) / per,
    exp2: ((instructions.specialFunction ?? 0) * 32) / (16 * per),
    float64: (counters.float64Instructions * 32) / (gpu.float64 * per),
    l2: l2Bytes(counters) / (gpu.l2Bytes * per),
    dram: dramBytes / (gpu.dramBytesPerSecond / (gpu.gigahertz * 1e9)),
  };
}

/** What wgmma reads of shared memory: both operands of a 64 x n x 16 product of four warps once, 16-bit. */
function wgmmaBytes({ instructions, tensorFlops }: Counters): number {
  const products = (instructions.wgmma ?? 0) / 4;
  if (products === 0) return 0;
  const n = tensorFlops / (products * 2 * 64 * 16);
  return products * 2 * 16 * (64 + n);
}

/** Bytes between the multiprocessors and the L2 cache. */
export function l2Bytes(counters: Counters): number {
  return 32 * (counters.globalLoadSectors + counters.globalStoreSectors) + counters.bulkBytes;
}

export function bindingOf(clocks: Readonly<Record<Resource, number>>): Resource {
  return resources.reduce((most, resource) => (clocks[resource] > clocks[most] ? resource : most));
}
