/** From classes of several rows back to one: the second step of Sub-center ArcFace (Deng et al., ECCV 2020). */

import { types } from 'node:util';
import { type ClassShape, checkSubCenters, classSize } from './sub_centers.js';
import {
  checkCount,
  checkFloat32Array,
  checkFloats,
  checkInt32Array,
  checkInteger,
  maxCount,
  mustBe,
  show,
} from './validate.js';

/** Classes with all their rows: those of a head, or of one process of a group. */
export interface SubCenters extends ClassShape {
  /** [classes, subCenters, dim], as `head.weights()` gives them. */
  readonly weights: Float32Array;
  /** The first class's id, such as `head.range.start`. Default 0. */
  readonly start?: number | undefined;
}

/** Embeddings with the classes they are of. */
export interface LabelledRows {
  /** [B, dim] */
  readonly features: Float32Array;
  /** [B], class ids; rows of -1 and of other classes than those given do not count. */
  readonly labels: Int32Array;
}

/**
 * Adds to `counts`, for each sub-centre, the rows of its class that are nearest to it (of equal ones to the first). To be called for
 * all batches of the training set.
 *
 * @param counts [classes, subCenters]; default: a new array of zeros.
 * @returns `counts`.
 * @throws MarginFcError ERR_TYPE or ERR_SHAPE for arguments.
 */
export function countSubCenters(
  centers: SubCenters,
  { features, labels }: LabelledRows,
  counts?: Float64Array,
): Float64Array {
  const { weights, dim, subCenters, start, classes } = checkCenters(centers);
  checkInt32Array(labels, 'labels');
  checkFloats(features, 'features', labels.length * dim, 'labels.length * dim');
  const to = counts ?? new Float64Array(classes * subCenters);
  checkCounts(to, classes * subCenters);
  for (const [i, label] of labels.entries()) {
    const own = label - start;
    if (label < 0 || own < 0 || own >= classes) continue;
    let nearest = 0;
    let best = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < subCenters; k++) {
      const row = (own * subCenters + k) * dim;
      let along = 0;
      let square = 0;
      for (let d = 0; d < dim; d++) {
        const w = weights[row + d] as number;
        along += w * (features[i * dim + d] as number);
        square += w * w;
      }
      const near = along / Math.max(Math.sqrt(square), 1e-12);
      if (near <= best) continue;
      best = near;
      nearest = k;
    }
    to[own * subCenters + nearest]! += 1;
  }
  return to;
}

/**
 * One row for each class: its dominant sub-centre, the one that most rows of the class are nearest to (of equal ones the first).
 *
 * What the paper does with a noisy training set: train with `subCenters: 3`; keep the dominant sub-centres alone; leave out the images
 * that are further than 75 degrees from theirs, which are noise; and train anew with one row a class on the rest.
 *
 * Source: deepinsight/insightface, recognition/subcenter_arcface/drop.py.
 *
 * @param counts [classes, subCenters], of {@link countSubCenters}.
 * @returns [classes, dim], weights for `init` of {@link MarginHead.create}.
 * @throws MarginFcError ERR_TYPE or ERR_SHAPE for arguments.
 * @example
 * ```ts
 * import { countSubCenters, dominantSubCenters, type LabelledRows, MarginHead } from 'marginfc';
 *
 * export async function withoutNoise(trained: MarginHead, images: readonly LabelledRows[]) {
 *   const { dim, classes, subCenters } = trained;
 *   const centers = { weights: trained.weights(), dim, subCenters };
 *   const counts = new Float64Array(classes * subCenters);
 *   for (const batch of images) countSubCenters(centers, batch, counts);
 *   const head = await MarginHead.create({ dim, classes, init: dominantSubCenters(centers, counts) });
 *   const kept: boolean[][] = [];
 *   for (const batch of images) {
 *     const { targetCosine } = await head.evaluate(batch);
 *     kept.push(Array.from(targetCosine, (cosine) => cosine > Math.cos((75 * Math.PI) / 180)));
 *   }
 *   return { head, kept };
 * }
 * ```
 */
export function dominantSubCenters(centers: SubCenters, counts: Float64Array): Float32Array {
  const { weights, dim, subCenters, classes } = checkCenters(centers);
  checkCounts(counts, classes * subCenters);
  const dominant = new Float32Array(classes * dim);
  for (let j = 0; j < classes; j++) {
    const own = counts.subarray(j * subCenters, (j + 1) * subCenters);
    const row =
      j * subCenters + own.reduce((most, count, k) => (count > (own[most] as number) ? k : most), 0);
    dominant.set(weights.subarray(row * dim, (row + 1) * dim), j * dim);
  }
  return dominant;
}

function checkCenters({ weights, dim, subCenters = 1, start = 0 }: SubCenters) {
  checkCount(dim, 'dim');
  checkSubCenters(subCenters);
  checkInteger(start, 'start', { least: 0, most: maxCount });
  const { length } = checkFloat32Array(weights, 'weights');
  const size = classSize({ dim, subCenters });
  if (length % size !== 0)
    throw mustBe('ERR_SHAPE', 'weights.length', `a multiple of subCenters * dim ${size}`, String(length));
  return { weights, dim, subCenters, start, classes: length / size };
}

function checkCounts(counts: Float64Array, length: number): void {
  if (!types.isFloat64Array(counts)) throw mustBe('ERR_TYPE', 'counts', 'a Float64Array', show(counts));
  if (counts.length !== length)
    throw mustBe('ERR_SHAPE', 'counts.length', `${length} (classes * subCenters)`, String(counts.length));
}
