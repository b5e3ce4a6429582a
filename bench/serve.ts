/** A contestant's process: answers the requests of protocol.ts. */

import { closeSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setImmediate } from 'node:timers/promises';
import { Bench } from 'tinybench';
import type { Problem } from './cpu/reference.js';
import { type Formula, formulaNamed, storedSize } from './formula.js';
import type { Checked, Prepared, Refusal, Request, Sampled } from './protocol.js';
import type { Size } from './size.js';

/** Thrown where something that is optional is not there. */
export class Missing extends Error {}

export interface Outcome {
  /** [B] */
  readonly rowLoss: ArrayLike<number>;
  /** [B, D], of the mean loss */
  readonly dFeatures: ArrayLike<number>;
  /** dW of a class, [D] */
  readonly dWeights: (j: number) => ArrayLike<number>;
}

/** A contestant on one problem. */
export interface Runner {
  readonly version?: string;
  /**
   * What is timed. A returned `milliseconds` is the time instead of the clock's: that of a GPU's kernels. Anything else is kept
   * until the sample is over where `mostCalls` is given.
   */
  readonly call: () => unknown;
  /** What a call computes. */
  readonly outcome: () => Outcome | Promise<Outcome>;
  /** Done before each sample. */
  readonly prepare?: () => void;
  /** Results are kept until the sample is over, so that each call's are new: no more calls than this. */
  readonly mostCalls?: number;
}

export interface Task {
  readonly problem: Problem;
  /** Of the arrays: C rows of W. */
  readonly size: Size;
  /** Of ArcFace. */
  readonly scale: number;
  readonly m: number;
  /** Of the loss that is asked for. */
  readonly formula: Formula;
}

/** Answers requests until standard input ends. */
export async function serve<Job>(make: (task: Task, job: Job) => Runner | Promise<Runner>): Promise<void> {
  let runner: Runner | undefined;
  let size: Size = { B: 0, D: 0, C: 0 };
  let fastest = Number.POSITIVE_INFINITY;

  const answer = async (request: Request): Promise<Prepared | Checked | Sampled> => {
    if (request.do === 'prepare') {
      size = request.size;
      const { scale, m } = request;
      const task = {
        problem: readProblem(request.input, storedSize(size, request.loss)),
        size: storedSize(size, request.loss),
        scale,
        m,
        formula: formulaNamed(request.loss, size.C),
      };
      runner = await make(task, request.job as Job);
      return runner.version === undefined ? {} : { version: runner.version };
    }
    if (!runner) throw new Error(`${request.do} before prepare`);
    if (request.do === 'check') {
      const before = startPeak();
      const { outcome, seconds } = await firstCall(runner);
      fastest = seconds;
      const peakBytes = before === null ? null : Math.max(0, memoryField('VmHWM') - before);
      writeOutcome(outcome, request, size.D);
      return { seconds, peakBytes };
    }
    const sampled = await sample(runner, request, fastest);
    // By the clock on the wall, whatever was timed.
    fastest = Math.min(fastest, sampled.elapsed / sampled.calls);
    return sampled;
  };

  for await (const line of createInterface({ input: process.stdin })) {
    let reply: Prepared | Checked | Sampled | Refusal;
    try {
      reply = await answer(JSON.parse(line) as Request);
    } catch (error) {
      reply = refusal(error);
    }
    writeSync(3, `${JSON.stringify(reply)}\n`);
  }
}

function refusal(error: unknown): Refusal {
  if (error instanceof Missing) return { missing: error.message };
  const message = error instanceof Error ? error.message : String(error);
  const memory = /memory|allocation|array length|Invalid typed array/i.test(message);
  return { failed: message.split('\n')[0] ?? '', ...(memory && { memory }) };
}

async function firstCall(runner: Runner): Promise<{ outcome: Outcome; seconds: number }> {
  const start = performance.now();
  const outcome = await runner.outcome();
  return { outcome, seconds: (performance.now() - start) / 1e3 };
}

