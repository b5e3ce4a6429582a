/** Seeded problems: the arrangements of features and weights that an engine may meet. */
import { type Random, seeded } from './random.js';

export interface Size {
  readonly rows: number;
  readonly dim: number;
  readonly classes: number;
}

export interface Problem {
  /** [B, D] */
  readonly features: Float32Array;
  /** [C, D] */
  readonly weights: Float32Array;
  /** [B], -1 = ignored */
  readonly labels: Int32Array;
  readonly dim: number;
}

/** Row norms from nothing to far beyond what squares fit in float32; those below 1e-12 have no direction. */
const extremeNorms = [1, 1e-30, 1e6, 1e-13, 1e20, 0, 1e-6] as const;

function unit(values: number[]): number[] {
  const norm = Math.hypot(...values);
  return norm === 0 ? values : values.map((value) => value / norm);
}

interface Rows {
  readonly features: number[][];
  readonly weights: number[][];
}

type Arrange = (rows: Rows, labels: Int32Array, random: Random) => Rows;

/** Replaces each row that has a label; the others stay random. */
function facing(labels: Int32Array, rows: Rows, place: (own: number[], i: number) => number[]): Rows {
  const features = rows.features.map((x, i) => (labels[i]! < 0 ? x : place(rows.weights[labels[i]!]!, i)));
  return { ...rows, features };
}

const arrangements = {
  /** Independent normal deviates: cosines around 0, as at the start of training. */
  spread: (rows) => rows,
  /** Each row near its class, as later in training. */
  clustered: (rows, labels, random) =>
    facing(labels, rows, (own) => own.map((value) => value + 0.3 * random.normal())),
  /** Rows of all sizes, none of them special in direction. */
  extremeNorms: (rows) => {
    const stretched = (matrix: number[][], phase: number) =>
      matrix.map((row, i) => {
        const norm = extremeNorms[(i + phase) % extremeNorms.length]!;
        return unit(row).map((value) => value * norm);
      });
    return { features: stretched(rows.features, 0), weights: stretched(rows.weights, 3) };
  },
  /** Every other row exactly along its class or exactly against it (theta = 0 or pi); some classes alike. */
  parallel: (rows, labels) => {
    const weights = rows.weights.map((row, j) =>
      j % 5 === 4 ? rows.weights[j - 1]!.map((v) => 2 * v) : row,
    );
    const along = facing(labels, { ...rows, weights }, (own, i) =>
      own.map((v) => (i % 4 === 0 ? 4 * v : -0.5 * v)),
    );
    return { weights, features: along.features.map((row, i) => (i % 2 === 0 ? row : rows.features[i]!)) };
  },
  /** Every cosine about -0.6: above s = 64 all of exp(s c) is 0 in float32. */
  opposite: (rows) => {
    const axis = unit(rows.weights[0]!.map((_, d) => (d === 0 ? 1 : 0.5)));
    const weights = rows.weights.map((row) => {
      const along = row.reduce((sum, value, d) => sum + value * axis[d]!, 0);
      const across = unit(row.map((value, d) => value - along * axis[d]!));
      return across.map((value, d) => 0.8 * value - 0.6 * axis[d]!);
    });
    return { weights, features: rows.features.map((_, i) => axis.map((value) => value * (1 + i / 10))) };
  },
} as const satisfies Record<string, Arrange>;

export type Arrangement = keyof typeof arrangements;
export const arrangementNames = Object.keys(arrangements) as Arrangement[];

const labelings = {
  random: (_: number, classes: number, random: Random) => random.below(classes),
  /** All rows share the last class. */
  repeated: (_: number, classes: number) => classes - 1,
  /** Every third row ignored. */
  ignored: (i: number, classes: number, random: Random) => (i % 3 === 1 ? -1 : random.below(classes)),
} as const satisfies Record<string, (row: number, classes: number, random: Random) => number>;

export type Labeling = keyof typeof labelings;
export const labelingNames = Object.keys(labelings) as Labeling[];

export function makeProblem(size: Size, arrangement: Arrangement, labeling: Labeling, seed: number): Problem {
  const random = seeded(seed);
  const normals = (count: number) =>
    Array.from({ length: count }, () => Array.from({ length: size.dim }, () => random.normal()));
  const labels = Int32Array.from({ length: size.rows }, (_, i) =>
    labelings[labeling](i, size.classes, random),
  );
  const rows = { features: normals(size.rows), weights: normals(size.classes) };
  const arrange: Arrange = arrangements[arrangement];
  const { features, weights } = arrange(rows, labels, random);
  return {
    features: Float32Array.from(features.flat()),
    weights: Float32Array.from(weights.flat()),
    labels,
    dim: size.dim,
  };
}

/** Rows start .. end-1 of a batch, such as those of one process. */
export function rowsBetween(
  { features, labels, dim }: Pick<Problem, 'features' | 'labels' | 'dim'>,
  start: number,
  end: number,
) {
  return { features: features.slice(start * dim, end * dim), labels: labels.slice(start, end) };
}
