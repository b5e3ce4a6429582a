/** Batches as a trained network might make them: features around a hidden centre for each class, few classes often and many rarely. */

import { normals, seeded, shuffled } from '../random.js';

export interface Population {
  readonly dim: number;
  readonly classes: number;
  /** The class of frequency rank r, from 1, comes with a probability in proportion to r^-exponent. */
  readonly exponent: number;
  /** Mean length of what is added to a centre, whose length is about 1. */
  readonly noise: number;
  readonly seed: number;
}

export interface Draw {
  /** [rows, dim] */
  readonly features: Float32Array;
  /** [rows] */
  readonly labels: Int32Array;
}

/** A source of batches, other ones each time; a seed gives the same ones again. */
export function makeDraws({ dim, classes, exponent, noise, seed }: Population): (rows: number) => Draw {
  const random = seeded(seed);
  const normal = normals(random);
  const unit = 1 / Math.sqrt(dim);
  const centres = Float32Array.from({ length: classes * dim }, () => unit * normal());
  // Ranks in random order, so that shards get the same share of rows.
  const classOf = Int32Array.from(
    shuffled(
      Array.from({ length: classes }, (_, id) => id),
      random,
    ),
  );
  const cumulative = new Float64Array(classes);
  let total = 0;
  for (let rank = 0; rank < classes; rank++) {
    total += (rank + 1) ** -exponent;
    cumulative[rank] = total;
  }
  return (rows) => {
    const labels = Int32Array.from(
      { length: rows },
      () => classOf[rankAt(cumulative, total * random())] ?? 0,
    );
    const features = new Float32Array(rows * dim);
    for (const [row, label] of labels.entries())
      for (let d = 0; d < dim; d++)
        features[row * dim + d] = (centres[label * dim + d] as number) + noise * unit * normal();
    return { features, labels };
  };
}

/** The first rank whose cumulative frequency is above `value`. */
function rankAt(cumulative: Float64Array, value: number): number {
  let [low, high] = [0, cumulative.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((cumulative[middle] as number) > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
