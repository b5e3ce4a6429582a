/** Facts about GPUs that the report needs: what a multiprocessor holds, and what its units do in a clock. */

/** What blocks on a multiprocessor share. */
export interface ArchitectureLimits {
  readonly warps: number;
  readonly blocks: number;
  readonly sharedBytes: number;
  /** Of a block, for the driver. */
  readonly reservedBytes: number;
}

/**
 * CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Registers: 65536 everywhere, given out
 * in units of 256 to warps, a quarter of them to each of the four schedulers (CUDA occupancy calculator).
 */
export const limits: Readonly<Record<string, ArchitectureLimits>> = {
  '75': { warps: 32, blocks: 16, sharedBytes: 64 << 10, reservedBytes: 0 },
  '80': { warps: 64, blocks: 32, sharedBytes: 164 << 10, reservedBytes: 1 << 10 },
  '86': { warps: 48, blocks: 16, sharedBytes: 100 << 10, reservedBytes: 1 << 10 },
  '89': { warps: 48, blocks: 24, sharedBytes: 100 << 10, reservedBytes: 1 << 10 },
  '90a': { warps: 64, blocks: 32, sharedBytes: 228 << 10, reservedBytes: 1 << 10 },
  '100': { warps: 64, blocks: 32, sharedBytes: 228 << 10, reservedBytes: 1 << 10 },
  '120': { warps: 48, blocks: 24, sharedBytes: 100 << 10, reservedBytes: 1 << 10 },
};
export const architectures: readonly string[] = ['75', '80', '86', '89', '90a', '100', '120'];

const schedulers = 4;
const registersPerScheduler = 65536 / schedulers;
const roundUp = (count: number, unit: number) => Math.ceil(count / unit) * unit;

/** Blocks of a kernel that a multiprocessor holds at a time. */
export function blocksPerMultiprocessor(
  architecture: string,
  kernel: { readonly registers: number; readonly sharedBytes: number; readonly threads: number },
): number {
  const limit = limits[architecture];
  if (limit === undefined) throw new Error(`no limits are known for sm_${architecture}`);
  const warps = Math.ceil(kernel.threads / 32);
  const byRegisters = Math.floor(registersPerScheduler / roundUp(kernel.registers * 32, 256)) * schedulers;
  const byShared = limit.sharedBytes / (roundUp(kernel.sharedBytes, 128) + limit.reservedBytes);
  return Math.floor(Math.min(limit.blocks, limit.warps / warps, byRegisters / warps, byShared));
}

/** Work of one multiprocessor in a clock, but for DRAM, which all share. */
export interface Gpu {
  readonly name: string;
  readonly architecture: string;
  readonly multiprocessors: number;
  readonly gigahertz: number;
  /** Dense 16-bit products with float32 sums, multiply and add counted apart. */
  readonly flops: number;
  /** The part of them that mma.sync reaches. */
  readonly mmaSync: number;
  readonly float64: number;
  readonly l2Bytes: number;
  readonly dramBytesPerSecond: number;
}

/**
 * Multiprocessors, clocks, tensor rates and DRAM: NVIDIA's data sheets and white papers (T4 65 TFLOP/s; A100 SXM 80 GB
 * 312; RTX 3090 71 with float32 sums; RTX 4090 165; H100 SXM 989; RTX 5090 209). float64: programming guide, "Arithmetic
 * Instructions". L2 of A100: 5120 bytes a clock (white paper); of the others remembered from microbenchmarks, and the
 * least certain number here. mma.sync on H100: 62.9 % (arXiv 2402.13499). For B200 no rate of mma.sync is published.
 */
export const gpus: readonly Gpu[] = [
  gpu('T4', '75', 40, 1.59, 1024, 2, 32, 320),
  gpu('A100', '80', 108, 1.41, 2048, 32, 47, 2039),
  gpu('RTX 3090', '86', 82, 1.695, 512, 2, 32, 936),
  gpu('RTX 4090', '89', 128, 2.52, 512, 2, 32, 1008),
  { ...gpu('H100', '90a', 132, 1.83, 4096, 64, 48, 3350), mmaSync: 0.629 },
  gpu('RTX 5090', '120', 170, 2.41, 512, 2, 32, 1792),
];

function gpu(
  name: string,
  architecture: string,
  multiprocessors: number,
  gigahertz: number,
  flops: number,
  float64: number,
  l2Bytes: number,
  gigabytesPerSecond: number,
): Gpu {
  const dramBytesPerSecond = gigabytesPerSecond * 1e9;
  return {
    name,
    architecture,
    multiprocessors,
    gigahertz,
    flops,
    mmaSync: 1,
    float64,
    l2Bytes,
    dramBytesPerSecond,
  };
}

export function gpuOf(architecture: string): Gpu | undefined {
  return gpus.find((known) => known.architecture === architecture);
}
