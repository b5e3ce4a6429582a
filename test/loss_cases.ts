/** Losses that are margins over a whole batch, with their formulas in float64: what their tests go through. */

import { normalOf } from '../src/counter_random.js';
import {
  adaface,
  adaptiveFace,
  arcface,
  circleLoss,
  cosface,
  curricularface,
  dynArcFace,
  elasticArcFace,
  elasticCosFace,
  type GradientMode,
  type Margin,
  magface,
  mvSoftmax,
  npcface,
  type OverflowPolicy,
  randomSoftmax,
  sphereface,
  sphereface2,
  uniface,
} from '../src/index.js';
import { makeProblem, type Problem } from './problems.js';
import { type ReferenceOptions, reference } from './reference.js';

export const size = { rows: 31, dim: 33, classes: 131 };

/** With norms from 0.5 to 129.5, on both sides of where MagFace cuts off, at 10 and 110. */
export function withNorms(problem: Problem): Problem {
  const { dim } = problem;
  const features = problem.features.slice();
  for (let i = 0; i < features.length / dim; i++) {
    const row = features.subarray(i * dim, (i + 1) * dim);
    const factor = (0.5 + ((i * 37) % 130)) / Math.hypot(...row);
    for (let d = 0; d < dim; d++) row[d]! *= factor;
  }
  return { ...problem, features };
}

export const spread = withNorms(makeProblem(size, 'spread', 'ignored', 1));
export const clustered = withNorms(makeProblem(size, 'clustered', 'ignored', 2));

/** F of one row, and what the rows of its batch are. */
export type Formula = (c: number, norm: number, row: number, batch: Rows) => number;

export interface Rows {
  /** Target cosines; of ignored rows 0. */
  readonly cosine: Float64Array;
  readonly norms: Float64Array;
  readonly labels: Int32Array;
  readonly scale: number;
  /** [B][C], to all classes. */
  readonly cosines: readonly Float64Array[];
}

/** G of a row's cosine to another class; with a slope where that is not the derivative. */
export interface Negative {
  readonly value: (c: number, row: number, batch: Rows) => number;
  readonly slope?: (c: number, row: number, batch: Rows) => number;
}

const { acos, cos, sin, exp, log, abs, min, max, floor, PI } = Math;

const arc =
  (policy: OverflowPolicy) =>
  (c: number, m: number): number => {
    const theta = acos(c);
    if (policy === 'fallback' && theta + m > PI) return c - m * sin(m);
    if (policy === 'easy' && c <= 0) return c;
    return cos(theta + m);
  };

const magfaceFormula =
  (policy: OverflowPolicy): Formula =>
  (c, norm) =>
    arc(policy)(c, 0.45 + ((0.8 - 0.45) / (110 - 10)) * (max(10, min(110, norm)) - 10));

/** What row i's margin is among those drawn, as `plus` has it: by the number of rows that are nearer to their class. */
function sorted(m: number, sigma: number, seed: number, step: number, row: number, batch: Rows): number {
  const { labels, cosine } = batch;
  const counted = [...labels.keys()].filter((i) => labels[i] !== -1);
  const drawn = counted.map((i) => m + sigma * normalOf(seed, step, i)).sort((a, b) => a - b);
  return drawn[counted.filter((i) => cosine[i]! > cosine[row]!).length]!;
}

/** As the released code has it: the place, among all, of the row that is as near as this row is late. */
function released(m: number, sigma: number, seed: number, step: number, row: number, batch: Rows): number {
  const { labels, cosine } = batch;
  const counted = [...labels.keys()].filter((i) => labels[i] !== -1);
  const drawn = counted.map((i) => m + sigma * normalOf(seed, step, i)).sort((a, b) => a - b);
  const places = counted.map((i) => cosine[i]!);
  const descending = [...places].sort((a, b) => b - a);
  return drawn[places.indexOf(descending[counted.indexOf(row)]!)]!;
}

const psi = (c: number, m: number) => {
  const k = floor((m * acos(c)) / PI);
  return (-1) ** k * cos(m * acos(c)) - 2 * k;
};

