/** Classes of several rows: problems of them, and which of a class's rows operands of 16 bits are nearest to. */

import type { Precision } from '../src/index.js';
import { type Arrangement, type Labeling, makeProblem, type Problem, type Size } from './problems.js';

/** Labels of the first row of a class become those of the class. */
export function problemOf(
  size: Size,
  subCenters: number,
  arrangement: Arrangement,
  seed: number,
  labeling: Labeling = 'ignored',
): Problem {
  const rows = { ...size, classes: size.classes * subCenters };
  const problem = makeProblem(rows, arrangement, labeling, seed);
  return { ...problem, labels: problem.labels.map((row) => Math.floor(row / subCenters)) };
}

export const shape = (rows: number, dim: number, classes: number): Size => ({ rows, dim, classes });

/** float32 as two halves of float16, of which a step of the low one is what is left of a small number. */
function rounded(value: number, precision: Precision): number {
  if (precision === 'float32') return Math.round(value * 2 ** 24) / 2 ** 24;
  const bits = precision === 'bfloat16' ? 8 : 11;
  const unit = 2 ** (Math.floor(Math.log2(Math.abs(value))) - bits + 1);
  if (value === 0) return 0;
  const whole = value / unit;
  const down = Math.floor(whole);
  const even = whole - down === 0.5 ? down + (down & 1) : Math.round(whole);
  return even * unit;
}

/** As the products' operands are: features unit rows times the scale, weights unit rows or as they are. */
export function nearnessOf(
  problem: Problem,
  scale: number,
  precision: Precision,
  weightsAs: 'unit rows' | 'given',
) {
  const { features, weights, dim } = problem;
  const norms = (values: Float32Array) =>
    Array.from({ length: values.length / dim }, (_, i) =>
      Math.max(Math.hypot(...values.subarray(i * dim, (i + 1) * dim)), 1e-12),
    );
  const [featureNorms, weightNorms] = [norms(features), norms(weights)];
  const factor = scale * Math.LOG2E;
  const x = features.map((v, e) =>
    rounded(Math.fround((v * factor) / featureNorms[Math.floor(e / dim)]!), precision),
  );
  const w = weights.map((v, e) => {
    const norm = weightsAs === 'unit rows' ? weightNorms[Math.floor(e / dim)]! : 1;
    return rounded(Math.fround(v / norm), precision);
  });
  return (row: number, classRow: number) => {
    let sum = 0;
    for (let d = 0; d < dim; d++) sum += x[row * dim + d]! * w[classRow * dim + d]!;
    return weightsAs === 'unit rows' ? sum : sum / weightNorms[classRow]!;
  };
}
