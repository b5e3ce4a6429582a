/** MarginHead over a group of processes, here members of one: the same results as without. test/head_group_failures.test.ts has the rest. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  adamw,
  arcface,
  combined,
  cosface,
  customMargin,
  type Margin,
  MarginHead,
  sgd,
  softmax,
  x2softmax,
} from '../src/index.js';
import {
  base,
  batches,
  classes,
  dim,
  disposeAll,
  expectClose,
  features,
  firstStep,
  joined,
  labels,
  makeHeads,
  onAll,
  partOf,
  rows,
  split,
  step,
  weightsOf,
} from './group_heads.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';

const perClass = Float32Array.from({ length: classes }, (_, j) => 0.3 + (j % 7) * 0.05);
const perRow = Float32Array.from({ length: rows }, (_, i) => 0.2 + (i % 5) * 0.1);

/** A margin for the rows start .. end-1. */
const margins: Record<string, (start: number, end: number) => Margin> = {
  arcface: () => arcface(),
  cosface: () => cosface(),
  x2softmax: () => x2softmax(),
  combined: () => combined({ m1: 1.1, m2: 0.3, m3: 0.1 }),
  softmax: () => softmax(),
  'a parameter per row': (start, end) => arcface({ m: { perRow: perRow.slice(start, end) } }),
  'a parameter per class': () => cosface({ m: { perClass } }),
  'one in JavaScript': () =>
    customMargin(({ cosine, featureNorm }) => ({
      target: cosine - 0.1 * Math.log(1 + featureNorm),
      dTarget: 1,
      dFeatureNorm: -0.1 / (1 + featureNorm),
    })),
};