/** Statistics of the rows that count, after a batch has moved them. */
export function moved(
  norms: Float64Array,
  labels: Int32Array,
  { rate = 0.01, mean = 20, deviation = 100 } = {},
) {
  const counted = [...norms].filter((_, i) => labels[i] !== -1).map((norm) => max(1e-3, min(100, norm)));
  const average = counted.reduce((sum, norm) => sum + norm / counted.length, 0);
  const variance = counted.reduce((sum, norm) => sum + (norm - average) ** 2 / (counted.length - 1), 0);
  return {
    mean: rate * average + (1 - rate) * mean,
    deviation: rate * Math.sqrt(variance) + (1 - rate) * deviation,
  };
}

/** Norms are detached: those of the batch, not the one that is varied. */
const adafaceFormula =
  (m: number, h: number, rate: number): Formula =>
  (c, _, row, { norms, labels }) => {
    const { mean, deviation } = moved(norms, labels, { rate });
    const z = max(-1, min(1, (h * (max(1e-3, min(100, norms[row]!)) - mean)) / (deviation + 1e-3)));
    return cos(max(1e-3, min(PI - 1e-3, acos(c) - m * z))) - (m + m * z);
  };

const searched: (a: number) => Formula =
  (a) =>
  (c, _, __, { scale }) =>
    c - log(1 - a) / scale;

/** A number for each class, in [0, 0.9]. */
const perClass = Float32Array.from({ length: size.classes }, (_, c) => ((c * 7) % 10) / 10);

const dynamic: Formula = (_, __, row, { labels }) => {
  const phi = perClass[labels[row]!]!;
  return max(phi - 0.5, 0) * 0.3 + 0.4 + (0.03 * 0.4) / (1 + (20 * abs(phi - 0.5)) ** 1.1);
};

/** Rows without a class of their own have no hard negatives. */
const ifHard =
  (threshold: (own: number) => number, hard: (c: number, batch: Rows) => number): Negative['value'] =>
  (c, row, batch) =>
    batch.labels[row] !== -1 && c > threshold(batch.cosine[row]!) ? hard(c, batch) : c;

const angular = (m: number) => (own: number) => cos(acos(own) + m);

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value / values.length, 0);

const curriculum = (rate: number, t: number, { cosine, labels }: Rows) =>
  rate * mean([...cosine].filter((_, i) => labels[i] !== -1)) + (1 - rate) * t;

const curricular = (m: number, rate: number, t: number): Negative => ({
  value: ifHard(angular(m), (c, batch) => c * (curriculum(rate, t, batch) + c)),
});

const npcMargin = (row: number, { cosine, cosines, labels }: Rows) => {
  const own = labels[row]!;
  const hard = [...cosines[row]!].filter((c, j) => j !== own && c > angular(0.5)(cosine[row]!));
  return 0.4 + 0.2 * (hard.length === 0 ? 0 : mean(hard));
};

const npcFormula =
  (policy: OverflowPolicy): Formula =>
  (c, _, row, batch) =>
    arc(policy)(c, npcMargin(row, batch));

const npcNegative: Negative = { value: ifHard(angular(0.5), (c) => 1.1 * c + 0.2) };

/** Weights are constants to the gradient. */
const circle = (m: number): Pick<Case, 'formula' | 'derivative' | 'negative'> => ({
  formula: (c) => max(1 + m - c, 0) * (c - (1 - m)),
  derivative: (c) => max(1 + m - c, 0),
  negative: {
    value: (c) => max(c + m, 0) * (c - m),
    slope: (c) => max(c + m, 0),
  },
});

const adjust = (c: number, t: number) => 2 * ((c + 1) / 2) ** t - 1;

/** Of form C with its default margin. */
const sphereface2Formulas = (t: number) => ({
  formula: (c: number) => adjust(c, t) - 0.4,
  negative: { value: (c: number) => adjust(c, t) + 0.4 },
});

/** Of opensphere's SphereFace2 of form C, for 131 classes. */
function releasedBias(alpha: number, r: number, m: number, t: number): number {
  const z = alpha / ((1 - alpha) * (size.classes - 1));
  const ay = r * (2 * 0.5 ** t - 1 - m);
  const ai = r * (2 * 0.5 ** t - 1 + m);
  const temp = (1 - z) ** 2 + 4 * z * exp(ay - ai);
  return log(2 * z) - ai - log(1 - z + Math.sqrt(temp));
}

const filter = (threshold: number): Negative => ({ value: (c) => (c > threshold ? 0 : c) });

