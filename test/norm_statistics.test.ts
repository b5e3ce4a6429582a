/** Running statistics of norms, which AdaFace needs: what moves them, and where they are kept. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { adaface, arcface, MarginHead, valueAndGradSync } from '../src/index.js';
import { expectFailure } from './failures.js';
import { clustered, moved, size, spread } from './loss_cases.js';
import type { Problem } from './problems.js';
import { processGroup } from './process_group.js';

describe('statistics of norms', () => {
  const { dim, classes } = size;
  const options = { dim, classes, margin: adaface({ rate: 0.3 }), init: spread.weights };
  const normsOf = (problem: Problem) =>
    Float64Array.from({ length: size.rows }, (_, i) =>
      Math.hypot(...problem.features.subarray(i * dim, (i + 1) * dim)),
    );
  const movedBy = (problem: Problem, before?: { mean: number; deviation: number }) =>
    moved(normsOf(problem), problem.labels, { rate: 0.3, ...before });
  const close = ({ mean, deviation }: { mean: number; deviation: number }) => ({
    mean: expect.closeTo(mean, 8),
    deviation: expect.closeTo(deviation, 8),
  });

  test('move with what changes the head, and with nothing else', async () => {
    const head = await MarginHead.create(options);
    expect(head.normStatistics).toBeUndefined();
    await head.evaluate(spread);
    await head.step(spread, { learningRate: 0 });
    await head.step(spread, { margin: arcface() });
    expect(head.normStatistics).toBeUndefined();

    await head.step(spread);
    const first = movedBy(spread);
    expect(head.normStatistics).toEqual(close(first));

    const aborted = AbortSignal.abort();
    await expectFailure(() => head.step(clustered, { signal: aborted }), 'ERR_ABORTED', /./);
    const features = clustered.features.slice().fill(Number.NaN, 0, 1);
    const bad = { ...clustered, features };
    await expectFailure(() => head.step(bad), 'ERR_NOT_FINITE', /./);
    await head.evaluate(clustered);
    expect(head.normStatistics).toEqual(close(first));

    await head.accumulate(clustered);
    await head.apply();
    const second = movedBy(clustered, first);
    expect(head.normStatistics).toEqual(close(second));

    using pass = head.forwardSync(spread);
    expect(head.normStatistics).toEqual(close(second));
    pass.backwardSync({ learningRate: 0 });
    expect(head.normStatistics).toEqual(close(second));
    pass.backwardSync();
    expect(head.normStatistics).toEqual(close(movedBy(spread, second)));
    head.dispose();
  });

  test('are used as they are by evaluate', async () => {
    const head = await MarginHead.create(options);
    await head.step(spread, { learningRate: 1e-9 });
    const { mean, deviation } = head.normStatistics!;
    const batch = { ...clustered, weights: head.weights() };
    const lossWith = (rate: number) =>
      valueAndGradSync(batch, { margin: adaface({ rate, mean, deviation }) }).loss;
    const { loss } = await head.evaluate(clustered);
    expect(loss).toBeCloseTo(lossWith(0), 4);
    expect(loss).not.toBeCloseTo(lossWith(0.3), 2);
    head.dispose();
  });

  test('are in checkpoints, and the same on all processes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-norms-'));
    const heads = await Promise.all(processGroup(2).map((group) => MarginHead.create({ ...options, group })));
    const [features, labels] = [spread.features, spread.labels];
    await Promise.all(
      heads.map((head, rank) =>
        head.step(
          rank === 0
            ? { features: features.slice(0, 7 * dim), labels: labels.slice(0, 7) }
            : { features: features.slice(7 * dim), labels: labels.slice(7) },
        ),
      ),
    );
    const statistics = heads[0]!.normStatistics;
    expect(statistics).toEqual(close(movedBy(spread)));
    expect(heads[1]!.normStatistics).toEqual(statistics);
    try {
      await Promise.all(heads.map((head) => head.save(folder)));
      const loaded = await MarginHead.load(folder);
      expect(loaded.normStatistics).toEqual(statistics);
      await loaded.step(clustered);
      expect(loaded.normStatistics).toEqual(close(movedBy(clustered, statistics)));
      await loaded.addClasses(2);
      expect(loaded.normStatistics).toEqual(close(movedBy(clustered, statistics)));
      loaded.dispose();
    } finally {
      await rm(folder, { recursive: true });
    }
    for (const head of heads) head.dispose();
  });

  test('of a single row leave the deviation, and of none everything', () => {
    const one = { ...spread, labels: spread.labels.map((label, i) => (i === 0 ? label : -1)) };
    const none = { ...spread, labels: spread.labels.map(() => -1) };
    for (const problem of [one, none]) {
      const out = valueAndGradSync(problem, { margin: adaface({ rate: 1 }) });
      expect(Number.isFinite(out.loss)).toBe(true);
    }
  });
});
