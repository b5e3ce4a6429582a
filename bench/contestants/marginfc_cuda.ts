/** This package on a GPU: whole calls, which upload the weights, or the time of their kernels by the device's clock. */

import { type EngineChoice, type Precision, valueAndGradSync } from 'marginfc';
import { addon } from '../cpu/addon.js';
import type { Runner, Task } from '../serve.js';

export interface CudaJob {
  readonly engine: string;
  readonly precision: Precision;
  readonly timed: 'call' | 'kernels';
}

export function marginfcCuda({ problem, size: { B, D, C }, formula }: Task, job: CudaJob): Runner {
  const out = { dFeatures: new Float32Array(B * D), dWeights: new Float32Array(C * D) };
  const options = {
    ...formula,
    engine: job.engine as EngineChoice,
    precision: job.precision,
    out,
  };
  const call = () => valueAndGradSync(problem, options);
  return {
    version: addon().openGpu(job.engine).detail ?? job.engine,
    call: job.timed === 'call' ? call : () => ({ milliseconds: kernelTime(job.engine, call) }),
    outcome: () => {
      const { rowLoss, dFeatures, dWeights } = call();
      return { rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * D, (j + 1) * D) };
    },
  };
}

function kernelTime(engine: string, call: () => unknown): number {
  addon().timeLaunches(engine, true);
  call();
  return addon()
    .timeLaunches(engine, false)
    .reduce((sum, { milliseconds }) => sum + milliseconds, 0);
}
