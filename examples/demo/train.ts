/** Trains one network with one head, and embeds images with the result. */

import { train as optimizers, type Tensor, type Tensor2D, tensor2d } from '@tensorflow/tfjs-core';
import { type Margin, MarginHead, type MarginHeadOptions, sgd } from 'marginfc';
import { headLoss, labelTargets } from 'marginfc/tfjs';
import type { LabelledImages, Split } from './data.js';
import { createNetwork } from './network.js';

/** How a network is trained; the same for every loss. */
export interface Recipe {
  readonly hidden: readonly number[];
  /** Length of an embedding. */
  readonly dim: number;
  /** Factor s on the cosines. */
  readonly scale: number;
  readonly epochs: number;
  readonly batchSize: number;
  /** Of Adam, which trains the network. */
  readonly learningRate: number;
  /** Of SGD with momentum 0.9, which trains the head. */
  readonly headLearningRate: number;
  /** The first class weights. */
  readonly init: NonNullable<MarginHeadOptions['init']>;
}

export interface Trained {
  /** Mean training loss of each epoch. */
  readonly losses: readonly number[];
  /** Embeddings of the split's images, [N, dim]. */
  readonly test: Float32Array;
  readonly heldOut: Float32Array;
  /** The head's class weights, [classes, dim]. */
  readonly centres: Float32Array;
}

export async function trainEmbedding(
  data: LabelledImages,
  split: Split,
  margin: Margin,
  recipe: Recipe,
  seed: number,
  onEpoch: (loss: number) => void,
): Promise<Trained> {
  const { dim, scale, epochs, batchSize } = recipe;
  const { width, height } = data.size;
  const pixels = width * height;
  const network = createNetwork(pixels, recipe.hidden, dim, seed);
  const head = await MarginHead.create({
    dim,
    classes: split.classOf.size,
    margin,
    scale,
    optimizer: sgd({ learningRate: recipe.headLearningRate, momentum: 0.9 }),
    init: recipe.init,
    seed,
  });
  const optimizer = optimizers.adam(recipe.learningRate);
  network.compile({ optimizer, loss: headLoss(head) });

  const labels = split.train.map((image) => split.classOf.get(data.labels[image] as number) as number);
  const inputs = stacked(data.images, split.train, pixels);
  const targets = labelTargets(labels, dim);
  const losses: number[] = [];
  // The split is in random order already; tfjs's own shuffle has no seed.
  await network.fit(inputs, targets, {
    epochs,
    batchSize,
    shuffle: false,
    verbose: 0,
    callbacks: {
      onEpochEnd: async (_, logs) => {
        const loss = logs?.loss ?? Number.NaN;
        losses.push(loss);
        onEpoch(loss);
      },
    },
  });
  inputs.dispose();
  targets.dispose();

  const embed = (images: readonly number[]) => {
    if (images.length === 0) return new Float32Array();
    const stack = stacked(data.images, images, pixels);
    const features = network.predict(stack, { batchSize: 512 }) as Tensor;
    const values = features.dataSync<'float32'>();
    stack.dispose();
    features.dispose();
    return values;
  };
  const trained = {
    losses,
    test: embed(split.test),
    heldOut: embed(split.heldOut),
    centres: head.weights(),
  };
  network.dispose();
  optimizer.dispose();
  head.dispose();
  return trained;
}

/** The chosen images as rows, each brought to mean 0 and standard deviation 1: brightness tells nothing. */
function stacked(images: readonly Float32Array[], chosen: readonly number[], pixels: number): Tensor2D {
  const rows = new Float32Array(chosen.length * pixels);
  for (const [row, image] of chosen.entries()) {
    const grey = images[image] as Float32Array;
    const centre = grey.reduce((sum, value) => sum + value, 0) / pixels;
    const variance = grey.reduce((sum, value) => sum + (value - centre) ** 2, 0) / pixels;
    const deviation = Math.sqrt(variance) || 1;
    rows.set(
      grey.map((value) => (value - centre) / deviation),
      row * pixels,
    );
  }
  return tensor2d(rows, [chosen.length, pixels]);
}
