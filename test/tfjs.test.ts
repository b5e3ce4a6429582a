/**
 * marginfc/tfjs against the same loss written in plain tfjs operations and differentiated by tfjs, and as the
 * loss of tfjs-layers models.
 */
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import * as layers from '@tensorflow/tfjs-layers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  arcface,
  type BuiltInMargin,
  cosface,
  focal,
  MarginHead,
  sgd,
  softmax,
  x2softmax,
} from '../src/index.js';
import { headLoss, labelTargets, marginLoss } from '../src/tfjs.js';
import { float32Limits, gradientError, lossError } from './metrics.js';
import { makeProblem } from './problems.js';

const backends = ['cpu', 'wasm'] as const;
const scale = 64;
const limits = float32Limits(scale);

/** F of a built-in margin in tfjs operations; margins with plain numbers only. */
function targetLogit(margin: BuiltInMargin, cosine: tf.Tensor): tf.Tensor {
  const theta = () => tf.acos(cosine);
  switch (margin.kind) {
    case 'softmax':
      return cosine;
    case 'cosface':
      return tf.sub(cosine, margin.m as number);
    case 'arcface':
      return tf.cos(tf.add(theta(), margin.m as number));
    case 'x2softmax':
      return tf.add(
        tf.mul(margin.a as number, tf.square(tf.sub(theta(), margin.h as number))),
        margin.k as number,
      );
    case 'combined':
      throw new Error('not written out here');
  }
}

/** The loss of DESIGN's formulas as tfjs users write it, with all B x C logits; `phi`: of each row's -log p. */
function plainLoss(
  features: tf.Tensor,
  weights: tf.Tensor,
  labels: Int32Array,
  margin: BuiltInMargin,
  phi = (rowLoss: tf.Tensor) => rowLoss,
): tf.Scalar {
  const unit = (rows: tf.Tensor) => tf.div(rows, tf.norm(rows, 'euclidean', 1, true));
  const cosines = tf.matMul(unit(features), unit(weights), false, true);
  // Cast, because the wasm backend's oneHot writes int32 into its float32 result.
  const own = tf.cast(tf.oneHot(tf.tensor1d(labels, 'int32'), weights.shape[0]!), 'float32');
  const target = targetLogit(margin, tf.sum(tf.mul(cosines, own), 1, true));
  const logits = tf.mul(scale, tf.add(tf.mul(cosines, tf.sub(1, own)), tf.mul(target, own)));
  return tf.mean(phi(tf.sub(tf.logSumExp(logits, 1, true), tf.mul(scale, target))));
}

function rowNorms(matrix: Float32Array, dim: number): number[] {
  return Array.from({ length: matrix.length / dim }, (_, i) =>
    Math.hypot(...matrix.subarray(i * dim, (i + 1) * dim)),
  );
}

const problem = makeProblem({ rows: 33, dim: 31, classes: 131 }, 'spread', 'random', 5);
const { labels, dim } = problem;
const rows = labels.length;
const classes = problem.weights.length / dim;
const featuresTensor = () => tf.tensor2d(problem.features, [rows, dim]);
const weightsTensor = () => tf.tensor2d(problem.weights, [classes, dim]);
const labelsTensor = () => tf.tensor1d(labels, 'int32');

