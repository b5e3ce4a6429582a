/** Companion terms with their formulas in float64: what their tests go through. */

import {
  centerLoss,
  interLoss,
  intraLoss,
  type LossTerm,
  ringLoss,
  type TripletLoss,
  tripletLoss,
} from '../src/index.js';
import { makeProblem, type Problem } from './problems.js';

export const size = { rows: 31, dim: 33, classes: 7 };
/** Rows of each class several times, some ignored. */
export const problem = makeProblem(size, 'spread', 'ignored', 11);
export const small = makeProblem({ rows: 9, dim: 4, classes: 3 }, 'spread', 'ignored', 5);
export const centers = makeProblem(size, 'spread', 'random', 12).weights;
export const smallCenters = makeProblem({ rows: 1, dim: 4, classes: 3 }, 'spread', 'random', 13).weights;

export interface Numbers {
  readonly features: ArrayLike<number>;
  readonly weights: ArrayLike<number>;
  readonly labels: Int32Array;
  readonly dim: number;
  /** [B], what the reduction multiplies a row with; 0 for ignored rows. */
  readonly rowScale: ArrayLike<number>;
  readonly mean: boolean;
}

/** How a call with these options reduces a problem. */
export function numbersOf(
  { features, weights, labels, dim }: Problem,
  { reduction, rowWeights }: { reduction?: string | undefined; rowWeights?: Float32Array | undefined } = {},
): Numbers {
  const weight = Array.from(labels, (label, i) => (label === -1 ? 0 : (rowWeights?.[i] ?? 1)));
  const total = reduction === 'sum' ? 1 : weight.reduce((sum, value) => sum + value, 0);
  const rowScale = weight.map((value) => value / total);
  return { features, weights, labels, dim, rowScale, mean: reduction !== 'sum' };
}

const { acos, hypot, PI } = Math;

const row = (values: ArrayLike<number>, i: number, dim: number) =>
  Array.from({ length: dim }, (_, d) => values[i * dim + d]!);
const unit = (values: number[]) => values.map((value) => value / hypot(...values));
const dot = (a: number[], b: number[]) => a.reduce((sum, value, d) => sum + value * b[d]!, 0);
const counted = ({ labels }: Numbers) => [...labels.keys()].filter((i) => labels[i] !== -1);
const rowSum = (numbers: Numbers, of: (i: number) => number) =>
  counted(numbers).reduce((sum, i) => sum + numbers.rowScale[i]! * of(i), 0);

/** R where none is given. */
export const meanNorm = (numbers: Numbers) =>
  rowSum(numbers, (i) => hypot(...row(numbers.features, i, numbers.dim))) / rowSum(numbers, () => 1);

/** [anchor, positive, negative] of a batch. */
export function triplets({ features, labels, dim }: Numbers, { mining }: TripletLoss) {
  const units = Array.from(labels, (_, i) => unit(row(features, i, dim)));
  const square = (i: number, j: number) => units[i]!.reduce((sum, x, d) => sum + (x - units[j]![d]!) ** 2, 0);
  const rows = [...labels.keys()].filter((i) => labels[i] !== -1);
  const by = (a: number, of: number[]) => of.toSorted((i, j) => square(a, i) - square(a, j));
  const chosen: [number, number, number][] = [];
  for (const a of rows) {
    const positives = rows.filter((i) => i !== a && labels[i] === labels[a]);
    const negatives = by(
      a,
      rows.filter((i) => labels[i] !== labels[a]),
    );
    if (positives.length === 0 || negatives.length === 0) continue;
    if (mining === 'hard') chosen.push([a, by(a, positives).at(-1)!, negatives[0]!]);
    else
      for (const p of positives)
        chosen.push([a, p, negatives.find((n) => square(a, n) > square(a, p)) ?? negatives.at(-1)!]);
  }
  return { chosen, square };
}

/** A term's formula; `radius` and `choice` are those of the batch, not of what is varied. */
export interface Formula {
  readonly term: LossTerm;
  readonly value: (numbers: Numbers, fixed: Numbers) => number;
}

const tripletFormula =
  (term: TripletLoss): Formula['value'] =>
  (numbers, fixed) => {
    const { chosen } = triplets(fixed, term);
    const { square } = triplets(numbers, term);
    const { rowScale, mean } = numbers;
    const total = chosen.reduce((sum, [a]) => sum + rowScale[a]!, 0);
    const sum = chosen.reduce(
      (sum, [a, p, n]) => sum + rowScale[a]! * Math.max(0, square(a, p) - square(a, n) + term.margin),
      0,
    );
    return mean ? sum / total : sum;
  };

const cosine = ({ features, weights, labels, dim }: Numbers, i: number) =>
  dot(unit(row(features, i, dim)), unit(row(weights, labels[i]!, dim)));

/** `centers` are of the problem that is gone through. */
export function formulasOf(centers: Float32Array): Record<string, Formula> {
  const hard = tripletLoss({ weight: 2, margin: 0.3, mining: 'hard' });
  const semihard = tripletLoss({ weight: 0.5, margin: 0.8, mining: 'semihard' });
  return {
    intra: {
      term: intraLoss({ weight: 3 }),
      value: (numbers) => rowSum(numbers, (i) => acos(cosine(numbers, i)) / PI),
    },
    inter: {
      term: interLoss({ weight: 5 }),
      value: (numbers) => {
        const { weights, labels, dim } = numbers;
        const units = Array.from({ length: weights.length / dim }, (_, j) => unit(row(weights, j, dim)));
        const angles = (y: number) =>
          units.reduce((sum, other, j) => sum + (j === y ? 0 : acos(dot(units[y]!, other))), 0);
        return rowSum(numbers, (i) => -angles(labels[i]!) / (PI * (units.length - 1)));
      },
    },
    'ring of a radius': {
      term: ringLoss({ weight: 0.7, radius: 4 }),
      value: (numbers) => rowSum(numbers, (i) => (hypot(...row(numbers.features, i, numbers.dim)) - 4) ** 2),
    },
    'ring of the mean norm': {
      term: ringLoss({ weight: 0.7 }),
      value: (numbers, fixed) =>
        rowSum(numbers, (i) => (hypot(...row(numbers.features, i, numbers.dim)) - meanNorm(fixed)) ** 2),
    },
    center: {
      term: centerLoss({ weight: 0.3, centers }),
      value: (numbers) =>
        rowSum(numbers, (i) => {
          const x = row(numbers.features, i, numbers.dim);
          const c = row(centers, numbers.labels[i]!, numbers.dim);
          return x.reduce((sum, value, d) => sum + (value - c[d]!) ** 2 / 2, 0);
        }),
    },
    'triplet, hard': { term: hard, value: tripletFormula(hard) },
    'triplet, semihard': { term: semihard, value: tripletFormula(semihard) },
  };
}
