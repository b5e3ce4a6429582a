/** Label smoothing on every engine against its formula, and what it must leave alone. */
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { arcface, customMargin, MarginHead, valueAndGradSync } from '../src/index.js';
import { type Case, executionName, smallCases } from './cases.js';
import { closeEngines, type Engine, evaluate, findEngines } from './engines.js';
import { expectFailure } from './failures.js';
import { assign, everything, findGpus, findSomeSoftwareGpus } from './gpus.js';
import { expectWithinLimits, float32Limits, gradientSize, halfLimits, type Limits } from './metrics.js';
import { makeProblem } from './problems.js';
import { compute, given, runs } from './random_problems.js';
import { arcfaceMean, reference } from './reference.js';

const engines = (await findEngines()).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

/** From a trace of it to nothing else. */
const amounts = [0.1, 0.01, 0.5, 1];
/** Each case on one engine; with MARGINFC_TEST_CASES=all on every one. */
const onEngine = (index: number) =>
  smallCases.filter((_, k) => everything || k % engines.length === index).map((entry, k) => ({ entry, k }));

async function expectCase(engine: Engine, { make, execution }: Case, labelSmoothing: number, limits: Limits) {
  const { problem, options } = make();
  const smoothed = { ...options, labelSmoothing };
  const got = await evaluate(engine, problem, smoothed, execution);
  expectWithinLimits(got.result, reference(problem, smoothed), limits);
}

async function expectNearly(engine: Engine, precision: 'bfloat16' | 'float16'): Promise<void> {
  for (const shards of [1, 3]) {
    const problem = makeProblem({ rows: 33, dim: 131, classes: 509 }, 'clustered', 'ignored', shards);
    const options = { ...arcfaceMean, labelSmoothing: 0.1 };
    const execution = {
      shards,
      threads: 2,
      workspace: 'auto',
      call: 'valueAndGrad',
      arrays: 'whole',
      precision,
    } as const;
    const { result } = await evaluate(engine, problem, options, execution);
    expectWithinLimits(result, reference(problem, options), halfLimits(precision));
  }
}

describe.each(engines.map((engine, index) => ({ ...engine, index })))(
  'engine $name',
  ({ index, ...engine }) => {
    test.each(
      onEngine(index).map(({ entry, k }) => [entry.name, executionName(entry.execution), entry, k] as const),
    )('agrees with the reference: %s (%s)', (_, __, entry, k) =>
      expectCase(engine, entry, amounts[k % amounts.length]!, float32Limits(entry.make().options.scale)),
    );

    test.each(['bfloat16', 'float16'] as const)('agrees with it in %s', (precision) =>
      expectNearly(engine, precision),
    );
  },
);

/**
 * Rounded operands leave an error of the softmax's part of a gradient. The more the targets are spread, the more of that
 * part is taken away again, and least is left where all of them are: the error is taken against what there is without.
 */
function smoothedHalfLimits(precision: 'bfloat16' | 'float16', entry: Case, labelSmoothing: number): Limits {
  const { problem, options } = entry.make();
  const [plain, smoothed] = [0, labelSmoothing].map((amount) => {
    const { dFeatures, dWeights, featureNorm, weightNorm } = reference(problem, {
      ...options,
      labelSmoothing: amount,
    });
    return [gradientSize(dFeatures, featureNorm), gradientSize(dWeights, weightNorm)];
  });
  const limits = halfLimits(precision, options);
  const left = Math.min(...smoothed!.map((size, n) => (plain![n]! > 0 ? size / plain![n]! : 1)));
  return { ...limits, gradient: limits.gradient / Math.min(1, left) };
}

// Of the cases some: what a GPU does for smoothing depends on neither margin nor reduction.
const [software, gpus] = [await findSomeSoftwareGpus(), await findGpus()];
const some = smallCases.filter((_, k) => everything || k % 5 === 0).map((entry, k) => ({ entry, k }));
const precisions = ['float32', 'float16', 'bfloat16'] as const;
// 16-bit operands have no limits for the special cases, nor above s = 64.
const rounded = new Set(
  some.filter(({ entry: { name, make } }) => /^\d+x\d+x\d+,/.test(name) && make().options.scale <= 64),
);
const onGpus = assign(some, software, gpus, (one) => [
  rounded.has(one) ? precisions[one.k % precisions.length]! : 'float32',
]).map(
  ({ entry: { entry, k }, engine, precision }) =>
    [engine.name, precision, entry.name, entry, engine, k] as const,
);
test.each(onGpus)('engine %s agrees with the reference in %s: %s', (_, precision, __, entry, engine, k) => {
  const amount = amounts[k % amounts.length]!;
  const limits =
    precision === 'float32'
      ? float32Limits(entry.make().options.scale)
      : smoothedHalfLimits(precision, entry, amount);
  return expectCase(engine, { ...entry, execution: { ...entry.execution, precision } }, amount, limits);
});
const halves = assign([1, 2, 3, 4], software, gpus, () => ['float16', 'bfloat16'] as const);
test.each(halves.map(({ engine, precision }) => [engine.name, precision, engine] as const))(
  'engine %s agrees with it in %s',
  (_, precision, engine) => expectNearly(engine, precision),
);

const problem = makeProblem({ rows: 31, dim: 33, classes: 131 }, 'clustered', 'ignored', 1);

