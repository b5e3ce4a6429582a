/**
 * Memory and time of training many classes: `npm run bench:classes [-- options] [CLASSES,STORAGE,RATE ...]`.
 *
 * Each case is a child process that makes a head, its first weights range by range, and takes steps. The kernel's record of peak
 * resident memory is reset before each of the two, so what they need beyond weights and optimiser state can be told apart.
 */

import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { arcface, MarginHead, sgd, type WeightStorage } from 'marginfc';
import { childJob, reply, runInChild } from './child.js';
import { describeMachine } from './cpu/machine.js';
import { printMachine, table } from './cpu/table.js';
import { normals, uniforms } from './random.js';
import { median } from './statistics.js';

const usage = `npm run bench:classes -- [options] [CLASSES,STORAGE,RATE ...]

  STORAGE             float32 or bfloat16, of the weights
  RATE                share of the negative classes in a step
  --dim D             (default 256)
  --rows B            (default 512)
  --steps N           timed steps, after one that is not (default 5)
  --momentum X        0 for an optimiser without state (default 0.9)
  --help

Cases by default: 100000,float32,1 and 1000000,float32,1.`;

interface Job {
  readonly classes: number;
  readonly storage: WeightStorage;
  readonly sampleRate: number;
  readonly dim: number;
  readonly rows: number;
  readonly steps: number;
  readonly momentum: number;
}

/** Bytes, beyond what the process had before it made the head. */
interface Measured {
  readonly initPeak: number;
  readonly stepPeak: number;
  readonly initSeconds: number;
  readonly stepSeconds: number;
}

/** A field of /proc/self/status, in bytes. */
function memoryField(name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(fs.readFileSync('/proc/self/status', 'utf8'));
  if (line?.[1] === undefined) throw new Error(`/proc/self/status has no ${name}`);
  return Number(line[1]) * 1024;
}

/** The peak, once `work` has been done, of resident memory from now on. */
async function peakOf(work: () => Promise<void>): Promise<number> {
  (globalThis as { gc?: () => void }).gc?.();
  fs.writeFileSync('/proc/self/clear_refs', '5');
  await work();
  return memoryField('VmHWM');
}

function makeHead({ classes, dim, storage, sampleRate, momentum }: Job): Promise<MarginHead> {
  const next = uniforms();
  let block = new Float32Array(0);
  return MarginHead.create({
    dim,
    classes,
    storage,
    sampleRate,
    margin: arcface(),
    workspace: 'recompute',
    optimizer: sgd({ learningRate: 0.1, momentum, weightDecay: 5e-4 }),
    // One block of memory for all ranges: the head copies it.
    init: (start, end) => {
      if (block.length < (end - start) * dim) block = new Float32Array((end - start) * dim);
      const weights = block.subarray(0, (end - start) * dim);
      for (let i = 0; i < weights.length; i++) weights[i] = next() - 0.5;
      return weights;
    },
  });
}

async function measure(job: Job): Promise<Measured> {
  const { classes, dim, rows, steps } = job;
  const [normal, uniform] = [normals(), uniforms()];
  const features = Float32Array.from({ length: rows * dim }, normal);
  const drawn = (of: number) => Int32Array.from({ length: rows }, () => Math.floor(uniform() * of));
  // A small head first: code, threads and what a result takes are not the many classes' memory.
  const small = await makeHead({ ...job, classes: 64 });
  await small.step({ features: features.subarray(0, dim), labels: Int32Array.of(1) });
  small.dispose();
  const before = memoryField('VmRSS');
  let head: MarginHead | undefined;
  let start = performance.now();
  const initPeak = await peakOf(async () => {
    head = await makeHead(job);
  });
  const initSeconds = (performance.now() - start) / 1000;
  const seconds: number[] = [];
  const stepPeak = await peakOf(async () => {
    for (let step = 0; step <= steps; step++) {
      const labels = drawn(classes);
      start = performance.now();
      await head?.step({ features, labels });
      if (step > 0) seconds.push((performance.now() - start) / 1000);
    }
  });
  head?.dispose();
  return {
    initPeak: initPeak - before,
    stepPeak: stepPeak - before,
    initSeconds,
    stepSeconds: median(seconds),
  };
}

function readJobs(): Job[] | undefined {
  const text = (fallback: string) => ({ type: 'string', default: fallback }) as const;
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      dim: text('256'),
      rows: text('512'),
      steps: text('5'),
      momentum: text('0.9'),
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const cases = positionals.length > 0 ? positionals : ['100000,float32,1', '1000000,float32,1'];
  return cases.map((given) => {
    const [classes, storage, rate] = given.split(',');
    const job = {
      classes: Number(classes),
      storage: storage as WeightStorage,
      sampleRate: Number(rate),
      dim: Number(values.dim),
      rows: Number(values.rows),
      steps: Number(values.steps),
      momentum: Number(values.momentum),
    };
    if (!['float32', 'bfloat16'].includes(storage ?? '') || !(job.sampleRate > 0 && job.sampleRate <= 1))
      throw new Error(`a case is CLASSES,STORAGE,RATE, received ${given}`);
    for (const name of ['classes', 'dim', 'rows', 'steps'] as const)
      if (!(Number.isInteger(job[name]) && job[name] > 0))
        throw new Error(`${name} must be a positive integer`);
    return job;
  });
}

async function main(jobs: readonly Job[]): Promise<void> {
  const [first] = jobs;
  printMachine('marginfc, memory and time of many classes', describeMachine(), {
    problem: `${first?.rows} rows, ${first?.dim} dimensions, ArcFace, sgd with momentum ${first?.momentum}, workspace recompute`,
  });
  const mebibytes = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  const rows: string[][] = [];
  for (const job of jobs) {
    const { classes, dim, storage, sampleRate, momentum } = job;
    const weights = classes * dim * (storage === 'float32' ? 4 : 2);
    const state = momentum > 0 ? classes * dim * 4 : 0;
    const options = { execArgv: ['--expose-gc'] };
    const { initPeak, stepPeak, initSeconds, stepSeconds } = await runInChild<Measured>(
      fileURLToPath(import.meta.url),
      job,
      options,
    );
    rows.push([
      String(classes),
      storage,
      String(sampleRate),
      mebibytes(weights),
      mebibytes(state),
      mebibytes(initPeak - weights),
      mebibytes(stepPeak - weights - state),
      initSeconds.toFixed(1),
      stepSeconds.toFixed(2),
    ]);
  }
  const heading = [
    'classes',
    'storage',
    'rate',
    'weights, MiB',
    'state, MiB',
    'init beyond',
    'step beyond',
    'init, s',
    'step, s',
  ];
  for (const line of table(heading, rows, new Set(['storage']))) console.log(line);
  console.log(
    '\n  beyond: peak resident memory beyond weights and, in steps, state (which init does not touch), MiB; step: median.',
  );
}

const job = childJob<Job>();
if (job) {
  reply(await measure(job));
} else {
  try {
    const jobs = readJobs();
    if (jobs) await main(jobs);
    else console.log(usage);
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    process.exitCode = 2;
  }
}
