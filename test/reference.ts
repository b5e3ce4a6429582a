/**
 * The loss of docs/numerics.md written out in float64, one formula a line: what every engine is compared
 * with. It holds all B x C cosines, uses no blocking and no trick but those that keep float64 digits.
 *
 *   z_ij = s c_ij,  z_iy = s F(theta_iy),  lse_i = log sum_j exp z_ij,  rowLoss_i = lse_i - z_iy
 *
 * with a transform z_ij = s G_i(c_ij), j another class;
 * with K rows a class  c_ij is the largest cosine to them, and gradients go to that row (of equal ones the first);
 * with label smoothing eps  rowLoss_i = lse_i - sum_j q_ij z_ij,  q_ij = eps / C, and 1 - eps more for the own class;
 * with a row function  rowLoss_i = phi(p_iy);
 * with a binary cross-entropy of each logit, softplus(z) = log(1 + e^z), instead of a softmax
 *   z_iy = s F(theta_iy) + b,  z_ij = s G_i(c_ij) + b,
 *   rowLoss_i = positive softplus(-z_iy) + negative sum_j softplus(z_ij), the latter being in the place of lse_i.
 */

/** A margin parameter: one value, one a row of the batch, or one a class. */
export type Parameter = number | { readonly perRow: Float32Array } | { readonly perClass: Float32Array };

/** What a margin written in JavaScript gets and gives, in cosine units. */
export type CustomTarget = (input: {
  readonly cosine: number;
  readonly row: number;
  readonly label: number;
  readonly featureNorm: number;
}) => { readonly target: number; readonly dTarget: number; readonly dFeatureNorm?: number };

export type ReferenceMargin =
  | { readonly kind: 'arcface'; readonly m: Parameter }
  | { readonly kind: 'cosface'; readonly m: Parameter }
  | { readonly kind: 'x2softmax'; readonly a: Parameter; readonly h: Parameter; readonly k: Parameter }
  | { readonly kind: 'combined'; readonly m1: Parameter; readonly m2: Parameter; readonly m3: Parameter }
  | { readonly kind: 'softmax' }
  | { readonly kind: 'custom'; readonly callback: CustomTarget };

/** phi(p): `-(1 - p)^gamma log p`, `-log(p / (a p + 1 - a))` or `-log(a p + b)`, the latter two with a and b by bins of p. */
export type ReferenceRowFunction =
  | { readonly kind: 'focal'; readonly gamma: number }
  | { readonly kind: 'searchSoftmax'; readonly a: readonly number[]; readonly exponent: number }
  | { readonly kind: 'amLfs'; readonly a: readonly number[]; readonly b: readonly number[] };

export interface ReferenceProblem {
  /** [B, D] */
  readonly features: Float32Array | Float64Array;
  /** [C, D], or [C, K, D] */
  readonly weights: Float32Array | Float64Array;
  /** [B], -1 = ignored */
  readonly labels: Int32Array;
  readonly dim: number;
}

export interface ReferenceOptions {
  readonly margin: ReferenceMargin;
  readonly scale: number;
  readonly gradient: 'exact' | 'straightThrough';
  readonly onOverflow: 'none' | 'fallback' | 'easy';
  readonly reduction: 'mean' | 'sum' | 'none';
  /** Default 0. */
  readonly labelSmoothing?: number;
  /** Default -log p. */
  readonly rowFunction?: ReferenceRowFunction;
  /** K, rows of each class. Default 1. */
  readonly subCenters?: number;
  /** What of the rows of another class than its own the batch's row is nearest to. Default: the cosine. */
  readonly nearness?: (row: number, classRow: number) => number;
  /** G of a row's cosine to another class, and its derivative. Default: the cosine. */
  readonly negative?: (cosine: number, row: number) => { readonly value: number; readonly slope: number };
  /** Instead of a softmax. */
  readonly binary?: { readonly bias: number; readonly positive: number; readonly negative: number };
  /** [B], for mean and sum. */
  readonly rowWeights?: Float32Array;
  /** Multiplies the loss whose gradient is taken: a number, or with reduction 'none' one a row [B]. */
  readonly dLoss?: number | Float32Array;
}

