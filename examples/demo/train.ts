/** Trains a network with a head, and embeds images with the result. */

import {
  dispose,
  train as optimizers,
  type Tensor,
  type Tensor2D,
  tensor,
  tensor2d,
} from '@tensorflow/tfjs-core';
import {
  countSubCenters,
  dominantSubCenters,
  type HeadSnapshot,
  type LossOptions,
  MarginHead,
  type MarginHeadOptions,
  sgd,
} from 'marginfc';
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
  /** The first class weights, of so many rows for each class. */
  readonly init: (subCenters: number) => NonNullable<MarginHeadOptions['init']>;
}

/** With the recipe's scale, unless there is one. */
export type TrainedLoss = LossOptions & { readonly subCenters?: number };

export interface Trained {
  /** Mean training loss of each epoch. */
  readonly losses: readonly number[];
  /** Embeddings of the split's images, [N, dim]. */
  readonly test: Float32Array;
  readonly heldOut: Float32Array;
  /** The head's class weights, [classes, dim]; of classes with several rows the dominant ones. */
  readonly centres: Float32Array;
}

/** All that training goes on from: plain data. */
export interface TrainerState {
  /** The network's weights, one after the other. */
  readonly network: readonly Float32Array[];
  /** What Adam keeps. */
  readonly optimizer: readonly SavedTensor[];
  readonly head: HeadSnapshot;
}

interface SavedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: 'float32' | 'int32';
  readonly values: Float32Array | Int32Array;
}

/** A network with its head, before training. */
export async function createTrainer(
  data: LabelledImages,
  { classOf, train }: Pick<Split, 'classOf' | 'train'>,
  recipe: Recipe,
  seed: number,
  subCenters = 1,
) {
  const { dim, scale, batchSize } = recipe;
  const { width, height } = data.size;
  const pixels = width * height;
  const network = createNetwork(pixels, recipe.hidden, dim, seed);
  const head = await MarginHead.create({
    dim,
    classes: classOf.size,
    subCenters,
    scale,
    optimizer: sgd({ learningRate: recipe.headLearningRate, momentum: 0.9 }),
    init: recipe.init(subCenters),
    seed,
  });
  let optimizer = optimizers.adam(recipe.learningRate);
  const labels = train.map((image) => classOf.get(data.labels[image] as number) as number);
  const inputs = stacked(data.images, train, pixels);
  const targets = labelTargets(labels, dim);

  return {
    dim,

    /** So many passes over the training images; the mean training loss of each. */
    async fit(loss: LossOptions, epochs: number, onEpoch: (loss: number) => void): Promise<number[]> {
      const losses: number[] = [];
      network.compile({ optimizer, loss: headLoss(head, loss) });
      // The images are in random order already; tfjs's own shuffle has no seed.
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
      return losses;
    },

    /** Embeddings of images, [N, dim]. */
    embed(images: readonly number[]): Float32Array {
      if (images.length === 0) return new Float32Array();
      const stack = stacked(data.images, images, pixels);
      const features = network.predict(stack, { batchSize: 512 }) as Tensor;
      const values = features.dataSync<'float32'>();
      stack.dispose();
      features.dispose();
      return values;
    },

    /** The head's class weights, [classes, dim]; of classes with several rows the dominant ones. */
    centres(): Float32Array {
      const centers = { weights: head.weights(), dim, subCenters };
      if (subCenters === 1) return centers.weights;
      const images = { features: this.embed(train), labels: Int32Array.from(labels) };
      return dominantSubCenters(centers, countSubCenters(centers, images));
    },

    async snapshot(): Promise<TrainerState> {
      const kept = await optimizer.getWeights();
      const state = {
        network: network.getWeights().map((weights) => weights.dataSync<'float32'>().slice()),
        optimizer: kept.map(({ name, tensor }) => ({
          name,
          shape: tensor.shape,
          dtype: tensor.dtype as SavedTensor['dtype'],
          values: (tensor.dataSync() as SavedTensor['values']).slice(),
        })),
        head: await head.snapshot(),
      };
      // The number of steps is a tensor of its own each time; the others are Adam's.
      kept[0]?.tensor.dispose();
      return state;
    },

    async restore(state: TrainerState): Promise<void> {
      const weights = network
        .getWeights()
        .map(({ shape }, i) => tensor(state.network[i] as Float32Array, shape));
      network.setWeights(weights);
      optimizer.dispose();
      optimizer = optimizers.adam(recipe.learningRate);
      const kept = state.optimizer.map(({ name, shape, dtype, values }) => ({
        name,
        tensor: tensor(values, [...shape], dtype),
      }));
      await optimizer.setWeights(kept);
      dispose([weights, kept.map(({ tensor }) => tensor)]);
      await head.restore(state.head);
    },

    dispose(): void {
      dispose([inputs, targets]);
      network.dispose();
      optimizer.dispose();
      head.dispose();
    },
  };
}

export type Trainer = Awaited<ReturnType<typeof createTrainer>>;

export async function trainEmbedding(
  data: LabelledImages,
  split: Split,
  { subCenters, ...loss }: TrainedLoss,
  recipe: Recipe,
  seed: number,
  onEpoch: (loss: number) => void,
): Promise<Trained> {
  const trainer = await createTrainer(data, split, recipe, seed, subCenters);
  const losses = await trainer.fit(loss, recipe.epochs, onEpoch);
  const trained = {
    losses,
    test: trainer.embed(split.test),
    heldOut: trainer.embed(split.heldOut),
    centres: trainer.centres(),
  };
  trainer.dispose();
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
