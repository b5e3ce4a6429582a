/**
 * The table of cases that drives every engine: ugly sizes, every margin, every policy, both gradients, every
 * reduction, small and large scales, and data from easy to hostile. Pairs of all of these occur together at
 * least once (test/pairwise.ts); what has to be met exactly is written out as a special case.
 */
import type { Precision } from '../src/index.js';
import { pairwise } from './pairwise.js';
import { arrangementNames, labelingNames, makeProblem, type Problem, type Size } from './problems.js';
import { seeded } from './random.js';
import type { CustomTarget, ReferenceMargin, ReferenceOptions } from './reference.js';

export interface Case {
  readonly name: string;
  /** Builds the inputs anew; the same ones each time. */
  readonly make: () => { readonly problem: Problem; readonly options: ReferenceOptions };
  /** How an engine is asked, where not every way is tried. */
  readonly execution: Execution;
  /** Takes half a minute on a software GPU. */
  readonly large?: boolean;
}

/** How an engine is asked to do it: none of this may change a result beyond rounding. */
export interface Execution {
  readonly shards: number;
  readonly threads: number;
  readonly workspace: 'keep' | 'recompute' | 'auto';
  readonly call: 'valueAndGrad' | 'valueAndGradSync' | 'forward and backward';
  /** `inside`: every array is a view into a larger buffer filled with NaN, at an odd offset. */
  readonly arrays: 'whole' | 'inside';
  /** Of the operands; float32 when absent. */
  readonly precision?: Precision;
}

/** Every way of asking. */
export const executionFactors = {
  shards: [1, 2, 3, 7],
  threads: [1, 2],
  workspace: ['keep', 'recompute', 'auto'],
  call: ['valueAndGrad', 'valueAndGradSync', 'forward and backward'],
  arrays: ['whole', 'inside'],
} as const;

const size = (rows: number, dim: number, classes: number): Size => ({ rows, dim, classes });

export const sizes: readonly Size[] = [
  size(1, 1, 1),
  size(1, 33, 2),
  size(2, 31, 1),
  size(31, 2, 131),
  size(33, 131, 31),
  size(2, 33, 1009),
  size(33, 1009, 2),
  size(1009, 31, 33),
  size(131, 131, 131),
  size(131, 1, 33),
  size(64, 64, 512),
  size(31, 33, 1009),
];

type MakeParameter = (count: { rows: number; classes: number }, low: number, high: number) => Float32Array;
const ramp = (count: number, low: number, high: number) =>
  Float32Array.from({ length: count }, (_, i) => low + ((high - low) * ((7 * i) % count)) / count);
const perRow = (...[count, low, high]: Parameters<MakeParameter>) => ({
  perRow: ramp(count.rows, low, high),
});
const perClass = (...[count, low, high]: Parameters<MakeParameter>) => ({
  perClass: ramp(count.classes, low, high),
});

/** A cosine margin that grows with the feature's norm, as quality-aware losses have it. */
export const normMargin: CustomTarget = ({ cosine, featureNorm }) => ({
  target: cosine - 0.2 + 0.1 / (1 + featureNorm),
  dTarget: 1,
  dFeatureNorm: -0.1 / (1 + featureNorm) ** 2,
});

/** Depends on everything a callback is told but the norm. */
export const classMargin: CustomTarget = ({ cosine, row, label }) => ({
  target: cosine - 0.1 * cosine ** 2 - 0.01 * ((row + label) % 7),
  dTarget: 1 - 0.2 * cosine,
});

type MakeMargin = (count: { rows: number; classes: number }) => ReferenceMargin;

