/** Measures one size on the instruction set and threads of this process. */

import { setImmediate, setTimeout } from 'node:timers/promises';
import { type Formula, formulaNamed, formulaOnHead, storedSize } from '../formula.js';
import type { Size } from '../size.js';
import { addon } from './addon.js';
import {
  type Contestant,
  engineLogSumExp,
  makeContestant,
  makeOutputs,
  makeProblem,
  supportedPrecisions,
} from './contestants.js';
import { loadBetween, processorTime, readLoad } from './load.js';
import { errors, type Problem, reference } from './reference.js';
import {
  type Check,
  type Contest,
  contestName,
  contestsOf,
  type Precision,
  type Report,
  type Run,
} from './results.js';
import { figures, judge, type Repetition } from './samples.js';

export interface Job {
  readonly size: Size;
  /** By name. */
  readonly loss: string;
  /** Those that the engine has are measured. */
  readonly precisions: readonly Precision[];
  readonly settings: Report['settings'];
  /** Only rows whose name contains all these. */
  readonly only: readonly string[];
}

/** Repetitions without disturbance that a row needs to be believed; all of them, where there was no time for more. */
const enough = 3;

/** New outputs of one repetition are at most this together: the pool lends no more than twice as much. */
const mostFreshBytes = 2 ** 29;

/** Limits of docs/numerics.md at s = 64. */
const limits = {
  float32: { loss: 4e-6, gradient: 6.1e-5 },
  bfloat16: { loss: 1e-2, gradient: 6e-2 },
  float16: { loss: 1e-3, gradient: 6e-3 },
} as const satisfies Record<Precision, { loss: number; gradient: number }>;

interface Entry {
  readonly contest: Contest;
  readonly contestant: Contestant;
  readonly check: Check;
  readonly calls: number;
  readonly taken: Repetition[];
}

export async function measure({ size, loss, precisions, settings, only }: Job): Promise<Run> {
  const { instructionSet, threads, pairedBfloat16 } = addon().describeCpu();
  const kindOf = (precision: Precision) =>
    pairedBfloat16 && precision === 'bfloat16' ? 'bfloat16' : 'float32';
  const peaks = {
    float32: registerPeak('float32'),
    ...(pairedBfloat16 && { bfloat16: registerPeak('bfloat16') }),
    read: addon().measurePeak('read', 0.2),
    copy: addon().measurePeak('copy', 0.2),
  };

  const formula = formulaNamed(loss, size.C);
  const problem = makeProblem(size, formula.subCenters);
  const out = makeOutputs(problem, formula);
  const heads = formulaOnHead(formula) !== undefined;
  const contests = contestsOf(supportedPrecisions(precisions)).filter(
    (contest) =>
      only.every((part) => contestName(contest).includes(part)) &&
      (heads || !contest.operation.endsWith('step')),
  );
  if (contests.length === 0) throw new Error(`no row's name contains ${only.join(' and ')}`);
  const contestants: Contestant[] = [];
  for (const contest of contests) contestants.push(await makeContestant(problem, formula, contest, out));
  const { checks, checked } = compare(problem, formula, contestants);

  const entries: Entry[] = [];
  for (const [i, contestant] of contestants.entries()) {
    await warmUp(contestant, settings.warmUpSeconds);
    const calls = await callsPerSample(contestant, storedSize(size, loss), settings.sampleSeconds);
    entries.push({
      contest: contests[i] as Contest,
      contestant,
      check: checks[i] as Check,
      calls,
      taken: [],
    });
  }
  const end = performance.now() + settings.seconds * 1e3;
  // In turns, so that what happens on the machine meets all rows alike.
  let open = entries;
  do {
    for (const { contestant, calls, taken } of open) {
      const kind = kindOf(contestant.precision);
      const repetition = await repeat(contestant, calls, () => registerPeak(kind));
      peaks[kind] = Math.max(peaks[kind] ?? 0, ...repetition.peaks);
      taken.push(repetition);
    }
    open = entries.filter(({ taken }) => judge(taken, threads).kept.length < settings.samples);
  } while (open.length > 0 && performance.now() < end);
  const rows = entries.map(({ contest, contestant: { operations }, check, calls, taken }) => {
    const bestPeak = peaks[kindOf(contest.precision)] as number;
    const facts = { operations, threads, bestPeak, enough };
    return { ...contest, operations, callsPerSample: calls, check, ...figures(taken, facts) };
  });
  return { size, instructionSet, threads, peaks, checked, rows };
}

