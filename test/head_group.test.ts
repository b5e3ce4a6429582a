/** MarginHead over a group of processes, here members of one: the same results as without, and one end for all of them. */

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
  type HeadBatch,
  type Margin,
  MarginHead,
  type MarginHeadOptions,
  type ProcessGroup,
  type StepOptions,
  sgd,
  softmax,
  x2softmax,
} from '../src/index.js';
import { expectFailure, failureOf } from './failures.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';
import { reference } from './reference.js';

const size = { rows: 31, dim: 33, classes: 131 };
const { features, labels, weights, dim } = makeProblem(size, 'spread', 'ignored', 1);
const { rows, classes } = size;
const batches = [{ features, labels }, makeProblem(size, 'clustered', 'random', 2)] as const;

const base: MarginHeadOptions = {
  dim,
  classes,
  init: weights,
  optimizer: sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01 }),
};

/** Rows of each of so many processes: of different number, none for the second of four. */
function split(ranks: number): number[] {
  if (ranks === 1) return [0, rows];
  return ranks === 2 ? [0, 20, rows] : [0, 9, 9, 30, rows];
}

const partOf = (batch: HeadBatch, start: number, end: number): HeadBatch => ({
  features: (batch.features as Float32Array).slice(start * dim, end * dim),
  labels: batch.labels.slice(start, end),
});

/** What every member of a group does, at the same time. */
function onAll<T>(groups: readonly ProcessGroup[], body: (group: ProcessGroup) => Promise<T>): Promise<T[]> {
  return Promise.all(groups.map(body));
}

const makeHeads = (ranks: number, options: Partial<MarginHeadOptions> = {}) =>
  onAll(processGroup(ranks), (group) => MarginHead.create({ ...base, ...options, group }));

const joined = (arrays: readonly Float32Array[]) =>
  Float32Array.from(arrays.flatMap((array) => Array.from(array)));

const weightsOf = (heads: readonly MarginHead[]) => joined(heads.map((head) => head.weights()));

const disposeAll = (heads: readonly MarginHead[]) => {
  for (const head of heads) head.dispose();
};

