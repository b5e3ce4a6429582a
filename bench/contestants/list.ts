/** Everyone who may be compared. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { listEngines, lossNamed } from 'marginfc';
import { addon } from '../cpu/addon.js';
import { supportedPrecisions } from '../cpu/contestants.js';
import type { Precision } from '../cpu/results.js';
import { usualLoss } from '../formula.js';
import type { Setting } from '../results.js';
import type { Size } from '../size.js';
import { type Contestant, engineLimits, nodeCommand, peerLimits } from './contestant.js';
import type { CpuJob } from './marginfc_cpu.js';
import type { TfjsBackend } from './tfjs.js';

const usual = {
  operation: 'loss + dX + dW',
  precision: 'float32',
  workspace: 'logits',
  outputs: 'fresh',
  allocator: 'default',
  gradient: 'exact',
} as const satisfies Partial<Setting>;

/** About what a contestant needs: so many copies of W and of the B x C logits, in float32. */
function copies(ofWeights: number, ofLogits: number): (size: Size) => number {
  return ({ B, D, C }) => 2 ** 27 + 4 * C * (ofWeights * D + ofLogits * B);
}

/**
 * `program`: this one, which also runs contestants; `quick` leaves out what others say nearly as well. Of a `loss` that is not the
 * usual one nobody else has the formula.
 */
export function allContestants(program: string, quick: boolean, loss: string): Contestant[] {
  const threads = addon().describeCpu().threads;
  const own = [...marginfcOnCpu(program, threads, quick), ...marginfcOnGpus(program)];
  if (loss !== usualLoss) {
    const { gradient = 'exact' } = lossNamed(loss).options;
    return own.map((contestant) => ({ ...contestant, gradient }));
  }
  return [
    ...own,
    {
      ...usual,
      contestant: 'unfused C++',
      outputs: 'reused',
      threads,
      command: nodeCommand(program, 'unfused'),
      job: null,
      limits: peerLimits.float32,
      bytes: copies(2, 1),
    },
    ...(['wasm', 'cpu', 'node', 'webgpu'] as const).map((backend) => tfjs(program, backend, threads)),
    {
      ...usual,
      contestant: 'plain TypeScript',
      threads: 1,
      command: nodeCommand(program, 'plain'),
      job: null,
      limits: peerLimits.float32,
      bytes: copies(2, 1),
    },
    ...python(threads, quick),
  ];
}

function marginfcOnCpu(program: string, threads: number, quick: boolean): Contestant[] {
  const one = (job: CpuJob, count = threads): Contestant => ({
    ...usual,
    ...job,
    contestant: 'marginfc cpu',
    threads: count,
    command: nodeCommand(program, 'marginfc cpu', { MARGINFC_THREADS: String(count) }),
    job,
    limits: engineLimits[job.precision],
    bytes: copies(job.outputs === 'fresh' ? 4 : 1, job.workspace === 'keep' ? 1 : 0),
  });
  const precisions = supportedPrecisions(
    quick ? ['float32', 'bfloat16'] : ['float32', 'bfloat16', 'float16'],
  );
  return [
    ...precisions.flatMap((precision) => [
      one({ precision, workspace: 'keep', outputs: 'reused' }),
      ...(precision === 'float16' ? [] : [one({ precision, workspace: 'recompute', outputs: 'reused' })]),
    ]),
    one({ precision: 'float32', workspace: 'keep', outputs: 'fresh' }),
    ...(threads > 1 ? [one({ precision: 'float32', workspace: 'keep', outputs: 'reused' }, 1)] : []),
  ];
}

function marginfcOnGpus(program: string): Contestant[] {
  const engines = listEngines().filter(({ name, available }) => available && name !== 'cpu');
  return engines.flatMap(({ name: engine }) => {
    const { bfloat16 } = addon().openGpu(engine);
    const precisions: Precision[] = bfloat16 ? ['float16', 'bfloat16', 'float32'] : ['float16', 'float32'];
    return precisions.flatMap((precision) =>
      (['call', 'kernels'] as const).map((timed) => ({
        ...usual,
        contestant: `marginfc ${engine.replace(':', ' ')}`,
        operation: timed === 'call' ? usual.operation : `${usual.operation}, kernels`,
        precision,
        workspace: 'recompute' as const,
        outputs: 'reused' as const,
        threads: 1,
        command: nodeCommand(program, 'marginfc cuda'),
        job: { engine, precision, timed },
        limits: engineLimits[precision],
        bytes: copies(2, 0),
      })),
    );
  });
}

function tfjs(program: string, backend: TfjsBackend, threads: number): Contestant {
  return {
    ...usual,
    contestant: `tfjs ${backend}`,
    threads: backend === 'node' ? threads : 1,
    command: nodeCommand(program, 'tfjs'),
    job: backend,
    limits: peerLimits.float32,
    bytes: copies(8, 24),
    startSeconds: 20,
  };
}

const keepsFreed = {
  MALLOC_MMAP_THRESHOLD_: '17179869184',
  MALLOC_TRIM_THRESHOLD_: '34359738368',
} as const;

interface PythonJob {
  readonly contestant: string;
  readonly script: 'pytorch' | 'metric_learning' | 'numpy_arrays';
  readonly precision?: 'float32' | 'bfloat16';
  readonly compile?: boolean;
  readonly allocator: Setting['allocator'];
  readonly gradient?: 'straightThrough';
  readonly inQuick?: boolean;
}

const straightThrough = { script: 'pytorch', gradient: 'straightThrough' } as const;
const pythonJobs: readonly PythonJob[] = [
  { ...straightThrough, contestant: 'PyTorch', allocator: 'default', inQuick: true },
  { ...straightThrough, contestant: 'PyTorch', allocator: 'keeps freed', inQuick: true },
  {
    ...straightThrough,
    contestant: 'PyTorch compile',
    compile: true,
    allocator: 'keeps freed',
    inQuick: true,
  },
  {
    ...straightThrough,
    contestant: 'PyTorch autocast',
    precision: 'bfloat16',
    allocator: 'keeps freed',
    inQuick: true,
  },
  {
    ...straightThrough,
    contestant: 'PyTorch compile autocast',
    precision: 'bfloat16',
    compile: true,
    allocator: 'keeps freed',
  },
  { contestant: 'pytorch-metric-learning', script: 'metric_learning', allocator: 'keeps freed' },
  { contestant: 'numpy', script: 'numpy_arrays', allocator: 'keeps freed' },
];

/** Where the peers' programs are: copied beside the built one, or in bench/ itself. */
const peers = ['peers/', '../peers/'].map((folder) => new URL(folder, import.meta.url)).find(existsSync);

function python(threads: number, quick: boolean): Contestant[] {
  const interpreter = process.env.MARGINFC_BENCH_PYTHON;
  return pythonJobs
    .filter(({ inQuick }) => inQuick || !quick)
    .map(({ contestant, script, precision = 'float32', compile = false, allocator, gradient }) => ({
      ...usual,
      contestant,
      precision,
      allocator,
      ...(gradient && { gradient }),
      threads,
      command: {
        file: interpreter ?? 'python3',
        args: peers ? [fileURLToPath(new URL(`${script}.py`, peers))] : [],
        env: allocator === 'keeps freed' ? keepsFreed : {},
      },
      job: { threads, precision, compile },
      limits: peerLimits[precision],
      bytes: copies(6, 8),
      startSeconds: compile ? 180 : 60,
      ...(interpreter === undefined && {
        missing: 'MARGINFC_BENCH_PYTHON names no Python that has it',
      }),
    }));
}