/** What calls do by default. */
export const arcfaceMean: ReferenceOptions = {
  margin: { kind: 'arcface', m: 0.5 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};

export interface ReferenceResult {
  readonly loss: number;
  /** Sum of the absolute terms of `loss`, or of their factors where that is more: what its rounding error is proportional to. */
  readonly lossMagnitude: number;
  /** d rowLoss / d cosine for all other classes that the row lies along together (|cosine| > 0.9), the largest of all rows. */
  readonly lossSlopeAlong: number;
  /** [B] */
  readonly rowLoss: Float64Array;
  /** [B] */
  readonly logSumExp: Float64Array;
  /** [B] */
  readonly targetLogit: Float64Array;
  /** [B] */
  readonly targetCosine: Float64Array;
  /** [B, D] */
  readonly dFeatures: Float64Array;
  /** As weights. */
  readonly dWeights: Float64Array;
  /** Share of the counted rows whose own class has the largest cosine; NaN if none is counted. */
  readonly accuracy: number;
  /** Share of the counted rows with fewer than five classes whose cosine is larger than the own one's; NaN likewise. */
  readonly accuracyTop5: number;
  /** [B], the largest cosine to another class, -2 where there is none or the row is ignored. */
  readonly hardestCosine: Float64Array;
  /** [B], |x| */
  readonly featureNorm: Float64Array;
  /** [C], or [C, K], |w| */
  readonly weightNorm: Float64Array;
  /** Of the loss by the bias of `binary`; else 0. */
  readonly dBias: number;
  /** Largest row of dFeatures times |x| before the tangent projection: what is left where it cancels. */
  readonly dFeaturesUnprojected: number;
  /** The same for dWeights. */
  readonly dWeightsUnprojected: number;
  /**
   * What dFeatures times |x| moves by, in the largest row, when its logits move by 1, each independently of the others: what is
   * uncertain where the terms of a row cancel.
   */
  readonly dFeaturesMoved: number;
  /** The same for dWeights, where all rows move a class together: those of one direction round alike. */
  readonly dWeightsMoved: number;
}

/** Rows shorter than this are divided by it instead of by their norm. */
export const NORM_FLOOR = 1e-12;
/** sin(theta) is not taken smaller than this in the quotient of dF/dc. */
export const SINE_FLOOR = 1e-6;

/** One row of a matrix with its direction. */
interface Row {
  readonly norm: number;
  /** x / max(|x|, 1e-12) */
  readonly unit: Float64Array;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let d = 0; d < a.length; d++) sum += a[d]! * b[d]!;
  return sum;
}

/** y += factor * x */
function addScaled(y: Float64Array, factor: number, x: Float64Array): void {
  for (let d = 0; d < y.length; d++) y[d] = y[d]! + factor * x[d]!;
}

function length(values: Float64Array): number {
  return Math.sqrt(dot(values, values));
}

function rowsOf(matrix: Float32Array | Float64Array, dim: number): Row[] {
  return Array.from({ length: matrix.length / dim }, (_, i) => {
    const raw = Float64Array.from(matrix.subarray(i * dim, (i + 1) * dim));
    const norm = length(raw);
    return { norm, unit: raw.map((value) => value / Math.max(norm, NORM_FLOOR)) };
  });
}

/**
 * Gradient with respect to a raw row, given the one with respect to its unit row: the tangent projection
 * (g - (g.u) u) / |x|, or g / 1e-12 for a row without direction. What is left of g along u is rounding.
 */
function throughNormalisation(gradient: Float64Array, row: Row): Float64Array {
  if (row.norm < NORM_FLOOR) return gradient.map((value) => value / NORM_FLOOR);
  const tangent = Float64Array.from(gradient);
  addScaled(tangent, -dot(gradient, row.unit), row.unit);
  if (length(tangent) < 1e-14 * length(gradient)) return tangent.fill(0);
  return tangent.map((value) => value / row.norm);
}

function clamp(cosine: number): number {
  return Math.max(-1, Math.min(1, cosine));
}

/** |wh - c xh|, which keeps its digits near the poles where sqrt(1 - c^2) has none left. */
function sineBetween(x: Row, w: Row, cosine: number): number {
  if (x.norm < NORM_FLOOR || w.norm < NORM_FLOOR) return Math.sqrt(1 - cosine * cosine);
  const rejection = Float64Array.from(w.unit);
  addScaled(rejection, -cosine, x.unit);
  return length(rejection);
}

function parameterAt(parameter: Parameter, row: number, label: number): number {
  if (typeof parameter === 'number') return parameter;
  return 'perRow' in parameter ? parameter.perRow[row]! : parameter.perClass[label]!;
}

/** F and dF/dc of a row's own class, in cosine units. */
export interface TargetLogit {
  readonly value: number;
  readonly derivative: number;
  /** dF/d|x| */
  readonly normDerivative: number;
}

