/** Companion terms: against their formulas in float64, on shards and on heads. test/terms_group.test.ts has groups of processes. */

import { afterAll, describe, expect, test } from 'vitest';
import {
  arcface,
  centerLoss,
  curricularface,
  focal,
  forward,
  forwardSync,
  interLoss,
  intraLoss,
  type LossTerm,
  linear,
  MarginHead,
  npcface,
  ringLoss,
  sgd,
  tripletLoss,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { closeEngines, findEngines, runHead } from './engines.js';
import { expectFailure } from './failures.js';
import { makeProblem } from './problems.js';
import { seeded } from './random.js';
import {
  centers,
  type Formula,
  formulasOf,
  meanNorm,
  type Numbers,
  numbersOf,
  problem,
  size,
  small,
  smallCenters,
  triplets,
} from './term_cases.js';

const rowWeights = Float32Array.from({ length: size.rows }, (_, i) => (i % 4) / 2);

const reductions = {
  mean: {},
  'a weighted mean': { rowWeights },
  sum: { reduction: 'sum' },
  'a weighted sum': { reduction: 'sum', rowWeights },
} as const;

const furthest = (values: ArrayLike<number>, from: ArrayLike<number>) =>
  Array.from(values, (value, i) => Math.abs(value - from[i]!)).reduce((most, off) => Math.max(most, off), 0);
const largest = (values: ArrayLike<number>) => furthest(values, new Float64Array(values.length));

/** Central differences of a term with its weight. */
function quotients({ term, value }: Formula, fixed: Numbers, name: 'features' | 'weights'): Float64Array {
  return Float64Array.from(fixed[name], (_, at) => {
    const [above, below] = [1e-5, -1e-5].map((by) => {
      const varied = Float64Array.from(fixed[name]);
      varied[at]! += by;
      return value({ ...fixed, [name]: varied }, fixed);
    });
    return ((term.weight as number) * (above! - below!)) / 2e-5;
  });
}

describe.each(Object.keys(formulasOf(centers)))('%s', (name) => {
  const formula = formulasOf(centers)[name]!;
  const { term, value } = formula;
  const { kind } = term;
  const weight = term.weight as number;

  test.each(Object.keys(reductions) as (keyof typeof reductions)[])(
    'is its formula under %s, and the loss has it',
    async (reduction) => {
      const options = reductions[reduction];
      const numbers = numbersOf(problem, options);
      const expected = value(numbers, numbers);
      expect(Math.abs(expected)).toBeGreaterThan(0.01);
      const plain = await valueAndGrad(problem, options);
      for (const shards of [1, 3]) {
        const out = await valueAndGrad(problem, { ...options, terms: [term], shards });
        expect(Math.abs(out.terms![kind]! / expected - 1)).toBeLessThan(kind === 'inter' ? 1e-6 : 1e-9);
        expect(Math.abs(out.loss / (plain.loss + weight * expected) - 1)).toBeLessThan(1e-5);
        expect(furthest(out.rowLoss, plain.rowLoss)).toBeLessThan(1e-4);
      }
    },
  );

  test.each([
    ['the margin', {}],
    ['a function of the probability', { rowFunction: focal() }],
    ['other negatives', { margin: curricularface({ t: 0.3 }) }],
    ['targets that follow from negatives', { margin: npcface() }],
  ] as const)('its gradients are difference quotients, added to those of %s', (_, loss) => {
    const own = formulasOf(smallCenters)[name]!;
    const options = { scale: 2, dLoss: 3, ...loss };
    const plain = valueAndGradSync(small, options);
    const out = valueAndGradSync(small, { ...options, terms: [own.term], shards: 2 });
    for (const side of ['features', 'weights'] as const) {
      const expected = quotients(own, numbersOf(small), side).map((value) => 3 * value);
      const result = side === 'features' ? 'dFeatures' : 'dWeights';
      const added = Float64Array.from(out[result], (value, i) => value - plain[result][i]!);
      const size = Math.max(largest(expected), largest(plain[result]));
      if (side === (kind === 'inter' ? 'weights' : 'features'))
        expect(largest(expected)).toBeGreaterThan(0.01);
      expect(furthest(added, expected)).toBeLessThan(3e-6 * size);
    }
  });

  test('forward and backward are valueAndGrad', async () => {
    const options = { terms: [term], workspace: 'recompute' } as const;
    const [pass, whole] = [await forward(problem, options), await valueAndGrad(problem, options)];
    const { dFeatures, dWeights } = await pass.backward();
    const { loss, terms, ring } = pass;
    expect({ loss, terms, ring, dFeatures, dWeights }).toEqual({
      loss: whole.loss,
      terms: whole.terms,
      ring: whole.ring,
      dFeatures: whole.dFeatures,
      dWeights: whole.dWeights,
    });
    pass.dispose();
  });

  test('features of 16 bits, poles, zero rows and norms of any size give finite numbers', () => {
    for (const arrangement of ['parallel', 'extremeNorms', 'opposite'] as const) {
      const { features, labels } = makeProblem(size, arrangement, 'ignored', 3);
      const out = valueAndGradSync({ ...problem, features, labels }, { terms: [term] });
      for (const values of [[out.loss], out.dFeatures, out.dWeights])
        expect([...values].every(Number.isFinite)).toBe(true);
    }
    const bits = new Uint16Array(new Uint32Array(problem.features.slice().buffer).map((word) => word >>> 16));
    const half = { ...problem, features: { data: bits, dtype: 'bfloat16' as const } };
    const wide = new Float32Array(Uint32Array.from(bits, (word) => word << 16).buffer);
    expect(valueAndGradSync(half, { terms: [term] }).terms).toEqual(
      valueAndGradSync({ ...problem, features: wide }, { terms: [term] }).terms,
    );
  });

  test('no rows, or ignored ones alone, have none of it', () => {
    for (const labels of [new Int32Array(0), Int32Array.of(-1, -1)]) {
      const features = problem.features.slice(0, labels.length * size.dim);
      const out = valueAndGradSync({ ...problem, features, labels }, { terms: [term] });
      expect(out.loss).toBe(0);
      expect(out.terms![kind]).toBe(0);
      expect(largest(out.dFeatures)).toBe(0);
    }
  });
});

test('terms add up', () => {
  const all = Object.values(formulasOf(centers)).filter(
    ({ term }, i, list) => list.findIndex((other) => other.term.kind === term.kind) === i,
  );
  const numbers = numbersOf(problem);
  const out = valueAndGradSync(problem, { terms: all.map(({ term }) => term) });
  const sum = all.reduce(
    (sum, { term, value }) => sum + (term.weight as number) * value(numbers, numbers),
    0,
  );
  expect(out.loss).toBeCloseTo(valueAndGradSync(problem).loss + sum, 4);
  expect(Object.keys(out.terms!)).toEqual(all.map(({ term }) => term.kind));
});

test('the intra-loss is exact near the poles', () => {
  // |d theta / dx| = 1 / |x| wherever the row is.
  for (const angle of [1e-5, 1e-3, 1, Math.PI - 1e-3]) {
    const features = Float32Array.of(2 * Math.cos(angle), 2 * Math.sin(angle));
    const batch = { features, weights: Float32Array.of(1, 0), labels: Int32Array.of(0), dim: 2 };
    const { dFeatures, terms } = valueAndGradSync(batch, { terms: [intraLoss({ weight: Math.PI })] });
    expect(terms!.intra).toBeCloseTo(Math.atan2(features[1]!, features[0]!) / Math.PI, 12);
    expect(Math.hypot(...dFeatures)).toBeCloseTo(0.5, 6);
  }
});

test('semihard mining at scale is what a search over all rows finds', async () => {
  const random = seeded(17);
  const [rows, dim] = [300, 16];
  const features = Float32Array.from({ length: rows * dim }, () => random.normal());
  const labels = Int32Array.from({ length: rows }, (_, i) => (i % 7 === 6 ? -1 : i % 5));
  const batch = { features, labels, dim, weights: problem.weights.slice(0, 5 * dim) };
  for (const mining of ['hard', 'semihard'] as const) {
    const term = tripletLoss({ mining, margin: 10 });
    const { terms } = await valueAndGrad(batch, { terms: [term] });
    const { chosen, square } = triplets(numbersOf(batch), term);
    const expected =
      chosen.reduce((sum, [a, p, n]) => sum + square(a, p) - square(a, n) + 10, 0) / chosen.length;
    // Of two rows at the same distance, to float32, either may be chosen.
    expect(terms!.triplet).toBeCloseTo(expected, 5);
  }
});

const engines = (await findEngines()).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

const base = { dim: size.dim, classes: size.classes, init: problem.weights };
const { features, labels } = problem;
const batch = { features, labels };

describe('the update of a head', () => {
  // Each weight that the tiles of classes and of rows end with.
  const many = makeProblem({ rows: 150, dim: 33, classes: 131 }, 'spread', 'ignored', 19);
  const terms = [
    intraLoss(),
    interLoss({ weight: 50 }),
    ringLoss({ radius: 3 }),
    tripletLoss({ mining: 'hard' }),
  ];
  const whole = valueAndGradSync(many, { terms });
  const options = { dim: 33, classes: 131, init: many.weights, terms, optimizer: sgd({ learningRate: 0.1 }) };
  const batch = { features: many.features, labels: many.labels };
  const movedBy = (factor: number) =>
    many.weights.map((value, i) => value - 0.1 * factor * whole.dWeights[i]!);

  test.each(engines)('is that of the gradients, on engine $name', async (engine) => {
    for (const workspace of ['keep', 'recompute'] as const) {
      const head = { ...options, workspace, shards: 2 };
      const { results, weights } = await runHead(engine, head, [{ call: 'step', batch }]);
      expect(results[0]!.loss).toBeCloseTo(whole.loss, 4);
      for (const { kind } of terms) expect(results[0]!.terms![kind]).toBeCloseTo(whole.terms![kind]!, 5);
      expect(furthest(results[0]!.dFeatures, whole.dFeatures)).toBeLessThan(1e-5 * largest(whole.dFeatures));
      expect(furthest(weights, movedBy(1))).toBeLessThan(1e-5 * largest(whole.dWeights));
    }
  });

  test('of accumulated gradients is the same', async () => {
    const head = await MarginHead.create(options);
    await head.accumulate(batch, { gradientScale: 0.5 });
    await head.accumulate(batch, { gradientScale: 0.5 });
    await head.apply();
    expect(furthest(head.weights(), movedBy(1))).toBeLessThan(1e-5 * largest(whole.dWeights));
    head.dispose();
  });

  test('is clipped with its terms', async () => {
    const norm = Math.hypot(...whole.dWeights);
    const head = await MarginHead.create({ ...options, clipWeightGradient: { global: norm / 3 } });
    await head.step(batch);
    expect(furthest(head.weights(), movedBy(1 / 3))).toBeLessThan(1e-5 * largest(whole.dWeights));
    head.dispose();
  });

  test('has all classes, or no inter-loss', async () => {
    await expectFailure(
      () => MarginHead.create({ ...options, sampleRate: 0.5 }),
      'ERR_OPTION',
      /terms must be without inter where a sampleRate leaves classes out/,
    );
  });
});

describe('a head', () => {
  test('moves its centres by the rule of the paper', async () => {
    const terms = [centerLoss({ weight: 0.1, learningRate: 0.4 })];
    const head = await MarginHead.create({ ...base, terms });
    expect(largest(head.centers())).toBe(0);
    const expected = new Float64Array(size.classes * size.dim);
    for (let n = 0; n < 3; n++) {
      await head.step(batch);
      for (let j = 0; j < size.classes; j++) {
        const rows = [...labels.keys()].filter((i) => labels[i] === j);
        for (let d = 0; d < size.dim; d++) {
          const at = j * size.dim + d;
          const sum = rows.reduce((sum, i) => sum + expected[at]! - features[i * size.dim + d]!, 0);
          expected[at]! -= (0.4 * sum) / (1 + rows.length);
        }
      }
    }
    expect(furthest(head.centers(), expected)).toBeLessThan(1e-6 * largest(expected));
    expect(head.centers(2, 4)).toEqual(head.centers().slice(2 * size.dim, 4 * size.dim));
    head.dispose();
  });

  test('learns the radius from the mean norm of its first batch', async () => {
    const head = await MarginHead.create({ ...base, terms: [ringLoss({ weight: 0.2 })] });
    expect(head.ringRadius).toBeUndefined();
    await head.evaluate(batch);
    expect(head.ringRadius).toBeUndefined();
    const mean = meanNorm(numbersOf(problem));
    await head.step(batch, { learningRate: 0.5 });
    // dR is 0 where R is the mean.
    expect(head.ringRadius).toBeCloseTo(mean, 6);
    const twice = { features: features.map((value) => 2 * value), labels };
    await head.step(twice, { learningRate: 0.5 });
    expect(head.ringRadius).toBeCloseTo(mean + 0.5 * 0.2 * 2 * (2 * mean - mean), 5);
    await head.step(twice, { terms: [ringLoss({ weight: 0.2, learningRate: 0 })] });
    expect(head.ringRadius).toBeCloseTo(mean + 0.2 * mean, 5);
    head.dispose();
  });

  test.each<[string, boolean, (head: MarginHead) => Promise<unknown>]>([
    ['step', true, (head) => head.step(batch)],
    ['step with a learning rate of 0', false, (head) => head.step(batch, { learningRate: 0 })],
    ['accumulate', true, (head) => head.accumulate(batch)],
    ['evaluate', false, (head) => head.evaluate(batch)],
    [
      'backwardSync',
      true,
      async (head) => {
        const pass = head.forwardSync(batch);
        pass.backwardSync();
        pass.dispose();
      },
    ],
    [
      'a step that is aborted',
      false,
      async (head) => expect(head.step(batch, { signal: AbortSignal.abort() })).rejects.toThrow(),
    ],
  ])('%s moves centres and radius: %s', async (_, moves, call) => {
    const terms = [centerLoss(), ringLoss({ radius: 1 })];
    const head = await MarginHead.create({ ...base, terms });
    await call(head);
    expect(head.ringRadius !== undefined).toBe(moves);
    expect(largest(head.centers()) > 0).toBe(moves);
    head.dispose();
  });

  test('has the same loss and gradient as valueAndGrad, whatever its shards', async () => {
    const terms = [intraLoss(), interLoss(), ringLoss({ radius: 3 }), tripletLoss({ mining: 'hard' })];
    const whole = valueAndGradSync(problem, { terms });
    for (const shards of [1, 2, 3]) {
      const head = await MarginHead.create({ ...base, shards, terms, optimizer: sgd({ learningRate: 0.1 }) });
      expect(head.terms).toEqual(terms);
      const pass = head.forwardSync(batch);
      const dFeatures = pass.backwardSync();
      expect(pass.loss).toBeCloseTo(whole.loss, 4);
      for (const { kind } of terms) expect(pass.terms![kind]).toBeCloseTo(whole.terms![kind]!, 6);
      expect(furthest(dFeatures, whole.dFeatures)).toBeLessThan(1e-5 * largest(whole.dFeatures));
      const expected = problem.weights.map((value, i) => value - 0.1 * whole.dWeights[i]!);
      expect(furthest(head.weights(), expected)).toBeLessThan(1e-5);
      pass.dispose();
      head.dispose();
    }
  });

  test('evaluates the schedules of weights at its step', async () => {
    const weight = linear({ from: 0, to: 1, steps: 2 });
    const head = await MarginHead.create({ ...base, terms: [intraLoss({ weight })] });
    for (const expected of [0, 0.5, 1, 1]) {
      const { loss, terms } = head.evaluateSync(batch);
      const plain = head.evaluateSync(batch, { terms: [] });
      expect(plain.terms).toBeUndefined();
      expect(loss - plain.loss).toBeCloseTo(expected * terms!.intra!, 6);
      await head.step(batch);
    }
    head.dispose();
  });
});

test.each<[string, unknown, string, RegExp]>([
  ['terms', 3, 'ERR_TYPE', /terms must be an array of terms, received 3/],
  ['terms', [null], 'ERR_TYPE', /terms\[0\] must be an object/],
  ['terms', [{ kind: 'island' }], 'ERR_OPTION', /terms\[0\]\.kind must be 'intra'.*'triplet'/],
  [
    'terms',
    [{ kind: 'intra' }],
    'ERR_TYPE',
    /terms\[0\]\.weight must be a finite number >= 0, received undefined/,
  ],
  [
    'terms',
    [intraLoss(), intraLoss()],
    'ERR_OPTION',
    /terms\[1\]\.kind must be another one than those before/,
  ],
  [
    'terms',
    [{ ...intraLoss(), radius: 1 }],
    'ERR_OPTION',
    /a name in terms\[0\] must be one of kind, weight/,
  ],
  ['terms', [{ ...ringLoss(), radius: -1 }], 'ERR_OPTION', /terms\[0\]\.radius must be a finite number >= 0/],
  [
    'terms',
    [{ ...tripletLoss(), mining: 'easy' }],
    'ERR_OPTION',
    /terms\[0\]\.mining must be 'hard' or 'semihard'/,
  ],
  [
    'terms',
    [intraLoss(), centerLoss()],
    'ERR_TYPE',
    /terms\[1\]\.centers must be a Float32Array, received undefined/,
  ],
  [
    'terms',
    [centerLoss({ centers: new Float32Array(3) })],
    'ERR_SHAPE',
    /terms\[0\]\.centers\.length must be 231/,
  ],
  [
    'terms',
    [intraLoss({ weight: linear({ from: 0, to: 1, steps: 5 }) })],
    'ERR_OPTION',
    /terms\[0\]\.weight must be without a schedule/,
  ],
])('%s %j is refused', async (name, value, code, message) => {
  await expectFailure(() => valueAndGradSync(problem, { [name]: value }), code, message);
});

test('what has no loss, or what a head keeps itself, is refused', async () => {
  const terms: LossTerm[] = [intraLoss()];
  const dLoss = new Float32Array(size.rows);
  await expectFailure(
    () => valueAndGradSync(problem, { terms, reduction: 'none', dLoss }),
    'ERR_OPTION',
    /terms must be left out with reduction 'none'/,
  );
  await expectFailure(
    () => forwardSync(problem, { terms, reduction: 'none' }),
    'ERR_OPTION',
    /terms must be left out/,
  );
  for (const make of [() => centerLoss({ learningRate: 2 }), () => tripletLoss({ margin: -1 })])
    await expectFailure(make, 'ERR_OPTION', /must be/);
  const given = [centerLoss({ centers })];
  await expect(MarginHead.create({ ...base, terms: given })).rejects.toThrow(
    /terms\[0\]\.centers must be left out/,
  );
  const head = await MarginHead.create({ ...base, margin: arcface() });
  await expect(head.step(batch, { terms: given })).rejects.toThrow(/terms\[0\]\.centers must be left out/);
  head.dispose();
});