describe('step over a group', () => {
  const counts = [1, 2, 4].flatMap((ranks) => [1, 2, 3, 7].map((shards) => ({ ranks, shards })));

  test.each(counts)(
    'of $ranks with $shards shards each is that of one process',
    async ({ ranks, shards }) => {
      const [heads, alone] = [await makeHeads(ranks, { shards }), await MarginHead.create(base)];
      const ends = heads.map(({ range }) => range.end);
      expect(heads.map(({ range }) => range.start)).toEqual([0, ...ends.slice(0, -1)]);
      expect(ends.at(-1)).toBe(classes);
      expectWithinLimits(await step(heads, batches[0]), firstStep(), float32Limits(64));
      await alone.step(batches[0]);
      for (const batch of [batches[1], batches[0]]) {
        const [out, one] = [await step(heads, batch), await alone.step(batch)];
        expect(out.accuracy).toBe(one.accuracy);
        expect(out.loss).toBeCloseTo(one.loss, 4);
        expectClose(out.dFeatures, one.dFeatures, 1e-5);
      }
      expectClose(weightsOf(heads), alone.weights(), 1e-5);
      expect(heads.map(({ stepCount }) => stepCount)).toEqual(heads.map(() => 3));
      disposeAll([...heads, alone]);
    },
  );

  test.each(Object.keys(margins))('is the same with margin %s', async (name) => {
    const margin = margins[name]!;
    for (const [ranks, scale, gradient] of [
      [2, 64, 'exact'],
      [4, 100, 'straightThrough'],
    ] as const) {
      const options = { margin: softmax(), scale, gradient };
      const [heads, alone] = [
        await makeHeads(ranks, options),
        await MarginHead.create({ ...base, ...options }),
      ];
      const rowWeights = Float32Array.from({ length: rows }, (_, i) => i % 3);
      const out = await step(heads, batches[0], (start, end) => ({
        margin: margin(start, end),
        rowWeights: rowWeights.slice(start, end),
      }));
      const one = await alone.step(batches[0], { margin: margin(0, rows), rowWeights });
      expect(out.loss).toBeCloseTo(one.loss, 4);
      for (const name of ['rowLoss', 'logSumExp', 'targetCosine', 'dFeatures'] as const)
        expectClose(out[name], one[name], 1e-5);
      expectClose(weightsOf(heads), alone.weights(), 1e-5);
      disposeAll([...heads, alone]);
    }
  });

  test.each(
    counts.flatMap((count) => [
      { ...count, precision: 'bfloat16' as const },
      { ...count, precision: 'float16' as const },
    ]),
  )(
    'of $ranks with $shards shards each keeps the limits of $precision',
    async ({ ranks, shards, precision }) => {
      const heads = await makeHeads(ranks, { shards, precision });
      expectWithinLimits(await step(heads, batches[0]), firstStep(), halfLimits(precision));
      disposeAll(heads);
    },
  );

  test.each(['bfloat16', 'float16'] as const)(
    'keeps the limits of %s, with features of 16 bits',
    async (precision) => {
      const heads = await makeHeads(2, { precision, workspace: 'recompute' });
      expectWithinLimits(await step(heads, batches[0]), firstStep(), halfLimits(precision));
      const bits = (start: number, end: number) => ({
        features: {
          data: new Uint16Array(features.slice(start * dim, end * dim).buffer).filter((_, i) => i % 2 === 1),
          dtype: 'bfloat16' as const,
        },
        labels: labels.slice(start, end),
      });
      const alone = await MarginHead.create({ ...base, precision });
      await alone.step(batches[0]);
      const one = await alone.evaluate(bits(0, rows));
      const [first] = await Promise.all([
        heads[0]!.evaluate(bits(0, 20)),
        heads[1]!.evaluate(bits(20, rows)),
      ]);
      expect(first.loss).toBeCloseTo(one.loss, 2);
      disposeAll([...heads, alone]);
    },
  );

  test('gives more classes than processes, rows and shards their place', async () => {
    const few = makeProblem({ rows: 5, dim: 3, classes: 2 }, 'spread', 'random', 3);
    const options = {
      dim: 3,
      classes: 2,
      init: few.weights,
      shards: 3,
      optimizer: sgd({ learningRate: 0.1 }),
    };
    const alone = await MarginHead.create(options);
    const heads = await onAll(processGroup(4), (group) => MarginHead.create({ ...options, group }));
    const outs = await Promise.all(
      heads.map((head, r) =>
        head.step({
          features: r === 3 ? few.features : new Float32Array(0),
          labels: r === 3 ? few.labels : new Int32Array(0),
        }),
      ),
    );
    const one = await alone.step(few);
    expect(outs.map(({ loss }) => loss)).toEqual(outs.map(() => outs[0]!.loss));
    expect(outs[0]!.loss).toBeCloseTo(one.loss, 5);
    expectClose(outs[3]!.dFeatures, one.dFeatures, 1e-5);
    expectClose(weightsOf(heads), alone.weights(), 1e-5);
    disposeAll([...heads, alone]);
  });

  test('scales dFeatures for trainers that average over processes', async () => {
    const [mean, scaled] = [await makeHeads(2), await makeHeads(2, { featureGradientScale: 'worldSize' })];
    const [a, b] = [await step(mean, batches[0]), await step(scaled, batches[0])];
    expect(b.dFeatures).toEqual(a.dFeatures.map((value) => value * 2));
    expect(weightsOf(scaled)).toEqual(weightsOf(mean));
    disposeAll([...mean, ...scaled]);
  });

  test('reports what a gradientTolerance left out everywhere', async () => {
    const options = { gradientTolerance: 0.5, scale: 8 };
    const [heads, alone] = [await makeHeads(2, options), await MarginHead.create({ ...base, ...options })];
    const outs = await Promise.all(
      heads.map((head, r) => head.step(partOf(batches[0], split(2)[r]!, split(2)[r + 1]!))),
    );
    expect(outs[0]!.skippedMass).toBe(outs[1]!.skippedMass);
    expect(outs[0]!.skippedMass).toBeLessThanOrEqual(0.5);
    await alone.step(batches[0]);
    disposeAll([...heads, alone]);
  });
});