/**
 * The best of several bursts, each shorter than the time after which the system lets another thread run, so
 * that some are undisturbed even on a busy machine.
 */
function registerPeak(kind: 'float32' | 'bfloat16'): number {
  return Math.max(...Array.from({ length: 8 }, () => addon().measurePeak(kind, 0.004)));
}

/** Compares every contestant with the reference, and throws if one is wrong. */
function compare(problem: Problem, formula: Formula, contestants: readonly Contestant[]) {
  const expected = reference(problem, formula, engineLogSumExp(problem, formula));
  const checks = contestants.map((contestant): Check => {
    const limit = limits[contestant.precision];
    const found = errors(contestant.measured(expected), expected);
    const { gradient } = found;
    if (!(found.loss <= limit.loss) || (gradient !== undefined && !(gradient <= limit.gradient)))
      throw new Error(
        `${contestName(contestant)} is wrong: errors ${JSON.stringify(found)}, limits ${JSON.stringify(limit)}`,
      );
    return {
      loss: found.loss,
      lossLimit: limit.loss,
      ...(gradient !== undefined && { gradient, gradientLimit: limit.gradient }),
    };
  });
  const classes = new Set(
    expected.classRows.map(({ classRow }) => Math.floor(classRow / formula.subCenters)),
  );
  return { checks, checked: { rows: expected.rows.length, classes: classes.size } };
}

/** Until functions that are called as often as in training are compiled, which other threads of the process do meanwhile. */
async function warmUp(contestant: Contestant, seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1e3;
  do {
    contestant.call();
    await collect(contestant);
  } while (performance.now() < end);
}

/** How many calls a repetition takes to last long enough, by the fastest of some. */
async function callsPerSample(contestant: Contestant, size: Size, sampleSeconds: number): Promise<number> {
  let fastest = Infinity;
  for (let i = 0; i < 5; i++) {
    fastest = Math.min(fastest, timed(contestant));
    await collect(contestant);
    if (fastest > sampleSeconds) break;
  }
  const most = contestant.outputs === 'fresh' ? Math.floor(mostFreshBytes / outputBytes(size)) : Infinity;
  return Math.max(1, Math.min(Math.ceil(sampleSeconds / fastest), most));
}

function outputBytes({ B, D, C }: Size): number {
  return 4 * D * (B + C);
}

async function repeat(contestant: Contestant, calls: number, peak: () => number): Promise<Repetition> {
  const held: unknown[] = [];
  const fresh = contestant.outputs === 'fresh';
  contestant.prepare?.();
  const before = peak();
  const start = readLoad();
  let seconds = 0;
  let processor = -processorTime();
  for (let i = 0; i < calls; i++) {
    seconds += timed(contestant, fresh ? held : undefined);
    if (contestant.outputs !== 'pooled') continue;
    processor += processorTime();
    await collect(contestant);
    processor -= processorTime();
  }
  // The processor time of a thread is counted when it goes to sleep, which ours do when there is nothing to do.
  await setTimeout(2);
  processor += processorTime();
  const load = loadBetween(start, readLoad());
  const after = peak();
  held.length = 0;
  await collect(contestant);
  return { seconds: seconds / calls, processorSeconds: processor / calls, load, peaks: [before, after] };
}

/** Seconds of one call. Apart, so that nothing but `held` refers to its result afterwards. */
function timed(contestant: Contestant, held?: unknown[]): number {
  const start = performance.now();
  const result = contestant.call();
  const seconds = (performance.now() - start) / 1e3;
  held?.push(result);
  return seconds;
}

/** New outputs that nothing refers to go back to the pool: when collected, and when the event loop has turned. */
async function collect({ outputs }: Contestant): Promise<void> {
  if (outputs !== 'pooled' && outputs !== 'fresh') return;
  if (!globalThis.gc) throw new Error('the measuring process needs --expose-gc');
  globalThis.gc();
  await setImmediate();
  await setImmediate();
}
