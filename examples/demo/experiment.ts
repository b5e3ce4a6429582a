/** The demo's measurements: every loss on the same splits and from the same networks, and one picture each. */

import type { NamedLoss } from 'marginfc';
import { seeded } from '../random.js';
import { closedSetSplit, type LabelledImages, openSetSplit, type Split } from './data.js';
import {
  angularSpread,
  classCentres,
  drawPairs,
  nearestCentreAccuracy,
  nearestCentreAngle,
  unitRows,
  verify,
} from './metrics.js';
import { type Recipe, type Trained, type TrainedLoss, trainEmbedding } from './train.js';

/** What `npm run demo` compares, by the names of lossNamed(). */
export const usualLosses: readonly string[] = ['softmax', 'cosface', 'arcface', 'x2softmax'];

export interface Settings {
  /** Each as published, but for the scale. */
  readonly losses: readonly NamedLoss[];
  readonly seeds: number;
  readonly dim: number;
  /** Undefined: as many as make about 240 steps. */
  readonly epochs: number | undefined;
}

/** One loss over all seeds; every array has a value for each seed. */
export interface LossFigures {
  readonly loss: NamedLoss;
  /** Degrees, test images of the classes trained on. */
  readonly spread: number[];
  /** Degrees, the same images. */
  readonly nearestCentre: number[];
  /** In [0, 1], classes held out. */
  readonly accuracy: number[];
  /** In [0, 1], classes held out, at a false accept rate of 1 %. */
  readonly trueAcceptRate: number[];
  /** Training loss of each epoch, for each seed. */
  readonly curves: (readonly number[])[];
}

/** One loss in two dimensions. */
export interface Picture {
  readonly loss: NamedLoss;
  /** Embeddings of test images [N, 2] and the class of each. */
  readonly points: Float32Array;
  readonly labels: readonly number[];
  readonly classNames: readonly string[];
  /** The head's class weights [classes, 2]. */
  readonly centres: Float32Array;
  readonly spread: number;
  readonly nearestCentre: number;
  /** Share of test images nearer to their own class's centre than to any other. */
  readonly accuracy: number;
}

export interface Results {
  readonly recipe: Recipe;
  readonly pictureRecipe: Recipe;
  readonly figures: readonly LossFigures[];
  readonly pictures: readonly Picture[];
  readonly trainedClasses: number;
  readonly heldOutClasses: number;
  readonly samePairs: number;
  readonly differentPairs: number;
}

/** Told how far the work is. */
export interface Progress {
  /** `epochs` in all are to come. */
  start(epochs: number): void;
  epoch(run: string, loss: number): void;
  done(run: string, losses: readonly number[]): void;
}

/** ArcFace's paper pictures eight identities in two dimensions; more would not fit on the circle. */
const picturedClasses = 8;

/** Pairs of each kind that are verified; all, if there are fewer. */
export const mostPairs = 10_000;

