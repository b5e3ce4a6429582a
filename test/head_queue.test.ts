/** The life of a MarginHead: calls in order, blocking ones refused meanwhile, abort, disposal. */

import { describe, expect, test } from 'vitest';
import {
  adamw,
  customMargin,
  type HeadBatch,
  type HeadForwardPass,
  type MarginFcError,
  MarginHead,
  sgd,
} from '../src/index.js';
import { failureOf } from './failures.js';
import { makeProblem } from './problems.js';

const size = { rows: 31, dim: 33, classes: 131 };
const { features, labels, weights, dim } = makeProblem(size, 'spread', 'random', 1);
const batch: HeadBatch = { features, labels };
const otherBatch: HeadBatch = makeProblem(size, 'clustered', 'random', 2);
const optimizers = {
  sgd: sgd({ learningRate: 0.5, momentum: 0.9 }),
  adamw: adamw({ learningRate: 1e-2 }),
};

const makeHead = (optimizer = optimizers.sgd as Parameters<typeof MarginHead.create>[0]['optimizer']) =>
  MarginHead.create({ dim, classes: size.classes, init: weights, optimizer, shards: 3 });

describe('calls on one head', () => {
  test('happen in the order they were made', async () => {
    const [head, other] = [await makeHead(), await makeHead()];
    const settled: string[] = [];
    const note = <T>(name: string, promise: Promise<T>) =>
      promise.then((value) => {
        settled.push(name);
        return value;
      });
    const queued = await Promise.all([
      note('step', head.step(batch)),
      note('evaluate', head.evaluate(otherBatch)),
      note('accumulate', head.accumulate(otherBatch)),
      note('nearest', head.nearest(features, 2)),
      note('apply', head.apply()),
      note('evaluate again', head.evaluate(batch)),
    ]);
    expect(settled).toEqual(['step', 'evaluate', 'accumulate', 'nearest', 'apply', 'evaluate again']);
    expect(queued).toEqual([
      other.stepSync(batch),
      other.evaluateSync(otherBatch),
      other.accumulateSync(otherBatch),
      other.nearestSync(features, 2),
      other.applySync(),
      other.evaluateSync(batch),
    ]);
    expect(head.weights()).toEqual(other.weights());
    head.dispose();
    other.dispose();
  });

  test('go on after one that failed', async () => {
    const head = await makeHead();
    const margin = customMargin(() => {
      throw new Error('no');
    });
    const failing = failureOf(() => head.step(batch, { margin }));
    const next = head.step(batch);
    expect((await failing).code).toBe('ERR_MARGIN');
    await next;
    expect(head.stepCount).toBe(1);
    head.dispose();
  });

  test('whose arrays were detached in the queue fail, and change nothing', async () => {
    const head = await makeHead();
    const mine = Float32Array.from(features);
    const first = head.evaluate(batch);
    const second = failureOf(() => head.step({ features: mine, labels }));
    structuredClone(mine, { transfer: [mine.buffer] });
    await first;
    expect((await second).code).toBe('ERR_SHAPE');
    expect(head.weights()).toEqual(weights);
    head.dispose();
  });

  test('check their arguments when they are made', async () => {
    const head = await makeHead();
    const first = head.step(batch);
    const bad = failureOf(() => head.step({ ...batch, labels: new Int32Array(3) }));
    let firstIsDone = false;
    first.then(() => {
      firstIsDone = true;
    });
    expect((await bad).code).toBe('ERR_SHAPE');
    expect(firstIsDone).toBe(false);
    await first;
    head.dispose();
  });

  type Blocking = (head: MarginHead, pass: HeadForwardPass) => unknown;
  const blocking: Record<string, Blocking> = {
    stepSync: (head) => head.stepSync(batch),
    accumulateSync: (head) => head.accumulateSync(batch),
    applySync: (head) => head.applySync(),
    evaluateSync: (head) => head.evaluateSync(batch),
    nearestSync: (head) => head.nearestSync(features, 1),
    forwardSync: (head) => head.forwardSync(batch),
    backwardSync: (_, pass) => pass.backwardSync(),
    weights: (head) => head.weights(),
  };

  test.each(Object.entries(blocking))(
    'refuse a blocking one while others are pending: %s',
    async (name, call) => {
      const head = await makeHead();
      const pass = head.forwardSync(batch);
      const pending = [head.evaluate(batch), head.evaluate(batch), head.evaluate(batch)];
      const error = await failureOf(() => call(head, pass));
      expect(error.code).toBe('ERR_BUSY');
      expect(error.message).toBe(
        `${name} must be called while nothing on the head is pending, received 3 pending`,
      );
      await pending[2];
      call(head, pass);
      pass.dispose();
      head.dispose();
    },
  );

  test('refuse a blocking one from inside a margin callback, and queue an asynchronous one', async () => {
    const head = await makeHead();
    let refused: unknown;
    let queued: Promise<unknown> | undefined;
    const margin = customMargin(({ cosine, row }) => {
      if (row === 0) {
        queued = head.step(otherBatch);
        try {
          head.stepSync(batch);
        } catch (error) {
          refused = error;
        }
      }
      return { target: cosine, dTarget: 1 };
    });
    head.stepSync(batch, { margin });
    expect(refused).toMatchObject({ code: 'ERR_BUSY' });
    await queued;
    expect(head.stepCount).toBe(2);
    head.dispose();
  });
});

