/** MarginHead over a group of processes: what one process cannot do ends on all of them, and changes nothing. */

import { describe, expect, test } from 'vitest';
import { customMargin, type HeadBatch, MarginHead, type ProcessGroup } from '../src/index.js';
import { expectFailure, failureOf } from './failures.js';
import {
  base,
  batches,
  classes,
  dim,
  disposeAll,
  features,
  makeHeads,
  partOf,
  rows,
  split,
  step,
  weightsOf,
} from './group_heads.js';
import { processGroup } from './process_group.js';

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
