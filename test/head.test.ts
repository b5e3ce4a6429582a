/** MarginHead: what it holds, how its calls queue, and that a call changes it wholly or not at all. */

import { describe, expect, test } from 'vitest';
import {
  adamw,
  arcface,
  cosface,
  customMargin,
  type HeadBatch,
  MarginHead,
  type MarginHeadOptions,
  sgd,
  softmax,
  valueAndGradSync,
} from '../src/index.js';
import { expectFailure, failureOf } from './failures.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { makeProblem } from './problems.js';
import { type ReferenceOptions, reference } from './reference.js';

const size = { rows: 31, dim: 33, classes: 131 };
const { features, labels, weights, dim } = makeProblem(size, 'spread', 'ignored', 1);
const batch = { features, labels } satisfies HeadBatch;
const otherBatch = makeProblem(size, 'clustered', 'random', 2) satisfies HeadBatch;
const { classes } = size;

const base: MarginHeadOptions = {
  dim,
  classes,
  init: weights,
  optimizer: sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01 }),
};
const makeHead = (options: Partial<MarginHeadOptions> = {}) => MarginHead.create({ ...base, ...options });

const defaults: ReferenceOptions = {
  margin: { kind: 'arcface', m: 0.5 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};

/** Everything about a head that a call could change, also what only shows after further updates. */
async function stateOf(head: MarginHead): Promise<object> {
  const now = {
    weights: head.weights(),
    steps: head.stepCount,
    accumulated: head.applySync({ learningRate: 1 }),
  };
  await head.step(otherBatch);
  return { ...now, later: head.weights() };
}

describe('step', () => {
  test.each([1, 3])('gives loss, feature gradient and accuracy, with %i shards', async (shards) => {
    const head = await makeHead({ shards });
    const out = await head.step(batch);
    const { dWeights: _, ...expected } = reference({ ...batch, weights, dim }, defaults);
    const { engine, precision, workspace, ...numbers } = out;
    expectWithinLimits(numbers, { ...expected, dWeights: new Float64Array(0) }, float32Limits(64));
    expect({ engine, precision, workspace }).toEqual({
      engine: 'cpu',
      precision: 'float32',
      workspace: 'keep',
    });
    expect(head.stepCount).toBe(1);
    head.dispose();
  });

  test('is the same as stepSync, and as forwardSync with backwardSync', async () => {
    const heads = await Promise.all([makeHead(), makeHead(), makeHead()]);
    const [first, second, third] = heads as [MarginHead, MarginHead, MarginHead];
    for (const each of [batch, otherBatch]) {
      const out = await first.step(each, { learningRate: 0.1 });
      expect(second.stepSync(each, { learningRate: 0.1 })).toEqual(out);
      const pass = third.forwardSync(each);
      expect(pass.loss).toBe(out.loss);
      expect(pass.accuracy).toBe(out.accuracy);
      const dFeatures = pass.backwardSync({ learningRate: 0.1 });
      expect(Math.max(...dFeatures.map((value, i) => Math.abs(value - out.dFeatures[i]!)))).toBeLessThan(
        1e-6,
      );
      pass.dispose();
    }
    expect(second.weights()).toEqual(first.weights());
    const difference = third.weights().map((value, i) => Math.abs(value - first.weights()[i]!));
    expect(Math.max(...difference)).toBeLessThan(1e-5);
    for (const head of heads) head.dispose();
  });

  test('takes margin, scale and row weights for one call, so that they can follow a schedule', async () => {
    const [head, other] = [await makeHead(), await makeHead({ margin: cosface({ m: 0.2 }), scale: 30 })];
    const rowWeights = Float32Array.from(labels, (_, i) => i % 3);
    const options = { margin: cosface({ m: 0.2 }), scale: 30, rowWeights };
    expect(await head.step(batch, options)).toEqual(await other.step(batch, { rowWeights }));
    expect(head.weights()).toEqual(other.weights());
    const { rowLoss } = await head.evaluate(batch);
    expect(rowLoss).toEqual((await other.evaluate(batch, { margin: arcface(), scale: 64 })).rowLoss);
    head.dispose();
    other.dispose();
  });

  test('takes a margin written in JavaScript', async () => {
    const margin = customMargin(({ cosine }) => ({ target: cosine - 0.35, dTarget: 1 }));
    const [head, other] = [await makeHead({ margin }), await makeHead({ margin: cosface() })];
    const [out, expected] = [await head.step(batch), await other.step(batch)];
    expect(out.loss).toBeCloseTo(expected.loss, 5);
    const difference = head.weights().map((value, i) => Math.abs(value - other.weights()[i]!));
    expect(Math.max(...difference)).toBeLessThan(1e-6);
    head.dispose();
    other.dispose();
  });

  test('writes dFeatures to the array of `out`', async () => {
    const head = await makeHead();
    const dFeatures = new Float32Array(features.length).fill(Number.NaN);
    const out = await head.step(batch, { out: { dFeatures }, learningRate: 0 });
    expect(out.dFeatures).toBe(dFeatures);
    expect(dFeatures).toEqual(head.stepSync(batch).dFeatures);
    const overlapping = await failureOf(() => head.step(batch, { out: { dFeatures: features } }));
    expect(overlapping.message).toMatch(/^out\.dFeatures must be apart from features in memory/);
    head.dispose();
  });

  test.each([
    ['step', (head: MarginHead) => head.step(batch, { learningRate: 0 })],
    [
      'forwardSync and backwardSync',
      (head: MarginHead) => head.forwardSync(batch).backwardSync({ learningRate: 0 }),
    ],
    ['apply with nothing accumulated', (head: MarginHead) => head.apply({ learningRate: 1 })],
    ['evaluate', (head: MarginHead) => head.evaluate(batch)],
    ['nearest', (head: MarginHead) => head.nearest(features, 3)],
  ])('changes nothing with learning rate 0; neither does what only looks: %s', async (_, call) => {
    const [head, untouched] = [await makeHead(), await makeHead()];
    for (const each of [head, untouched]) each.stepSync(batch);
    await call(head);
    expect(await stateOf(head)).toEqual(await stateOf(untouched));
    head.dispose();
    untouched.dispose();
  });

  test('with no rows, or none that counts, is an update with a gradient of 0', async () => {
    for (const empty of [
      { features: new Float32Array(0), labels: new Int32Array(0) },
      { features, labels: new Int32Array(labels.length).fill(-1) },
    ]) {
      const head = await makeHead({ optimizer: sgd({ learningRate: 0.5, weightDecay: 0.01 }) });
      const out = await head.step(empty);
      expect(out.loss).toBe(0);
      expect(out.accuracy).toBeNaN();
      expect(out.dFeatures.every((value) => value === 0)).toBe(true);
      const decayed = weights.map((value) => value * (1 - 0.5 * 0.01));
      expect(Math.max(...head.weights().map((value, i) => Math.abs(value - decayed[i]!)))).toBeLessThan(1e-6);
      head.dispose();
    }
  });
});

describe('accumulate and apply', () => {
  test.each([
    ['sgd', sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01 })],
    ['adamw', adamw({ learningRate: 1e-3, epsilon: 1e-3 })],
  ])('make the same %s update from micro-batches as one step on all rows', async (_, optimizer) => {
    const rows = 30;
    const whole = makeProblem({ ...size, rows }, 'spread', 'random', 3);
    const part = (i: number): HeadBatch => ({
      features: whole.features.subarray(i * 10 * dim, (i + 1) * 10 * dim),
      labels: whole.labels.subarray(i * 10, (i + 1) * 10),
    });
    const [head, other] = [await makeHead({ optimizer, shards: 3 }), await makeHead({ optimizer })];
    for (let round = 0; round < 2; round++) {
      const outs = [];
      for (let i = 0; i < 3; i++) outs.push(await head.accumulate(part(i), { gradientScale: 1 / 3 }));
      expect(head.stepCount).toBe(round);
      expect(await head.apply()).toBe(true);
      const out = await other.step(whole);
      expect(outs.reduce((sum, { loss }) => sum + loss / 3, 0)).toBeCloseTo(out.loss, 4);
      const dFeatures = outs.flatMap((each) => [...each.dFeatures]);
      expect(Math.max(...dFeatures.map((value, i) => Math.abs(value - out.dFeatures[i]!)))).toBeLessThan(
        1e-6,
      );
    }
    expect(head.stepCount).toBe(2);
    expect(await head.apply()).toBe(false);
    const difference = head.weights().map((value, i) => Math.abs(value - other.weights()[i]!));
    expect(Math.max(...difference)).toBeLessThan(1e-5);
    head.dispose();
    other.dispose();
  });

  test('apply with learning rate 0 keeps what was accumulated', async () => {
    const [head, other] = [await makeHead(), await makeHead()];
    for (const each of [head, other]) await each.accumulate(batch);
    expect(await head.apply({ learningRate: 0 })).toBe(false);
    expect(await stateOf(head)).toEqual(await stateOf(other));
    head.dispose();
    other.dispose();
  });

  test('have Sync twins', async () => {
    const [head, other] = [await makeHead(), await makeHead()];
    expect(head.accumulateSync(batch)).toEqual(await other.accumulate(batch));
    expect(head.applySync()).toBe(await other.apply());
    expect(head.weights()).toEqual(other.weights());
    head.dispose();
    other.dispose();
  });
});