describe('abort', () => {
  test('before the call rejects it, blocking or not, and changes nothing', async () => {
    const head = await makeHead();
    const signal = AbortSignal.abort('early');
    const calls: (() => unknown)[] = [
      () => head.step(batch, { signal }),
      () => head.stepSync(batch, { signal }),
      () => head.accumulate(batch, { signal }),
      () => head.apply({ signal }),
      () => head.applySync({ signal }),
      () => head.evaluate(batch, { signal }),
      () => head.nearest(features, 1, { signal }),
      () => head.nearestSync(features, 1, { signal }),
      () => head.forwardSync(batch, { signal }),
    ];
    for (const call of calls) {
      const error = await failureOf(call);
      expect(error.code).toBe('ERR_ABORTED');
      expect(error.cause).toBe('early');
    }
    expect(head.weights()).toEqual(weights);
    expect(head.applySync()).toBe(false);
    head.dispose();
  });

  test('in the queue takes the call out at once; the others go on', async () => {
    const [head, other] = [await makeHead(), await makeHead()];
    const controller = new AbortController();
    const first = head.step(batch);
    const second = failureOf(() => head.step(otherBatch, { signal: controller.signal }));
    const third = head.step(otherBatch, { learningRate: 0.1 });
    let firstIsDone = false;
    first.then(() => {
      firstIsDone = true;
    });
    controller.abort('changed my mind');
    const error = await second;
    expect(error.code).toBe('ERR_ABORTED');
    expect(error.cause).toBe('changed my mind');
    expect(firstIsDone).toBe(false);
    other.stepSync(batch);
    expect(await third).toEqual(other.stepSync(otherBatch, { learningRate: 0.1 }));
    expect(head.weights()).toEqual(other.weights());
    head.dispose();
    other.dispose();
  });

  test.each(Object.entries(optimizers))(
    'at work leaves a step undone or done, with %s',
    async (_, optimizer) => {
      const large = makeProblem({ rows: 128, dim: 64, classes: 20_000 }, 'spread', 'random', 3);
      const make = () =>
        MarginHead.create({ dim: 64, classes: 20_000, init: large.weights, optimizer, shards: 2 });
      const [head, stepped] = await Promise.all([make(), make()]);
      await stepped.step(large);
      const controller = new AbortController();
      // A busy machine may finish the step before this thread comes to abort it.
      const outcome = head.step(large, { signal: controller.signal }).then(
        () => undefined,
        (error: MarginFcError) => error.code,
      );
      controller.abort();
      const code = await outcome;
      expect([undefined, 'ERR_ABORTED']).toContain(code);
      expect(head.stepCount).toBe(code === undefined ? 1 : 0);
      const expected = code === undefined ? stepped.weights() : large.weights;
      expect(Buffer.from(head.weights().buffer).equals(Buffer.from(expected.buffer))).toBe(true);
      head.dispose();
      stepped.dispose();
    },
  );

  test('in a margin callback ends the call', async () => {
    const head = await makeHead();
    const controller = new AbortController();
    const margin = customMargin(({ cosine }) => {
      controller.abort();
      return { target: cosine, dTarget: 1 };
    });
    const error = await failureOf(() => head.step(batch, { margin, signal: controller.signal }));
    expect(error.code).toBe('ERR_ABORTED');
    expect(head.weights()).toEqual(weights);
    head.dispose();
  });

  test('after the call has ended changes nothing', async () => {
    const head = await makeHead();
    const controller = new AbortController();
    await head.step(batch, { signal: controller.signal });
    controller.abort();
    await head.step(batch);
    expect(head.stepCount).toBe(2);
    head.dispose();
  });
});

