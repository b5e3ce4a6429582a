/** Snapshots of a head: it goes on from one as it went on before, bit for bit, as often as asked. */

import { describe, expect, test } from 'vitest';
import {
  adaface,
  adamw,
  adaptiveFace,
  centerLoss,
  type HeadSnapshot,
  type MarginHead,
  ringLoss,
  sgd,
} from '../src/index.js';
import { batchOf, futureOf, kept, optimizers, size, stateOf, trainedHead } from './checkpoint_heads.js';
import { expectFailure } from './failures.js';
import { batches, disposeAll, makeHeads, step } from './group_heads.js';

const cases = Object.entries(optimizers).flatMap(([name, optimizer]) =>
  [false, true].flatMap((accumulated) =>
    (['float32', 'bfloat16'] as const).map((storage) => [name, accumulated, storage, optimizer] as const),
  ),
);

describe.each(cases)('%s, accumulated %s, %s', (_, accumulated, storage, optimizer) => {
  const make = () => trainedHead({ optimizer, storage, shards: 2 }, { accumulated });

  test('has all that a checkpoint has', async () => {
    const head = await make();
    const { dim, start, end, stepCount, weights, ...others } = await head.snapshot();
    expect({ dim, start, end, stepCount }).toEqual({
      dim: size.dim,
      start: 0,
      end: size.classes,
      stepCount: 2,
    });
    expect({ weight: weights, ...others }).toMatchObject(
      storage === 'float32' ? await stateOf(head) : { weight: head.weights() },
    );
    expect(Object.keys(others).includes('accumulated')).toBe(accumulated);
    expect(head.snapshotSync()).toEqual(await head.snapshot());
  });

  test('is gone on from as often as asked, whatever there is meanwhile', async () => {
    const head = await make();
    const snapshot = structuredClone(await head.snapshot());
    const future = await futureOf(head);
    await head.restore(snapshot);
    expect(await futureOf(head)).toEqual(future);
    await head.accumulate(batchOf(5));
    head.restoreSync(snapshot);
    expect(await futureOf(head)).toEqual(future);

    for (const shards of [2, 3]) {
      const other = await trainedHead(
        { optimizer, storage, shards },
        { accumulated: !accumulated, steps: 5 },
      );
      await other.restore(snapshot);
      expect(await other.snapshot()).toEqual(snapshot);
      if (shards === 2) expect(await futureOf(other)).toEqual(future);
    }
  });
});

test("a snapshot has the norms' statistics", async () => {
  const head = await trainedHead({ margin: adaface({ rate: 0.3 }) });
  const snapshot = await head.snapshot();
  const { normStatistics } = head;
  await head.step(batchOf(7));
  expect(head.normStatistics).not.toEqual(normStatistics);
  await head.restore(snapshot);
  expect(head.normStatistics).toEqual(normStatistics);
});

test('a snapshot has the centres and the radius of companion terms', async () => {
  const head = await trainedHead({ terms: [centerLoss(), ringLoss()] });
  const snapshot = await head.snapshot();
  const [centers, radius] = [head.centers(), head.ringRadius];
  const future = await futureOf(head);
  expect(head.centers()).not.toEqual(centers);
  const before = await trainedHead({ terms: [centerLoss(), ringLoss()] }, { steps: 0 });
  expect((await before.snapshot()).centers).toBeUndefined();
  for (const other of [head, before]) {
    await other.restore(snapshot);
    expect([other.centers(), other.ringRadius]).toEqual([centers, radius]);
    expect(await futureOf(other)).toEqual(future);
  }
});

test('a snapshot has the margins that classes have learnt, and is not moved by steps', async () => {
  const head = await trainedHead({ margin: adaptiveFace() }, { accumulated: true });
  const snapshot = await head.snapshot();
  const { classMargins } = head;
  const future = await futureOf(head);
  expect(head.classMargins).not.toEqual(classMargins);
  for (let again = 0; again < 2; again++) {
    await head.restore(snapshot);
    expect(head.classMargins).toEqual(classMargins);
    expect(await futureOf(head)).toEqual(future);
  }
});

