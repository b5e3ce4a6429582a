/**
 * The addon's life: loading, calls in flight, threads, garbage, shortage of memory, and every way to end in the middle of
 * something. What may take a process down runs in processes of its own, the programs in test/lifecycle/.
 */
import { execFile } from 'node:child_process';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import {
  adamw,
  forward,
  forwardSync,
  MarginHead,
  sgd,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { failureOf } from './failures.js';
import { moments } from './lifecycle/moments.mjs';
import { digest, makeBatch, small } from './lifecycle/problems.mjs';

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Lines of standard output. */
  readonly said: readonly string[];
  readonly stderr: string;
}

/** Runs test/lifecycle/`program`.mjs to its end. One that hangs ends by SIGKILL. */
function run(program: string, args: readonly string[] = [], flags: readonly string[] = []): Promise<Ended> {
  const path = fileURLToPath(new URL(`./lifecycle/${program}.mjs`, import.meta.url));
  // Two threads whatever the machine has, so that the memory a program needs is known.
  const env = { ...process.env, MARGINFC_THREADS: '2' };
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...flags, path, ...args],
      { env, timeout: 100_000, killSignal: 'SIGKILL' },
      (_, stdout, stderr) => {
        const said = stdout.split('\n').filter((line) => line !== '');
        resolve({ code: child.exitCode, signal: child.signalCode, said, stderr });
      },
    );
  });
}

function expectEnd({ stderr, ...ended }: Ended, expected: Omit<Ended, 'stderr'>): void {
  expect(ended, stderr).toEqual(expected);
}

const momentNames = Object.keys(moments);
const batch = makeBatch(small);

describe('calls in flight at once', () => {
  const sizes = [small, { rows: 200, dim: 64, classes: 5000 }, { rows: 1, dim: 1, classes: 1 }, small];
  const batches = sizes.map((size) => makeBatch(size));
  const headOf = ({ weights, dim }: (typeof batches)[number]) =>
    MarginHead.create({ dim, classes: weights.length / dim, init: weights, shards: 2 });

  test('settle in the order they were made, each with what it gives alone', async () => {
    const heads = await Promise.all(batches.map(headOf));
    const twins = await Promise.all(batches.map(headOf));
    const passes = batches.map((each) => forwardSync(each));
    const made: Promise<object>[] = [];
    const expected: object[] = [];
    for (const [i, each] of batches.entries()) {
      const [head, twin, pass] = [heads[i]!, twins[i]!, passes[i]!];
      made.push(valueAndGrad(each), forward(each), pass.backward(0.5));
      made.push(i % 2 === 0 ? head.step(each) : head.nearest(each.features, 1));
      expected.push(valueAndGradSync(each), forwardSync(each), forwardSync(each).backwardSync(0.5));
      expected.push(i % 2 === 0 ? twin.stepSync(each) : twin.nearestSync(each.features, 1));
    }
    const order: number[] = [];
    await Promise.all(made.map((promise, i) => promise.then(() => order.push(i))));
    expect(order).toEqual(made.map((_, i) => i));
    expect((await Promise.all(made)).map(digest)).toEqual(expected.map(digest));
    for (const [i, head] of heads.entries()) expect(head.weights()).toEqual(twins[i]?.weights());
  });

  test('leave blocking calls right that are made meanwhile', async () => {
    const expected = batches.map((each) => digest(valueAndGradSync(each)));
    const head = await headOf(batches[1]!);
    const twin = await headOf(batches[1]!);
    const made = [...batches, ...batches].map((each) => valueAndGrad(each));
    await turn();
    expect(batches.map((each) => digest(valueAndGradSync(each)))).toEqual(expected);
    expect(digest(head.stepSync(batches[1]!))).toBe(digest(twin.stepSync(batches[1]!)));
    expect((await Promise.all(made)).map(digest)).toEqual([...expected, ...expected]);
    expect(head.weights()).toEqual(twin.weights());
  });

  test('may come from all threads, on the same shared arrays', async () => {
    const said = Array.from({ length: 5 }, () => 'as alone');
    expectEnd(await run('together'), { code: 0, signal: null, said });
  });
});