describe('dispose', () => {
  test('lets the calls made before it finish, and refuses those after it', async () => {
    const [head, other] = [await makeHead(), await makeHead()];
    const pass = head.forwardSync(batch);
    const made = [head.step(batch), head.evaluate(batch)];
    head.dispose();
    head.dispose();
    const refused: (() => unknown)[] = [
      () => head.step(batch),
      () => head.stepSync(batch),
      () => head.accumulate(batch),
      () => head.apply(),
      () => head.evaluate(batch),
      () => head.nearest(features, 1),
      () => head.forwardSync(batch),
      () => pass.backwardSync(),
      () => head.weights(),
      () => head.stepCount,
    ];
    const codes = await Promise.all(refused.map(async (call) => (await failureOf(call)).code));
    expect(codes).toEqual(refused.map(() => 'ERR_DISPOSED'));
    expect(await Promise.all(made)).toEqual([other.stepSync(batch), other.evaluateSync(batch)]);
    pass.dispose();
    other.dispose();
  });

  test('is also Symbol.dispose', async () => {
    const head = await makeHead();
    head[Symbol.dispose]();
    expect((await failureOf(() => head.evaluate(batch))).message).toBe(
      'head must be open, received one that has been disposed',
    );
  });

  test('inside a margin callback waits for the call', async () => {
    const head = await makeHead();
    const margin = customMargin(({ cosine }) => {
      head.dispose();
      return { target: cosine, dTarget: 1 };
    });
    const out = await head.step(batch, { margin });
    expect(out.loss).toBeGreaterThan(0);
    expect((await failureOf(() => head.weights())).code).toBe('ERR_DISPOSED');
  });
});

describe('a forward pass on a head', () => {
  test('may go backward again and again while nothing changes the weights', async () => {
    const head = await makeHead();
    const pass = head.forwardSync(batch);
    const dFeatures = pass.backwardSync({ learningRate: 0 });
    head.evaluateSync(otherBatch);
    await head.accumulate(otherBatch);
    expect(
      pass.backwardSync({ learningRate: 0, out: { dFeatures: new Float32Array(features.length) } }),
    ).toEqual(dFeatures);
    const doubled = pass.backwardSync({ learningRate: 0, dLoss: -2 });
    for (const [i, value] of doubled.entries()) expect(value).toBeCloseTo(-2 * dFeatures[i]!, 6);
    pass.backwardSync();
    expect(head.stepCount).toBe(1);
    pass.dispose();
    head.dispose();
  });

  test('scales the update by dLoss', async () => {
    const plain = sgd({ learningRate: 0.5 });
    const [head, other] = [await makeHead(plain), await makeHead(plain)];
    head.forwardSync(batch).backwardSync({ dLoss: 0.25 });
    other.forwardSync(batch).backwardSync({ learningRate: 0.125 });
    const difference = head.weights().map((value, i) => Math.abs(value - other.weights()[i]!));
    expect(Math.max(...difference)).toBeLessThan(1e-6);
    head.dispose();
    other.dispose();
  });

  test.each<[string, (head: MarginHead, pass: HeadForwardPass) => unknown]>([
    ['its own update', (_, pass) => pass.backwardSync()],
    ['a step', (head) => head.step(otherBatch)],
    [
      'apply',
      async (head) => {
        await head.accumulate(otherBatch);
        await head.apply();
      },
    ],
  ])('is of no use after %s', async (_, change) => {
    const head = await makeHead();
    const pass = head.forwardSync(batch);
    await change(head, pass);
    const after = head.weights();
    const error = await failureOf(() => pass.backwardSync());
    expect(error.code).toBe('ERR_DISPOSED');
    expect(error.message).toBe(
      "forward pass must be of the head's present weights, received one 1 updates old",
    );
    expect(head.weights()).toEqual(after);
    pass.dispose();
    head.dispose();
  });

  test('refuses backwardSync after dispose, which may be called twice', async () => {
    const head = await makeHead();
    const pass = head.forwardSync(batch);
    pass[Symbol.dispose]();
    pass.dispose();
    expect((await failureOf(() => pass.backwardSync())).code).toBe('ERR_DISPOSED');
    head.dispose();
  });
});

test('one signal on many pending calls is listened to once', async () => {
  const head = await makeHead();
  const { signal } = new AbortController();
  const warnings: Error[] = [];
  const noted = (warning: Error) => warnings.push(warning);
  process.on('warning', noted);
  await Promise.all(Array.from({ length: 20 }, () => head.evaluate(batch, { signal })));
  await new Promise((resolve) => setImmediate(resolve));
  process.off('warning', noted);
  expect(warnings).toEqual([]);
  head.dispose();
});
