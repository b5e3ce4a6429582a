/** Medians and how sure they are. */

import { uniforms } from './random.js';

export function median(values: readonly number[]): number {
  return quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

/** Of sorted values; between two of them, linear. */
export function quantile(sorted: readonly number[], q: number): number {
  const position = q * (sorted.length - 1);
  const below = sorted[Math.floor(position)] ?? Number.NaN;
  const above = sorted[Math.ceil(position)] ?? Number.NaN;
  return below + (above - below) * (position - Math.floor(position));
}

export type Interval = readonly [low: number, high: number];

const resamples = 2000;

/**
 * Between which values a statistic of samples lies in 95 of 100 cases, by the percentiles of the bootstrap: from as many
 * draws with replacement as there are samples. The same samples give the same interval.
 */
function bootstrap(
  groups: readonly (readonly number[])[],
  statistic: (...drawn: number[][]) => number,
): Interval {
  const next = uniforms();
  const draw = (values: readonly number[]) =>
    values.map(() => values[Math.floor(next() * values.length)] as number);
  const found = Array.from({ length: resamples }, () => statistic(...groups.map(draw))).sort((a, b) => a - b);
  return [quantile(found, 0.025), quantile(found, 0.975)];
}

export function medianInterval(values: readonly number[]): Interval {
  return bootstrap([values], (drawn) => median(drawn));
}

/** Of median(b) / median(a). */
export function ratioInterval(a: readonly number[], b: readonly number[]): Interval {
  return bootstrap([a, b], (first, second) => median(second) / median(first));
}
