/** gradientTolerance: what is left out of dWeights stays within the bound of docs/numerics.md. */
import { describe, expect, test } from 'vitest';
import { arcface, MarginHead, sgd, softmax, valueAndGradSync } from '../src/index.js';
import { makeProblem } from './problems.js';

const size = { rows: 33, dim: 31, classes: 1009 };
const scale = 64;
const norms = (rows: Float32Array, dim: number) =>
  Array.from({ length: rows.length / dim }, (_, i) => Math.hypot(...rows.subarray(i * dim, (i + 1) * dim)));

/** sum over classes of |w_j| |a_j - b_j| */
function distance(a: Float32Array, b: Float32Array, weights: Float32Array, dim: number): number {
  const apart = a.map((value, i) => value - b[i]!);
  const lengths = norms(weights, dim);
  return norms(apart, dim).reduce((sum, length, j) => sum + length * lengths[j]!, 0);
}

describe.each(['mean', 'sum'] as const)('with reduction %s', (reduction) => {
  const factor = reduction === 'sum' ? size.rows : 1;

  test.each(['spread', 'clustered'] as const)('the change of dWeights is bounded, rows %s', (arrangement) => {
    const problem = makeProblem(size, arrangement, 'random', 4);
    const options = { margin: arcface({ m: 0.2 }), scale, reduction, shards: 2 };
    const exact = valueAndGradSync(problem, options);
    for (const workspace of ['keep', 'recompute'] as const)
      for (const precision of ['float32', 'bfloat16'] as const)
        for (const gradientTolerance of [1e-6, 1e-3, 0.1, 0.9]) {
          const base = precision === 'float32' ? exact : valueAndGradSync(problem, { ...options, precision });
          const got = valueAndGradSync(problem, { ...options, workspace, precision, gradientTolerance });
          expect(got.dFeatures).toEqual(base.dFeatures);
          expect(got.rowLoss).toEqual(base.rowLoss);
          expect(got.skippedMass).toBeLessThanOrEqual(gradientTolerance);
          const change = distance(got.dWeights, base.dWeights, problem.weights, problem.dim);
          // The mass is summed in float32.
          expect(change).toBeLessThanOrEqual(factor * scale * (got.skippedMass as number) * (1 + 1e-5));
        }
  });
});

test('own classes are never left out, others are where the tolerance allows', () => {
  const problem = makeProblem(size, 'clustered', 'random', 4);
  // Confident rows: little of the mass is left for the other classes.
  const exact = valueAndGradSync(problem, { margin: softmax() });
  const got = valueAndGradSync(problem, { margin: softmax(), gradientTolerance: 1e-3 });
  const own = new Set(problem.labels);
  let left = 0;
  for (let j = 0; j < size.classes; j++) {
    const range = [j * size.dim, (j + 1) * size.dim] as const;
    const row = got.dWeights.subarray(...range);
    if (row.some((value) => value !== 0)) expect(row).toEqual(exact.dWeights.subarray(...range));
    else left++;
    if (own.has(j)) expect(row).toEqual(exact.dWeights.subarray(...range));
  }
  expect(left).toBeGreaterThan(size.classes / 10);
  expect(got.skippedMass).toBeGreaterThan(0);
});

test('without a tolerance there is no skippedMass', () => {
  expect(valueAndGradSync(makeProblem(size, 'spread', 'random', 1))).not.toHaveProperty('skippedMass');
});

test('a class left out of a step still decays', async () => {
  const problem = makeProblem(size, 'clustered', 'random', 4);
  const make = (gradientTolerance: number) =>
    MarginHead.create({
      dim: size.dim,
      classes: size.classes,
      init: problem.weights,
      margin: softmax(),
      gradientTolerance,
      optimizer: sgd({ learningRate: 0.1, weightDecay: 0.01 }),
    });
  const head = await make(1e-3);
  const { skippedMass } = await head.step(problem);
  expect(skippedMass).toBeGreaterThan(0);
  const after = head.weights();
  const decayed = problem.weights.map((value) => value - 0.1 * (0.01 * value));
  const unmoved = norms(
    after.map((value, i) => value - decayed[i]!),
    size.dim,
  ).filter((length) => length < 1e-6);
  expect(unmoved.length).toBeGreaterThan(0);
  head.dispose();
});
