/**
 * The loss and its gradients in float64 for some rows and some classes: all of a small problem, a sample
 * of one whose B x C x D products would take minutes. Formulas: docs/numerics.md.
 */

import type { Formula } from '../formula.js';
import { negativeOf, type RowTargets, rowLossOf, rowTargets, softplus } from './row_targets.js';

export interface Problem {
  /** [B, D] */
  readonly features: Float32Array;
  /** [C, D], or [C, K, D] */
  readonly weights: Float32Array;
  /** [B], no -1 */
  readonly labels: Int32Array;
  readonly dim: number;
}

/** Results of one row, with respect to the mean loss of the whole batch. */
export interface RowReference {
  readonly row: number;
  readonly norm: number;
  readonly logSumExp: number;
  readonly loss: number;
  /** [D] */
  readonly dFeatures: Float64Array;
}

/** The gradient of one row of W. */
export interface ClassRowReference {
  readonly classRow: number;
  readonly norm: number;
  /** [D] */
  readonly dWeights: Float64Array;
}

/** a[i D ..] . b[j D ..] */
function dot(a: Float32Array, i: number, b: Float32Array, j: number, dim: number): number {
  let sum = 0;
  for (let d = 0; d < dim; d++) sum += (a[i * dim + d] as number) * (b[j * dim + d] as number);
  return sum;
}

/** 1 / max(|x_i|, 1e-12) */
export function inverseNorms(matrix: Float32Array, dim: number): Float64Array {
  return Float64Array.from(
    { length: matrix.length / dim },
    (_, i) => 1 / Math.max(Math.sqrt(dot(matrix, i, matrix, i, dim)), 1e-12),
  );
}

/** (g - (g . u) u) / |x| for u = x / |x|, in place. */
function project(gradient: Float64Array, matrix: Float32Array, i: number, inverse: number): void {
  const dim = gradient.length;
  let along = 0;
  for (let d = 0; d < dim; d++) along += (gradient[d] as number) * (matrix[i * dim + d] as number);
  along *= inverse * inverse;
  for (let d = 0; d < dim; d++)
    gradient[d] = ((gradient[d] as number) - along * (matrix[i * dim + d] as number)) * inverse;
}

type Binary = NonNullable<RowTargets['binary']>;

interface Inverse {
  readonly features: Float64Array;
  readonly weights: Float64Array;
}

/** What a row's and a class's reference are computed from. */
interface Given {
  readonly problem: Problem;
  readonly inverse: Inverse;
  readonly formula: Formula;
  /** [B], the row of W that stands for the row's own class. */
  readonly own: Int32Array;
  readonly targets: RowTargets;
}

type Inputs = Pick<Given, 'problem' | 'inverse' | 'formula'>;

/** The row of W that stands for a class, the first of those with the largest cosine to the row, and that cosine. */
function nearestOf({ problem, inverse, formula }: Inputs, row: number, j: number): readonly [number, number] {
  const { features, weights, dim } = problem;
  const { subCenters } = formula;
  let [nearest, largest] = [j * subCenters, -Infinity];
  for (let classRow = j * subCenters; classRow < (j + 1) * subCenters; classRow++) {
    const inverses = (inverse.features[row] as number) * (inverse.weights[classRow] as number);
    const cosine = dot(features, row, weights, classRow, dim) * inverses;
    if (cosine > largest) [nearest, largest] = [classRow, cosine];
  }
  return [nearest, largest];
}

/** F and its derivatives of all rows. */
function targetsOf(given: Inputs, own: Int32Array): RowTargets {
  const { problem, inverse, formula } = given;
  const { features, weights, labels, dim } = problem;
  const cosine = new Float64Array(labels.length);
  const sine = new Float64Array(labels.length);
  for (const [row, ownRow] of own.entries()) {
    const [x, w] = [inverse.features[row] as number, inverse.weights[ownRow] as number];
    const c = dot(features, row, weights, ownRow, dim) * x * w;
    let square = 0;
    for (let d = 0; d < dim; d++)
      square +=
        ((weights[ownRow * dim + d] as number) * w - c * (features[row * dim + d] as number) * x) ** 2;
    cosine[row] = c;
    sine[row] = Math.sqrt(square);
  }
  const featureNorm = inverse.features.map((x) => 1 / x);
  const classes = weights.length / dim / formula.subCenters;
  const meanHardCosine = (threshold: Float64Array) => {
    if (labels.length * weights.length > mostProducts)
      throw new Error(
        `the reference of ${formula.margin.kind} needs all rows and classes, which are too many`,
      );
    return threshold.map((least, row) => {
      let [sum, count] = [0, 0];
      for (let j = 0; j < classes; j++) {
        const [, c] = nearestOf(given, row, j);
        if (j === labels[row] || c <= least) continue;
        sum += c;
        count++;
      }
      return sum / Math.max(count, 1);
    });
  };
  return rowTargets({ cosine, sine, featureNorm, labels, classes, meanHardCosine }, formula);
}