/** Every margin with every policy it takes, and each parameter as a number, per row and per class. */
const margins: Record<string, readonly [ReferenceOptions['onOverflow'], MakeMargin]> = {
  arcface: ['none', () => ({ kind: 'arcface', m: 0.5 })],
  'arcface, fallback': ['fallback', () => ({ kind: 'arcface', m: 0.5 })],
  'arcface, easy': ['easy', () => ({ kind: 'arcface', m: 0.5 })],
  'arcface per row, fallback': ['fallback', (count) => ({ kind: 'arcface', m: perRow(count, 0, 1.2) })],
  'arcface per class, easy': ['easy', (count) => ({ kind: 'arcface', m: perClass(count, -0.2, 0.9) })],
  cosface: ['none', () => ({ kind: 'cosface', m: 0.35 })],
  'cosface per row': ['none', (count) => ({ kind: 'cosface', m: perRow(count, -0.1, 0.6) })],
  'cosface per class': ['none', (count) => ({ kind: 'cosface', m: perClass(count, 0, 0.5) })],
  x2softmax: ['none', () => ({ kind: 'x2softmax', a: -0.9, h: 0, k: 0.65 })],
  'x2softmax per row and class': [
    'none',
    (count) => ({ kind: 'x2softmax', a: perRow(count, -1.2, -0.3), h: perClass(count, -0.1, 0.2), k: 0.65 }),
  ],
  combined: ['none', () => ({ kind: 'combined', m1: 1.1, m2: 0.3, m3: 0.2 })],
  'combined, fallback': ['fallback', () => ({ kind: 'combined', m1: 1.1, m2: 0.3, m3: 0.2 })],
  'combined, easy': ['easy', () => ({ kind: 'combined', m1: 0.9, m2: 0.4, m3: 0.1 })],
  'combined per row and class': [
    'fallback',
    (count) => ({
      kind: 'combined',
      m1: perClass(count, 0.8, 1.3),
      m2: perRow(count, 0, 0.6),
      m3: perClass(count, 0, 0.3),
    }),
  ],
  softmax: ['none', () => ({ kind: 'softmax' })],
  'custom of class and row': ['none', () => ({ kind: 'custom', callback: classMargin })],
  'custom of the norm': ['none', () => ({ kind: 'custom', callback: normMargin })],
};

type Weighting = Pick<ReferenceOptions, 'reduction' | 'rowWeights' | 'dLoss'>;

/** Some rows weigh nothing. */
const rowWeights = (rows: number) => Float32Array.from({ length: rows }, (_, i) => (i % 5) / 2);

const weightings: Record<string, (rows: number) => Weighting> = {
  mean: () => ({ reduction: 'mean' }),
  'weighted mean': (rows) => ({ reduction: 'mean', rowWeights: rowWeights(rows) }),
  sum: () => ({ reduction: 'sum' }),
  'weighted sum': (rows) => ({ reduction: 'sum', rowWeights: rowWeights(rows) }),
  none: (rows) => ({ reduction: 'none', dLoss: ramp(rows, -0.5, 2) }),
};

const factors = {
  size: sizes,
  margin: Object.keys(margins),
  gradient: ['exact', 'straightThrough'],
  scale: [1, 30, 64, 65, 128],
  arrangement: arrangementNames,
  labeling: labelingNames,
  weighting: Object.keys(weightings),
  ...executionFactors,
} as const;

const sizeName = ({ rows, dim, classes }: Size) => `${rows}x${dim}x${classes}`;

const paired: Case[] = pairwise(factors, 20).map((choice, seed) => ({
  name: [
    sizeName(choice.size),
    choice.margin,
    choice.gradient,
    `s ${choice.scale}`,
    choice.arrangement,
    `labels ${choice.labeling}`,
    choice.weighting,
  ].join(', '),
  execution: choice,
  make: () => {
    const [onOverflow, margin] = margins[choice.margin]!;
    const { gradient, scale } = choice;
    const weighting = weightings[choice.weighting]!(choice.size.rows);
    return {
      problem: makeProblem(choice.size, choice.arrangement, choice.labeling, seed),
      options: { margin: margin(choice.size), onOverflow, gradient, scale, ...weighting },
    };
  },
}));