describe('a process ends', () => {
  describe.each([
    ['naturally, when all its calls have settled', 'naturally', 0, ['settled']],
    ['by process.exit', 'by process.exit', 7, []],
    ['by an uncaught exception', 'by an uncaught exception', 1, []],
  ] as const)('%s', (_, ending, code, said) => {
    test.each(momentNames)('%s', async (moment) => {
      const ended = await run('process', [moment, ending]);
      expectEnd(ended, { code, signal: null, said });
      if (code === 1) expect(ended.stderr).toContain('uncaught on purpose');
    });
  });

  test.each(['before its first call', 'with a call at work and others waiting'])(
    'by process.exit, with calls in the exit handler, %s',
    async (moment) => {
      const ended = await run('process', [moment, 'by process.exit, with calls in the exit handler']);
      expectEnd(ended, { code: 7, signal: null, said: [digest(valueAndGradSync(batch))] });
    },
  );

  test('by process.exit, with workers at every such moment', async () => {
    const ended = await run('workers', ['by the end of the process']);
    expectEnd(ended, { code: 7, signal: null, said: [] });
  });
});

describe('a worker thread ends', () => {
  test.each([
    ['naturally', 1, '0'],
    ['by process.exit', 2, '7'],
    ['by an uncaught exception', 2, '1, uncaught on purpose'],
    ['by running out of heap', 1, '1, ERR_WORKER_OUT_OF_MEMORY'],
    ['by terminate', 3, '1'],
    ['by terminate while it starts', 1, '1'],
  ])('%s, at any moment, and the others go on', async (ending, repeats, outcome) => {
    const said = momentNames.flatMap((moment) => Array(repeats).fill(`${moment}: ${outcome}`));
    expectEnd(await run('workers', [ending, String(repeats)]), { code: 0, signal: null, said });
  });
});

describe('garbage collection', () => {
  test('leaves what a call in flight needs, and takes it afterwards', async () => {
    const ended = await run('collect', [], ['--expose-gc']);
    expect(ended.said.length, ended.stderr).toBeGreaterThan(5);
    const said = ended.said.map((line) => line.replace(/: .*/, ': right, 0 still held'));
    expectEnd(ended, { code: 0, signal: null, said });
  });

  // In arrays of the size of one result: how often each thing is done, and by how many the process may grow. A leak
  // of one array each time would be more. Blocks of results wait for the event loop to turn, which it does not between
  // blocking calls; results may have 1 GiB of them, here 85 arrays. The rest is for a collector that is in no hurry.
  test.each([
    ['asynchronous calls', 200, 110],
    ['asynchronous calls, four at a time', 50, 110],
    ['asynchronous calls that fail', 200, 110],
    ['blocking calls', 200, 110],
    ['aborted calls', 200, 110],
    ['forward passes that nobody disposes', 100, 40],
    ['heads that nobody disposes', 100, 40],
    ['heads disposed during a step', 100, 40],
  ])('keeps up with %s', async (kind, times, most) => {
    const { code, said, stderr } = await run('growth', [kind, String(times), '10']);
    expect(code, stderr).toBe(0);
    const { addressSpace, threads } = JSON.parse(said.join());
    expect(addressSpace).toBeLessThan(most);
    expect(threads).toBe(0);
  });

  test('leaves nothing of thirty workers that load the addon one after the other', async () => {
    const { code, said, stderr } = await run('growth', ['workers', '35', '5']);
    expect(code, stderr).toBe(0);
    const { memory, threads } = JSON.parse(said.join());
    // Each had results of two arrays in the end. Address space would count the allocator's reserves for threads.
    expect(memory).toBeLessThan(10);
    expect(threads).toBe(0);
  });
});

describe('too little memory', () => {
  const batchTooLarge = 'ERR_OUT_OF_MEMORY: not enough memory for the workspace of this batch';
  const headTooLarge = `ERR_OUT_OF_MEMORY: not enough memory for the classes' weights and optimiser state`;
  const result = (count: number) => `ERR_OUT_OF_MEMORY: not enough memory for a result of ${count} floats`;
  test.each([
    ['a result', result(128e6)],
    ['a result of a blocking call', result(128e6)],
    ['a kept workspace', batchTooLarge],
    ['a kept workspace of a blocking call', batchTooLarge],
    ["a head's weights", headTooLarge],
    ["a head's optimiser state", headTooLarge],
    ['a head of as many numbers as can be named', headTooLarge],
    ['the feature gradient of a step', result(64e6)],
    ['the workspace of a step', batchTooLarge],
    ['the workspace of a blocking step', batchTooLarge],
    ['the nearest classes', result(100e6)],
    [
      'the thread of the first asynchronous call',
      'ERR_OUT_OF_MEMORY: the system has no thread left for asynchronous calls',
    ],
    // The calling thread does the work of those that cannot be had.
    ['the threads of the first blocking call', 'succeeded'],
  ])('for %s harms nothing else', async (what, outcome) => {
    const said = [outcome, 'right afterwards, the head intact'];
    expectEnd(await run('scarcity', [what]), { code: 0, signal: null, said });
  });
});