/** A row's loss, what multiplies the factors of its negatives, and -dLoss/dlogit of its own class. */
interface RowParts {
  readonly loss: number;
  /** Of a binary reduction the negatives' part of the loss. */
  readonly logSumExp: number;
  readonly each: number;
  readonly shortfall: number;
}

/** `negatives`: the sum of exp(z - s). */
function softmaxParts(formula: Formula, logit: number, negatives: number): RowParts {
  const { scale } = formula;
  const total = negatives + Math.exp(logit - scale);
  const logSumExp = scale + Math.log(total);
  const rest = negatives / total;
  const { loss, factor } = rowLossOf(formula, logSumExp - logit, rest);
  return { loss, logSumExp, each: factor / total, shortfall: factor * rest };
}

/** `negatives`: the sum of softplus(z). */
function binaryParts(binary: Binary, logit: number, negatives: number): RowParts {
  const [value, slope] = softplus(-(logit + binary.bias));
  const logSumExp = binary.negative * negatives;
  const loss = binary.positive * value + logSumExp;
  return { loss, logSumExp, each: binary.negative, shortfall: binary.positive * slope };
}

/** Loss and dX of one row, over all classes. */
function rowReference(given: Given, row: number): RowReference {
  const { problem, inverse, formula, targets } = given;
  const { features, weights, labels, dim } = problem;
  const { scale, subCenters } = formula;
  const { binary } = targets;
  const classRows = weights.length / dim;
  const own = given.own[row] as number;
  const x = inverse.features[row] as number;
  const logit = scale * (targets.target[row] as number);

  // dLoss/dcos of negatives, over the scale, once they are multiplied with `each`.
  const factors = new Float64Array(classRows);
  let negatives = 0;
  for (let j = 0; j < classRows / subCenters; j++) {
    if (j === labels[row]) continue;
    const [classRow, cosine] = nearestOf(given, row, j);
    const [value, slope] = negativeOf(targets, row, cosine);
    const exponential = Math.exp(scale * (value - 1));
    const [part, factor] = binary ? softplus(scale * value + binary.bias) : [exponential, exponential];
    negatives += part;
    factors[classRow] = factor * slope;
  }
  const { loss, logSumExp, each, shortfall } = binary
    ? binaryParts(binary, logit, negatives)
    : softmaxParts(formula, logit, negatives);
  const reach = scale / labels.length;

  const dFeatures = new Float64Array(dim);
  for (let j = 0; j < classRows; j++) {
    const factor = (factors[j] as number) * each * reach * (inverse.weights[j] as number);
    for (let d = 0; d < dim; d++)
      dFeatures[d] = (dFeatures[d] as number) + factor * (weights[j * dim + d] as number);
  }
  const dTarget = -reach * shortfall;
  const gamma = dTarget * (targets.dTarget[row] as number) * (inverse.weights[own] as number);
  for (let d = 0; d < dim; d++)
    dFeatures[d] = (dFeatures[d] as number) + gamma * (weights[own * dim + d] as number);
  project(dFeatures, features, row, x);
  const along = dTarget * (targets.dFeatureNorm?.[row] ?? 0) * x;
  for (let d = 0; d < dim; d++)
    dFeatures[d] = (dFeatures[d] as number) + along * (features[row * dim + d] as number);
  return { row, norm: 1 / x, logSumExp, loss, dFeatures };
}

/** dLoss/dcos of a row and a class, over the scale. */
function classFactor(
  { problem, formula, targets }: Given,
  row: number,
  j: number,
  cosine: number,
  lse: number,
) {
  const { scale } = formula;
  const { binary } = targets;
  const own = problem.labels[row] === j;
  const [value, slope] = own
    ? [targets.target[row] as number, targets.dTarget[row] as number]
    : negativeOf(targets, row, cosine);
  if (binary) {
    const z = scale * value + binary.bias;
    return (own ? -binary.positive * softplus(-z)[1] : binary.negative * softplus(z)[1]) * slope;
  }
  const target = scale * (targets.target[row] as number) - lse;
  const { factor } = rowLossOf(formula, -target, -Math.expm1(target));
  return factor * (own ? Math.expm1(target) : Math.exp(scale * value - lse)) * slope;
}