export function targetLogit(
  options: Pick<ReferenceOptions, 'margin' | 'gradient' | 'onOverflow'>,
  angle: { cosine: number; sine: number; row: number; label: number; featureNorm: number },
): TargetLogit {
  const { margin, onOverflow } = options;
  const straightThrough = options.gradient === 'straightThrough';
  const { cosine, sine, row, label, featureNorm } = angle;
  if (margin.kind === 'custom') {
    const own = margin.callback({ cosine, row, label, featureNorm });
    return {
      value: own.target,
      derivative: straightThrough ? 1 : own.dTarget,
      normDerivative: own.dFeatureNorm ?? 0,
    };
  }
  const theta = Math.atan2(sine, cosine);
  const quotient = Math.max(sine, SINE_FLOOR);
  const at = (parameter: Parameter) => parameterAt(parameter, row, label);
  const [value, derivative] = ((): [number, number] => {
    switch (margin.kind) {
      case 'softmax':
        return [cosine, 1];
      case 'cosface':
        return [cosine - at(margin.m), 1];
      case 'x2softmax': {
        const [a, h, k] = [at(margin.a), at(margin.h), at(margin.k)];
        return [a * (theta - h) ** 2 + k, (-2 * a * (theta - h)) / quotient];
      }
      case 'arcface': {
        const m = at(margin.m);
        if (onOverflow === 'fallback' && theta > Math.PI - m) return [cosine - m * Math.sin(m), 1];
        if (onOverflow === 'easy' && cosine <= 0) return [cosine, 1];
        return [Math.cos(theta + m), Math.sin(theta + m) / quotient];
      }
      case 'combined': {
        const [m1, m2, m3] = [at(margin.m1), at(margin.m2), at(margin.m3)];
        const scaled = m1 * theta;
        // With m1 = 1 the cosine itself: cos(acos 0) is not 0, and a row of zeros sits exactly there.
        const plain: [number, number] =
          m1 === 1 ? [cosine, 1] : [Math.cos(scaled), (m1 * Math.sin(scaled)) / quotient];
        if (onOverflow === 'fallback' && scaled > Math.PI - m2)
          return [plain[0] - m2 * Math.sin(m2) - m3, plain[1]];
        if (onOverflow === 'easy' && plain[0] <= 0) return [plain[0] - m3, plain[1]];
        return [Math.cos(scaled + m2) - m3, (m1 * Math.sin(scaled + m2)) / quotient];
      }
    }
  })();
  return { value, derivative: straightThrough ? 1 : derivative, normDerivative: 0 };
}

/** phi, and -p phi'(p): its derivative by l = -log p, in terms of which both keep their digits where p is near 0 or 1. */
export function rowValue(
  rowFunction: ReferenceRowFunction | undefined,
  loss: number,
  scale: number,
): { value: number; slope: number } {
  if (rowFunction === undefined || loss === 0) return { value: loss, slope: 1 };
  const [l, p, q] = [loss, Math.exp(-loss), -Math.expm1(-loss)];
  const ofBin = (values: readonly number[]) =>
    values[values.findIndex((_, j) => p <= (j + 1) / values.length)]!;
  switch (rowFunction.kind) {
    case 'focal': {
      const { gamma } = rowFunction;
      return { value: q ** gamma * l, slope: q ** gamma + gamma * p * q ** (gamma - 1) * l };
    }
    case 'searchSoftmax': {
      const a = ofBin(rowFunction.a) * Math.exp(rowFunction.exponent * scale);
      return { value: l + Math.log1p(-a * q), slope: 1 - (a * p) / (1 - a * q) };
    }
    case 'amLfs': {
      const [a, b] = [ofBin(rowFunction.a), ofBin(rowFunction.b)];
      if (b === 0) return { value: l - Math.log(a), slope: 1 };
      return { value: -Math.log(a * p + b), slope: (a * p) / (a * p + b) };
    }
  }
}

