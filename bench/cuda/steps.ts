/** Predicted times of whole calls, from the counts of their launches, and the floor that no implementation goes below. */

import type { Size } from '../size.js';
import type { Counters } from './counters.js';
import { type Gpu, gpuOf } from './gpus.js';
import { type Launch, launches } from './launches.js';
import { bindingOf, clocksOf, type Resource } from './predict.js';

/**
 * A launch, or all of its kind, of a call: its counts grow with rows or classes or both. Of DRAM only what cannot still be
 * in the L2 cache: P, the raw dW and the partial products of a chunk are used up there.
 */
interface Phase {
  readonly kernel: string;
  readonly by: 'rows' | 'classes' | 'both';
  readonly dramBytes: (size: Size) => number;
}

/** Of a step with momentum, 18 bytes an element with the new operand. */
const updated = ({ D, C }: Size) => 18 * C * D;

/** The 16-bit class rows come from DRAM for negatives and for probabilities, whose chunk the product then finds in L2. */
const products: readonly Phase[] = [
  { kernel: 'prepare_features', by: 'rows', dramBytes: ({ B, D }) => 6 * B * D },
  { kernel: 'targets', by: 'rows', dramBytes: ({ B, D }) => 8 * B * D },
  { kernel: 'negatives_float16', by: 'both', dramBytes: ({ B, D, C }) => 2 * (B + C) * D },
  { kernel: 'probabilities_float16', by: 'both', dramBytes: ({ B, D, C }) => 2 * (B + C) * D },
  { kernel: 'features_product_float16', by: 'both', dramBytes: () => 0 },
  { kernel: 'add_products', by: 'both', dramBytes: () => 0 },
  { kernel: 'finish_features', by: 'rows', dramBytes: ({ B, D }) => 20 * B * D },
];

/** Of the batch's classes against all, as many as rows; the gradient is 4 bytes an element, written here and read by the update. */
const inter: readonly Phase[] = [
  { kernel: 'gather_class_rows', by: 'rows', dramBytes: ({ B, D }) => 8 * B * D },
  { kernel: 'prepare_weights', by: 'classes', dramBytes: ({ D, C }) => 8 * C * D },
  { kernel: 'negatives_angles_float32', by: 'both', dramBytes: ({ B, D, C }) => 4 * (B + C) * D },
  { kernel: 'probabilities_angles_float32', by: 'both', dramBytes: ({ B, D, C }) => 4 * (B + C) * D },
  { kernel: 'features_product_float32', by: 'both', dramBytes: () => 0 },
  { kernel: 'add_products', by: 'both', dramBytes: () => 0 },
  { kernel: 'finish_features', by: 'rows', dramBytes: ({ B, D }) => 20 * B * D },
  { kernel: 'weights_product_float32', by: 'both', dramBytes: () => 0 },
  { kernel: 'finish_weights:write', by: 'classes', dramBytes: ({ D, C }) => 8 * C * D },
  { kernel: 'add_class_rows', by: 'rows', dramBytes: ({ B, D }) => 12 * B * D },
];

export interface Call {
  readonly name: string;
  readonly phases: readonly Phase[];
  /** Products of rows with classes that any implementation makes, of 2 B D C operations each. */
  readonly floorProducts: number;
  /** Bytes of DRAM that any implementation moves: float32 weights, state and gradients once. */
  readonly floorBytes: (size: Size) => number;
}

export const calls: readonly Call[] = [
  {
    name: 'loss + dX + dW',
    phases: [
      { kernel: 'prepare_weights', by: 'classes', dramBytes: ({ D, C }) => 6 * C * D },
      ...products,
      { kernel: 'weights_product_float16', by: 'both', dramBytes: () => 0 },
      { kernel: 'finish_weights:write', by: 'classes', dramBytes: ({ D, C }) => 8 * C * D },
    ],
    floorProducts: 3,
    floorBytes: ({ D, C }) => 8 * C * D,
  },
  {
    name: 'step, SGD with momentum',
    phases: [...products, { kernel: 'update_float16_512', by: 'both', dramBytes: updated }],
    floorProducts: 3,
    floorBytes: ({ D, C }) => 16 * C * D,
  },
  {
    name: 'the same with interLoss',
    phases: [
      ...inter,
      ...products,
      { kernel: 'weights_product_float16', by: 'both', dramBytes: () => 0 },
      {
        kernel: 'finish_weights_aided:added',
        by: 'classes',
        dramBytes: (size) => updated(size) + 4 * size.C * size.D,
      },
    ],
    floorProducts: 6,
    floorBytes: ({ D, C }) => 16 * C * D,
  },
];

