/** Dyn-ArcFace on heads: the angles between neighbours, and when they are computed. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { dynArcFace, MarginHead, sgd, valueAndGradSync } from '../src/index.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { clustered, size, spread } from './loss_cases.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';

const { dim, classes } = size;
const parameters = { k1: 1.1, k2: 0.6, k3: 0.3 };
const margin = dynArcFace({ ...parameters, every: 2 });
const optimizer = sgd({ learningRate: 5 });
const options = { dim, classes, init: spread.weights, margin, optimizer };
const [gpu] = gpusOfThisProcess();

/** Between each class and the nearest other, from all cosines. */
function anglesOf(weights: Float32Array, dim = size.dim): Float32Array {
  const centres = Array.from({ length: weights.length / dim }, (_, c) => {
    const row = Float64Array.from(weights.subarray(c * dim, (c + 1) * dim));
    return row.map((value) => value / Math.hypot(...row));
  });
  return Float32Array.from(centres, (own) => {
    const cosines = centres.map((w) =>
      w === own ? -1 : w.reduce((sum, value, d) => sum + value * own[d]!, 0),
    );
    return Math.acos(Math.max(...cosines));
  });
}

/** Of a batch, by the functional call. */
function lossWith(
  perClass: Float32Array,
  weights: Float32Array,
  { features, labels }: typeof spread,
): number {
  const given = dynArcFace({ ...parameters, angles: { perClass } });
  return valueAndGradSync({ features, labels, dim, weights }, { margin: given, gradients: 'features' }).loss;
}

describe('dynArcFace', () => {
  test.each<[string, number, readonly string[], number]>([
    ['one shard', 1, ['cpu'], 1],
    ['five shards', 1, ['cpu'], 5],
    ['three processes', 3, ['cpu'], 2],
    ...(gpu === undefined ? [] : [['a GPU', 1, [gpu], 2] as [string, number, string[], number]]),
  ])(
    'has the angles of its classes anew after every second update, on %s',
    async (_, ranks, devices, shards) => {
      const heads = await Promise.all(
        processGroup(ranks).map((group) =>
          MarginHead.create({
            ...options,
            devices,
            shards,
            precision: 'float32',
            ...(ranks > 1 && { group }),
          }),
        ),
      );
      const all = () => Float32Array.from(heads.flatMap((head) => [...head.weights()]));
      let angles = anglesOf(all());
      const losses = [];
      for (const [step, problem] of [spread, clustered, spread, clustered, spread].entries()) {
        if (step % 2 === 0) angles = anglesOf(all());
        const wanted = lossWith(angles, all(), problem);
        losses.push(Math.abs(wanted - lossWith(anglesOf(all()), all(), problem)));
        const evaluated = await Promise.all(
          heads.map((head, rank) => head.evaluate(rank === 0 ? problem : none)),
        );
        expect(evaluated[0]!.loss).toBeCloseTo(wanted, 3);
        const outs = await Promise.all(heads.map((head, rank) => head.step(rank === 0 ? problem : none)));
        for (const { loss } of outs) expect(loss).toBeCloseTo(wanted, 3);
      }
      // Angles that are one update old are not those of the weights.
      expect(Math.max(...losses)).toBeGreaterThan(0.02);
      for (const head of heads) head.dispose();
    },
  );

  test.each([1, 2])(
    'looks up more classes than fit in its memory at once, on %i processes',
    async (ranks) => {
      const many = makeProblem({ rows: 3000, dim: 3, classes: 2101 }, 'spread', 'random', 7);
      const { features, labels, weights } = many;
      const perClass = anglesOf(weights, 3);
      const given = dynArcFace({ ...parameters, k1: 0, angles: { perClass } });
      const wanted = valueAndGradSync(many, { margin: given, gradients: 'features' });
      const heads = await Promise.all(
        processGroup(ranks).map((group) =>
          MarginHead.create({
            dim: 3,
            classes: 2101,
            init: weights,
            margin: dynArcFace({ ...parameters, k1: 0 }),
            group,
          }),
        ),
      );
      const outs = await Promise.all(
        heads.map((head, rank) => head.evaluate(rank === 0 ? { features, labels } : none)),
      );
      const { rowLoss } = outs[0]!;
      const apart = rowLoss.reduce((most, loss, i) => Math.max(most, Math.abs(loss - wanted.rowLoss[i]!)), 0);
      expect(apart).toBeLessThan(2e-2);
      for (const head of heads) head.dispose();
    },
  );

  test('keeps them in checkpoints, and not when classes come or go', async () => {
    const head = await MarginHead.create(options);
    const first = anglesOf(spread.weights);
    await head.step(spread);
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-neighbours-'));
    try {
      await head.save(folder);
      const loaded = await MarginHead.load(folder, { shards: 3 });
      const { loss } = loaded.stepSync(clustered);
      expect(loss).toBeCloseTo(lossWith(first, head.weights(), clustered), 3);
      loaded.dispose();
    } finally {
      await rm(folder, { recursive: true });
    }
    await head.removeClasses([130]);
    const labels = clustered.labels.map((label) => Math.min(label, 129));
    const fewer = head.weights();
    using pass = head.forwardSync({ ...clustered, labels });
    expect(pass.loss).toBeCloseTo(lossWith(anglesOf(fewer), fewer, { ...clustered, labels }), 3);
    await head.addClasses(spread.weights.slice(0, dim));
    const more = head.weights();
    expect((await head.evaluate(clustered)).loss).toBeCloseTo(lossWith(anglesOf(more), more, clustered), 3);
    head.dispose();
  });

  test('of classes that are the same, without length, or alone is finite', async () => {
    const weights = Float32Array.of(1, 0, 1, 0, 0, 0, 0, 1);
    const batch = { features: Float32Array.of(1, 0.5), labels: Int32Array.of(1) };
    for (const init of [weights, weights.slice(0, 2)]) {
      const head = await MarginHead.create({ dim: 2, classes: init.length / 2, init, margin });
      const out = await head.step({ ...batch, labels: Int32Array.of(init.length === 2 ? 0 : 1) });
      expect([out.loss, ...out.dFeatures, ...head.weights()].every(Number.isFinite)).toBe(true);
      head.dispose();
    }
  });

  test.each<[string, () => unknown, string, RegExp]>([
    [
      'no angles without a head',
      () => valueAndGradSync(spread, { margin }),
      'ERR_OPTION',
      /^margin\.angles must be \{ perClass \} where there is no MarginHead, received undefined$/,
    ],
    [
      'angles given to a head',
      () =>
        MarginHead.create({
          ...options,
          margin: dynArcFace({ ...parameters, angles: { perClass: new Float32Array(classes) } }),
        }),
      'ERR_OPTION',
      /^margin\.angles must be left out on a MarginHead, which computes them, received \{ perClass \}$/,
    ],
    [
      'a missing parameter',
      () => dynArcFace({ k1: 1, k2: 1 } as never),
      'ERR_TYPE',
      /^margin\.k3 must be a finite number, received undefined$/,
    ],
    [
      'angles that last no update',
      () => dynArcFace({ ...parameters, every: 0 }),
      'ERR_MARGIN',
      /^margin\.every must be an integer in \[1, \d+\], received 0$/,
    ],
  ])('%s is an error', (_, call, code, message) => expectFailure(call, code, message));
});

const none = { features: new Float32Array(0), labels: new Int32Array(0) };