const arcface: ReferenceOptions = {
  margin: { kind: 'arcface', m: 0.5 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};

/** Features at given angles to their own class; the classes are spread. */
function atAngles(angles: readonly number[], dim: number, classes: number): Problem {
  const random = seeded(11);
  const normals = () => Float64Array.from({ length: dim }, () => random.normal());
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, d) => sum + value * b[d]!, 0);
  const weights = Array.from({ length: classes }, () => {
    const row = normals();
    const norm = Math.sqrt(dot(row, row));
    return row.map((value) => value / norm);
  });
  const labels = Int32Array.from(angles, () => random.below(classes));
  const features = angles.map((angle, i) => {
    const own = weights[labels[i]!]!;
    const across = normals();
    const along = dot(across, own);
    const tangent = across.map((value, d) => value - along * own[d]!);
    const norm = Math.sqrt(dot(tangent, tangent));
    return own.map((value, d) => value * Math.cos(angle) + (tangent[d]! * Math.sin(angle)) / norm);
  });
  const flat = (rows: Float64Array[]) => Float32Array.from(rows.flatMap((row) => [...row]));
  return { features: flat(features), weights: flat(weights), labels, dim };
}

const largest = 'so many classes that float32 sums are set down on the way';

const special: Record<string, Case['make']> = {
  'no rows': () => ({ problem: makeProblem(size(0, 8, 5), 'spread', 'random', 1), options: arcface }),
  'all rows ignored': () => {
    const problem = makeProblem(size(5, 8, 33), 'spread', 'random', 2);
    return { problem: { ...problem, labels: problem.labels.fill(-1) }, options: arcface };
  },
  'all row weights 0': () => ({
    problem: makeProblem(size(5, 8, 33), 'spread', 'random', 3),
    options: { ...arcface, rowWeights: new Float32Array(5) },
  }),
  'all features and weights 0': () => ({
    problem: {
      features: new Float32Array(24),
      weights: new Float32Array(40),
      labels: Int32Array.of(0, 4, -1),
      dim: 8,
    },
    options: arcface,
  }),
  'features of 0 at cosine 0, easy': () => ({
    problem: { ...makeProblem(size(4, 8, 5), 'spread', 'random', 13), features: new Float32Array(32) },
    options: { ...arcface, onOverflow: 'easy', margin: { kind: 'combined', m1: 1, m2: 0.5, m3: 0 } },
  }),
  'fewer classes than shards, all rows of the last class': () => ({
    problem: makeProblem(size(31, 16, 2), 'clustered', 'repeated', 4),
    options: arcface,
  }),
  'targets close to the poles': () => ({
    problem: atAngles([1e-2, 1e-3, 1e-4, 1e-5, 0, Math.PI, Math.PI - 1e-5, Math.PI - 1e-3], 33, 31),
    options: arcface,
  }),
  'targets close to the poles, x2softmax': () => ({
    problem: atAngles([1e-2, 1e-3, 1e-4, 1e-5, 0, Math.PI, Math.PI - 1e-5, Math.PI - 1e-3], 33, 31),
    options: { ...arcface, margin: { kind: 'x2softmax', a: -0.9, h: 0.1, k: 0.65 } },
  }),
  'targets on both sides of theta = pi - m, fallback': () => ({
    problem: atAngles([2.6, 2.63, 2.641, 2.642, 2.65, 2.7, 3.1], 33, 31),
    options: { ...arcface, onOverflow: 'fallback' },
  }),
  'targets on both sides of theta = pi / 2, easy': () => ({
    problem: atAngles([1.5, 1.57, 1.5707, 1.5709, 1.58, 1.7, 3.1], 33, 31),
    options: { ...arcface, onOverflow: 'easy' },
  }),
  'every row confident: p of the own class is 1 in float32': () => ({
    problem: atAngles([0.1, 0.2, 0.05, 0.3, 0.15], 131, 31),
    options: { ...arcface, margin: { kind: 'softmax' } },
  }),
  'every row hopeless: p of the own class is 0 in float32': () => ({
    problem: atAngles([2.9, 2.8, 3.1, 2.7], 131, 33),
    options: arcface,
  }),
  'many rows and classes: several blocks of both': () => ({
    problem: makeProblem(size(301, 17, 4001), 'clustered', 'ignored', 8),
    options: arcface,
  }),
  'many rows of few columns': () => ({
    problem: makeProblem(size(2003, 3, 701), 'spread', 'random', 9),
    options: { ...arcface, reduction: 'sum' },
  }),
  [largest]: () => ({
    problem: makeProblem(size(3, 3, 300_007), 'spread', 'random', 10),
    options: arcface,
  }),
  'more classes than a GPU adds up in float32': () => ({
    problem: makeProblem(size(3, 3, 33_009), 'spread', 'random', 14),
    options: arcface,
  }),
  'norms near both ends of float32': () => {
    const problem = makeProblem(size(31, 33, 40), 'clustered', 'random', 12);
    const norms = [1e-45, 1e-38, 1e-20, 1e-11, 1e18, 1e25, 1e30, 1e36];
    const stretch = (matrix: Float32Array, phase: number) =>
      matrix.map((value, i) => value * norms[(Math.floor(i / 33) + phase) % norms.length]!);
    const { features, weights } = problem;
    return {
      problem: { ...problem, features: stretch(features, 0), weights: stretch(weights, 3) },
      options: arcface,
    };
  },
  's 1000, every cosine about -0.6': () => ({
    problem: makeProblem(size(31, 33, 131), 'opposite', 'random', 5),
    options: { ...arcface, scale: 1000, margin: { kind: 'cosface', m: 0.35 } },
  }),
  's 1000, spread': () => ({
    problem: makeProblem(size(31, 33, 131), 'spread', 'random', 6),
    options: { ...arcface, scale: 1000 },
  }),
  's 0.001': () => ({
    problem: makeProblem(size(31, 33, 131), 'spread', 'random', 7),
    options: { ...arcface, scale: 0.001 },
  }),
};

