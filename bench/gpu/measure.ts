/** Times of calls by the clock on the wall, and of kernels by the device's, each alone and with a cold L2 cache. */

import { type DeviceName, MarginHead, type Precision, sgd } from 'marginfc';
import { addon } from '../cpu/addon.js';
import { normals } from '../random.js';
import type { Size } from '../size.js';
import { median, quantile } from '../statistics.js';

export interface CallTime {
  readonly call: string;
  /** Median. */
  readonly milliseconds: number;
  /** Half the range between the quartiles, relative to the median. */
  readonly spread: number;
  /** By the multiplications of the three products: 6 B D C for a step, 2 B D C for a loss. */
  readonly teraflops: number;
}

export interface KernelTime {
  readonly kernel: string;
  /** In one step. */
  readonly launches: number;
  /** All launches of one step together; the median of several steps. */
  readonly milliseconds: number;
  /** Only where the kernel is one of the products, by 2 B D C. */
  readonly teraflops?: number;
}

export interface Measured {
  readonly size: Size;
  readonly precision: Precision;
  /** Relative difference of the loss from the cpu engine's. */
  readonly lossError: number;
  /** Largest difference of dFeatures from the cpu engine's, relative to its largest value. */
  readonly gradientError: number;
  /** Where these are beyond the limits of docs/numerics.md. */
  readonly failure?: string;
  readonly calls?: readonly CallTime[];
  readonly kernels?: readonly KernelTime[];
}

const steps = 20;
const timedSteps = 5;

/** What the GPU multiplies. */
export function precisions(device: string): readonly Precision[] {
  const { bfloat16 } = addon().openGpu(device);
  return bfloat16 ? ['float16', 'bfloat16', 'float32'] : ['float16', 'float32'];
}

function makeBatch({ B, D, C }: Size): { features: Float32Array; labels: Int32Array } {
  const normal = normals();
  return {
    features: Float32Array.from({ length: B * D }, normal),
    labels: Int32Array.from({ length: B }, (_, row) => (row * 7919) % C),
  };
}

function makeHead({ D, C }: Size, device: string, precision: Precision): Promise<MarginHead> {
  const optimizer = sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4 });
  const devices = [device as DeviceName];
  return MarginHead.create({ dim: D, classes: C, devices, precision, optimizer, init: { std: 0.01 } });
}

/** One step on the GPU and on the CPU in float32. */
export async function agreement(
  device: string,
  size: Size,
  precision: Precision,
): Promise<Pick<Measured, 'lossError' | 'gradientError' | 'failure'>> {
  const batch = makeBatch(size);
  const [got, expected] = await Promise.all(
    (
      [
        [device, precision],
        ['cpu', 'float32'],
      ] as const
    ).map(async ([where, operands]) => {
      const head = await makeHead(size, where, operands);
      const result = await head.step(batch);
      head.dispose();
      return result;
    }),
  );
  if (got === undefined || expected === undefined) throw new Error('a step gave no result');
  const lossError = Math.abs(got.loss - expected.loss) / Math.max(1, Math.abs(expected.loss));
  const largest = expected.dFeatures.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const apart = got.dFeatures.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (expected.dFeatures[i] ?? Number.NaN))),
    0,
  );
  const gradientError = apart / largest;
  const limits = { float32: [8e-6, 1.2e-4], float16: [1e-3, 6e-3], bfloat16: [1e-2, 6e-2] }[precision];
  const [lossLimit = 0, gradientLimit = 0] = limits;
  const within = lossError <= lossLimit && gradientError <= gradientLimit;
  return {
    lossError,
    gradientError,
    ...(!within && {
      failure: `loss differs from the cpu engine's by ${lossError.toExponential(1)}, dFeatures by ${gradientError.toExponential(1)}`,
    }),
  };
}

export async function measure(
  device: string,
  size: Size,
  precision: Precision,
): Promise<Required<Pick<Measured, 'calls' | 'kernels'>>> {
  const batch = makeBatch(size);
  const head = await makeHead(size, device, precision);
  const step = () => head.stepSync(batch, { learningRate: 1e-6 });
  const product = 2 * size.B * size.D * size.C;
  try {
    const withGraphs = (on: boolean, call: string) => {
      addon().useGraphs(device, on);
      // The second of steps that are alike makes a graph.
      step();
      return timeCall(call, step, 3 * product);
    };
    const calls = [
      withGraphs(false, 'step without CUDA graphs'),
      withGraphs(true, 'step of a head'),
      timeCall('evaluate of a head', () => head.evaluateSync(batch), product),
    ];
    const runs = Array.from({ length: timedSteps }, () => {
      addon().timeLaunches(device, true);
      step();
      return addon().timeLaunches(device, false);
    });
    const names = [...new Set(runs.flat().map(({ kernel }) => kernel))];
    const kernels = names.map((kernel) => {
      const times = runs.map((run) => run.filter((launch) => launch.kernel === kernel));
      const milliseconds = median(times.map((run) => run.reduce((sum, time) => sum + time.milliseconds, 0)));
      const isProduct = /^(negatives|probabilities|features_product|weights_product|update)_/.test(kernel);
      const teraflops = isProduct ? { teraflops: product / milliseconds / 1e9 } : {};
      return { kernel, launches: times[0]?.length ?? 0, milliseconds, ...teraflops };
    });
    return { calls, kernels };
  } finally {
    head.dispose();
  }
}

function timeCall(call: string, run: () => unknown, operations: number): CallTime {
  run();
  const times = Array.from({ length: steps }, () => {
    const start = performance.now();
    run();
    return performance.now() - start;
  }).sort((a, b) => a - b);
  const milliseconds = quantile(times, 0.5);
  return {
    call,
    milliseconds,
    spread: (quantile(times, 0.75) - quantile(times, 0.25)) / 2 / milliseconds,
    teraflops: operations / milliseconds / 1e9,
  };
}
