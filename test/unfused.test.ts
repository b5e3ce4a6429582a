/** cpu/unfused.cc, which fusion is compared with: it must be right to be worth comparing with. */

import { expect, test } from 'vitest';
import { errors, reference } from '../bench/cpu/reference.js';
import { formulaNamed } from '../bench/formula.js';
import { addon } from '../src/native.js';
import { float32Limits } from './metrics.js';
import { makeProblem } from './problems.js';

test.each([
  // Not so few classes that all gradients vanish: there 1 - p cancels, as in every unfused loss.
  [1, 3, 40],
  [3, 5, 7],
  [31, 33, 131],
  [130, 47, 1009],
  [256, 64, 300],
])(
  'the loss by separate passes is that of the reference, %i rows of %i, %i classes',
  (rows, dim, classes) => {
    const problem = { ...makeProblem({ rows, dim, classes }, 'spread', 'random', 11), dim };
    const out = {
      rowLoss: new Float32Array(rows).fill(Number.NaN),
      dFeatures: new Float32Array(rows * dim).fill(Number.NaN),
      dWeights: new Float32Array(classes * dim).fill(Number.NaN),
    };
    addon().unfused({ ...problem, scale: 64, m: 0.5, ...out });
    const expected = reference(problem, formulaNamed('arcface', classes), new Float64Array(rows));
    const dWeights = (j: number) => out.dWeights.subarray(j * dim, (j + 1) * dim);
    const found = errors({ ...out, dWeights }, expected);
    const limits = float32Limits(64);
    // Its logits are stored in float32, which the fused path never does.
    expect(found.loss).toBeLessThan(4 * limits.loss);
    expect(found.gradient).toBeLessThan(4 * limits.gradient);
  },
);

test('arrays of other lengths and labels beyond the classes are refused', () => {
  const given = {
    ...{ features: new Float32Array(2), weights: new Float32Array(4), labels: Int32Array.of(1), dim: 2 },
    ...{ scale: 64, m: 0.5 },
    ...{ rowLoss: new Float32Array(1), dFeatures: new Float32Array(2), dWeights: new Float32Array(4) },
  };
  expect(() => addon().unfused({ ...given, dWeights: new Float32Array(3) })).toThrow('dWeights');
  expect(() => addon().unfused({ ...given, labels: Int32Array.of(2) })).toThrow('labels must be class ids');
});
