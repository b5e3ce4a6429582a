/** The rows of the report: a kernel on an architecture. */

import { type Counters, ptxOf } from './counters.js';
import { blocksPerMultiprocessor, gpuOf } from './gpus.js';
import { type Gates, gates, type Launch, launchName, type Tile } from './launches.js';
import type { LoopInstructions } from './machine_code.js';
import { bindingOf, clocksOf, l2Bytes, type Resource } from './predict.js';

/** An mma is 16 x 8 x 16, whatever instruction multiplies: wgmma and smaller ones count as as many as they are worth. */
export const mmaFlops = 2 * 16 * 8 * 16;

/** Null: not counted, or not there to be counted. Ratios are to what the access could do with, which is 1 at best. */
export interface Row {
  readonly kernel: string;
  readonly arch: string;
  readonly registers: number;
  readonly spillBytes: number;
  /** Of a block, static and dynamic. */
  readonly sharedBytes: number;
  readonly blocksPerSm: number;
  /** 1 where ptxas made each wgmma wait for the one before. */
  readonly serialized: number;
  readonly ptxPerMmaLoop: number | null;
  readonly ptxPerMma: number | null;
  /** Machine instructions for each mma, as ptxPerMmaLoop; only where a disassembler is found. */
  readonly machinePerMmaLoop: number | null;
  readonly wavefrontRatio: number | null;
  readonly sectorRatioLoad: number | null;
  readonly sectorRatioStore: number | null;
  /** Loaded as operands of products. */
  readonly l2BytesPerMma: number | null;
  /** All bytes between L2 and multiprocessors, and all bytes touched, to the fewest there can be. */
  readonly l2Ratio: number | null;
  readonly dramRatio: number | null;
  /** Percent of the GPU's rate of 16-bit products, or of its DRAM where there are none, that the bound allows. */
  readonly predicted: number | null;
  /** The unit that sets the bound. */
  readonly bound: Resource | null;
}

/** What the compiler says; see scripts/lib/statics.cjs. */
export interface KernelStatics {
  readonly registers: number;
  readonly spillBytes: number;
  readonly sharedBytes: number;
  readonly threads: number;
  readonly serialized?: true;
}
export interface Statics {
  readonly kernels: Readonly<Record<string, KernelStatics>>;
  readonly variables: Readonly<Record<string, number>>;
}

/** What the operands of a tile are in 16-bit bytes, for each mma. */
export function tileBytesPerMma({ rows, columns, halves }: Tile): number {
  const products = 2 * halves - 1;
  return (2 * halves * (rows + columns) * (mmaFlops / 2)) / (products * rows * columns);
}

/** Undefined where the architecture has no such kernel. */
export function rowOf(
  launch: Launch,
  arch: string,
  statics: Statics,
  counters: Counters | undefined,
  machineCode?: LoopInstructions,
): Row | undefined {
  const kernel = statics.kernels[launchName(launch)];
  if (kernel === undefined) return undefined;
  const dynamic = launch.sharedVariable === undefined ? 0 : statics.variables[launch.sharedVariable];
  if (dynamic === undefined) throw new Error(`the image has no ${launch.sharedVariable} for sm_${arch}`);
  const sharedBytes = kernel.sharedBytes + dynamic;
  const { registers, spillBytes, threads } = kernel;
  const blocksPerSm = blocksPerMultiprocessor(arch, { registers, sharedBytes, threads });
  return {
    ...{ kernel: launch.kernel, arch, registers, spillBytes, sharedBytes, blocksPerSm },
    serialized: kernel.serialized ? 1 : 0,
    ...countsOf(launch, counters),
    machinePerMmaLoop: machineCode?.get(launchName(launch)) ?? null,
    ...predictionOf(launch, arch, counters),
  };
}

function countsOf(launch: Launch, counters: Counters | undefined) {
  if (counters === undefined)
    return {
      ...{ ptxPerMmaLoop: null, ptxPerMma: null, wavefrontRatio: null, l2BytesPerMma: null },
      ...{ sectorRatioLoad: null, sectorRatioStore: null, l2Ratio: null, dramRatio: null },
    };
  const ratio = (count: number, to: number) => (to > 0 ? count / to : null);
  const mma = counters.tensorFlops / mmaFlops;
  const { instructions, matrixLoop } = counters;
  const perInstruction = mma / ((instructions.mma ?? 0) + (instructions.wgmma ?? 0));
  const operandSectors = counters.asyncLoadSectors || counters.globalLoadSectors;
  const { operandBytes, otherBytes, updatedBytes, tile } = launch;
  const leastL2 = otherBytes + (tile ? mma * tileBytesPerMma(tile) : operandBytes);
  return {
    ptxPerMmaLoop: ratio(matrixLoop.instructions, matrixLoop.matrix * perInstruction),
    ptxPerMma: ratio(counters.warpInstructions, mma),
    wavefrontRatio: ratio(counters.sharedWavefronts, counters.idealWavefronts),
    sectorRatioLoad: ratio(counters.globalLoadSectors, counters.idealLoadSectors),
    sectorRatioStore: ratio(counters.globalStoreSectors, counters.idealStoreSectors),
    l2BytesPerMma: ratio(32 * operandSectors + counters.bulkBytes, mma),
    l2Ratio: ratio(l2Bytes(counters), leastL2),
    dramRatio: ratio(counters.bytesTouched + updatedBytes, operandBytes + otherBytes),
  };
}

function predictionOf(launch: Launch, arch: string, counters: Counters | undefined) {
  const gpu = gpuOf(arch);
  if (gpu === undefined || counters === undefined) return { predicted: null, bound: null };
  const clocks = clocksOf(counters, gpu, counters.bytesTouched + launch.updatedBytes);
  const bound = bindingOf(clocks);
  const least = launch.tile ? counters.tensorFlops / (gpu.flops * gpu.multiprocessors) : clocks.dram;
  return { predicted: (100 * least) / clocks[bound], bound };
}

/** Whether the PTX that was counted is the kernel that this architecture runs. */
export function countsHold(launch: Launch, arch: string): boolean {
  return launch.sameShape || ptxOf(arch) === arch;
}

/** A line for each limit that a row is beyond; with `counted`, also for each that has nothing to compare with. */
export function violations(row: Row, limits: Gates, counted: boolean): string[] {
  return Object.entries(limits).flatMap(([name, limit]) => {
    const value = row[name as keyof Gates];
    if (value === null) return counted ? [`${row.kernel}, sm_${row.arch}: ${name} was not counted`] : [];
    const wrong = name === 'blocksPerSm' ? value < limit : value > limit;
    if (!wrong) return [];
    const shown = Number.isInteger(value) ? value : value.toFixed(3);
    const word = name === 'blocksPerSm' ? 'at least' : 'at most';
    return [`${row.kernel}, sm_${row.arch}: ${name} is ${shown}, must be ${word} ${limit}`];
  });
}

export function gatesOf(launch: Launch, arch: string): Gates {
  return gates[launch.gates](arch);
}