describe('abort', () => {
  // Minutes of work if all of it were done: the test's own time limit is the check that it is not.
  const huge = makeBatch({ rows: 1 << 16, dim: 32, classes: 400_000 });
  const times = 10;
  const headOfMany = MarginHead.create({ dim: 32, classes: 400_000, init: huge.weights });
  const recompute = { workspace: 'recompute' } as const;
  const passOfMany = forward(makeBatch({ rows: 1 << 12, dim: 32, classes: 100_000 }), recompute);

  const calls: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
    valueAndGrad: (signal) => valueAndGrad(huge, { signal, ...recompute, gradients: 'weights' }),
    forward: (signal) => forward(huge, { signal, ...recompute }),
    backward: async (signal) => (await passOfMany).backward(1, { signal }),
    step: async (signal) => (await headOfMany).step(huge, { signal }),
    accumulate: async (signal) => (await headOfMany).accumulate(huge, { signal }),
    evaluate: async (signal) => (await headOfMany).evaluate(huge, { signal }),
    nearest: async (signal) => (await headOfMany).nearest(huge.features, 10, { signal }),
  };

  test.each(Object.entries(calls))('ends %s at work and in the queue', async (_, call) => {
    await Promise.all([passOfMany, headOfMany]);
    const expected = digest(valueAndGradSync(batch));
    const controller = new AbortController();
    const before = valueAndGrad(batch);
    const failures = Array.from({ length: times }, () => failureOf(() => call(controller.signal)));
    await before; // the first of them is at work now
    await turn();
    controller.abort('enough');
    for (const failure of await Promise.all(failures))
      expect(failure).toMatchObject({ code: 'ERR_ABORTED', cause: 'enough' });
    expect(digest(await valueAndGrad(batch))).toBe(expected);
  });

  test.each([
    ['sgd', sgd({ learningRate: 0.1, momentum: 0.9 })],
    ['adamw', adamw({ learningRate: 0.1 })],
  ])('at whatever moment leaves a step of %s undone or done', async (_, optimizer) => {
    const large = makeBatch({ rows: 64, dim: 64, classes: 20_000 });
    const makeHead = () =>
      MarginHead.create({ dim: 64, classes: 20_000, init: large.weights, optimizer, shards: 3 });
    /** The turns of the event loop until the step has settled, and what became of it. */
    const step = async (abortAfter: number) => {
      const head = await makeHead();
      const controller = new AbortController();
      let outcome: string | undefined;
      head.step(large, { signal: controller.signal }).then(
        () => {
          outcome = 'done';
        },
        ({ code }) => {
          outcome = code;
        },
      );
      let turns = 0;
      for (; outcome === undefined; turns++) {
        if (turns === abortAfter) controller.abort();
        await turn();
      }
      const weights = digest({ weights: head.weights() });
      const { stepCount } = head;
      head.dispose();
      return { turns, end: { outcome, weights, stepCount } };
    };
    const done = await step(Number.POSITIVE_INFINITY);
    expect(done.end).toMatchObject({ outcome: 'done', stepCount: 1 });
    const undone = { outcome: 'ERR_ABORTED', stepCount: 0, weights: digest({ weights: large.weights }) };
    const moments = 24;
    for (let i = 0; i < moments; i++) {
      const { end } = await step(Math.floor((done.turns * i) / moments));
      expect(end).toEqual(end.outcome === 'done' ? done.end : undone);
    }
  });
});

test('the addon may be loaded twice, and the two know nothing of each other', async () => {
  const said = ['two addons, 1 result', 'a head of the other: ERR_TYPE'];
  expectEnd(await run('reload'), { code: 0, signal: null, said });
});
