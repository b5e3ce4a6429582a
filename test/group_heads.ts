/** Heads over groups of processes, for the tests of what they give and of how they fail: one batch, and who has which rows of it. */

import { expect } from 'vitest';
import {
  type HeadBatch,
  MarginHead,
  type MarginHeadOptions,
  type ProcessGroup,
  type StepOptions,
  sgd,
} from '../src/index.js';
import { makeProblem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { reference } from './reference.js';

export const size = { rows: 31, dim: 33, classes: 131 };
export const { features, labels, weights, dim } = makeProblem(size, 'spread', 'ignored', 1);
export const { rows, classes } = size;
export const batches = [{ features, labels }, makeProblem(size, 'clustered', 'random', 2)] as const;

export const base: MarginHeadOptions = {
  dim,
  classes,
  init: weights,
  optimizer: sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01 }),
};

/** Rows of each of so many processes: of different number, none for the second of four. */
export function split(ranks: number): number[] {
  if (ranks === 1) return [0, rows];
  return ranks === 2 ? [0, 20, rows] : [0, 9, 9, 30, rows];
}

export const partOf = ({ features, labels }: HeadBatch, start: number, end: number): HeadBatch =>
  rowsBetween({ features: features as Float32Array, labels, dim }, start, end);

/** What every member of a group does, at the same time. */
export function onAll<T>(
  groups: readonly ProcessGroup[],
  body: (group: ProcessGroup) => Promise<T>,
): Promise<T[]> {
  return Promise.all(groups.map(body));
}

export const makeHeads = (ranks: number, options: Partial<MarginHeadOptions> = {}) =>
  onAll(processGroup(ranks), (group) => MarginHead.create({ ...base, ...options, group }));

export const joined = (arrays: readonly Float32Array[]) =>
  Float32Array.from(arrays.flatMap((array) => Array.from(array)));

export const weightsOf = (heads: readonly MarginHead[]) => joined(heads.map((head) => head.weights()));

export const disposeAll = (heads: readonly MarginHead[]) => {
  for (const head of heads) head.dispose();
};

/** One step of every head with its own rows; row results and dFeatures in one piece, the rest of each. */
export async function step(
  heads: readonly MarginHead[],
  batch: HeadBatch,
  options: (start: number, end: number) => StepOptions = () => ({}),
) {
  const bounds = split(heads.length);
  const outs = await Promise.all(
    heads.map((head, rank) => {
      const [start, end] = [bounds[rank]!, bounds[rank + 1]!];
      return head.step(partOf(batch, start, end), options(start, end));
    }),
  );
  const [first] = outs;
  for (const { loss, accuracy } of outs)
    expect({ loss, accuracy }).toEqual({ loss: first!.loss, accuracy: first!.accuracy });
  return {
    loss: first!.loss,
    accuracy: first!.accuracy,
    rowLoss: joined(outs.map((out) => out.rowLoss)),
    logSumExp: joined(outs.map((out) => out.logSumExp)),
    targetCosine: joined(outs.map((out) => out.targetCosine)),
    dFeatures: joined(outs.map((out) => out.dFeatures)),
  };
}

export function expectClose(actual: Float32Array, expected: Float32Array, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const off = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
  expect(off / largest).toBeLessThan(tolerance);
}

/** What the first step on the first batch gives, in float64; of all but dW. */
export function firstStep() {
  const { dWeights: _, ...expected } = reference(
    { ...batches[0], weights, dim },
    {
      margin: { kind: 'arcface', m: 0.5 },
      scale: 64,
      gradient: 'exact',
      onOverflow: 'none',
      reduction: 'mean',
    },
  );
  return { ...expected, dWeights: new Float64Array(0) };
}
