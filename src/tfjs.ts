/**
 * `marginfc/tfjs`: the fused loss as an operation of TensorFlow.js. The only file that imports tfjs, which is
 * a peer dependency of this entry point alone.
 *
 * tfjs differentiates synchronously, so everything here blocks; use the main entry point where that matters.
 */

import {
  customGrad,
  engine,
  getBackend,
  mul,
  type Scalar,
  scalar,
  type Tensor,
  type Tensor2D,
  tensor,
  tensor2d,
} from '@tensorflow/tfjs-core';
import { MarginFcError } from './errors.js';
import type { GradientChoice } from './gradients.js';
import type { MarginHead } from './head.js';
import { type Batch, forwardSync, valueAndGradSync } from './loss.js';
import {
  type ComputeOptions,
  computeNames,
  type EngineChoice,
  type LossOptions,
  lossNames,
} from './options.js';
import { checkCount, checkObject, checkOneOf, checkOptions, mustBe, show } from './validate.js';

/** Backends whose tensors are in this process's memory, where `dataSync` does not wait for another device. */
const backends = ['cpu', 'wasm', 'tensorflow'] as const;

/** Options of {@link marginLoss}: those of `valueAndGradSync` that make sense for one number. */
export interface MarginLossOptions extends LossOptions, ComputeOptions {
  /** Default `auto`: the cpu engine. An engine that is missing is an error, never replaced by another. */
  readonly engine?: EngineChoice | undefined;
  /** Default `mean`, over the rows that are not ignored. */
  readonly reduction?: 'mean' | 'sum' | undefined;
  /** [B], >= 0. The mean is divided by the sum of the weights of the rows that are not ignored. */
  readonly rowWeights?: Float32Array | undefined;
  /** Default `both`. What is left out counts as constant, and its share of the work is saved. */
  readonly gradients?: GradientChoice | undefined;
}

const marginLossNames = {
  ...lossNames,
  ...computeNames,
  engine: true,
  reduction: true,
  rowWeights: true,
  gradients: true,
} as const satisfies Record<keyof MarginLossOptions, true>;

/** Options of {@link headLoss}. Those of the loss replace the head's own. */
export interface HeadLossOptions extends LossOptions {
  /** Of the head's optimiser; a function is asked before every update. Default: the optimiser's own. */
  readonly learningRate?: number | (() => number) | undefined;
}

/**
 * The margin loss of a batch, differentiable in `features` and `weights` by `tf.grads`, `optimizer.minimize`
 * and the like. Gradients are not differentiable again.
 *
 * Under a gradient function the gradients are computed along with the loss, which is cheaper than going
 * through the classes again; elsewhere the loss alone is.
 *
 * @param features float32 [B, D].
 * @param labels int32 or float32, [B] or [B, 1]; -1 leaves a row out.
 * @param weights float32 [C, D], a row per class; not [D, C] as in a dense layer's kernel. With `subCenters` K [C K, D], row j K + k
 * the k-th of class j.
 * @param options Formula, reduction and the like; default ArcFace with scale 64.
 * @throws MarginFcError ERR_TFJS on a backend other than cpu, wasm and tensorflow, ERR_TYPE and ERR_SHAPE for
 * tensors of another kind, and as `valueAndGradSync`.
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs-core';
 * import { arcface } from 'marginfc';
 * import { marginLoss } from 'marginfc/tfjs';
 *
 * const weights = tf.variable(tf.randomNormal([1000, 64], 0, 0.01));
 * const step = (features: tf.Tensor2D, labels: tf.Tensor1D) =>
 *   tf.train.sgd(0.1).minimize(() => marginLoss(features, labels, weights, { margin: arcface() }));
 * ```
 */
