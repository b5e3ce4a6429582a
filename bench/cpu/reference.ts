/**
 * The ArcFace loss and its gradients in float64 for some rows and some classes: all of a small problem, a sample
 * of one whose B x C x D products would take minutes. Formulas: docs/numerics.md.
 */

export interface Problem {
  /** [B, D] */
  readonly features: Float32Array;
  /** [C, D] */
  readonly weights: Float32Array;
  /** [B], no -1 */
  readonly labels: Int32Array;
  readonly dim: number;
}

export interface LossParameters {
  readonly scale: number;
  /** The margin, radians. */
  readonly m: number;
  /** dF/dc is taken as 1. */
  readonly straightThrough?: boolean;
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

/** The gradient of one class. */
export interface ClassReference {
  readonly class: number;
  readonly norm: number;
  /** [D] */
  readonly dWeights: Float64Array;
}

interface Target {
  readonly cosine: number;
  /** s F(theta) */
  readonly logit: number;
  /** dF/dc */
  readonly derivative: number;
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

/** cos(theta + m) of a row's own class; sin(theta) is |wh - c xh|. */
function target(
  problem: Problem,
  row: number,
  label: number,
  inverse: Inverse,
  loss: LossParameters,
): Target {
  const { features, weights, dim } = problem;
  const [x, w] = [inverse.features[row] as number, inverse.weights[label] as number];
  const cosine = dot(features, row, weights, label, dim) * x * w;
  let square = 0;
  for (let d = 0; d < dim; d++)
    square +=
      ((weights[label * dim + d] as number) * w - cosine * (features[row * dim + d] as number) * x) ** 2;
  const sine = Math.sqrt(square);
  const theta = Math.atan2(sine, cosine);
  return {
    cosine,
    logit: loss.scale * Math.cos(theta + loss.m),
    derivative: loss.straightThrough ? 1 : Math.sin(theta + loss.m) / Math.max(sine, 1e-6),
  };
}

interface Inverse {
  readonly features: Float64Array;
  readonly weights: Float64Array;
}

/** Loss and dX of one row, over all classes. */
function rowReference(problem: Problem, row: number, inverse: Inverse, loss: LossParameters): RowReference {
  const { features, weights, labels, dim } = problem;
  const classes = weights.length / dim;
  const label = labels[row] as number;
  const x = inverse.features[row] as number;
  const own = target(problem, row, label, inverse, loss);

  const exponentials = new Float64Array(classes);
  let negatives = 0;
  for (let j = 0; j < classes; j++) {
    if (j === label) continue;
    const cosine = dot(features, row, weights, j, dim) * x * (inverse.weights[j] as number);
    negatives += exponentials[j] = Math.exp(loss.scale * (cosine - 1));
  }
  const targetExponential = Math.exp(own.logit - loss.scale);
  const total = negatives + targetExponential;
  const reach = loss.scale / labels.length;

  const dFeatures = new Float64Array(dim);
  for (let j = 0; j < classes; j++) {
    const factor = ((exponentials[j] as number) / total) * reach * (inverse.weights[j] as number);
    for (let d = 0; d < dim; d++)
      dFeatures[d] = (dFeatures[d] as number) + factor * (weights[j * dim + d] as number);
  }
  const gamma = -reach * (negatives / total) * own.derivative * (inverse.weights[label] as number);
  for (let d = 0; d < dim; d++)
    dFeatures[d] = (dFeatures[d] as number) + gamma * (weights[label * dim + d] as number);
  project(dFeatures, features, row, x);
  const logSumExp = loss.scale + Math.log(total);
  return { row, norm: 1 / x, logSumExp, loss: logSumExp - own.logit, dFeatures };
}

/** dW of one class, over all rows, whose logSumExp [B] is given. */
function classReference(
  problem: Problem,
  j: number,
  inverse: Inverse,
  loss: LossParameters,
  logSumExp: ArrayLike<number>,
): ClassReference {
  const { features, weights, labels, dim } = problem;
  const w = inverse.weights[j] as number;
  const reach = loss.scale / labels.length;
  const dWeights = new Float64Array(dim);
  for (let row = 0; row < labels.length; row++) {
    const x = inverse.features[row] as number;
    const lse = logSumExp[row] as number;
    let factor: number;
    if (labels[row] === j) {
      const own = target(problem, row, j, inverse, loss);
      factor = reach * Math.expm1(own.logit - lse) * own.derivative;
    } else {
      const cosine = dot(features, row, weights, j, dim) * x * w;
      factor = reach * Math.exp(loss.scale * cosine - lse);
    }
    for (let d = 0; d < dim; d++)
      dWeights[d] = (dWeights[d] as number) + factor * x * (features[row * dim + d] as number);
  }
  project(dWeights, weights, j, w);
  return { class: j, norm: 1 / w, dWeights };
}

export interface Reference {
  readonly rows: readonly RowReference[];
  readonly classes: readonly ClassReference[];
}

/** More products than this are sampled: a second or two. */
const mostProducts = 1e8;
const sampledRows = 8;
const sampledClasses = 16;

/** `count` of 0 .. length-1 at even distances, the first and the last among them; all, if there are fewer. */
function evenly(count: number, length: number): number[] {
  if (length <= count) return Array.from({ length }, (_, i) => i);
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - 1)) / (count - 1)));
}

/**
 * The reference of a problem; a sample of it where it has more than `most` products. Where only some rows are
 * computed, `logSumExp` [B], an engine's, stands in for the others' in the gradients of the classes: half of
 * these belong to a row, as only their gradients are large.
 */
export function reference(
  problem: Problem,
  loss: LossParameters,
  logSumExp: ArrayLike<number>,
  most = mostProducts,
): Reference {
  const { features, weights, labels, dim } = problem;
  const B = labels.length;
  const C = weights.length / dim;
  const whole = B * C * dim <= most;
  const inverse = { features: inverseNorms(features, dim), weights: inverseNorms(weights, dim) };
  const rows = evenly(whole ? B : sampledRows, B).map((row) => rowReference(problem, row, inverse, loss));
  const known = Float64Array.from(logSumExp);
  for (const row of rows) known[row.row] = row.logSumExp;
  const chosen = whole
    ? evenly(C, C)
    : new Set([
        ...evenly(sampledClasses / 2, C),
        ...evenly(sampledClasses / 2, B).map((row) => labels[row] as number),
      ]);
  const classes = [...chosen].map((j) => classReference(problem, j, inverse, loss, known));
  return { rows, classes };
}

/** What is compared. */
export interface Measured {
  readonly logSumExp?: Float32Array;
  readonly rowLoss: Float32Array;
  readonly dFeatures?: Float32Array;
  /** dW of a class, [D]. */
  readonly dWeights?: (j: number) => ArrayLike<number>;
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
        expected.classes.map((entry) => ({
          norm: entry.norm,
          got: dWeights(entry.class),
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
