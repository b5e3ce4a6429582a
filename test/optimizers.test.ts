/**
 * The optimisers of a head against PyTorch's rules (torch.optim.SGD and torch.optim.AdamW), written out in
 * float64. The gradient a rule is given is that of the loss at the head's weights, from valueAndGrad.
 */

import { describe, expect, test } from 'vitest';
import { adamw, MarginHead, type Optimizer, sgd, valueAndGradSync } from '../src/index.js';
import { untrained, update } from './optimizer_rules.js';
import { makeProblem } from './problems.js';

const dim = 31;
const classes = 33;
const batches = [3, 4, 5, 6].map((seed) => makeProblem({ rows: 64, dim, classes }, 'spread', 'random', seed));
const init = batches[0]!.weights;

const optimizers: Record<string, Optimizer> = {
  sgd: sgd({ learningRate: 2 }),
  'sgd with weight decay, which is added to the gradient': sgd({ learningRate: 2, weightDecay: 0.05 }),
  'sgd with momentum, whose first step is a plain one': sgd({ learningRate: 2, momentum: 0.9 }),
  'sgd with momentum and weight decay': sgd({ learningRate: 2, momentum: 0.9, weightDecay: 0.05 }),
  'sgd with nesterov momentum': sgd({ learningRate: 2, momentum: 0.9, nesterov: true }),
  'sgd with all of it': sgd({ learningRate: 2, momentum: 0.8, weightDecay: 0.05, nesterov: true }),
  'adamw, corrected for its start': adamw({ learningRate: 0.05, weightDecay: 0 }),
  'adamw with weight decay, which is apart from the gradient': adamw({
    learningRate: 0.05,
    weightDecay: 0.5,
  }),
  'adamw with other betas and epsilon': adamw({ learningRate: 0.05, beta1: 0.5, beta2: 0.9, epsilon: 1e-3 }),
};

/**
 * Rounding of float32 weights of size 1, and a ten-thousandth of an update: where a gradient nearly vanishes,
 * adamw divides its rounding error by its size. A wrong rule is off by a hundredth of an update and more.
 */
const limit = (largestUpdate: number) => 1e-6 + 1e-4 * largestUpdate;

describe.each(Object.entries(optimizers))('%s', (_, optimizer) => {
  test.each([
    ['step', 1],
    ['step', 3],
    ['accumulate and apply', 2],
  ])("follows PyTorch's rule: %s, %i shards", async (call, shards) => {
    const loss = { scale: 8 } as const;
    const head = await MarginHead.create({ dim, classes, init, optimizer, shards, ...loss });
    const state = untrained(init);
    for (const [n, batch] of batches.entries()) {
      const learningRate = (optimizer.learningRate as number) / (n + 1);
      const before = head.weights();
      const { dWeights } = valueAndGradSync({ ...batch, weights: before }, loss);
      // From the head's own weights, so that each update is judged apart.
      state.weights.set(before);
      update(state, dWeights, optimizer, learningRate);
      if (call === 'step') {
        await head.step(batch, { learningRate });
      } else {
        await head.accumulate(batch);
        await head.apply({ learningRate });
      }
      const after = head.weights();
      const largestUpdate = Math.max(...state.weights.map((value, i) => Math.abs(value - before[i]!)));
      const error = Math.max(...state.weights.map((value, i) => Math.abs(value - after[i]!)));
      expect(largestUpdate).toBeGreaterThan(1e-3);
      expect(error).toBeLessThan(limit(largestUpdate));
      expect(head.stepCount).toBe(n + 1);
    }
    head.dispose();
  });
});

test('an optimiser that a call gives no learning rate uses its own', async () => {
  const optimizer = sgd({ learningRate: 0.25 });
  const make = () => MarginHead.create({ dim, classes, init, optimizer });
  const [head, other] = [await make(), await make()];
  await head.step(batches[0]!);
  await other.step(batches[0]!, { learningRate: 0.25 });
  expect(head.weights()).toEqual(other.weights());
  await head.accumulate(batches[1]!);
  await head.apply();
  await other.accumulate(batches[1]!);
  await other.apply({ learningRate: 0.25 });
  expect(head.weights()).toEqual(other.weights());
  head.dispose();
  other.dispose();
});

test("defaults are PyTorch's", () => {
  expect(sgd()).toEqual({ kind: 'sgd', learningRate: 1e-3, momentum: 0, weightDecay: 0, nesterov: false });
  expect(adamw()).toEqual({
    kind: 'adamw',
    learningRate: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 1e-2,
  });
});