export async function compareLosses(
  data: LabelledImages,
  settings: Settings,
  progress: Progress,
): Promise<Results> {
  const { losses, seeds, dim } = settings;
  const splits = Array.from({ length: seeds }, (_, i) => openSetSplit(data, seeded(i + 1)));
  const pictureSplit = closedSetSplit(data, picturedClasses, seeded(1));
  const recipe = makeRecipe(splits[0] as Split, dim, settings.epochs);
  const pictureRecipe = makePictureRecipe(pictureSplit, settings.epochs);
  progress.start(losses.length * (seeds * recipe.epochs + pictureRecipe.epochs));

  const figures: LossFigures[] = losses.map((loss) => ({
    loss,
    spread: [],
    nearestCentre: [],
    accuracy: [],
    trueAcceptRate: [],
    curves: [],
  }));
  let counts = { samePairs: 0, differentPairs: 0 };
  for (const [index, split] of splits.entries()) {
    const seed = index + 1;
    const heldOutLabels = split.heldOut.map((image) => data.labels[image] as number);
    const pairs = drawPairs(heldOutLabels, mostPairs, seeded(seed));
    counts = { samePairs: pairs.same.length, differentPairs: pairs.different.length };
    for (const row of figures) {
      const run = `seed ${seed}  ${row.loss.title}`;
      const trained = await trainEmbedding(data, split, trainedLoss(row.loss), recipe, seed, (loss) =>
        progress.epoch(run, loss),
      );
      progress.done(run, trained.losses);
      const { spread, nearestCentre } = anglesOf(trained, data, split, dim);
      const { accuracy, trueAcceptRate } = verify(unitRows(trained.heldOut, dim), dim, pairs);
      row.spread.push(spread);
      row.nearestCentre.push(nearestCentre);
      row.accuracy.push(accuracy);
      row.trueAcceptRate.push(trueAcceptRate);
      row.curves.push(trained.losses);
    }
  }

  const pictures: Picture[] = [];
  for (const loss of losses) {
    const run = `2-D  ${loss.title}`;
    const trained = await trainEmbedding(data, pictureSplit, trainedLoss(loss), pictureRecipe, 1, (value) =>
      progress.epoch(run, value),
    );
    progress.done(run, trained.losses);
    pictures.push({
      loss,
      points: trained.test,
      classNames: [...pictureSplit.classOf.keys()].map((label) => data.classNames[label] as string),
      centres: trained.centres,
      ...anglesOf(trained, data, pictureSplit, 2),
    });
  }
  return {
    recipe,
    pictureRecipe,
    figures,
    pictures,
    trainedClasses: (splits[0] as Split).classOf.size,
    heldOutClasses: data.classNames.length - (splits[0] as Split).classOf.size,
    ...counts,
  };
}

/** The recipe's scale is that of all losses, but for those that are about the scale. */
function trainedLoss({ options: { scale, ...loss } }: NamedLoss): TrainedLoss {
  return typeof scale === 'object' ? { ...loss, scale } : loss;
}

function anglesOf({ test }: Trained, data: LabelledImages, split: Split, dim: number) {
  const labels = split.test.map((image) => split.classOf.get(data.labels[image] as number) as number);
  const units = unitRows(test, dim);
  const centres = classCentres(units, labels, split.classOf.size, dim);
  return {
    labels,
    spread: angularSpread(units, labels, centres, dim),
    nearestCentre: nearestCentreAngle(centres, dim),
    accuracy: nearestCentreAccuracy(units, labels, centres, dim),
  };
}

/** Scale 16 instead of 64: a handful of classes needs no more for a probability near 1. */
export function makeRecipe(split: Pick<Split, 'train'>, dim: number, epochs: number | undefined): Recipe {
  const batchSize = split.train.length < 2000 ? 32 : 128;
  return {
    hidden: [128],
    dim,
    scale: 16,
    epochs: epochs ?? Math.max(6, Math.round((240 * batchSize) / split.train.length)),
    batchSize,
    learningRate: 1e-3,
    headLearningRate: 0.1,
    init: () => ({ std: 0.01 }),
  };
}

/**
 * In two dimensions classes cannot pass each other on their way round the circle, and where two meet they stay.
 * So their weights start evenly spaced and move slowly, and a second hidden layer and more epochs let the images
 * get there.
 */
function makePictureRecipe(split: Split, epochs: number | undefined): Recipe {
  const wide = makeRecipe(split, 2, epochs);
  const classes = split.classOf.size;
  const turn = (label: number) => (2 * Math.PI * label) / classes;
  return {
    ...wide,
    hidden: [128, 64],
    epochs: epochs ?? 2 * wide.epochs,
    headLearningRate: 1e-4,
    // A class's rows beside each other, nearer than those of another.
    init: (subCenters) => {
      const angles = Array.from({ length: classes * subCenters }, (_, row) => {
        const beside = ((row % subCenters) - (subCenters - 1) / 2) / (2 * subCenters);
        return turn(Math.floor(row / subCenters) + beside);
      });
      return Float32Array.from(angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
    },
  };
}