/** dW of one row of W, over all rows, whose logSumExp [B] is given. */
function classRowReference(given: Given, classRow: number, logSumExp: ArrayLike<number>): ClassRowReference {
  const { problem, inverse, formula } = given;
  const { features, weights, labels, dim } = problem;
  const { scale, subCenters } = formula;
  const w = inverse.weights[classRow] as number;
  const j = Math.floor(classRow / subCenters);
  const reach = scale / labels.length;
  const dWeights = new Float64Array(dim);
  for (let row = 0; row < labels.length; row++) {
    const x = inverse.features[row] as number;
    const [nearest, cosine] = nearestOf(given, row, j);
    if (nearest !== classRow) continue;
    const factor = classFactor(given, row, j, cosine, logSumExp[row] as number);
    const times = reach * factor * x;
    for (let d = 0; d < dim; d++)
      dWeights[d] = (dWeights[d] as number) + times * (features[row * dim + d] as number);
  }
  project(dWeights, weights, classRow, w);
  return { classRow, norm: 1 / w, dWeights };
}

export interface Reference {
  readonly rows: readonly RowReference[];
  readonly classRows: readonly ClassRowReference[];
}

/** More products than this are sampled: a second or two. */
const mostProducts = 1e8;
const sampledRows = 8;
const sampledClassRows = 16;

/** `count` of 0 .. length-1 at even distances, the first and the last among them; all, if there are fewer. */
function evenly(count: number, length: number): number[] {
  if (length <= count) return Array.from({ length }, (_, i) => i);
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - 1)) / (count - 1)));
}

/**
 * The reference of a problem; a sample of it where it has more than `most` products. Where only some rows are
 * computed, `logSumExp` [B], an engine's, stands in for the others' in the gradients of the rows of W: half of
 * these belong to a row, as only their gradients are large.
 */
export function reference(
  problem: Problem,
  formula: Formula,
  logSumExp: ArrayLike<number>,
  most = mostProducts,
): Reference {
  const { features, weights, labels, dim } = problem;
  const B = labels.length;
  const classRows = weights.length / dim;
  const whole = B * classRows * dim <= most;
  const inverse = { features: inverseNorms(features, dim), weights: inverseNorms(weights, dim) };
  const known = { problem, inverse, formula };
  const own = Int32Array.from(labels, (label, row) => nearestOf(known, row, label)[0]);
  const given = { ...known, own, targets: targetsOf(known, own) };
  const rows = evenly(whole ? B : sampledRows, B).map((row) => rowReference(given, row));
  const sums = Float64Array.from(logSumExp);
  for (const row of rows) sums[row.row] = row.logSumExp;
  const chosen = whole
    ? evenly(classRows, classRows)
    : new Set([
        ...evenly(sampledClassRows / 2, classRows),
        ...evenly(sampledClassRows / 2, B).map((row) => own[row] as number),
      ]);
  return { rows, classRows: [...chosen].map((classRow) => classRowReference(given, classRow, sums)) };
}

/** What is compared. */
export interface Measured {
  readonly logSumExp?: Float32Array;
  readonly rowLoss: Float32Array;
  readonly dFeatures?: Float32Array;
  /** dW of a row of W, [D]. */
  readonly dWeights?: (classRow: number) => ArrayLike<number>;
}

/** The largest errors, in the metrics of docs/numerics.md over what the reference has. */
export function errors(measured: Measured, expected: Reference): { loss: number; gradient?: number } {
  const dim = expected.rows[0]?.dFeatures.length ?? 0;
  const { logSumExp, rowLoss, dFeatures, dWeights } = measured;
  const loss = Math.max(
    scalarError(expected.rows.map((row) => [rowLoss[row.row] as number, row.loss])),
    logSumExp ? scalarError(expected.rows.map((row) => [logSumExp[row.row] as number, row.logSumExp])) : 0,
  );
  const gradients = [
    dFeatures &&
      gradientError(
        expected.rows.map((row) => ({
          norm: row.norm,
          got: dFeatures.subarray(row.row * dim, (row.row + 1) * dim),
          expected: row.dFeatures,
        })),
      ),
    dWeights &&
      gradientError(
        expected.classRows.map((entry) => ({
          norm: entry.norm,
          got: dWeights(entry.classRow),
          expected: entry.dWeights,
        })),
      ),
  ].filter((error) => error !== undefined);
  return gradients.length > 0 ? { loss, gradient: Math.max(...gradients) } : { loss };
}

/** max |got - expected| / max(1, max |expected|) */
function scalarError(pairs: readonly (readonly [got: number, expected: number])[]): number {
  const size = Math.max(1, ...pairs.map(([, expected]) => Math.abs(expected)));
  return Math.max(...pairs.map(([got, expected]) => Math.abs(got - expected))) / size;
}

/** Every row times its norm; then the largest error over the largest expected value. */
function gradientError(
  rows: readonly { norm: number; got: ArrayLike<number>; expected: Float64Array }[],
): number {
  let error = 0;
  let size = 0;
  for (const { norm, got, expected } of rows)
    expected.forEach((value, d) => {
      // Math.max passes NaN on, which no limit admits.
      error = Math.max(error, norm * Math.abs((got[d] as number) - value));
      size = Math.max(size, norm * Math.abs(value));
    });
  return error / (size || 1);
}