describe('evaluate, nearest and weights', () => {
  test('evaluate gives the loss and accuracy of the head as it is', async () => {
    const head = await makeHead({ margin: softmax(), shards: 2 });
    const out = await head.evaluate(otherBatch);
    expect(head.evaluateSync(otherBatch)).toEqual(out);
    const expected = reference({ ...otherBatch, weights, dim }, { ...defaults, margin: { kind: 'softmax' } });
    const { engine, precision, workspace, ...numbers } = out;
    expectWithinLimits(numbers, expected, float32Limits(64));
    expect(valueAndGradSync({ ...otherBatch, weights, dim }, { margin: softmax() }).loss).toBeCloseTo(
      out.loss,
      5,
    );
    head.dispose();
  });

  test.each([1, 3, 131])('nearest finds the %i classes with the largest cosine', async (k) => {
    const head = await makeHead({ shards: 3 });
    const { classes: ids, cosines } = await head.nearest(features, k);
    expect(head.nearestSync(features, k)).toEqual({ classes: ids, cosines });
    const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, d) => sum + value * b[d]!, 0);
    const row = (matrix: Float32Array, i: number) => matrix.subarray(i * dim, (i + 1) * dim);
    for (let i = 0; i < size.rows; i++) {
      const x = row(features, i);
      const exact = Array.from({ length: classes }, (_, j) => {
        const w = row(weights, j);
        return dot(x, w) / Math.sqrt(dot(x, x) * dot(w, w));
      });
      const best = [...exact.keys()].sort((a, b) => exact[b]! - exact[a]! || a - b).slice(0, k);
      expect([...ids.subarray(i * k, (i + 1) * k)]).toEqual(best);
      for (const [n, j] of best.entries()) expect(cosines[i * k + n]).toBeCloseTo(exact[j]!, 6);
    }
    head.dispose();
  });

  test('nearest sends ties to the smaller id, and takes no rows', async () => {
    const alike = new Float32Array(weights.length).map((_, i) => ((i % dim) + 1) * (i < 5 * dim ? -1 : 2));
    const head = await makeHead({ init: alike, shards: 7 });
    const { classes: ids } = await head.nearest(alike.subarray(6 * dim, 7 * dim), 4);
    expect([...ids]).toEqual([5, 6, 7, 8]);
    expect(await head.nearest(new Float32Array(0), 4)).toEqual({
      classes: new Int32Array(0),
      cosines: new Float32Array(0),
    });
    head.dispose();
  });

  test('weights copies any range of classes, also across shards', async () => {
    const head = await makeHead({ shards: 7 });
    for (const [start, end] of [
      [0, 131],
      [17, 20],
      [130, 131],
      [5, 5],
    ] as const)
      expect(head.weights(start, end)).toEqual(weights.slice(start * dim, end * dim));
    expect(head.weights(100)).toEqual(weights.slice(100 * dim));
    expect(() => head.weights(-1)).toThrow(/^start must be an integer in \[0, 131\], received -1$/);
    expect(() => head.weights(3, 2)).toThrow(/^end must be an integer in \[3, 131\], received 2$/);
    expect(() => head.weights(0, 132)).toThrow(/^end must be an integer in \[0, 131\], received 132$/);
    head.dispose();
  });
});

