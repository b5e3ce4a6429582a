/** AdaCos: the scale of each batch against the formula, and where it is kept. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { adacos, MarginHead, softmax, valueAndGradSync } from '../src/index.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { clustered, size, spread } from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { processGroup } from './process_group.js';
import { reference } from './reference.js';

const { dim, classes } = size;
const init = spread.weights;
const options = { dim, classes, init, margin: softmax(), scale: adacos() };
const first = Math.SQRT2 * Math.log(classes - 1);

const ofMargin = {
  margin: { kind: 'softmax' },
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
} as const;

/** The scale after a batch, from all of its cosines. */
function next(features: Float32Array, labels: Int32Array, weights: Float32Array, scale: number): number {
  const unit = (matrix: Float32Array, i: number) => {
    const row = Float64Array.from(matrix.subarray(i * dim, (i + 1) * dim));
    return row.map((value) => value / Math.hypot(...row));
  };
  const counted = [...labels.keys()].filter((i) => labels[i] !== -1);
  const centres = Array.from({ length: weights.length / dim }, (_, j) => unit(weights, j));
  let average = 0;
  const angles = counted.map((i) => {
    const x = unit(features, i);
    const cosines = centres.map((w) => w.reduce((sum, value, d) => sum + value * x[d]!, 0));
    for (const [j, c] of cosines.entries())
      if (j !== labels[i]) average += Math.exp(scale * c) / counted.length;
    return Math.acos(cosines[labels[i]!]!);
  });
  const median = angles.sort((a, b) => a - b)[Math.floor((angles.length - 1) / 2)]!;
  return Math.log(average) / Math.cos(Math.min(Math.PI / 4, median));
}

describe('adacos', () => {
  test('each batch has the scale that the one before left, over shards and over processes', async () => {
    const gpus = gpusOfThisProcess();
    const alone = await MarginHead.create({ ...options, shards: 3 });
    const heads = await Promise.all(
      processGroup(3).map((group) =>
        MarginHead.create({
          ...options,
          group,
          precision: 'float32',
          devices: group.rank === 2 && gpus[0] !== undefined ? [gpus[0]] : ['cpu'],
        }),
      ),
    );
    let scale = first;
    for (const { features, labels } of [spread, clustered, clustered, spread]) {
      const weights = alone.weights();
      expect(alone.currentScale).toBeCloseTo(scale, 4);
      const out = await alone.step({ features, labels });
      const wanted = reference({ features, labels, weights, dim }, { ...ofMargin, scale });
      const { loss, rowLoss, dFeatures } = out;
      expectWithinLimits({ loss, rowLoss, dFeatures }, wanted, float32Limits(64));
      await Promise.all(
        heads.map((head, rank) => {
          const [start, end] = [
            [0, 9],
            [9, 9],
            [9, size.rows],
          ][rank] as [number, number];
          return head.step({
            features: features.slice(start * dim, end * dim),
            labels: labels.slice(start, end),
          });
        }),
      );
      scale = next(features, labels, weights, scale);
      expect(scale).toBeGreaterThan(1);
    }
    expect(scale).not.toBeCloseTo(first, 1);
    const scales = heads.map((head) => head.currentScale);
    expect(scales[0]).toBeCloseTo(scale, 4);
    expect(new Set(scales).size).toBe(1);
    for (const head of [alone, ...heads]) head.dispose();
  });

  test('moves with what changes the head, and is in checkpoints', async () => {
    const head = await MarginHead.create(options);
    await head.evaluate(clustered);
    await head.step(clustered, { learningRate: 0 });
    await head.step(clustered, { scale: 20 });
    expect(head.currentScale).toBe(first);
    await expectFailure(() => head.step(clustered, { signal: AbortSignal.abort() }), 'ERR_ABORTED', /./);
    await head.accumulate({ ...clustered, labels: clustered.labels.map(() => -1) });
    expect(head.currentScale).toBe(first);
    const second = next(clustered.features, clustered.labels, head.weights(), first);
    await head.accumulate(clustered);
    expect(head.currentScale).toBeCloseTo(second, 4);
    using pass = head.forwardSync(spread);
    const third = next(spread.features, spread.labels, head.weights(), second);
    pass.backwardSync();
    expect(head.currentScale).toBeCloseTo(third, 4);
    const { loss } = await head.evaluate(spread);
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-adacos-'));
    try {
      await head.save(folder);
      using loaded = await MarginHead.load(folder, { shards: 2 });
      expect(loaded.scale).toEqual(adacos());
      expect(loaded.currentScale).toBe(head.currentScale);
      expect((await loaded.evaluate(spread)).loss).toBeCloseTo(loss, 5);
    } finally {
      await rm(folder, { recursive: true });
      head.dispose();
    }
  });

  test('of calls in the queue is of their turn', async () => {
    const [queued, waited] = [await MarginHead.create(options), await MarginHead.create(options)];
    const [, second] = await Promise.all([queued.step(clustered), queued.step(clustered)]);
    await waited.step(clustered);
    expect(second.loss).toBe((await waited.step(clustered)).loss);
    for (const head of [queued, waited]) head.dispose();
  });

  test('fixed is sqrt(2) ln(C - 1), of the classes that there are', async () => {
    const scale = adacos({ fixed: true });
    const margin = softmax();
    expect(valueAndGradSync(spread, { margin, scale })).toEqual(
      valueAndGradSync(spread, { margin, scale: first }),
    );
    const head = await MarginHead.create({ ...options, scale });
    await head.step(clustered);
    expect(head.currentScale).toBe(first);
    await head.addClasses(100);
    expect(head.currentScale).toBe(Math.SQRT2 * Math.log(classes + 99));
    head.dispose();
  });

  test.each<[string, () => unknown, RegExp]>([
    [
      'a call without a head',
      () => valueAndGradSync(spread, { scale: adacos() }),
      /^scale must be fixed where no MarginHead remembers it, received adacos that is not$/,
    ],
    [
      'two classes',
      () => MarginHead.create({ dim: 2, classes: 2, scale: adacos() }),
      /^scale must be a number with 2 classes, ln\(C - 1\) being none, received adacos$/,
    ],
    [
      'another name',
      () => adacos({ s: 1 } as never),
      /^a name in adacos options must be one of fixed, received 's'$/,
    ],
  ])('%s is an error', (_, call, message) => expectFailure(call, 'ERR_OPTION', message));
});
