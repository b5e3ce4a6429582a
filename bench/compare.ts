/** `marginfc bench compare a.json b.json`: what changed between two runs on one machine, and what cannot be told. */

import { usualLoss } from './formula.js';
import { type ResultRow, type Results, rowKey, settingName } from './results.js';
import { sizeName } from './size.js';
import { type Interval, median, ratioInterval } from './statistics.js';

/**
 * Of the second run against the first. FASTER, SLOWER: the whole interval of the ratio lies on one side of 1, by more than
 * `same`. SAME: it lies within `same`. UNSURE: neither, or there are too few samples, or they were disturbed.
 */
export const verdicts = ['FASTER', 'SLOWER', 'SAME', 'UNSURE'] as const;
export type Verdict = (typeof verdicts)[number];

/** A difference that does not count. */
const same = 0.02;
const fewest = 5;

export interface Comparison {
  readonly name: string;
  readonly size: string;
  readonly verdict: Verdict;
  /** Why it is UNSURE. */
  readonly reason?: string;
  readonly before: number;
  readonly after: number;
  /** after / before, and its interval. */
  readonly ratio: number;
  readonly interval: Interval | null;
}

export function judge(
  before: readonly number[],
  after: readonly number[],
): Pick<Comparison, 'verdict' | 'reason' | 'interval'> {
  if (Math.min(before.length, after.length) < fewest)
    return { verdict: 'UNSURE', reason: `fewer than ${fewest} samples`, interval: null };
  const interval = ratioInterval(before, after);
  const [low, high] = interval;
  if (high < 1 - same) return { verdict: 'FASTER', interval };
  if (low > 1 + same) return { verdict: 'SLOWER', interval };
  if (low >= 1 - same && high <= 1 + same) return { verdict: 'SAME', interval };
  return { verdict: 'UNSURE', reason: 'the interval is too wide', interval };
}

export interface Differences {
  readonly compared: readonly Comparison[];
  /** Rows that only one of the runs measured. */
  readonly onlyBefore: readonly string[];
  readonly onlyAfter: readonly string[];
  /** What makes the two runs hard to compare. */
  readonly warnings: readonly string[];
}

export function compare(a: Results, b: Results): Differences {
  const measured = ({ rows }: Results) =>
    new Map(rows.filter((row) => row.status === 'measured').map((row) => [rowKey(row), row]));
  const [before, after] = [measured(a), measured(b)];
  const compared: Comparison[] = [];
  for (const [key, row] of before) {
    const other = after.get(key);
    if (other) compared.push(compareRows(row, other));
  }
  const only = (one: ReadonlyMap<string, ResultRow>, other: ReadonlyMap<string, ResultRow>) =>
    [...one]
      .filter(([key]) => !other.has(key))
      .map(([, row]) => `${settingName(row)} at ${sizeName(row.size)}`);
  const facts = ({ settings: { loss = usualLoss }, machine }: Results) => {
    const { processor, cores, instructionSet, threads, node } = machine;
    return { loss, processor, cores, instructionSet, threads, node };
  };
  const [first, second] = [facts(a), facts(b)];
  const warnings = (Object.keys(first) as (keyof typeof first)[])
    .filter((name) => first[name] !== second[name])
    .map((name) => `${name} differs: ${first[name]} and ${second[name]}`);
  return { compared, onlyBefore: only(before, after), onlyAfter: only(after, before), warnings };
}

function compareRows(a: ResultRow, b: ResultRow): Comparison {
  const [before, after] = [median(a.samplesMs), median(b.samplesMs)];
  const judged = judge(a.samplesMs, b.samplesMs);
  const disturbed = a.disturbed || b.disturbed;
  return {
    name: settingName(a),
    size: sizeName(a.size),
    ...judged,
    ...(disturbed && { verdict: 'UNSURE' as const, reason: 'other processes disturbed it' }),
    before,
    after,
    ratio: after / before,
  };
}