export const sizes: readonly Size[] = [
  { B: 512, D: 512, C: 100_000 },
  { B: 1024, D: 512, C: 1_000_000 },
];
export const architectures = ['80', '90a'] as const;

export interface Prediction {
  readonly call: string;
  readonly gpu: string;
  readonly size: Size;
  readonly milliseconds: number;
  /** Milliseconds of each phase, and what binds it. */
  readonly phases: readonly {
    readonly kernel: string;
    readonly milliseconds: number;
    readonly bound: Resource;
  }[];
  readonly floorMilliseconds: number;
  readonly floorBound: 'flop' | 'bytes';
}

/** Undefined where a launch of the call was not counted. */
export function predict(
  call: Call,
  architecture: string,
  size: Size,
  countersOf: (launch: Launch) => Counters | undefined,
): Prediction | undefined {
  const gpu = gpuOf(architecture);
  if (gpu === undefined) return undefined;
  const phases = [];
  for (const phase of call.phases) {
    const launch = launchOf(phase.kernel, size, (launch) => countersOf(launch) !== undefined);
    const counters = launch && countersOf(launch);
    if (launch === undefined || counters === undefined) return undefined;
    const clocks = clocksOf(scaled(counters, factorOf(phase, size, launch.size)), gpu, phase.dramBytes(size));
    const bound = bindingOf(clocks);
    phases.push({ kernel: launch.kernel, milliseconds: milliseconds(clocks[bound], gpu), bound });
  }
  const flop =
    (2 * call.floorProducts * size.B * size.D * size.C) /
    (gpu.flops * gpu.multiprocessors * gpu.gigahertz * 1e6);
  const bytes = (call.floorBytes(size) / gpu.dramBytesPerSecond) * 1e3;
  return {
    ...{ call: call.name, gpu: gpu.name, size, phases },
    milliseconds: phases.reduce((sum, phase) => sum + phase.milliseconds, 0),
    floorMilliseconds: Math.max(flop, bytes),
    floorBound: flop > bytes ? 'flop' : 'bytes',
  };
}

/**
 * What the engine launches: the Hopper kernels where they were counted, and of these the wide ones where the left operand
 * of a product does not stay in shared memory (and, as of all sizes here, the width is a multiple of 256).
 */
function launchOf(kernel: string, { B }: Size, counted: (launch: Launch) => boolean): Launch | undefined {
  const stays = kernel.startsWith('weights_product') && B <= 512;
  const wide = stays ? kernel : kernel.replace('_product_', '_product_wide_');
  const names = [`hopper_${wide}`, `hopper_${kernel}`, kernel];
  return names
    .flatMap((name) => launches.filter((launch) => launch.kernel === name))
    .find((launch, i, { length }) => i === length - 1 || counted(launch));
}

function milliseconds(clocks: number, gpu: Gpu): number {
  return clocks / (gpu.gigahertz * 1e6);
}

function factorOf({ by }: Phase, to: Size, from: Size): number {
  return (by === 'classes' ? 1 : to.B / from.B) * (by === 'rows' ? 1 : to.C / from.C);
}

/** The counts of `factor` times the work. */
function scaled(counters: Counters, factor: number): Counters {
  const { instructions } = counters;
  return {
    ...counters,
    warpInstructions: factor * counters.warpInstructions,
    instructions: {
      ...instructions,
      wgmma: factor * (instructions.wgmma ?? 0),
      specialFunction: factor * (instructions.specialFunction ?? 0),
    },
    float64Instructions: factor * counters.float64Instructions,
    tensorFlops: factor * counters.tensorFlops,
    globalLoadSectors: factor * counters.globalLoadSectors,
    globalStoreSectors: factor * counters.globalStoreSectors,
    sharedWavefronts: factor * counters.sharedWavefronts,
    bulkBytes: factor * counters.bulkBytes,
  };
}
