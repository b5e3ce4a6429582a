/**
 * Which repetitions count, and what they say. A repetition is dropped when other processes took the processor
 * while it ran, or when the machine's peak was another one after it than before it.
 */

import { quantile } from '../statistics.js';

/** What the processors did during a repetition, in seconds. */
export interface Load {
  /** On the clock. */
  readonly elapsed: number;
  /** Processor time of this process, all its threads together. */
  readonly own: number;
  /** Processor time of all other processes, on the processors this one may use. */
  readonly others: number;
  /** Time a hypervisor gave to other machines. */
  readonly stolen: number;
}

export interface Repetition {
  /** Of one call; the mean, where a repetition is several. */
  readonly seconds: number;
  /** Processor time of one call, all threads together. */
  readonly processorSeconds: number;
  readonly load: Load;
  /** Peak operations per second, measured just before and just after. */
  readonly peaks: readonly [before: number, after: number];
}

/**
 * `others`: other processes used the processors. `stolen`: other machines did. `waited`: this process had clearly
 * less processor time than in its better repetitions. `peak`: the peaks before and after disagree.
 */
export const disturbances = ['others', 'stolen', 'waited', 'peak'] as const;
export type Disturbance = (typeof disturbances)[number];

/** Shares of the time that all threads could have computed; for `peak`, of the larger peak. */
const limits: Readonly<Record<Disturbance, number>> = {
  others: 0.05,
  stolen: 0.02,
  waited: 0.05,
  peak: 0.04,
};

/** The kernel counts `others` and `stolen` in ticks: so much may belong to the time before. */
const tick = 0.01;

function share({ own, elapsed }: Load, threads: number): number {
  // The garbage collector's threads can take it above 1.
  return Math.min(1, own / (elapsed * threads));
}

/** Why a repetition does not count; `usualShare` is this process's share of the threads' time when undisturbed. */
export function disturbance(
  { load, peaks: [before, after] }: Repetition,
  threads: number,
  usualShare: number,
): Disturbance | undefined {
  const available = load.elapsed * threads;
  // Own and others' time are read from different clocks, so that the difference may be a tick off on either side.
  if (load.others > limits.others * available + 2 * tick) return 'others';
  if (load.stolen > limits.stolen * available + tick) return 'stolen';
  if (Math.abs(before - after) > limits.peak * Math.max(before, after)) return 'peak';
  if (share(load, threads) < usualShare - limits.waited) return 'waited';
  return undefined;
}

export interface Judgement {
  readonly kept: readonly Repetition[];
  readonly dropped: Readonly<Record<Disturbance, number>>;
}

/** Parts the repetitions of one row. */
export function judge(repetitions: readonly Repetition[], threads: number): Judgement {
  const shares = repetitions
    .filter((repetition) => disturbance(repetition, threads, 0) === undefined)
    .map(({ load }) => share(load, threads));
  // Not the best, which a garbage collection may have raised.
  const usualShare = shares.length === 0 ? 0 : spread(shares).high;
  const dropped = { others: 0, stolen: 0, waited: 0, peak: 0 };
  const kept = repetitions.filter((repetition) => {
    const reason = disturbance(repetition, threads, usualShare);
    if (reason) dropped[reason]++;
    return reason === undefined;
  });
  return { kept, dropped };
}

/** The middle and the quartiles. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

/** Of at least one value. */
export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: quantile(sorted, 0.5), low: quantile(sorted, 0.25), high: quantile(sorted, 0.75) };
}

export interface Figures {
  readonly milliseconds: Spread;
  readonly gigaflops: Spread;
  /** Of the peaks around each repetition; where disturbed, of the best peak of the process. */
  readonly percentOfPeak: Spread;
  /**
   * The same by processor time instead of the clock's: what would be reached if no thread ever waited. Nearly
   * undisturbed by other processes, and blind to threads that idle.
   */
  readonly percentByProcessorTime: Spread;
  /** Repetitions that the figures are made of. */
  readonly samples: number;
  readonly dropped: Readonly<Record<Disturbance, number>>;
  /** Too few repetitions were undisturbed: the figures are made of all. */
  readonly disturbed: boolean;
}

export interface RowFacts {
  /** Floating-point operations of a call. */
  readonly operations: number;
  readonly threads: number;
  /** The largest peak measured in the process. */
  readonly bestPeak: number;
  /** Repetitions that have to count, if there are so many. */
  readonly enough: number;
}

/** What the repetitions of a row say. */
export function figures(
  repetitions: readonly Repetition[],
  { operations, threads, bestPeak, enough }: RowFacts,
): Figures {
  const { kept, dropped } = judge(repetitions, threads);
  const disturbed = kept.length < Math.min(enough, repetitions.length);
  const used = disturbed ? repetitions : kept;
  const peak = ({ peaks: [before, after] }: Repetition) => (disturbed ? bestPeak : (before + after) / 2);
  const rate = ({ seconds }: Repetition) => operations / seconds;
  const processorRate = ({ processorSeconds }: Repetition) => (operations * threads) / processorSeconds;
  return {
    milliseconds: spread(used.map(({ seconds }) => seconds * 1e3)),
    gigaflops: spread(used.map((repetition) => rate(repetition) / 1e9)),
    percentOfPeak: spread(used.map((repetition) => (100 * rate(repetition)) / peak(repetition))),
    percentByProcessorTime: spread(
      used.map((repetition) => (100 * processorRate(repetition)) / peak(repetition)),
    ),
    samples: used.length,
    dropped,
    disturbed,
  };
}
