/** Histograms of the angles between rows and classes: how far training has come, and how hard the negatives are. */

import { checkInteger } from './validate.js';

/** How many of the rows that are not ignored have such an angle; bin b of n counts [180 b / n, 180 (b + 1) / n) degrees. */
export interface AngleHistograms {
  /** [bins], to the row's own class, without margin. */
  readonly target: Int32Array;
  /** [bins], to the nearest other class. Without another class there is nothing to count. */
  readonly hardestNegative: Int32Array;
}

/** Of the option `histograms`: how many bins, 0 for no histograms. */
export function checkBins(histograms: boolean | number): number {
  if (typeof histograms === 'boolean') return histograms ? 180 : 0;
  return checkInteger(histograms, 'histograms', { least: 1, most: 65536 });
}

/** Cosines [B] as angles; rows with label -1 are left out. */
export function angleHistograms(
  labels: Int32Array,
  targetCosine: Float32Array,
  hardestCosine: Float32Array,
  bins: number,
): AngleHistograms {
  const target = new Int32Array(bins);
  const hardestNegative = new Int32Array(bins);
  for (let i = 0; i < labels.length; i++) {
    if (labels[i] === -1) continue;
    count(target, targetCosine[i] as number);
    count(hardestNegative, hardestCosine[i] as number);
  }
  return { target, hardestNegative };
}

/** The hardest of no negatives has a cosine of -2, and what is no number belongs nowhere. */
function count(histogram: Int32Array, cosine: number): void {
  if (!(cosine > -1.5)) return;
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const bin = Math.min(histogram.length - 1, Math.floor((angle / Math.PI) * histogram.length));
  histogram[bin] = (histogram[bin] as number) + 1;
}
