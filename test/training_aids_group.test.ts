/** Schedules, label smoothing, accuracies, histograms and clipping over a group of processes: as on one. */
import { describe, expect, test } from 'vitest';
import {
  arcface,
  type GradientClip,
  type HeadBatch,
  linear,
  MarginHead,
  type MarginHeadOptions,
  sgd,
} from '../src/index.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';

const size = { rows: 31, dim: 33, classes: 131 };
const { dim, classes, rows } = size;
const { weights, ...first } = makeProblem(size, 'clustered', 'ignored', 1);
const batches: HeadBatch[] = [first, makeProblem(size, 'spread', 'random', 2)];

const options: MarginHeadOptions = {
  dim,
  classes,
  init: weights,
  margin: arcface({ m: linear({ from: 0.1, to: 0.5, steps: 3 }) }),
  scale: linear({ from: 100, to: 32, steps: 2 }),
  optimizer: sgd({ learningRate: linear({ from: 0, to: 0.5, steps: 2 }), momentum: 0.9 }),
  labelSmoothing: 0.1,
  shards: 2,
};
const clips: GradientClip[] = [{ perClass: 0.05 }, { global: 0.2 }];
const everything = { accuracyTop5: true, histograms: 30 } as const;

const share = ({ features, labels }: HeadBatch, start: number, end: number): HeadBatch => ({
  features: (features as Float32Array).slice(start * dim, end * dim),
  labels: labels.slice(start, end),
});

describe.each([
  [1, [0, rows]],
  [2, [0, 20, rows]],
  [4, [0, 9, 9, 30, rows]],
] as const)('%i processes', (ranks, bounds) => {
  test.each(clips)('step, evaluate, and accumulate with apply: %o', async (clipWeightGradient) => {
    const clipping = { ...options, clipWeightGradient };
    const one = await MarginHead.create(clipping);
    const heads = await Promise.all(
      processGroup(ranks).map((group) => MarginHead.create({ ...clipping, group })),
    );
    const onAll = <T>(call: (head: MarginHead, batch: HeadBatch) => Promise<T>, batch: HeadBatch) =>
      Promise.all(heads.map((head, rank) => call(head, share(batch, bounds[rank]!, bounds[rank + 1]!))));
    for (const batch of [...batches, ...batches]) {
      const expected = await one.step(batch, everything);
      for (const { loss, accuracy, accuracyTop5, angles } of await onAll(
        (head, part) => head.step(part, everything),
        batch,
      )) {
        expect(Math.abs(loss - expected.loss)).toBeLessThan(1e-5 * Math.max(1, expected.loss));
        expect({ accuracy, accuracyTop5 }).toEqual({
          accuracy: expected.accuracy,
          accuracyTop5: expected.accuracyTop5,
        });
        // Of the rows of all processes.
        expect(angles!.target).toEqual(expected.angles!.target);
        expect(angles!.hardestNegative).toEqual(expected.angles!.hardestNegative);
      }
    }
    await one.accumulate(first);
    await one.apply();
    await onAll(async (head, part) => {
      await head.accumulate(part);
      await head.apply();
    }, first);
    const got = heads.flatMap((head) => [...head.weights()]);
    const moved = one.weights().map((value, i) => Math.abs(value - weights[i]!));
    const apart = one.weights().map((value, i) => Math.abs(value - got[i]!));
    expect(Math.max(...apart)).toBeLessThan(1e-4 * Math.max(...moved));
    const [a, b] = [await one.evaluate(first), (await onAll((head, part) => head.evaluate(part), first))[0]!];
    expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-5 * Math.max(1, a.loss));
    for (const head of [one, ...heads]) head.dispose();
  });
});