/** What each row's loss is multiplied with in the total. */
function rowFactors(labels: Int32Array, options: ReferenceOptions): Float64Array {
  const { reduction, rowWeights, dLoss } = options;
  if (reduction === 'none') {
    return Float64Array.from(labels, (label, i) => {
      if (label < 0) return 0;
      return typeof dLoss === 'object' ? dLoss[i]! : (dLoss ?? 1);
    });
  }
  const weights = Float64Array.from(labels, (label, i) => (label < 0 ? 0 : (rowWeights?.[i] ?? 1)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (reduction === 'sum') return weights;
  return weights.map((weight) => (total === 0 ? 0 : weight / total));
}

/** log(1 + e^z) and its derivative. */
function softplus(z: number): { value: number; slope: number } {
  const small = Math.exp(-Math.abs(z));
  return { value: Math.max(z, 0) + Math.log1p(small), slope: (z > 0 ? 1 : small) / (1 + small) };
}

/** log sum exp of all logits, the largest taken out first so that no scale overflows or underflows. */
function logSumExp(logits: Float64Array): number {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return largest + Math.log(logits.reduce((sum, z) => sum + Math.exp(z - largest), 0));
}

export function reference(problem: ReferenceProblem, options: ReferenceOptions): ReferenceResult {
  const { labels, dim } = problem;
  const { scale, labelSmoothing = 0, subCenters = 1, binary } = options;
  const { negative = (cosine: number) => ({ value: cosine, slope: 1 }) } = options;
  const features = rowsOf(problem.features, dim);
  const classRows = rowsOf(problem.weights, dim);
  const rows = features.length;
  const classes = classRows.length / subCenters;
  const factors = rowFactors(labels, options);
  // With mean and sum, dLoss is the gradient that reaches the finished loss.
  const upstream = options.reduction === 'none' ? 1 : ((options.dLoss ?? 1) as number);

  const rowLoss = new Float64Array(rows);
  const lse = new Float64Array(rows);
  const ownLogit = new Float64Array(rows).fill(NaN);
  const targetCosine = new Float64Array(rows);
  const hardestCosine = new Float64Array(rows).fill(-2);
  const dFeatures = new Float64Array(rows * dim);
  const dWeights = new Float64Array(classRows.length * dim);
  // Gradients with respect to unit weight rows, from negatives; the target's own terms are added to
  // dWeights as tangents, so that a large F' never meets the vanishing direction it multiplies.
  const dUnitWeights = Array.from(classRows, () => new Float64Array(dim));
  const weightUnprojected = new Float64Array(classRows.length);
  const weightMoved = new Float64Array(classRows.length);
  let loss = 0;
  let lossMagnitude = 0;
  let lossFactors = 0;
  let lossSlopeAlong = 0;
  let dBias = 0;
  let dFeaturesUnprojected = 0;
  let dFeaturesMoved = 0;
  let counted = 0;
  let correct = 0;
  let correctInFive = 0;

  features.forEach((x, i) => {
    const label = labels[i]!;
    const near = Float64Array.from(classRows, (w) => clamp(dot(x.unit, w.unit)));
    const nearest = Int32Array.from({ length: classes }, (_, j) => {
      const own = Array.from({ length: subCenters }, (_, k) => j * subCenters + k);
      const { nearness } = options;
      const by = nearness && j !== label ? (row: number) => nearness(i, row) : (row: number) => near[row]!;
      return own.reduce((best, row) => (by(row) > by(best) ? row : best));
    });
    const cosines = Float64Array.from(nearest, (row) => near[row]!);
    const weights = Array.from(nearest, (row) => classRows[row]!);
    const logits = cosines.map((cosine) => scale * negative(cosine, i).value);
    const losses = binary && logits.map((z) => binary.negative * softplus(z + binary.bias).value);
    const sumOf = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0);
    if (label < 0) {
      lse[i] = losses ? sumOf(losses) : logSumExp(logits);
      return;
    }
    const w = weights[label]!;
    const cosine = cosines[label]!;
    const sine = sineBetween(x, w, cosine);
    const own = targetLogit(options, { cosine, sine, row: i, label, featureNorm: x.norm });
    logits[label] = scale * own.value;
    ownLogit[i] = logits[label]!;
    targetCosine[i] = cosine;
    let negatives: Float64Array;
    let shortfall: number;
    if (binary && losses) {
      const positive = softplus(-(logits[label]! + binary.bias));
      losses[label] = 0;
      lse[i] = sumOf(losses);
      negatives = logits.map((z, j) => (j === label ? 0 : binary.negative * softplus(z + binary.bias).slope));
      shortfall = binary.positive * positive.slope;
      rowLoss[i] = binary.positive * positive.value + lse[i]!;
      dBias += upstream * factors[i]! * (sumOf(negatives) - shortfall);
    } else {
      lse[i] = logSumExp(logits);
      // 1 - p_y and the loss come from the negatives: subtracting from 1, or from lse, would cancel.
      negatives = logits.map((z, j) => (j === label ? 0 : Math.exp(z - lse[i]!)));
      shortfall = sumOf(negatives);
      rowLoss[i] = shortfall < 0.5 ? -Math.log1p(-shortfall) : lse[i]! - logits[label]!;
    }
    const each = labelSmoothing / classes;
    logits.forEach((z) => {
      rowLoss[i] = rowLoss[i]! + each * (logits[label]! - z);
    });
    const { value, slope } = rowValue(options.rowFunction, rowLoss[i]!, scale);
    rowLoss[i] = value;
    const factor = factors[i]!;
    loss += factor * rowLoss[i]!;
    lossMagnitude += Math.abs(factor * rowLoss[i]!);
    lossFactors += Math.abs(factor);
    counted += 1;
    if (cosines.every((other) => other <= cosine)) correct += 1;
    if (cosines.filter((other) => other > cosine).length < 5) correctInFive += 1;
    hardestCosine[i] = cosines.reduce((most, other, j) => (j === label ? most : Math.max(most, other)), -2);

    const reach = upstream * factor * scale * slope;
    const along = negatives.filter((_, j) => Math.abs(cosines[j]!) > 0.9);
    lossSlopeAlong = Math.max(lossSlopeAlong, scale * slope * sumOf(along));
    const dUnitFeature = new Float64Array(dim);
    let unprojected = 0;
    let movedSquared = 0;
    const addMoved = (row: number, share: number, steepness: number, cosine: number) => {
      const moved = Math.abs(reach * share * (1 - share) * steepness) * Math.sqrt(1 - cosine ** 2);
      weightMoved[row] = weightMoved[row]! + moved;
      movedSquared += moved ** 2;
    };
    negatives.forEach((p, j) => {
      if (j === label) return;
      const bend = negative(cosines[j]!, i).slope;
      addScaled(dUnitFeature, reach * (p - each) * bend, weights[j]!.unit);
      const row = nearest[j]!;
      addScaled(dUnitWeights[row]!, reach * (p - each) * bend, x.unit);
      weightUnprojected[row] = weightUnprojected[row]! + Math.abs(reach * (p + each) * bend);
      unprojected += Math.abs(reach * (p + each) * bend);
      addMoved(row, p, bend, cosines[j]!);
    });
    // 1 - p_y, less what smoothing takes from the own class and gives to the others.
    const missing = shortfall - each * (classes - 1);
    const gamma = -reach * missing * own.derivative;
    const dRow = throughNormalisation(dUnitFeature, x);
    addScaled(dRow, gamma, throughNormalisation(w.unit, x));
    // d|x|/dx = x/|x|; a row without direction has none.
    if (x.norm >= NORM_FLOOR) addScaled(dRow, -reach * missing * own.normDerivative, x.unit);
    dFeatures.set(dRow, i * dim);
    const ownRow = nearest[label]!;
    addScaled(dWeights.subarray(ownRow * dim, (ownRow + 1) * dim), gamma, throughNormalisation(x.unit, w));
    // A target's direction shrinks with its sine, so its unprojected size is not what rounding follows.
    const ownSize = Math.abs(reach) * (shortfall + labelSmoothing);
    weightUnprojected[ownRow] = weightUnprojected[ownRow]! + ownSize;
    dFeaturesUnprojected = Math.max(dFeaturesUnprojected, ownSize + unprojected);
    addMoved(ownRow, shortfall, own.derivative, cosine);
    dFeaturesMoved = Math.max(dFeaturesMoved, Math.sqrt(movedSquared));
  });

  classRows.forEach((w, j) => {
    addScaled(dWeights.subarray(j * dim, (j + 1) * dim), 1, throughNormalisation(dUnitWeights[j]!, w));
  });

  return {
    loss,
    lossMagnitude: Math.max(lossMagnitude, lossFactors),
    lossSlopeAlong,
    rowLoss,
    logSumExp: lse,
    targetLogit: ownLogit,
    targetCosine,
    dFeatures,
    dWeights,
    accuracy: counted === 0 ? NaN : correct / counted,
    accuracyTop5: counted === 0 ? NaN : correctInFive / counted,
    hardestCosine,
    featureNorm: Float64Array.from(features, (x) => x.norm),
    weightNorm: Float64Array.from(classRows, (w) => w.norm),
    dBias,
    dFeaturesUnprojected,
    dWeightsUnprojected: weightUnprojected.reduce((a, b) => Math.max(a, b), 0),
    dFeaturesMoved,
    dWeightsMoved: weightMoved.reduce((a, b) => Math.max(a, b), 0),
  };
}