describe.each(backends)('on backend %s', (backend) => {
  beforeAll(async () => {
    expect(await tf.setBackend(backend)).toBe(true);
  });
  beforeEach(() => {
    tf.engine().startScope();
    return () => tf.engine().endScope();
  });

  describe('marginLoss', () => {
    it.each([softmax(), cosface(), arcface(), x2softmax()])(
      'is the loss in plain tfjs operations, and so are its gradients: $kind',
      (margin) => {
        const inputs = [featuresTensor(), weightsTensor()];
        const expected = tf.valueAndGrads((x, w) => plainLoss(x!, w!, labels, margin))(inputs);
        const got = tf.valueAndGrads((x, w) => marginLoss(x!, labelsTensor(), w!, { margin, scale }))(inputs);
        expect(lossError(got.value.dataSync(), expected.value.dataSync())).toBeLessThanOrEqual(limits.loss);
        for (const [i, matrix] of [problem.features, problem.weights].entries()) {
          expect(got.grads[i]!.shape).toEqual(inputs[i]!.shape);
          const error = gradientError(
            got.grads[i]!.dataSync(),
            expected.grads[i]!.dataSync(),
            rowNorms(matrix, dim),
          );
          expect(error).toBeLessThanOrEqual(limits.gradient);
        }
      },
    );

    it('is the focal loss in plain tfjs operations, and so are its gradients', () => {
      const inputs = [featuresTensor(), weightsTensor()];
      const phi = (l: tf.Tensor) => tf.mul(tf.square(tf.sub(1, tf.exp(tf.neg(l)))), l);
      const expected = tf.valueAndGrads((x, w) => plainLoss(x!, w!, labels, softmax(), phi))(inputs);
      const options = { margin: softmax(), scale, rowFunction: focal({ gamma: 2 }) };
      const got = tf.valueAndGrads((x, w) => marginLoss(x!, labelsTensor(), w!, options))(inputs);
      expect(lossError(got.value.dataSync(), expected.value.dataSync())).toBeLessThanOrEqual(limits.loss);
      for (const [i, matrix] of [problem.features, problem.weights].entries()) {
        const [own, wanted] = [got.grads[i]!.dataSync(), expected.grads[i]!.dataSync()];
        expect(gradientError(own, wanted, rowNorms(matrix, dim))).toBeLessThanOrEqual(limits.gradient);
      }
    });

    it('is the same number outside a gradient function', () => {
      const loss = () => marginLoss(featuresTensor(), labelsTensor(), weightsTensor());
      const inside = tf.valueAndGrad((x) => marginLoss(x, labelsTensor(), weightsTensor()));
      expect(loss().dataSync()[0]).toBeCloseTo(inside(featuresTensor()).value.dataSync()[0]!, 4);
      expect(loss().shape).toEqual([]);
    });

    it('passes on what its result is multiplied by', () => {
      const gradient = (factor: number) =>
        tf.grad((x) => tf.mul(factor, marginLoss(x, labelsTensor(), weightsTensor())))(featuresTensor());
      const [once, thrice] = [gradient(1).dataSync(), gradient(-3).dataSync()];
      expect(Array.from(thrice, (value) => Math.fround(value / -3))).toEqual(
        Array.from(once, (value) => expect.closeTo(value, 6)),
      );
    });

    it.each([
      ['int32', [rows]],
      ['int32', [rows, 1]],
      ['float32', [rows]],
      ['float32', [rows, 1]],
    ] as const)('takes labels as %s of shape %j', (dtype, shape) => {
      const loss = (y: tf.Tensor) => marginLoss(featuresTensor(), y, weightsTensor()).dataSync()[0];
      expect(loss(tf.tensor(Array.from(labels), [...shape], dtype))).toBe(loss(labelsTensor()));
    });

    it('leaves out rows labelled -1', () => {
      const ignored = tf.tensor1d(
        labels.map((label, i) => (i === 2 ? -1 : label)),
        'int32',
      );
      const gradient = tf.grad((x) => marginLoss(x, ignored, weightsTensor()))(featuresTensor());
      const values = gradient.arraySync() as number[][];
      expect(values[2]!.every((value) => value === 0)).toBe(true);
      expect(values[3]!.some((value) => value !== 0)).toBe(true);
    });

    it(`takes what is left out of 'gradients' as constant`, () => {
      const [features, weights] = [featuresTensor(), weightsTensor()];
      const loss = (x: tf.Tensor, w: tf.Tensor) =>
        marginLoss(x, labelsTensor(), w, { gradients: 'features' });
      const dFeatures = tf.grad((x) => loss(x, weights))(features);
      const both = tf.grads((x, w) => marginLoss(x!, labelsTensor(), w!))([features, weights]);
      expect(dFeatures.dataSync()).toEqual(both[0]!.dataSync());
      expect(() => tf.grad((w) => loss(features, w))(weights)).toThrow('Cannot compute gradient');
    });

    it('is brought down by an optimiser that moves features and weights', () => {
      const features = tf.variable(featuresTensor());
      const weights = tf.variable(weightsTensor());
      const optimizer = tf.train.sgd(5);
      const cost = () => marginLoss(features, labelsTensor(), weights, { scale: 16 });
      const before = cost().dataSync()[0]!;
      for (let i = 0; i < 20; i++) optimizer.minimize(cost, false, [features, weights]);
      expect(cost().dataSync()[0]!).toBeLessThan(before / 2);
    });

    it('leaves no tensors behind', () => {
      const [x, w, y] = [featuresTensor(), weightsTensor(), labelsTensor()];
      const before = tf.memory().numTensors;
      marginLoss(x, y, w).dispose();
      expect(tf.memory().numTensors).toBe(before);
      const { value, grads } = tf.tidy(() =>
        tf.valueAndGrads((a, b) => tf.mul(2, marginLoss(a!, y, b!)))([x, w]),
      );
      expect(tf.memory().numTensors).toBe(before + 3);
      tf.dispose([value, grads]);
      expect(tf.memory().numTensors).toBe(before);
    });
  });

  describe('headLoss', () => {
    const inputs = 7;
    const classes = 5;
    const dim = 3;
    const batch = 8;
    const images = () => tf.randomNormal([3 * batch, inputs], 0, 1, 'float32', 3) as tf.Tensor2D;
    const ids = Int32Array.from({ length: 3 * batch }, (_, i) => i % classes);

    async function modelWithHead(learningRate?: number | (() => number)) {
      const head = await MarginHead.create({
        dim,
        classes,
        scale: 16,
        optimizer: sgd({ learningRate: 0.25, momentum: 0.9 }),
        init: { std: 1 },
      });
      const initial = layers.initializers.glorotNormal({ seed: 1 });
      const dense = layers.layers.dense({ units: dim, inputShape: [inputs], kernelInitializer: initial });
      const model = layers.sequential({ layers: [dense] });
      model.compile({ optimizer: tf.train.sgd(0.1), loss: headLoss(head, { learningRate }) });
      return { head, model, loss: headLoss(head, { learningRate }) };
    }

    const fitting = { batchSize: batch, epochs: 2, verbose: 0, shuffle: false } as const;

    it(`moves the head's weights and the model's in model.fit, and neither in model.evaluate`, async () => {
      const { head, model } = await modelWithHead(0.1);
      const kernel = () => Array.from(model.getWeights()[0]!.dataSync());
      const before = { head: head.weights(), kernel: kernel() };

      const loss = model.evaluate(images(), labelTargets(ids, dim)) as tf.Scalar;
      expect({ head: head.weights(), kernel: kernel() }).toEqual(before);

      const { history } = await model.fit(images(), labelTargets(ids, dim), { ...fitting, epochs: 5 });
      expect(head.stepCount).toBe(5 * 3);
      expect(head.weights()).not.toEqual(before.head);
      expect(kernel()).not.toEqual(before.kernel);
      expect(history.loss!.at(-1)).toBeLessThan(loss.dataSync()[0]!);
    });

    it('makes the update that step makes, and gives the model its dFeatures', async () => {
      const [fitted, stepped] = [await modelWithHead(0.1), await modelWithHead()];
      const x = tf.slice(images(), 0, batch);
      const batchIds = ids.subarray(0, batch);
      const features = stepped.model.predict(x) as tf.Tensor2D;
      const { dFeatures } = stepped.head.stepSync(
        { features: features.dataSync() as Float32Array, labels: batchIds },
        { learningRate: 0.1 },
      );
      const dKernel = tf.matMul(x, tf.tensor2d(dFeatures, [batch, dim]), true);
      const expected = tf.sub(stepped.model.getWeights()[0]!, tf.mul(0.1, dKernel)).dataSync();

      await fitted.model.fit(x, labelTargets(batchIds, dim), { ...fitting, epochs: 1 });
      expect(fitted.head.weights()).toEqual(stepped.head.weights());
      const got = fitted.model.getWeights()[0]!.dataSync();
      expect(Array.from(got)).toEqual(Array.from(expected, (value) => expect.closeTo(value, 5)));
    });

    it('leaves the head as it is with learning rate 0, and uses the optimiser’s own when none is given', async () => {
      const still = await modelWithHead(0);
      const before = still.head.weights();
      await still.model.fit(images(), labelTargets(ids, dim), fitting);
      expect(still.head.weights()).toEqual(before);
      expect(still.head.stepCount).toBe(0);

      const [own, given] = [await modelWithHead(), await modelWithHead(0.25)];
      await own.model.fit(images(), labelTargets(ids, dim), fitting);
      await given.model.fit(images(), labelTargets(ids, dim), fitting);
      expect(own.head.weights()).toEqual(given.head.weights());
    });

    it('computes the loss that is given instead of that of the head', async () => {
      const [fitted, stepped] = [await modelWithHead(), await modelWithHead()];
      const loss = { margin: cosface({ m: 0.2 }), scale: 8 };
      const x = tf.slice(images(), 0, batch);
      const batchIds = ids.subarray(0, batch);
      const features = (stepped.model.predict(x) as tf.Tensor2D).dataSync() as Float32Array;
      const expected = stepped.head.stepSync({ features, labels: batchIds }, loss);

      fitted.model.compile({ optimizer: tf.train.sgd(0.1), loss: headLoss(fitted.head, loss) });
      const before = fitted.model.evaluate(x, labelTargets(batchIds, dim)) as tf.Scalar;
      expect(before.dataSync()[0]).toBeCloseTo(expected.loss, 5);
      await fitted.model.fit(x, labelTargets(batchIds, dim), { ...fitting, epochs: 1 });
      expect(fitted.head.weights()).toEqual(stepped.head.weights());
      expect(() => headLoss(fitted.head, { margn: arcface() } as object)).toThrow(/received 'margn'/);
    });

    it('asks a learning rate that is a function before every update', async () => {
      const asked: number[] = [];
      const { head, model } = await modelWithHead(() => asked.push(0) * 0.01);
      await model.fit(images(), labelTargets(ids, dim), fitting);
      expect(asked).toHaveLength(2 * 3);
      expect(head.stepCount).toBe(2 * 3);
    });

    it('passes on what its result is multiplied by, to the model and to the head', async () => {
      const [once, half] = [await modelWithHead(0.1), await modelWithHead(0.2)];
      const features = tf.slice(images(), [0, 0], [batch, dim]);
      const y = tf.tensor1d(ids.subarray(0, batch), 'int32');
      const d1 = tf.grad((x: tf.Tensor) => once.loss(y, x))(features);
      const d2 = tf.grad((x: tf.Tensor) => tf.mul(0.5, half.loss(y, x)))(features);
      expect(Array.from(tf.mul(2, d2).dataSync())).toEqual(
        Array.from(d1.dataSync(), (value) => expect.closeTo(value, 5)),
      );
      expect(Array.from(half.head.weights())).toEqual(
        Array.from(once.head.weights(), (value) => expect.closeTo(value, 5)),
      );
    });

    it('takes labels as [B] and [B, 1], int32 and float32, where tfjs-layers lets them through', async () => {
      const { model, loss } = await modelWithHead();
      const features = model.predict(images()) as tf.Tensor;
      const value = (y: tf.Tensor) => loss(y, features).dataSync()[0];
      const expected = value(labelTargets(ids, dim));
      for (const dtype of ['int32', 'float32'] as const) {
        expect(value(tf.tensor1d(ids, dtype))).toBe(expected);
        expect(value(tf.tensor2d(ids, [ids.length, 1], dtype))).toBe(expected);
      }
    });

    it('trains through fitDataset on labels [B, 1]; fit refuses those, hence labelTargets', async () => {
      const { head, model } = await modelWithHead(0.1);
      const element = () => ({ xs: images(), ys: tf.tensor2d(ids, [ids.length, 1], 'int32') });
      // What tfjs-data's Dataset is to fitDataset.
      const dataset = {
        iterator: async () => {
          let left = 2;
          return {
            next: async () => (left-- > 0 ? { done: false, value: element() } : { done: true, value: null }),
          };
        },
      } as unknown as Parameters<typeof model.fitDataset>[0];
      await model.fitDataset(dataset, { epochs: 1, verbose: 0 });
      expect(head.stepCount).toBe(2);
      const { xs, ys } = element();
      await expect(model.fit(xs, ys, fitting)).rejects.toThrow(/tensor shape \[\*,3\]/);
    });

    it('leaves no tensors behind', async () => {
      const { model } = await modelWithHead(0.1);
      const [x, y] = [images(), labelTargets(ids, dim)];
      await model.fit(x, y, fitting);
      const before = tf.memory().numTensors;
      await model.fit(x, y, { ...fitting, validationData: [x, y] });
      (model.evaluate(x, y) as tf.Scalar).dispose();
      expect(tf.memory().numTensors).toBe(before);
    });
  });
});

