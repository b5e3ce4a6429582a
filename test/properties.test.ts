/** What must hold for every input, tried on random ones: how an engine is asked does not matter. */
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import * as marginfc from '../src/index.js';
import type { Execution } from './cases.js';
import { closeEngines, evaluate, findEngines } from './engines.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { makeProblem } from './problems.js';
import { seeded } from './random.js';
import {
  bitsOf,
  callOptions,
  compute,
  expectSame,
  given,
  margin,
  plainOptions,
  runs,
} from './random_problems.js';
import { reference } from './reference.js';

const engines = (await findEngines()).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

describe.each(engines)('engine $name', (engine) => {
  const plain: Execution = {
    shards: 1,
    threads: 1,
    workspace: 'recompute',
    call: 'valueAndGradSync',
    arrays: 'whole',
  };

  test('agrees with the reference on random problems', async () => {
    const property = fc.asyncProperty(
      given,
      fc.constantFrom(1, 2, 5),
      async ({ problem, options }, shards) => {
        const { result } = await evaluate(engine, problem, options, { ...plain, shards });
        expectWithinLimits(result, reference(problem, options), float32Limits(options.scale));
      },
    );
    await fc.assert(property, runs);
  });

  test('agrees with the reference where a few classes have norms near the ends of float32', async () => {
    const lengths = fc.array(
      fc.record({ place: fc.nat(), length: fc.constantFrom(0, 1e-38, 1e-20, 1e-11, 1e-5, 1e5, 1e25) }),
      { minLength: 1, maxLength: 3 },
    );
    const workspace = fc.constantFrom('keep' as const, 'recompute' as const);
    const property = fc.asyncProperty(given, lengths, workspace, async (input, lengths, workspace) => {
      const { problem, options } = input;
      const { dim } = problem;
      const classes = problem.weights.length / dim;
      const weights = problem.weights.slice();
      for (const { place, length } of lengths) {
        const row = weights.subarray((place % classes) * dim, ((place % classes) + 1) * dim);
        const norm = Math.hypot(...row) || 1;
        row.set(row.map((value) => (value / norm) * length));
      }
      const stretched = { ...problem, weights };
      const { result } = await evaluate(engine, stretched, options, { ...plain, workspace });
      expectWithinLimits(result, reference(stretched, options), float32Limits(options.scale));
    });
    await fc.assert(property, runs);
  });

  test('gives the same bits when called twice and with any number of threads', async () => {
    const property = fc.asyncProperty(given, fc.constantFrom(1, 3), async ({ problem, options }, shards) => {
      for (const workspace of ['keep', 'recompute'] as const) {
        const ask = (threads: number, call: Execution['call']) =>
          evaluate(engine, problem, options, { ...plain, shards, workspace, threads, call });
        const first = bitsOf((await ask(1, 'valueAndGradSync')).result);
        expect(bitsOf((await ask(1, 'valueAndGradSync')).result)).toEqual(first);
        expect(bitsOf((await ask(2, 'valueAndGradSync')).result)).toEqual(first);
        expect(bitsOf((await ask(2, 'valueAndGrad')).result)).toEqual(first);
      }
    });
    await fc.assert(property, runs);
  });
});

describe('results do not depend on how they are asked for', () => {
  test('any number of shards', () => {
    const property = fc.property(given, fc.integer({ min: 2, max: 20 }), (input, shards) => {
      expectSame(compute(input, { shards }), compute(input), input);
    });
    fc.assert(property, runs);
  });

  test('kept or recomputed workspace', () => {
    const property = fc.property(given, (input) => {
      expectSame(compute(input, { workspace: 'keep' }), compute(input, { workspace: 'recompute' }), input);
    });
    fc.assert(property, runs);
  });

  test('forward and backward, or valueAndGrad', () => {
    const property = fc.property(given, (input) => {
      const { problem, options } = input;
      const pass = marginfc.forwardSync(problem, callOptions(options));
      const { loss, rowLoss, logSumExp, targetCosine } = pass;
      const got = { loss, rowLoss, logSumExp, targetCosine, ...pass.backwardSync() };
      pass.dispose();
      expectSame(got, compute(input), input);
    });
    fc.assert(property, runs);
  });

  test('one gradient or both', () => {
    const property = fc.property(given, (input) => {
      const both = compute(input);
      const features = marginfc.valueAndGradSync(input.problem, {
        ...callOptions(input.options),
        gradients: 'features',
      });
      const weights = marginfc.valueAndGradSync(input.problem, {
        ...callOptions(input.options),
        gradients: 'weights',
      });
      expect(features.dWeights).toBeUndefined();
      expect(weights.dFeatures).toBeUndefined();
      expectSame({ loss: features.loss, dFeatures: features.dFeatures }, both, input);
      expectSame({ loss: weights.loss, dWeights: weights.dWeights }, both, input);
    });
    fc.assert(property, runs);
  });

  test('a backward pass again with another dLoss scales both gradients', () => {
    const property = fc.property(given, (input) => {
      const pass = marginfc.forwardSync(input.problem, callOptions(input.options));
      pass.backwardSync();
      const got = pass.backwardSync(-2);
      pass.dispose();
      const half = (values: Float32Array) => values.map((value) => value / -2);
      expectSame({ dFeatures: half(got.dFeatures), dWeights: half(got.dWeights) }, compute(input), input);
    });
    fc.assert(property, runs);
  });
});

describe('gradients', () => {
  test('the reference gradient equals central differences of the reference loss', () => {
    const smooth = fc.record({ seed: fc.nat(), margin, scale: fc.constantFrom(1, 30, 64) });
    const property = fc.property(smooth, ({ seed, margin, scale }) => {
      const { features, weights, labels, dim } = makeProblem(
        { rows: 3, dim: 5, classes: 4 },
        'spread',
        'random',
        seed,
      );
      const problem = {
        features: Float64Array.from(features),
        weights: Float64Array.from(weights),
        labels,
        dim,
      };
      const options = { ...plainOptions, margin, scale };
      const { dFeatures, dWeights } = reference(problem, options);
      // One random direction in the space of all inputs: the derivative along it is the gradient's share.
      const random = seeded(seed);
      const direction = {
        features: features.map(() => random.normal()),
        weights: weights.map(() => random.normal()),
      };
      const step = 2e-6;
      const at = (sign: number) =>
        reference(
          {
            ...problem,
            features: problem.features.map((value, i) => value + sign * step * direction.features[i]!),
            weights: problem.weights.map((value, i) => value + sign * step * direction.weights[i]!),
          },
          options,
        ).loss;
      const slope = (at(1) - at(-1)) / (2 * step);
      const share = (gradient: Float64Array, along: Float32Array) =>
        gradient.reduce((sum, value, i) => sum + value * along[i]!, 0);
      const expected = share(dFeatures, direction.features) + share(dWeights, direction.weights);
      expect(Math.abs(slope - expected)).toBeLessThan(1e-4 * Math.max(1, Math.abs(expected)));
    });
    fc.assert(property, { ...runs, numRuns: 200 });
  });
});