export function marginLoss(
  features: Tensor,
  labels: Tensor,
  weights: Tensor,
  options: MarginLossOptions = {},
): Scalar {
  checkBackend('marginLoss');
  const { gradients = 'both', ...forwardOptions } = checkOptions(options, marginLossNames);
  checkOneOf(gradients, ['both', 'features', 'weights'], 'gradients');
  // Row losses would need a tensor [B].
  if (options.reduction !== undefined) checkOneOf(options.reduction, ['mean', 'sum'], 'reduction');
  const [rows, dim] = checkMatrix(features, 'features', '[B, D]');
  const [, columns] = checkMatrix(weights, 'weights', '[C, D]');
  if (columns !== dim)
    throw mustBe('ERR_SHAPE', 'weights.shape[1]', `that of features, ${dim}`, String(columns));
  const batch: Batch = {
    features: floats(features),
    weights: floats(weights),
    labels: readLabels(labels, rows, dim, 'labels'),
    dim,
  };
  if (!engine().isTapeOn()) {
    const pass = forwardSync(batch, forwardOptions);
    pass.dispose();
    return scalar(pass.loss);
  }

  const { loss, dFeatures, dWeights } = valueAndGradSync<GradientChoice>(batch, {
    ...forwardOptions,
    gradients,
  });
  const inputs: Tensor[] = [];
  const results: Float32Array[] = [];
  for (const [input, result] of [
    [features, dFeatures],
    [weights, dWeights],
  ] as const) {
    if (result === undefined) continue;
    inputs.push(input);
    results.push(result);
  }
  const fused = customGrad(() => ({
    value: scalar(loss),
    gradFunc: (dLoss: Tensor) => results.map((result, i) => scaled(result, inputs[i] as Tensor, dLoss)),
  }));
  return fused(...inputs) as Scalar;
}

/**
 * A head as the loss of a tfjs-layers model, for `model.compile`. The model's output are the features [B, D];
 * the head holds the class weights, which are no weights of the model.
 *
 * The forward pass only computes the loss: `model.evaluate` and validation leave the head alone. The backward
 * pass, which `model.fit` runs once for every batch, moves the head's weights by the head's own optimiser and
 * gives the model the gradient of its features. With learning rate 0 the head stays as it is.
 *
 * `fit`, `evaluate` and `trainOnBatch` of tfjs-layers want targets of the output's shape, [B, D], from every
 * loss but their own: give them `labelTargets(labels, D)`. `fitDataset` and `evaluateDataset` take labels as
 * [B] or [B, 1]. Class weights of `fit` do not reach rows: the loss is one number.
 *
 * @throws MarginFcError when called: ERR_TFJS on a backend other than cpu, wasm and tensorflow, ERR_TYPE and
 * ERR_SHAPE for tensors of another kind, and as `MarginHead.forwardSync`.
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs-core';
 * import * as layers from '@tensorflow/tfjs-layers';
 * import { arcface, MarginHead, sgd } from 'marginfc';
 * import { headLoss, labelTargets } from 'marginfc/tfjs';
 *
 * export async function train(images: tf.Tensor2D, labels: Int32Array): Promise<layers.Sequential> {
 *   const model = layers.sequential({ layers: [layers.layers.dense({ units: 64, inputShape: [784] })] });
 *   const head = await MarginHead.create({ dim: 64, classes: 1000, margin: arcface(), optimizer: sgd({ momentum: 0.9 }) });
 *   model.compile({ optimizer: tf.train.adam(), loss: headLoss(head, { learningRate: 0.1 }) });
 *   await model.fit(images, labelTargets(labels, 64), { epochs: 10 });
 *   return model;
 * }
 * ```
 */
export function headLoss(
  head: MarginHead,
  options: HeadLossOptions = {},
): (yTrue: Tensor, yPred: Tensor) => Scalar {
  const { learningRate, ...loss } = checkOptions(options, { ...lossNames, learningRate: true });
  return (yTrue, yPred) => {
    checkBackend('headLoss');
    const [rows, dim] = checkMatrix(yPred, 'yPred', '[B, D]');
    const batch = { features: floats(yPred), labels: readLabels(yTrue, rows, dim, 'yTrue') };
    if (!engine().isTapeOn()) return scalar(head.evaluateSync(batch, loss).loss);
    const pass = head.forwardSync(batch, loss);
    const fused = customGrad(() => ({
      value: scalar(pass.loss),
      gradFunc: (dLoss: Tensor) => {
        const rate = typeof learningRate === 'function' ? learningRate() : learningRate;
        try {
          const dFeatures = pass.backwardSync({ learningRate: rate, dLoss: numberOf(dLoss) });
          return tensor(dFeatures, yPred.shape);
        } finally {
          pass.dispose();
        }
      },
    }));
    return fused(yPred) as Scalar;
  };
}

/**
 * Labels in the shape that `model.fit` demands of targets, [B, D]: each row's label in all its columns.
 *
 * @param labels B class ids, a tensor [B] or [B, 1] or any array of numbers; -1 leaves a row out.
 * @param dim D, the number of features the model puts out.
 * @returns int32 [B, D], for {@link headLoss}.
 * @throws MarginFcError ERR_LABEL_RANGE for a label that is no integer, ERR_TYPE, ERR_SHAPE.
 */