describe('bad arguments', () => {
  type Call = (head: MarginHead) => unknown;
  test.each<[string, Call, string, RegExp]>([
    [
      'features',
      (head) => head.step({ ...batch, features: new Float32Array(5) }),
      'ERR_SHAPE',
      /^features\.length must be 1023 \(labels\.length 31 \* dim 33\), received 5$/,
    ],
    [
      'labels',
      (head) => head.accumulate({ ...batch, labels: new Int32Array(31).fill(131) }),
      'ERR_LABEL_RANGE',
      /^labels\[0\] must be in \[-1, 130\], received 131$/,
    ],
    [
      'no batch',
      (head) => head.evaluate(undefined as unknown as HeadBatch),
      'ERR_TYPE',
      /^batch must be an object/,
    ],
    [
      'learningRate',
      (head) => head.step(batch, { learningRate: -1 }),
      'ERR_OPTION',
      /^learningRate must be a finite number >= 0, received -1$/,
    ],
    [
      'learningRate of apply',
      (head) => head.apply({ learningRate: Number.NaN }),
      'ERR_OPTION',
      /^learningRate must be/,
    ],
    [
      'gradientScale',
      (head) => head.accumulate(batch, { gradientScale: Infinity }),
      'ERR_OPTION',
      /^gradientScale must be a finite number/,
    ],
    [
      'dLoss',
      (head) => head.forwardSync(batch).backwardSync({ dLoss: Number.NaN }),
      'ERR_OPTION',
      /^dLoss must be a finite number/,
    ],
    [
      'unknown name',
      (head) => head.step(batch, { lr: 1 } as object),
      'ERR_OPTION',
      /^a name in options must be one of .*learningRate.*received 'lr'$/,
    ],
    [
      'margin',
      (head) => head.step(batch, { margin: arcface({ m: { perRow: new Float32Array(3) } }) }),
      'ERR_SHAPE',
      /^margin\.m\.perRow\.length must be 31/,
    ],
    [
      'rowWeights',
      (head) => head.evaluate(batch, { rowWeights: new Float32Array(2) }),
      'ERR_SHAPE',
      /^rowWeights\.length must be 31/,
    ],
    [
      'k too large',
      (head) => head.nearest(features, 132),
      'ERR_OPTION',
      /^k must be an integer in \[1, 131\], received 132$/,
    ],
    [
      'k missing',
      (head) => head.nearest(features, undefined as unknown as number),
      'ERR_TYPE',
      /^k must be .*received undefined$/,
    ],
    [
      'features of nearest',
      (head) => head.nearest(new Float32Array(34), 1),
      'ERR_SHAPE',
      /^features\.length must be a multiple of dim 33, received 34$/,
    ],
    [
      'NaN',
      (head) => head.step({ ...batch, features: features.map((v, i) => (i === 40 ? NaN : v)) }),
      'ERR_NOT_FINITE',
      /^features must be finite, row 1 /,
    ],
    [
      'a callback that throws',
      (head) =>
        head.step(batch, {
          margin: customMargin(() => {
            throw new Error('no');
          }),
        }),
      'ERR_MARGIN',
      /^customMargin callback, row 0: result must be/,
    ],
  ])('%s: an error, and the head as it was', async (_, call, code, message) => {
    const [head, untouched] = [await makeHead(), await makeHead()];
    for (const each of [head, untouched]) each.stepSync(batch);
    await expectFailure(() => call(head), code, message);
    expect(await stateOf(head)).toEqual(await stateOf(untouched));
    head.dispose();
    untouched.dispose();
  });
});