/** Special cases are asked for in these ways. */
const specialExecutions: readonly Execution[] = [
  { shards: 1, threads: 1, workspace: 'recompute', call: 'valueAndGradSync', arrays: 'whole' },
  { shards: 3, threads: 2, workspace: 'keep', call: 'valueAndGrad', arrays: 'inside' },
  { shards: 7, threads: 2, workspace: 'auto', call: 'forward and backward', arrays: 'inside' },
];

export const cases: readonly Case[] = [
  ...Object.entries(special).flatMap(([name, make]) =>
    specialExecutions.map((execution) => ({ name, make, execution, large: name === largest })),
  ),
  ...paired,
];

/** Every case once, without the large ones: what `npm test` has time for on software GPUs. */
export const smallCases: readonly Case[] = [
  ...Object.keys(special).flatMap((name, k) => {
    const entry = cases.filter((candidate) => candidate.name === name)[k % specialExecutions.length];
    return entry === undefined || entry.large ? [] : [entry];
  }),
  ...paired,
];

/**
 * Every case with every way of asking: tens of thousands. `auto` is left out, as it is one of the other two,
 * and so are whole arrays, as those inside others lack nothing they test.
 */
export function fullProduct(): Case[] {
  const distinct = [...new Map(cases.map((entry) => [entry.name, entry])).values()];
  const executions = executionFactors.shards.flatMap((shards) =>
    executionFactors.threads.flatMap((threads) =>
      (['keep', 'recompute'] as const).flatMap((workspace) =>
        executionFactors.call.map((call) => ({
          shards,
          threads,
          workspace,
          call,
          arrays: 'inside' as const,
        })),
      ),
    ),
  );
  return distinct.flatMap((entry) => executions.map((execution) => ({ ...entry, execution })));
}

export function executionName({ shards, threads, workspace, call, arrays }: Execution): string {
  return `${call}, shards ${shards}, threads ${threads}, ${workspace}, ${arrays} arrays`;
}
