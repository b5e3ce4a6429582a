/** What the demo measures about embeddings: angles within and between classes, and open-set verification. */

import { below, type Random, shuffled } from '../random.js';

const degrees = 180 / Math.PI;

/** Rows [N, dim] scaled to length 1; a zero row stays zero. */
export function unitRows(rows: ArrayLike<number>, dim: number): Float64Array {
  const result = Float64Array.from(rows);
  for (let start = 0; start < result.length; start += dim) {
    const row = result.subarray(start, start + dim);
    const norm = Math.hypot(...row);
    if (norm > 0) for (let d = 0; d < dim; d++) row[d]! /= norm;
  }
  return result;
}

function dot(a: Float64Array, i: number, b: Float64Array, j: number, dim: number): number {
  let sum = 0;
  for (let d = 0; d < dim; d++) sum += (a[i * dim + d] as number) * (b[j * dim + d] as number);
  return sum;
}

function angle(cosine: number): number {
  return Math.acos(Math.min(1, Math.max(-1, cosine))) * degrees;
}

/** Directions [classes, dim] of the mean of each class's unit embeddings. */
export function classCentres(
  units: Float64Array,
  labels: readonly number[],
  classes: number,
  dim: number,
): Float64Array {
  const sums = new Float64Array(classes * dim);
  for (const [row, label] of labels.entries())
    for (let d = 0; d < dim; d++) sums[label * dim + d]! += units[row * dim + d] as number;
  return unitRows(sums, dim);
}

/** Degrees between an embedding and the centre of its class: mean over a class, then over classes. */
export function angularSpread(
  units: Float64Array,
  labels: readonly number[],
  centres: Float64Array,
  dim: number,
): number {
  const classes = centres.length / dim;
  const sums = new Float64Array(classes);
  const counts = new Float64Array(classes);
  for (const [row, label] of labels.entries()) {
    sums[label]! += angle(dot(units, row, centres, label, dim));
    counts[label]! += 1;
  }
  return mean(Array.from(sums, (sum, label) => sum / (counts[label] as number)));
}

/** Degrees between a class's centre and the nearest other one, mean over classes. */
export function nearestCentreAngle(centres: Float64Array, dim: number): number {
  const classes = centres.length / dim;
  const nearest = Array.from({ length: classes }, (_, own) => {
    const others = Array.from({ length: classes }, (_, other) =>
      other === own ? 180 : angle(dot(centres, own, centres, other, dim)),
    );
    return Math.min(...others);
  });
  return mean(nearest);
}

/** Share of embeddings nearer to the centre of their own class than to any other. */
export function nearestCentreAccuracy(
  units: Float64Array,
  labels: readonly number[],
  centres: Float64Array,
  dim: number,
): number {
  const classes = [...Array(centres.length / dim).keys()];
  const right = labels.filter((label, row) => {
    const own = dot(units, row, centres, label, dim);
    return classes.every((other) => other === label || dot(units, row, centres, other, dim) < own);
  });
  return right.length / labels.length;
}

/** Two images: their rows. */
export type Pair = readonly [number, number];

export interface Pairs {
  /** Of the same class. */
  readonly same: readonly Pair[];
  /** Of two classes. */
  readonly different: readonly Pair[];
}

/** All pairs of images, or of each kind `most` drawn without repetition, in random order. */
export function drawPairs(labels: readonly number[], most: number, random: Random): Pairs {
  const rows = labels.length;
  const members = new Map<number, number[]>();
  for (const [row, label] of labels.entries()) members.set(label, [...(members.get(label) ?? []), row]);
  const count = (n: number) => (n * (n - 1)) / 2;
  const same = [...members.values()].reduce((sum, { length }) => sum + count(length), 0);

  const kind = (total: number, alike: boolean): Pair[] => {
    const seen = new Set<number>();
    const pairs: Pair[] = [];
    const add = (i: number, j: number) => {
      const key = Math.min(i, j) * rows + Math.max(i, j);
      if (i === j || (labels[i] === labels[j]) !== alike || seen.has(key)) return;
      seen.add(key);
      pairs.push([i, j]);
    };
    if (total <= 2 * most) {
      for (let i = 0; i < rows; i++) for (let j = 0; j < i; j++) add(i, j);
      return shuffled(pairs, random).slice(0, most);
    }
    while (pairs.length < most) {
      const i = below(random, rows);
      const among = alike ? (members.get(labels[i] as number) as number[]) : undefined;
      add(i, among ? (among[below(random, among.length)] as number) : below(random, rows));
    }
    return pairs;
  };
  return { same: kind(same, true), different: kind(count(rows) - same, false) };
}