const slowCall = 5;

async function sample(
  runner: Runner,
  { seconds, warmUp }: Extract<Request, { do: 'sample' }>,
  fastest: number,
): Promise<Sampled> {
  const began = processorTime();
  runner.prepare?.();
  // Workspaces may have gone back to the system while others had their turn. A call that takes seconds does not feel it.
  if (warmUp && fastest < slowCall && !runner.prepare) {
    await runner.call();
    await collect();
  }
  const calls = Math.max(
    1,
    Math.min(Math.ceil(seconds / fastest), runner.mostCalls ?? Number.POSITIVE_INFINITY, 1e5),
  );
  const held: unknown[] = [];
  const bench = new Bench({ iterations: calls, time: 0, warmup: false, throws: true });
  bench.add('call', async () => {
    const result = await runner.call();
    if (isTime(result)) return { overriddenDuration: result.milliseconds };
    if (runner.mostCalls !== undefined) held.push(result);
    return undefined;
  });
  const start = { clock: performance.now(), own: processorTime() };
  await bench.run();
  const end = { clock: performance.now(), own: processorTime() };
  const result = bench.tasks[0]?.result;
  if (result?.state !== 'completed') throw new Error(`the timing ended as ${result?.state}`);
  held.length = 0;
  await collect();
  return {
    seconds: result.latency.mean / 1e3,
    calls,
    elapsed: (end.clock - start.clock) / 1e3,
    own: end.own - start.own,
    ownInAll: processorTime() - began,
  };
}

function isTime(result: unknown): result is { milliseconds: number } {
  return typeof result === 'object' && result !== null && 'milliseconds' in result;
}

/** New arrays that nothing refers to go back to their pool: when collected, and when the event loop has turned. */
async function collect(): Promise<void> {
  globalThis.gc?.();
  await setImmediate();
  await setImmediate();
}

function processorTime(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** From now on the kernel's record of the most resident memory starts anew; what is resident now. */
function startPeak(): number | null {
  try {
    globalThis.gc?.();
    writeFileSync('/proc/self/clear_refs', '5');
    return memoryField('VmRSS');
  } catch {
    return null;
  }
}

/** A field of /proc/self/status, in bytes. */
function memoryField(name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  if (line?.[1] === undefined) throw new Error(`/proc/self/status has no ${name}`);
  return Number(line[1]) * 1024;
}

function readProblem(file: string, { B, D, C }: Size): Problem {
  const features = new Float32Array(B * D);
  const weights = new Float32Array(C * D);
  const labels = new Int32Array(B);
  const from = openSync(file, 'r');
  for (const array of [features, weights, labels]) readInto(from, array, file);
  closeSync(from);
  return { features, weights, labels, dim: D };
}

function readInto(from: number, array: Float32Array | Int32Array, file: string): void {
  // A read of 2 GiB or more is refused.
  const most = 2 ** 30;
  for (let at = 0; at < array.byteLength; ) {
    const bytes = new Uint8Array(array.buffer, at, Math.min(most, array.byteLength - at));
    const count = readSync(from, bytes);
    if (count === 0) throw new Error(`${file} is too short`);
    at += count;
  }
}

function writeOutcome(
  outcome: Outcome,
  { rows, classes, output }: Extract<Request, { do: 'check' }>,
  dim: number,
): void {
  const values = new Float32Array(rows.length + (rows.length + classes.length) * dim);
  let at = 0;
  for (const row of rows) values[at++] = outcome.rowLoss[row] ?? Number.NaN;
  for (const row of rows)
    for (let d = 0; d < dim; d++) values[at++] = outcome.dFeatures[row * dim + d] ?? Number.NaN;
  for (const j of classes) {
    const gradient = outcome.dWeights(j);
    for (let d = 0; d < dim; d++) values[at++] = gradient[d] ?? Number.NaN;
  }
  writeFileSync(output, values);
}