/** One step of every head with its own rows; row results and dFeatures in one piece, the rest of each. */
async function step(
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

function expectClose(actual: Float32Array, expected: Float32Array, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const off = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
  expect(off / largest).toBeLessThan(tolerance);
}

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
      expectWithinLimits(
        await step(heads, batches[0]),
        { ...expected, dWeights: new Float64Array(0) },
        float32Limits(64),
      );
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

  test.each(['bfloat16', 'float16'] as const)(
    'keeps the limits of %s, with features of 16 bits',
    async (precision) => {
      const heads = await makeHeads(2, { precision, workspace: 'recompute' });
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
      expectWithinLimits(
        await step(heads, batches[0]),
        { ...expected, dWeights: new Float64Array(0) },
        halfLimits(precision),
      );
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

describe('a call that one process cannot make ends on all, and changes nothing', () => {
  const failing: [string, (head: MarginHead, batch: HeadBatch) => Promise<unknown>, string, RegExp][] = [
    [
      'a label',
      (head, { features }) => head.step({ features, labels: new Int32Array(11).fill(131) }),
      'ERR_LABEL_RANGE',
      /labels\[0\]/,
    ],
    [
      'a length',
      (head, { labels }) => head.step({ features: new Float32Array(1), labels }),
      'ERR_SHAPE',
      /features.length/,
    ],
    [
      'values that are not finite',
      (head, { labels }) => head.step({ features: new Float32Array(11 * dim).fill(Number.NaN), labels }),
      'ERR_NOT_FINITE',
      /features/,
    ],
    [
      'a callback that throws',
      (head, batch) =>
        head.step(batch, {
          margin: customMargin(() => {
            throw new Error('no');
          }),
        }),
      'ERR_MARGIN',
      /no/,
    ],
    [
      'an abort',
      (head, batch) => head.step(batch, { signal: AbortSignal.abort() }),
      'ERR_ABORTED',
      /aborted/,
    ],
  ];

  test.each(failing)('%s', async (name, call, code, message) => {
    const [heads, untouched] = [await makeHeads(2), await makeHeads(2)];
    const bounds = split(2);
    const margin = name.startsWith('a callback')
      ? { margin: customMargin(({ cosine }) => ({ target: cosine, dTarget: 1 })) }
      : {};
    const [good, bad] = await Promise.all([
      failureOf(() => heads[0]!.step(partOf(batches[0], 0, bounds[1]!), margin)),
      failureOf(() => call(heads[1]!, partOf(batches[0], bounds[1]!, rows))),
    ]);
    expect(bad.code).toBe(code);
    expect(good.code).toBe('ERR_GROUP');
    expect(good.message).toMatch(/^process 1 of the group failed: /);
    expect(good.message).toMatch(message);
    expect(weightsOf(heads)).toEqual(weightsOf(untouched));
    expect(await step(heads, batches[0])).toEqual(await step(untouched, batches[0]));
    expect(weightsOf(heads)).toEqual(weightsOf(untouched));
    disposeAll([...heads, ...untouched]);
  });

  test.each([
    ['another call', (head: MarginHead, batch: HeadBatch) => head.evaluate(batch)],
    ['another scale', (head: MarginHead, batch: HeadBatch) => head.step(batch, { scale: 30 })],
    [
      'another learning rate',
      (head: MarginHead, batch: HeadBatch) => head.step(batch, { learningRate: 0.25 }),
    ],
  ])('%s on one of them', async (_, call) => {
    const heads = await makeHeads(2);
    const before = weightsOf(heads);
    const failures = await Promise.all([
      failureOf(() => heads[0]!.step(partOf(batches[0], 0, 20))),
      failureOf(() => call(heads[1]!, partOf(batches[0], 20, rows))),
    ]);
    for (const { code, message } of failures) {
      expect(code).toBe('ERR_GROUP');
      expect(message).toMatch(/must be called by all processes of the group with the same options/);
    }
    expect(weightsOf(heads)).toEqual(before);
    disposeAll(heads);
  });

  test('create with other options, or an init that throws, on one of them', async () => {
    const other = await Promise.all(
      processGroup(2).map((group) =>
        failureOf(() =>
          MarginHead.create({ ...base, classes: classes + group.rank, init: { std: 1 }, group }),
        ),
      ),
    );
    expect(other.map(({ code }) => code)).toEqual(['ERR_GROUP', 'ERR_GROUP']);
    const init = (start: number) => {
      if (start > 0) throw new RangeError('no such weights');
      return new Float32Array(66 * dim);
    };
    const [first, second] = await Promise.allSettled(
      processGroup(2).map((group) => MarginHead.create({ ...base, init, group })),
    );
    expect(first).toMatchObject({ reason: { code: 'ERR_GROUP', message: /no such weights/ } });
    expect(second).toMatchObject({ reason: { message: 'no such weights' } });
  });

  test('a transport that fails ends the call with its error, before anything has changed', async () => {
    for (const broken of ['allGather', 'allReduce'] as const) {
      let armed = false;
      const failingGroup = (group: ProcessGroup): ProcessGroup => ({
        ...group,
        [broken]: async (...args: [never, never]) => {
          if (armed) throw new Error('the wire was cut');
          return group[broken](...args);
        },
      });
      const heads = await Promise.all(
        processGroup(2).map((group) => MarginHead.create({ ...base, group: failingGroup(group) })),
      );
      const before = weightsOf(heads);
      armed = true;
      const failures = await Promise.allSettled(heads.map((head) => head.step(partOf(batches[0], 0, 3))));
      for (const failure of failures)
        expect(failure).toMatchObject({ reason: { message: 'the wire was cut' } });
      expect(weightsOf(heads)).toEqual(before);
      disposeAll(heads);
    }
  });
});

test('what a group cannot do is refused by name', async () => {
  const [head] = (await makeHeads(1)) as [MarginHead];
  const batch = batches[0];
  for (const call of [
    () => head.stepSync(batch),
    () => head.evaluateSync(batch),
    () => head.forwardSync(batch),
    () => head.applySync(),
    () => head.nearestSync(features, 1),
  ])
    await expectFailure(
      call,
      'ERR_OPTION',
      /Sync must be its asynchronous twin where processes share the classes/,
    );
  head.dispose();
  for (const [group, code] of [
    [3, 'ERR_TYPE'],
    [{ rank: 2, size: 2 }, 'ERR_OPTION'],
    [{ rank: 0, size: 1 }, 'ERR_TYPE'],
  ] as const)
    await expectFailure(() => MarginHead.create({ ...base, group: group as never }), code, /^group/);
});