export interface Verification {
  /**
   * Share of pairs judged rightly, same and different counting alike, when the threshold on the cosine that is
   * best for nine tenths of the pairs judges the remaining tenth: mean over the ten tenths, as in LFW.
   */
  readonly accuracy: number;
  /** Share of same pairs above the threshold that lets through at most a share `falseAcceptRate` of different ones. */
  readonly trueAcceptRate: number;
}

export function verify(
  units: Float64Array,
  dim: number,
  { same, different }: Pairs,
  falseAcceptRate = 0.01,
): Verification {
  const folds = Math.min(10, same.length, different.length);
  const cosines = (pairs: readonly Pair[]) => pairs.map(([i, j]) => dot(units, i, units, j, dim));
  const positives = cosines(same);
  const negatives = cosines(different);
  const accuracies = Array.from({ length: folds }, (_, fold) => {
    const inside = (_: number, i: number) => i % folds === fold;
    const outside = (_: number, i: number) => i % folds !== fold;
    const threshold = bestThreshold(positives.filter(outside), negatives.filter(outside));
    return balancedAccuracy(positives.filter(inside), negatives.filter(inside), threshold);
  });
  const threshold = thresholdFor(negatives, falseAcceptRate);
  return { accuracy: mean(accuracies), trueAcceptRate: share(positives, (cosine) => cosine > threshold) };
}

/** The largest threshold that no more than `rate` of the negatives are above. */
function thresholdFor(negatives: readonly number[], rate: number): number {
  const descending = Float64Array.from(negatives).sort().reverse();
  return descending[Math.floor(rate * negatives.length)] ?? -1;
}

/** Above it: same. The middle of the gap between two cosines where balanced accuracy is best. */
export function bestThreshold(positives: readonly number[], negatives: readonly number[]): number {
  const ascending = [
    ...positives.map((cosine) => ({ cosine, gain: -1 / positives.length })),
    ...negatives.map((cosine) => ({ cosine, gain: 1 / negatives.length })),
  ].sort((a, b) => a.cosine - b.cosine);
  let gained = 0;
  let best = 0;
  let threshold = -1;
  for (const [i, { cosine, gain }] of ascending.entries()) {
    gained += gain;
    const next = ascending[i + 1]?.cosine ?? 1;
    if (gained > best && next > cosine) {
      best = gained;
      threshold = (cosine + next) / 2;
    }
  }
  return threshold;
}

function balancedAccuracy(
  positives: readonly number[],
  negatives: readonly number[],
  threshold: number,
): number {
  const accepted = share(positives, (cosine) => cosine > threshold);
  const refused = share(negatives, (cosine) => cosine <= threshold);
  return (accepted + refused) / 2;
}

function share(values: readonly number[], holds: (value: number) => boolean): number {
  return values.filter(holds).length / values.length;
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Of a sample: divided by one less than its size; NaN for a single value. */
export function standardDeviation(values: readonly number[]): number {
  const centre = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}

/** Two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom; the last one stands for more. */
const t95 = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131,
  2.12, 2.11, 2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/** What the mean of a sample tells of its expectation, 95 %; not finite for a single value. */
export function meanInterval(values: readonly number[]): readonly [low: number, high: number] {
  const quantile = t95[Math.min(values.length - 2, t95.length - 1)] ?? Number.POSITIVE_INFINITY;
  const half = (quantile * standardDeviation(values)) / Math.sqrt(values.length);
  return [mean(values) - half, mean(values) + half];
}