export function labelTargets(labels: Tensor | ArrayLike<number>, dim: number): Tensor2D {
  checkObject(labels, 'labels');
  checkCount(dim, 'dim');
  const ids = isTensor(labels)
    ? readLabels(labels, labels.shape[0] ?? 0, 1, 'labels')
    : integers(labels, 'labels');
  const targets = new Int32Array(ids.length * dim);
  for (const [row, id] of ids.entries()) targets.fill(id, row * dim, (row + 1) * dim);
  return tensor2d(targets, [ids.length, dim], 'int32');
}

function checkBackend(caller: string): void {
  const backend = getBackend();
  if (backends.some((name) => name === backend)) return;
  throw new MarginFcError(
    'ERR_TFJS',
    `${caller} works on the tfjs backends cpu, wasm and tensorflow, whose tensors are in main memory, ` +
      `but the backend is ${show(backend)}; call await tf.setBackend('wasm') first, ` +
      `after importing '@tensorflow/tfjs-backend-wasm'`,
  );
}

function isTensor(value: unknown): value is Tensor {
  // Not instanceof: an application may hold two copies of tfjs-core, which share one engine.
  return typeof value === 'object' && value !== null && 'dataId' in value && 'dataSync' in value;
}

function checkMatrix(value: Tensor, argument: string, shape: string): readonly [number, number] {
  if (!isTensor(value) || value.dtype !== 'float32')
    throw mustBe('ERR_TYPE', argument, 'a float32 tensor', isTensor(value) ? value.dtype : show(value));
  const [rows, columns] = value.shape;
  if (value.shape.length !== 2 || rows === undefined || columns === undefined || columns === 0)
    throw mustBe('ERR_SHAPE', `${argument}.shape`, shape, `[${value.shape.join(', ')}]`);
  return [rows, columns];
}

function floats(matrix: Tensor): Float32Array {
  return matrix.dataSync<'float32'>();
}

function numberOf(loss: Tensor): number {
  return loss.dataSync<'float32'>()[0] as number;
}

/** result * dLoss in the shape of `input`; most often dLoss is 1 and result can be used as it is. */
function scaled(result: Float32Array, input: Tensor, dLoss: Tensor): Tensor {
  const gradient = tensor(result, input.shape);
  return numberOf(dLoss) === 1 ? gradient : mul(gradient, dLoss);
}

/** Labels [rows] from [rows] or [rows, 1], or from [rows, dim] as labelTargets makes them. */
function readLabels(labels: Tensor, rows: number, dim: number, argument: string): Int32Array {
  if (!isTensor(labels) || (labels.dtype !== 'int32' && labels.dtype !== 'float32'))
    throw mustBe(
      'ERR_TYPE',
      argument,
      'an int32 or float32 tensor',
      isTensor(labels) ? labels.dtype : show(labels),
    );
  const [count, columns = 1] = labels.shape;
  if (labels.rank < 1 || labels.rank > 2 || count !== rows || (columns !== 1 && columns !== dim))
    throw mustBe(
      'ERR_SHAPE',
      `${argument}.shape`,
      `[${rows}], [${rows}, 1] or, as labelTargets makes it, [${rows}, ${dim}]`,
      `[${labels.shape.join(', ')}]`,
    );
  const ids = integers(labels.dataSync<'int32' | 'float32'>(), argument);
  if (columns === 1) return ids;
  const first = ids.filter((_, index) => index % columns === 0);
  // One-hot rows would pass for labels 0 and 1.
  const odd = ids.findIndex((id, index) => id !== first[Math.floor(index / columns)]);
  if (odd >= 0) {
    const row = Math.floor(odd / columns);
    const place = `${argument}[${row}, ${odd % columns}]`;
    throw mustBe(
      'ERR_SHAPE',
      place,
      `the label of its row, ${first[row]}, in every column`,
      String(ids[odd]),
    );
  }
  return first;
}

/** Class ids as int32; whether they fit the classes is checked later. */
function integers(labels: ArrayLike<number>, argument: string): Int32Array {
  const ids = Int32Array.from(labels);
  const odd = ids.findIndex((id, i) => id !== labels[i]);
  if (odd >= 0)
    throw mustBe('ERR_LABEL_RANGE', `${argument}[${odd}]`, 'a class id or -1', String(labels[odd]));
  return ids;
}