test('a snapshot is that of its turn among the calls on a head', async () => {
  const [head, twin] = [await trainedHead(), await trainedHead()];
  const stepped = head.step(batchOf(5));
  const snapshot = head.snapshot();
  const restored = snapshot.then((taken) => head.restore(taken));
  await twin.step(batchOf(5));
  await Promise.all([stepped, restored]);
  expect(head.weights()).toEqual(twin.weights());
  expect((await snapshot).stepCount).toBe(3);
});

test('a forward pass from before a restore is of no use any more', async () => {
  const head = await trainedHead();
  const snapshot = head.snapshotSync();
  using pass = head.forwardSync(batchOf(5));
  head.restoreSync(snapshot);
  await expectFailure(() => pass.backwardSync(), 'ERR_DISPOSED', /one from before a restore/);
});

test('processes of a group go on together', async () => {
  const heads = await makeHeads(2);
  await step(heads, batches[0]);
  const snapshots = await each(heads, (head) => head.snapshot());
  const [first] = snapshots as [HeadSnapshot];
  expect(first.end).toBeLessThan(heads[0]!.classes);
  const later = await step(heads, batches[0]);
  await each(heads, (head, rank) => head.restore(snapshots[rank]!));
  expect(await step(heads, batches[0])).toEqual(later);

  const different = heads.map((head, rank) => head.restore({ ...snapshots[rank]!, stepCount: rank }));
  for (const ended of await Promise.allSettled(different))
    expect(ended).toMatchObject({ reason: { code: 'ERR_GROUP' } });
  disposeAll(heads);
});

function each<T>(
  heads: readonly MarginHead[],
  call: (head: MarginHead, rank: number) => Promise<T>,
): Promise<T[]> {
  return Promise.all(heads.map(call));
}

describe('bad snapshots', () => {
  const change = (changes: object) => changes as Partial<HeadSnapshot>;
  test.each([
    ['of another dim', change({ dim: 3 }), 'ERR_SHAPE', /snapshot.dim must be the head's, 17, received 3/],
    ['of other classes', change({ end: 7 }), 'ERR_SHAPE', /snapshot.end must be the head's, 53, received 7/],
    ['with fewer weights', change({ weights: new Float32Array(3) }), 'ERR_SHAPE', /snapshot.weights.length/],
    [
      'without momentum',
      change({ momentum: undefined }),
      'ERR_TYPE',
      /snapshot.momentum must be a Float32Array/,
    ],
    ['with a variance', change({ variance: new Float32Array(901) }), 'ERR_OPTION', /snapshot.variance/],
    ['with a step count of -1', change({ stepCount: -1 }), 'ERR_OPTION', /snapshot.stepCount/],
    ['with norms of text', change({ memory: { norms: { mean: 'a' } } }), 'ERR_TYPE', /memory.norms.mean/],
    [
      'with margins of more classes',
      change({ memory: { margins: new Float64Array(54) } }),
      'ERR_TYPE',
      /memory.margins must be a Float64Array of at most 53 numbers/,
    ],
    ['with an unknown name', change({ weight: 1 }), 'ERR_OPTION', /received 'weight'/],
  ] as const)('%s are refused, and change nothing', async (_, changes, code, message) => {
    const head = await trainedHead({ optimizer: sgd({ momentum: 0.9 }) });
    const before = await head.snapshot();
    await expectFailure(() => head.restore({ ...before, ...changes }), code, message);
    await expectFailure(() => head.restore(undefined as never), 'ERR_TYPE', /snapshot must be an object/);
    expect(await head.snapshot()).toEqual(before);
  });

  test('of another kind of optimiser are refused', async () => {
    const snapshot = await (await trainedHead({ optimizer: adamw() })).snapshot();
    const head = await trainedHead({ optimizer: sgd({ momentum: 0.9 }) });
    await expectFailure(() => head.restore(snapshot), 'ERR_OPTION', /snapshot.variance must be undefined/);
  });

  test('are not taken when a signal has fired, or the head is disposed of', async () => {
    const head = kept(await trainedHead());
    const signal = AbortSignal.abort();
    await expectFailure(() => head.snapshot({ signal }), 'ERR_ABORTED', /aborted/);
    const snapshot = await head.snapshot();
    await expectFailure(() => head.restore(snapshot, { signal }), 'ERR_ABORTED', /aborted/);
    head.dispose();
    await expectFailure(() => head.snapshot(), 'ERR_DISPOSED', /disposed/);
  });
});