export interface Case {
  readonly name: string;
  readonly margin: Margin;
  /** What a head takes, where it has its own of what calls without a head are given. */
  readonly head?: Margin;
  readonly formula: Formula;
  /** dF/dc, where that is not the formula's. */
  readonly derivative?: (c: number) => number;
  /** Default: the cosine. */
  readonly negative?: Negative;
  /** Of logits that have each a binary cross-entropy, which `negative` is then of. */
  readonly binary?: (scale: number) => NonNullable<ReferenceOptions['binary']>;
  readonly onOverflow?: OverflowPolicy;
  readonly filterThreshold?: number;
}

/** What a case asks of a call. */
export function optionsOf({ margin, onOverflow = 'none', filterThreshold = 0 }: Case) {
  return { margin, onOverflow, filterThreshold };
}

export const cases: readonly Case[] = [
  { name: 'adaface', margin: adaface(), formula: adafaceFormula(0.4, 0.333, 0.01) },
  {
    name: 'adaface, of the batch alone, cut off',
    margin: adaface({ m: 0.9, h: 2, rate: 1 }),
    formula: adafaceFormula(0.9, 2, 1),
  },
  {
    name: 'adaptiveFace',
    margin: adaptiveFace({ m: { perClass } }),
    head: adaptiveFace({ lambda: 500 }),
    formula: (c, _, row, { labels }) => c - perClass[labels[row]!]!,
  },
  ...(['none', 'fallback'] as const).map((onOverflow) => ({
    name: `dynArcFace, ${onOverflow}`,
    margin: dynArcFace({ k1: 0.5, k2: 0.3, k3: 0.4, angles: { perClass } }),
    head: dynArcFace({ k1: 0.5, k2: 0.3, k3: 0.4, every: 2 }),
    formula: ((c, norm, row, batch) => arc(onOverflow)(c, dynamic(c, norm, row, batch))) as Formula,
    onOverflow,
  })),
  { name: 'magface', margin: magface(), formula: magfaceFormula('none') },
  ...(['fallback', 'easy'] as const).map((onOverflow) => ({
    name: `magface, ${onOverflow}`,
    margin: magface(),
    formula: magfaceFormula(onOverflow),
    onOverflow,
  })),
  {
    name: 'elasticArcFace',
    margin: elasticArcFace({ seed: 3, step: 4 }),
    formula: (c, _, row) => arc('none')(c, 0.5 + 0.05 * normalOf(3, 4, row)),
  },
  {
    name: 'elasticArcFace, fallback',
    margin: elasticArcFace({ m: 1.5, sigma: 0.3 }),
    formula: (c, _, row) => arc('fallback')(c, 1.5 + 0.3 * normalOf(0, 0, row)),
    onOverflow: 'fallback',
  },
  {
    name: 'elasticArcFace plus',
    margin: elasticArcFace({ plus: true, seed: 3 }),
    formula: (c, _, row, batch) => arc('none')(c, sorted(0.5, 0.0175, 3, 0, row, batch)),
  },
  {
    name: 'elasticArcFace plus as released',
    margin: elasticArcFace({ plus: true, released: true, sigma: 0.1 }),
    formula: (c, _, row, batch) => arc('none')(c, released(0.5, 0.1, 0, 0, row, batch)),
  },
  {
    name: 'elasticCosFace',
    margin: elasticCosFace(),
    formula: (c, _, row) => c - 0.35 - 0.05 * normalOf(0, 0, row),
  },
  {
    name: 'elasticCosFace plus',
    margin: elasticCosFace({ plus: true }),
    formula: (c, _, row, batch) => c - sorted(0.35, 0.02, 0, 0, row, batch),
  },
  { name: 'sphereface', margin: sphereface(), formula: (c) => (5 * c + psi(c, 4)) / 6 },
  {
    name: 'sphereface, psi alone, m no integer',
    margin: sphereface({ m: 1.7, lambda: 0 }),
    formula: (c) => psi(c, 1.7),
  },
  { name: 'randomSoftmax, a given', margin: randomSoftmax({ a: -42900 }), formula: searched(-42900) },
  {
    name: 'randomSoftmax, a drawn',
    margin: randomSoftmax({ seed: 9, step: 25, every: 10 }),
    formula: (c, norm, row, batch) =>
      searched(-0.2 * abs(normalOf(9, 2, 0)) * exp(batch.scale / 3))(c, norm, row, batch),
  },
  {
    name: 'mvSoftmax',
    margin: mvSoftmax(),
    formula: (c) => c - 0.35,
    negative: {
      value: ifHard(
        (own) => own - 0.35,
        (c) => 1.2 * c + 0.2,
      ),
    },
  },
  {
    name: 'mvSoftmax, fixed, easy',
    margin: mvSoftmax({ t: 0.3, fixed: true }),
    onOverflow: 'easy',
    formula: (c) => (c > 0 ? c - 0.35 : c),
    negative: {
      value: ifHard(
        (own) => own - 0.35,
        (c) => c + 0.3,
      ),
    },
  },
  {
    name: 'mvSoftmax of arcface, easy',
    margin: mvSoftmax({ target: 'arcface', m: 0.5, t: 0.4 }),
    onOverflow: 'easy',
    formula: (c) => arc('easy')(c, 0.5),
    negative: { value: ifHard(angular(0.5), (c) => 1.4 * c + 0.4) },
  },
  {
    name: 'curricularface',
    margin: curricularface(),
    formula: (c) => arc('none')(c, 0.5),
    negative: curricular(0.5, 0.01, 0),
  },
  {
    name: 'curricularface, late, fallback',
    margin: curricularface({ m: 0.9, rate: 0.5, t: 0.9 }),
    onOverflow: 'fallback',
    formula: (c) => arc('fallback')(c, 0.9),
    negative: curricular(0.9, 0.5, 0.9),
  },
  { name: 'npcface', margin: npcface(), formula: npcFormula('none'), negative: npcNegative },
  { name: 'circleLoss', margin: circleLoss(), ...circle(0.25) },
  {
    name: 'sphereface2',
    margin: sphereface2({ bias: -3 }),
    ...sphereface2Formulas(3),
    binary: (s) => ({ bias: -3, positive: 0.7 / s, negative: 0.3 / s }),
  },
  {
    name: 'sphereface2 of form A, squares',
    margin: sphereface2({ form: 'A', m: 0.5, t: 2, lambda: 0.4, weight: 50, bias: 2 }),
    formula: (c) => adjust(cos(min(acos(c) + 0.5, PI)), 2),
    negative: { value: (c) => adjust(c, 2) },
    binary: (s) => ({ bias: 2, positive: 20 / s, negative: 30 / s }),
  },
  {
    name: 'sphereface2 of form M, t 1',
    margin: sphereface2({ form: 'M', m: 1.7, t: 1, bias: -10 }),
    formula: (c) => cos(min(1.7 * acos(c), PI)),
    negative: { value: (c) => c },
    binary: (s) => ({ bias: -10, positive: 0.7 / s, negative: 0.3 / s }),
  },
  {
    name: 'uniface',
    margin: uniface({ m: 0.3, lambda: 0.5, bias: -7 }),
    formula: (c) => c - 0.3,
    negative: { value: (c) => c },
    binary: () => ({ bias: -7, positive: 1, negative: 0.5 }),
  },
  {
    name: 'cosface, filtered',
    margin: cosface(),
    filterThreshold: 0.1,
    formula: (c) => c - 0.35,
    negative: filter(0.1),
  },
  {
    name: 'arcface, filtered',
    margin: arcface(),
    filterThreshold: 0.4,
    onOverflow: 'easy',
    formula: (c) => arc('easy')(c, 0.5),
    negative: filter(0.4),
  },
];

