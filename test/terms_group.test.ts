/** Heads with companion terms over groups of processes, and what their checkpoints and changes of classes keep of them. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  centerLoss,
  interLoss,
  intraLoss,
  MarginHead,
  ringLoss,
  type StepResult,
  sgd,
  tripletLoss,
} from '../src/index.js';
import {
  batches,
  classes,
  dim,
  disposeAll,
  expectClose,
  joined,
  onAll,
  partOf,
  rows,
  split,
  weights,
} from './group_heads.js';
import { processGroup } from './process_group.js';

// Few classes in a batch, so that rows share them.
const few = batches.map(({ features, labels }) => ({
  features,
  labels: labels.map((label) => label && label % 4),
}));
const terms = [
  intraLoss(),
  interLoss(),
  ringLoss({ weight: 0.1 }),
  centerLoss({ weight: 0.2 }),
  tripletLoss({ weight: 0.5, margin: 1 }),
];
const optimizer = sgd({ learningRate: 0.2, momentum: 0.9 });
const base = { dim, classes, init: weights, terms, optimizer };
const rowWeights = Float32Array.from({ length: rows }, (_, i) => 0.5 + (i % 3));

async function steps(heads: readonly MarginHead[], count: number) {
  const bounds = split(heads.length);
  let outs: StepResult[] = [];
  for (let n = 0; n < count; n++)
    outs = await Promise.all(
      heads.map((head, rank) => {
        const [start, end] = [bounds[rank]!, bounds[rank + 1]!];
        return head.step(partOf(few[n % 2]!, start, end), { rowWeights: rowWeights.slice(start, end) });
      }),
    );
  return outs;
}

test.each([1, 2, 4].flatMap((ranks) => [1, 3].map((shards) => [ranks, shards])))(
  'steps over %i processes with %i shards each are those of one',
  async (ranks, shards) => {
    const alone = await MarginHead.create(base);
    const heads = await onAll(processGroup(ranks!), (group) => MarginHead.create({ ...base, group, shards }));
    const [one] = await steps([alone], 3);
    const outs = await steps(heads, 3);
    for (const { loss, terms } of outs) {
      expect({ loss, terms }).toEqual({ loss: outs[0]!.loss, terms: outs[0]!.terms });
      expect(loss).toBeCloseTo(one!.loss, 4);
      for (const { kind } of base.terms) expect(terms![kind]!).toBeCloseTo(one!.terms![kind]!, 5);
    }
    expectClose(joined(outs.map(({ dFeatures }) => dFeatures)), one!.dFeatures, 1e-5);
    expectClose(joined(heads.map((head) => head.weights())), alone.weights(), 1e-5);
    expectClose(joined(heads.map((head) => head.centers())), alone.centers(), 1e-6);
    for (const { ringRadius } of heads) expect(ringRadius).toBeCloseTo(alone.ringRadius!, 5);
    expect(new Set(heads.map(({ ringRadius }) => ringRadius)).size).toBe(1);
    disposeAll([alone, ...heads]);
  },
);

describe('what terms remember', () => {
  test.each([
    [1, 2],
    [2, 1],
    [2, 3],
  ])('goes through a checkpoint from %i to %i processes', async (before, after) => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-terms-'));
    try {
      const heads = await onAll(processGroup(before), (group) =>
        MarginHead.create({ ...base, group, shards: 2 }),
      );
      await steps(heads, 2);
      await Promise.all(heads.map((head) => head.save(folder)));
      const loaded = await onAll(processGroup(after), (group) =>
        MarginHead.load(folder, { group, shards: 3 }),
      );
      expect(loaded[0]!.terms).toEqual(terms);
      expect(loaded.map(({ ringRadius }) => ringRadius)).toEqual(loaded.map(() => heads[0]!.ringRadius));
      const centers = joined(heads.map((head) => head.centers()));
      expect(joined(loaded.map((head) => head.centers()))).toEqual(centers);
      expect(centers.some((value) => value !== 0)).toBe(true);
      disposeAll([...heads, ...loaded]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('is the same after saving and loading as without', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-terms-'));
    try {
      const head = await MarginHead.create(base);
      await steps([head], 2);
      await head.save(folder);
      const loaded = await MarginHead.load(folder);
      const [[one], [other]] = [await steps([head], 1), await steps([loaded], 1)];
      expect(other).toEqual(one);
      expect(loaded.centers()).toEqual(head.centers());
      disposeAll([head, loaded]);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test.each([1, 2])('stays with its classes where these come and go, over %i processes', async (ranks) => {
    const heads = await onAll(processGroup(ranks), (group) => MarginHead.create({ ...base, group }));
    await steps(heads, 1);
    const before = joined(heads.map((head) => head.centers()));
    const radius = heads[0]!.ringRadius;
    await Promise.all(heads.map((head) => head.addClasses(5)));
    const grown = joined(heads.map((head) => head.centers()));
    expect(grown).toEqual(joined([before, new Float32Array(5 * dim)]));
    await Promise.all(heads.map((head) => head.removeClasses([0, 2, 130])));
    const left = joined(heads.map((head) => head.centers()));
    const kept = Array.from({ length: classes + 5 }, (_, j) => j).filter((j) => ![0, 2, 130].includes(j));
    expect(left).toEqual(joined(kept.map((j) => grown.slice(j * dim, (j + 1) * dim))));
    for (const { ringRadius } of heads) expect(ringRadius).toBe(radius);
    disposeAll(heads);
  });
});
