/** The lower bound of L2-softmax's alpha. */

import { expect, test } from 'vitest';
import { l2SoftmaxScale, softmax, valueAndGradSync } from '../src/index.js';
import { expectFailure } from './failures.js';

test('at the bound a row on its class has the probability, one class being opposite and the others at right angles', () => {
  const [dim, classes] = [64, 66];
  // Class 0 and its opposite; the others along the other axes, one of them twice.
  const weights = new Float32Array(classes * dim);
  for (let c = 0; c < classes; c++)
    weights[c * dim + (c < 2 ? 0 : ((c - 2) % (dim - 1)) + 1)] = c === 1 ? -1 : 1;
  const features = new Float32Array(dim);
  features[0] = 7;
  for (const probability of [0.5, 0.9, 0.99]) {
    const scale = l2SoftmaxScale(classes, probability);
    const batch = { features, weights, labels: Int32Array.of(0), dim };
    const { loss } = valueAndGradSync(batch, { margin: softmax(), scale });
    // All but for exp(-alpha), of the opposite class.
    const others = classes - 2 + Math.exp(-scale);
    expect(Math.exp(-loss)).toBeCloseTo(Math.exp(scale) / (Math.exp(scale) + others), 6);
    expect(Math.exp(-loss)).toBeCloseTo(probability, 3);
  }
  expect(l2SoftmaxScale(1000)).toBe(l2SoftmaxScale(1000, 0.9));
});

test.each<[string, () => unknown, RegExp]>([
  ['two classes', () => l2SoftmaxScale(2), /^classes must be an integer in \[3, \d+\], received 2$/],
  ['certainty', () => l2SoftmaxScale(10, 1), /^probability must be a finite number > 0 and < 1, received 1$/],
  [
    'less than chance',
    () => l2SoftmaxScale(10, 0.1),
    /^probability must be above 1 \/ 9 with 10 classes, received 0\.1$/,
  ],
])('%s is an error', (_, call, message) => expectFailure(call, 'ERR_OPTION', message));