/** What presets of these margins compute. */
export const presetFormulas = {
  magFace: { formula: magfaceFormula('easy') },
  adaFace: { formula: adafaceFormula(0.4, 0.333, 0.01) },
  elasticFaceArc: { formula: (c, _, row) => arc('none')(c, 0.5 + 0.05 * normalOf(0, 0, row)) },
  elasticFaceArcPlus: {
    formula: (c, _, row, batch) => arc('none')(c, released(0.5, 0.0175, 0, 0, row, batch)),
  },
  elasticFaceCos: { formula: (c, _, row) => c - 0.35 - 0.05 * normalOf(0, 0, row) },
  elasticFaceCosPlus: { formula: (c, _, row, batch) => c - released(0.35, 0.02, 0, 0, row, batch) },
  openSphereFace: { formula: (c) => psi(c, 1.5) },
  randomSoftmax: {
    formula: (c, norm, row, batch) =>
      searched(-0.2 * abs(normalOf(0, 0, 0)) * exp(batch.scale / 3))(c, norm, row, batch),
  },
  mvSoftmaxCosFace: {
    formula: (c) => (c > 0 ? c - 0.35 : c),
    negative: {
      value: ifHard(
        (own) => own - 0.35,
        (c) => 1.2 * c + 0.2,
      ),
    },
  },
  mvSoftmaxArcFace: {
    formula: (c) => arc('easy')(c, 0.35),
    negative: { value: ifHard(angular(0.35), (c) => 1.2 * c + 0.2) },
  },
  curricularFace: { formula: (c) => arc('fallback')(c, 0.5), negative: curricular(0.5, 0.01, 0) },
  npcFace: { formula: npcFormula('easy'), negative: npcNegative },
  circleLoss: circle(0.25),
  sphereFace2: {
    ...sphereface2Formulas(3),
    binary: () => ({ bias: releasedBias(0.7, 40, 0.4, 3), positive: 35 / 40, negative: 15 / 40 }),
  },
  uniFace: {
    formula: (c) => c - 0.4,
    negative: { value: (c) => c },
    binary: () => ({ bias: -log(10 * size.classes), positive: 1, negative: 1 }),
  },
} satisfies Record<string, Formulas>;