describe('the other calls over a group', () => {
  test('accumulate and apply make the update of one process', async () => {
    const optimizer = adamw({ learningRate: 0.01 });
    const [heads, alone] = [
      await makeHeads(4, { optimizer }),
      await MarginHead.create({ ...base, optimizer }),
    ];
    const bounds = split(4);
    for (const batch of batches) {
      await Promise.all(
        heads.map((head, r) =>
          head.accumulate(partOf(batch, bounds[r]!, bounds[r + 1]!), { gradientScale: 0.5 }),
        ),
      );
      await alone.accumulate(batch, { gradientScale: 0.5 });
    }
    expect(await Promise.all(heads.map((head) => head.apply()))).toEqual([true, true, true, true]);
    await alone.apply();
    expectClose(weightsOf(heads), alone.weights(), 1e-4);
    disposeAll([...heads, alone]);
  });

  test('nearest finds the classes of all processes', async () => {
    const alone = await MarginHead.create(base);
    for (const ranks of [1, 2, 4]) {
      const heads = await makeHeads(ranks, { shards: 2 });
      const bounds = split(ranks);
      for (const k of [1, 5, classes]) {
        const found = await Promise.all(
          heads.map((head, r) => head.nearest(features.slice(bounds[r]! * dim, bounds[r + 1]! * dim), k)),
        );
        const one = await alone.nearest(features, k);
        expect(found.flatMap((each) => Array.from(each.classes))).toEqual(Array.from(one.classes));
        expect(joined(found.map((each) => each.cosines))).toEqual(one.cosines);
      }
      disposeAll(heads);
    }
    alone.dispose();
  });

  test('checkpoints load on any number of processes, and go on the same', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-group-'));
    const saved = await makeHeads(2, { shards: 2 });
    await step(saved, batches[0]);
    await Promise.all(saved.map((head) => head.save(folder)));
    const before = weightsOf(saved);
    const next = await step(saved, batches[1]);
    const after = weightsOf(saved);
    for (const ranks of [1, 2, 4]) {
      const heads = await onAll(processGroup(ranks), (group) =>
        MarginHead.load(folder, { group, shards: ranks }),
      );
      expect(weightsOf(heads)).toEqual(before);
      const out = await step(heads, batches[1]);
      expect(out.loss).toBeCloseTo(next.loss, 5);
      expectClose(weightsOf(heads), after, 1e-5);
      expect(heads.map(({ stepCount }) => stepCount)).toEqual(heads.map(() => 2));
      disposeAll(heads);
    }
    const alone = await MarginHead.load(folder);
    expect(alone.weights()).toEqual(before);
    disposeAll([...saved, alone]);
    await rm(folder, { recursive: true });
  });

  test('classes come and go, and processes share them evenly again', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(1, 2, 3, 4),
        fc.array(
          fc.oneof(
            fc.record({ add: fc.integer({ min: 1, max: 9 }) }),
            fc.record({ remove: fc.uniqueArray(fc.nat({ max: 19 }), { minLength: 1, maxLength: 6 }) }),
          ),
          { minLength: 1, maxLength: 3 },
        ),
        async (ranks, changes) => {
          const few = { ...base, dim: 5, classes: 20, init: { std: 1 }, seed: 7 };
          const alone = await MarginHead.create(few);
          const heads = await onAll(processGroup(ranks), (group) => MarginHead.create({ ...few, group }));
          const all = [...heads, alone];
          const problem = makeProblem({ rows: 6, dim: 5, classes: 6 }, 'spread', 'random', 5);
          const empty = { features: new Float32Array(0), labels: new Int32Array(0) };
          for (const change of changes) {
            await Promise.all(
              all.map((head) => head.step(head === heads[0] || head === alone ? problem : empty)),
            );
            const ids = 'remove' in change ? change.remove.filter((id) => id < alone.classes && id > 5) : [];
            const results = await Promise.all(
              all.map((head) => ('add' in change ? head.addClasses(change.add) : head.removeClasses(ids))),
            );
            for (const result of results) expect(result).toEqual(results.at(-1));
            expect(weightsOf(heads).length).toBe(alone.weights().length);
            expectClose(weightsOf(heads), alone.weights(), 1e-5);
            const sizes = heads.map(({ range }) => range.end - range.start);
            expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
          }
          disposeAll(all);
        },
      ),
      { numRuns: 20 },
    );
  });
});