test('the reference is the loss of torch.nn.CrossEntropyLoss, and has its gradients', () => {
  // Three rows, five classes: small enough for central differences of every element, in float64.
  const small = makeProblem({ rows: 3, dim: 4, classes: 5 }, 'spread', 'random', 3);
  const options = { ...arcfaceMean, scale: 8, labelSmoothing: 0.3 };
  const base = {
    features: Float64Array.from(small.features),
    weights: Float64Array.from(small.weights),
    labels: small.labels,
    dim: small.dim,
  };
  const { dFeatures, dWeights, rowLoss, logSumExp, targetLogit } = reference(base, options);
  // Means of -log p under the target distribution.
  for (const [i, label] of small.labels.entries()) {
    const logits = Array.from({ length: 5 }, (_, j) => {
      const one = { ...base, features: base.features.slice(4 * i, 4 * i + 4), labels: Int32Array.of(j) };
      return j === label
        ? targetLogit[i]!
        : reference(one, { ...options, margin: { kind: 'softmax' } }).targetLogit[0]!;
    });
    const expected = logits.reduce((sum, z, j) => {
      const q = 0.3 / 5 + (j === label ? 0.7 : 0);
      return sum - q * (z - logSumExp[i]!);
    }, 0);
    expect(rowLoss[i]).toBeCloseTo(expected, 12);
  }
  for (const [name, gradient] of [
    ['features', dFeatures],
    ['weights', dWeights],
  ] as const)
    for (const [i, value] of gradient.entries()) {
      const at = (step: number) => {
        const moved = base[name].map((element, k) => (k === i ? element + step : element));
        return reference({ ...base, [name]: moved }, options).loss;
      };
      expect((at(1e-5) - at(-1e-5)) / 2e-5).toBeCloseTo(value, 7);
    }
});

test('random problems agree with the reference', () => {
  const amount = fc.double({ min: 0.001, max: 1, noNaN: true });
  const property = fc.property(given, amount, ({ problem, options }, labelSmoothing) => {
    const smoothed = { problem, options: { ...options, labelSmoothing } };
    expectWithinLimits(compute(smoothed), reference(problem, smoothed.options), float32Limits(options.scale));
  });
  fc.assert(property, runs);
});

test('none of it changes no bit', async () => {
  for (const shards of [1, 3])
    expect(valueAndGradSync(problem, { shards, labelSmoothing: 0 })).toEqual(
      valueAndGradSync(problem, { shards }),
    );
});

test('a custom margin that depends on the norm gets its share', () => {
  const callback = ({ cosine, featureNorm }: { cosine: number; featureNorm: number }) => ({
    target: cosine - 0.2 + 0.1 / (1 + featureNorm),
    dTarget: 1,
    dFeatureNorm: -0.1 / (1 + featureNorm) ** 2,
  });
  const got = valueAndGradSync(problem, { margin: customMargin(callback), labelSmoothing: 0.2 });
  const expected = reference(problem, {
    ...arcfaceMean,
    margin: { kind: 'custom', callback },
    labelSmoothing: 0.2,
  });
  expectWithinLimits(got, expected, float32Limits(64));
});

test('what gradientTolerance leaves out is of the softmax alone', () => {
  const options = { labelSmoothing: 0.1, gradientTolerance: 0.01 };
  const got = valueAndGradSync(problem, options);
  const exact = reference(problem, { ...arcfaceMean, labelSmoothing: 0.1 });
  expect(got.skippedMass).toBeGreaterThan(0);
  const { dim } = problem;
  let change = 0;
  for (const [j, norm] of exact.weightNorm.entries()) {
    const row = got.dWeights.subarray(j * dim, (j + 1) * dim);
    expect(row.some((value) => value !== 0)).toBe(true);
    change += norm * Math.hypot(...row.map((value, d) => value - exact.dWeights[j * dim + d]!));
  }
  expect(change).toBeLessThan(64 * got.skippedMass! + 1e-4);
});

test.each([
  ['-0.1', -0.1, /^labelSmoothing must be a finite number >= 0, received -0\.1$/],
  ['above 1', 1.01, /^labelSmoothing must be at most 1 in magnitude, received 1\.01$/],
  ['NaN', Number.NaN, /^labelSmoothing must be a finite number >= 0, received NaN$/],
])('%s is refused', async (_, labelSmoothing, message) => {
  await expectFailure(() => valueAndGradSync(problem, { labelSmoothing }), 'ERR_OPTION', message);
  const create = () => MarginHead.create({ dim: 2, classes: 2, labelSmoothing });
  await expectFailure(create, 'ERR_OPTION', message);
});

test('a head smooths as it was told, or as a call tells it', async () => {
  const { dim, weights } = problem;
  const head = await MarginHead.create({
    dim,
    classes: 131,
    init: weights,
    labelSmoothing: 0.1,
    margin: arcface(),
  });
  expect(head.labelSmoothing).toBe(0.1);
  const { loss } = await head.evaluate(problem);
  expect(loss).toBe(valueAndGradSync(problem, { labelSmoothing: 0.1 }).loss);
  expect((await head.evaluate(problem, { labelSmoothing: 0 })).loss).toBe(valueAndGradSync(problem).loss);
  head.dispose();
});

test('a head that samples its classes refuses it, but where it looks at all of them', async () => {
  const message = /^labelSmoothing must be 0 where a sampleRate leaves classes out, received 0\.1$/;
  const options = { dim: problem.dim, classes: 131, init: problem.weights, sampleRate: 0.5 };
  await expectFailure(() => MarginHead.create({ ...options, labelSmoothing: 0.1 }), 'ERR_OPTION', message);
  const head = await MarginHead.create(options);
  await expectFailure(() => head.step(problem, { labelSmoothing: 0.1 }), 'ERR_OPTION', message);
  const { loss } = await head.evaluate(problem, { labelSmoothing: 0.1 });
  expect(loss).toBe(valueAndGradSync(problem, { labelSmoothing: 0.1 }).loss);
  head.dispose();
});