describe('labelTargets', () => {
  beforeAll(async () => void (await tf.setBackend('cpu')));

  it(`repeats each row's label in every column`, () => {
    const expected = [
      [4, 4, 4],
      [-1, -1, -1],
    ];
    const ids = [4, -1];
    for (const form of [ids, Int32Array.from(ids), tf.tensor1d(ids), tf.tensor2d(ids, [2, 1], 'int32')]) {
      const targets = labelTargets(form, 3);
      expect(targets.dtype).toBe('int32');
      expect(targets.arraySync()).toEqual(expected);
    }
  });

  it('refuses labels that are not class ids', () => {
    expect(() => labelTargets([0, 1.5], 3)).toThrow(
      expect.objectContaining({
        code: 'ERR_LABEL_RANGE',
        message: 'labels[1] must be a class id or -1, received 1.5',
      }),
    );
    expect(() => labelTargets(tf.zeros([2, 2]), 3)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => labelTargets([0], 0)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  });
});

describe('errors', () => {
  beforeAll(async () => void (await tf.setBackend('cpu')));

  const ones = (rows: number, columns: number) => tf.ones([rows, columns]);

  it.each([
    ['weights of another length', () => marginLoss(ones(2, 3), tf.tensor1d([0, 1]), ones(4, 5)), 'ERR_SHAPE'],
    ['features of rank 1', () => marginLoss(tf.ones([3]), tf.tensor1d([0]), ones(4, 3)), 'ERR_SHAPE'],
    ['too few labels', () => marginLoss(ones(2, 3), tf.tensor1d([0]), ones(4, 3)), 'ERR_SHAPE'],
    [
      'one-hot labels',
      () =>
        marginLoss(
          ones(2, 3),
          tf.tensor2d([
            [1, 0, 0],
            [0, 1, 0],
          ]),
          ones(4, 3),
        ),
      'ERR_SHAPE',
    ],
    [
      'labels beyond the classes',
      () => marginLoss(ones(1, 3), tf.tensor1d([4]), ones(4, 3)),
      'ERR_LABEL_RANGE',
    ],
    [
      'labels between classes',
      () => marginLoss(ones(1, 3), tf.tensor1d([0.5]), ones(4, 3)),
      'ERR_LABEL_RANGE',
    ],
    ['labels that are bools', () => marginLoss(ones(1, 3), tf.tensor1d([true]), ones(4, 3)), 'ERR_TYPE'],
    ['int32 features', () => marginLoss(tf.ones([1, 3], 'int32'), tf.tensor1d([0]), ones(4, 3)), 'ERR_TYPE'],
    [
      'an unknown option',
      () => marginLoss(ones(1, 3), tf.tensor1d([0]), ones(4, 3), { s: 1 } as object),
      'ERR_OPTION',
    ],
    [
      'no reduction',
      () => marginLoss(ones(1, 3), tf.tensor1d([0]), ones(4, 3), { reduction: 'none' } as object),
      'ERR_OPTION',
    ],
  ])('%s', (_, call, code) => {
    expect(call).toThrow(expect.objectContaining({ name: 'MarginFcError', code }));
  });

  describe('on a backend whose tensors are elsewhere', () => {
    beforeAll(async () => {
      tf.registerBackend('webgl', () => new MathBackendCPU());
      await tf.setBackend('webgl');
    });
    afterAll(async () => {
      await tf.setBackend('cpu');
      tf.removeBackend('webgl');
    });

    it('names the backend and the way out', async () => {
      const head = await MarginHead.create({ dim: 3, classes: 4 });
      const message = expect.stringMatching(/cpu, wasm and tensorflow.*'webgl'.*setBackend\('wasm'\)/s);
      const error = expect.objectContaining({ code: 'ERR_TFJS', message });
      expect(() => marginLoss(ones(1, 3), tf.tensor1d([0]), ones(4, 3))).toThrow(error);
      expect(() => headLoss(head)(tf.tensor1d([0]), ones(1, 3))).toThrow(error);
    });
  });
});