const step = 1e-6;

/** What the rows of a batch are, with so many rows of each class. */
export function rowsOf({ features, weights, labels, dim }: Problem, scale: number, subCenters = 1): Rows {
  const unit = (matrix: Float32Array) =>
    Array.from({ length: matrix.length / dim }, (_, i) => {
      const row = Float64Array.from(matrix.subarray(i * dim, (i + 1) * dim));
      const norm = Math.hypot(...row);
      return { norm, row: row.map((value) => value / max(norm, 1e-12)) };
    });
  const classes = unit(weights);
  const rows = unit(features);
  const cosines = rows.map(({ row }) => {
    const all = classes.map((other) => {
      const dot = row.reduce((sum, value, d) => sum + value * other.row[d]!, 0);
      return max(-1, min(1, dot));
    });
    return Float64Array.from({ length: all.length / subCenters }, (_, j) =>
      max(...all.slice(j * subCenters, (j + 1) * subCenters)),
    );
  });
  return {
    cosine: Float64Array.from(labels, (label, i) => (label === -1 ? 0 : cosines[i]![label]!)),
    norms: Float64Array.from(rows, ({ norm }) => norm),
    labels,
    scale,
    cosines,
  };
}

type Formulas = Pick<Case, 'formula' | 'derivative' | 'negative' | 'binary'>;

/** The reference's options for formulas, whose derivatives are central differences. What a batch says is a constant. */
export function referenceOptions(
  { formula, derivative, negative, binary }: Formulas,
  batch: Rows,
  gradient: GradientMode,
): ReferenceOptions {
  const slopeOf = (f: (by: number) => number) => (f(step) - f(-step)) / (2 * step);
  return {
    scale: batch.scale,
    gradient,
    onOverflow: 'none',
    reduction: 'mean',
    margin: {
      kind: 'custom',
      callback: ({ cosine: c, featureNorm: norm, row }) => ({
        target: formula(c, norm, row, batch),
        dTarget: derivative?.(c) ?? slopeOf((by) => formula(c + by, norm, row, batch)),
        dFeatureNorm: slopeOf((by) => formula(c, norm + by, row, batch)),
      }),
    },
    ...(binary && { binary: binary(batch.scale) }),
    ...(negative && {
      negative: (c, row) => ({
        value: negative.value(c, row, batch),
        slope:
          binary && gradient === 'straightThrough'
            ? 1
            : (negative.slope?.(c, row, batch) ?? slopeOf((by) => negative.value(c + by, row, batch))),
      }),
    }),
  };
}

export function expected(
  problem: Problem,
  { gradient = 'exact', scale = 64, ...formulas }: Formulas & { gradient?: GradientMode; scale?: number },
) {
  return reference(problem, referenceOptions(formulas, rowsOf(problem, scale), gradient));
}
