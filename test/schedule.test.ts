/** Schedules: what they say at each step, and that a head follows them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  adamw,
  arcface,
  combined,
  cosface,
  cosine,
  linear,
  MarginHead,
  type MarginHeadOptions,
  piecewise,
  type Schedule,
  sgd,
  valueAndGrad,
  valueAt,
  x2softmax,
} from '../src/index.js';
import { kept, newFolder } from './checkpoint_heads.js';
import { expectFailure } from './failures.js';
import { makeProblem } from './problems.js';

test.each<[string, number | Schedule, readonly (readonly [step: number, value: number])[]]>([
  [
    'a constant',
    0.3,
    [
      [0, 0.3],
      [1e9, 0.3],
    ],
  ],
  [
    'linear',
    linear({ from: 1, to: 3, steps: 4 }),
    [
      [0, 1],
      [1, 1.5],
      [2, 2],
      [4, 3],
      [5, 3],
      [1e9, 3],
    ],
  ],
  [
    'linear, later',
    linear({ from: 1, to: 0, steps: 2, start: 10 }),
    [
      [0, 1],
      [10, 1],
      [11, 0.5],
      [12, 0],
      [13, 0],
    ],
  ],
  [
    'cosine',
    cosine({ from: 1, to: 0, steps: 4 }),
    [
      [0, 1],
      [1, 0.5 + Math.SQRT1_2 / 2],
      [2, 0.5],
      [4, 0],
      [9, 0],
    ],
  ],
  [
    'cosine, later',
    cosine({ from: 2, to: 4, steps: 3, start: 5 }),
    [
      [5, 2],
      [6, 2.5],
      [7, 3.5],
      [8, 4],
    ],
  ],
  [
    'piecewise',
    piecewise([
      [0, 0.1],
      [30, 0.01],
      [60, 0],
    ]),
    [
      [0, 0.1],
      [29, 0.1],
      [30, 0.01],
      [59, 0.01],
      [60, 0],
    ],
  ],
  [
    'a warm-up, then half a cosine',
    piecewise([
      [0, linear({ from: 0, to: 1, steps: 10 })],
      [10, cosine({ from: 1, to: 0, steps: 20, start: 10 })],
    ]),
    [
      [0, 0],
      [5, 0.5],
      [10, 1],
      [20, 0.5],
      [30, 0],
    ],
  ],
])('%s', (_, schedule, table) => {
  for (const [step, value] of table) expect(valueAt(schedule, step)).toBeCloseTo(value, 14);
  // Plain data: a checkpoint has it as JSON.
  const copy: Schedule = JSON.parse(JSON.stringify(schedule));
  for (const [step] of table) expect(valueAt(copy, step)).toBe(valueAt(schedule, step));
});

test('a ramp lies between its ends, goes one way, and meets them exactly', () => {
  const value = fc.double({ min: -1e6, max: 1e6, noNaN: true });
  const ramp = fc.record({
    from: value,
    to: value,
    steps: fc.integer({ min: 1, max: 1e6 }),
    start: fc.integer({ min: 0, max: 1e6 }),
  });
  const at = fc.integer({ min: 0, max: 3e6 });
  fc.assert(
    fc.property(ramp, at, at, (given, a, b) => {
      for (const schedule of [linear(given), cosine(given)]) {
        const { from, to, start, steps } = given;
        expect(valueAt(schedule, start)).toBeCloseTo(from, 8);
        expect(valueAt(schedule, start + steps)).toBe(to);
        const [low, high] = [valueAt(schedule, Math.min(a, b)), valueAt(schedule, Math.max(a, b))];
        const rounding = 1e-9 * Math.max(1, Math.abs(from), Math.abs(to));
        expect((high - low) * Math.sign(to - from)).toBeGreaterThanOrEqual(-rounding);
        for (const each of [low, high]) {
          expect(each).toBeGreaterThanOrEqual(Math.min(from, to) - rounding);
          expect(each).toBeLessThanOrEqual(Math.max(from, to) + rounding);
        }
      }
    }),
    { numRuns: 200, seed: 7 },
  );
});

const size = { rows: 12, dim: 17, classes: 53 };
const { weights, ...batch } = makeProblem(size, 'spread', 'ignored', 1);
const make = async (options: Partial<MarginHeadOptions>) =>
  kept(await MarginHead.create({ dim: size.dim, classes: size.classes, init: weights, ...options }));

const m = linear({ from: 0, to: 0.5, steps: 4 });
const scheduled = {
  margin: arcface({ m }),
  scale: cosine({ from: 16, to: 64, steps: 5 }),
  optimizer: sgd({
    learningRate: piecewise([
      [0, linear({ from: 0, to: 0.1, steps: 2 })],
      [3, 0.05],
    ]),
    momentum: 0.9,
  }),
} as const;
const plainAt = (step: number) => ({
  margin: arcface({ m: valueAt(m, step) }),
  scale: valueAt(scheduled.scale, step),
});

describe('a head', () => {
  test('uses the values at its step count, also where calls wait for each other', async () => {
    const head = await make(scheduled);
    const other = await make({ optimizer: sgd({ momentum: 0.9 }) });
    const outs = await Promise.all(Array.from({ length: 6 }, () => head.step(batch)));
    for (const [step, out] of outs.entries()) {
      const rate = valueAt(scheduled.optimizer.learningRate, step);
      // A rate of 0 in a call changes nothing; a schedule's is PyTorch's update with that rate.
      const { workspace: _, ...expected } = await other.step(batch, {
        ...plainAt(step),
        learningRate: rate === 0 ? Number.MIN_VALUE : rate,
      });
      expect(out).toMatchObject(expected);
    }
    expect(head.weights()).toEqual(other.weights());
    expect(head.stepCount).toBe(6);
    expect((await head.evaluate(batch)).loss).toBe((await other.evaluate(batch, plainAt(6))).loss);
    expect([head.margin, head.scale, head.optimizer]).toEqual([
      scheduled.margin,
      scheduled.scale,
      scheduled.optimizer,
    ]);
  });

  test('counts a step whose scheduled learning rate is 0, and moves nothing by it', async () => {
    const optimizers = [sgd, adamw].map((of) => of({ learningRate: linear({ from: 0, to: 1, steps: 1 }) }));
    for (const optimizer of optimizers) {
      const head = await make({ optimizer });
      await head.step(batch);
      expect({ steps: head.stepCount, weights: head.weights() }).toEqual({ steps: 1, weights });
      await head.accumulate(batch);
      expect(await head.apply()).toBe(true);
      expect(head.weights()).not.toEqual(weights);
    }
  });

  test('uses them in accumulate, apply and forwardSync as in step', async () => {
    const [head, other] = [await make(scheduled), await make(scheduled)];
    for (let step = 0; step < 4; step++) {
      const { loss } = await head.step(batch);
      if (step % 2 === 0) {
        expect((await other.accumulate(batch)).loss).toBe(loss);
        await other.apply();
      } else {
        const pass = other.forwardSync(batch);
        expect(pass.loss).toBe(loss);
        pass.backwardSync();
        pass.dispose();
      }
    }
    const difference = head.weights().map((value, i) => Math.abs(value - other.weights()[i]!));
    expect(Math.max(...difference)).toBeLessThan(1e-5);
    expect(other.stepCount).toBe(4);
  });

  test('takes one for a call', async () => {
    const head = await make({ optimizer: sgd({ learningRate: 0.1 }) });
    await head.step(batch);
    const options = {
      scale: linear({ from: 10, to: 30, steps: 2 }),
      margin: cosface({ m: linear({ from: 0, to: 1, steps: 4 }) }),
    };
    const { loss } = await head.evaluate(batch, options);
    expect(loss).toBe((await head.evaluate(batch, { scale: 20, margin: cosface({ m: 0.25 }) })).loss);
  });

  test('that is loaded goes on where it was', async () => {
    const options = { ...scheduled, labelSmoothing: 0.1, clipWeightGradient: { global: 0.01 } } as const;
    const head = await make(options);
    await head.step(batch);
    await head.step(batch);
    const folder = newFolder();
    await head.save(folder);
    const loaded = kept(await MarginHead.load(folder));
    const { margin, scale, optimizer, labelSmoothing, clipWeightGradient } = loaded;
    expect({ margin, scale, optimizer, labelSmoothing, clipWeightGradient }).toEqual(options);
    for (let step = 0; step < 4; step++) expect(await loaded.step(batch)).toEqual(await head.step(batch));
    expect(loaded.weights()).toEqual(head.weights());
    const other = kept(await MarginHead.load(folder, { scale: 64, clipWeightGradient: { perClass: 1 } }));
    expect({ scale: other.scale, clip: other.clipWeightGradient }).toEqual({
      scale: 64,
      clip: { perClass: 1 },
    });
    // Classes that come and go take the count along.
    await loaded.addClasses(2);
    expect(loaded.stepCount).toBe(6);
  });
});

test.each<[string, () => unknown, string, RegExp]>([
  [
    'in a call without steps, a margin',
    () =>
      valueAndGrad({ ...batch, weights }, { margin: arcface({ m: linear({ from: 0, to: 1, steps: 3 }) }) }),
    'ERR_OPTION',
    /^margin\.m must be without a schedule, for which only a MarginHead has a step count, received a linear one$/,
  ],
  [
    'in a call without steps, a scale',
    () => valueAndGrad({ ...batch, weights }, { scale: piecewise([[0, 1]]) }),
    'ERR_OPTION',
    /^scale must be without a schedule, .* received a piecewise one$/,
  ],
  [
    'a scale of 0 on the way',
    () => make({ scale: linear({ from: 0, to: 64, steps: 3 }) }),
    'ERR_OPTION',
    /^scale\.from must be a finite number > 0, received 0$/,
  ],
  [
    'a margin that is not finite',
    () => combined({ m2: linear({ from: 0, to: Infinity, steps: 3 }) }),
    'ERR_OPTION',
    /^schedule\.to must be a finite number, received Infinity$/,
  ],
  [
    'a margin beyond all use',
    () => x2softmax({ h: piecewise([[0, 1e7]]) }),
    'ERR_MARGIN',
    /^margin\.h\.pieces\[0\]\[1\] must be at most 1000000 in magnitude/,
  ],
  [
    'a negative learning rate',
    () => sgd({ learningRate: cosine({ from: 0.1, to: -1, steps: 10 }) }),
    'ERR_OPTION',
    /^optimizer\.learningRate\.to must be a finite number >= 0, received -1$/,
  ],
  [
    'no steps',
    () => linear({ from: 0, to: 1, steps: 0 }),
    'ERR_OPTION',
    /^schedule\.steps must be an integer in \[1, /,
  ],
  [
    'half a ramp',
    () => cosine({ from: 0, steps: 1 } as never),
    'ERR_TYPE',
    /^schedule\.to must be a finite number, received undefined$/,
  ],
  [
    'nothing',
    () => linear(undefined as never),
    'ERR_TYPE',
    /^schedule must be an object, received undefined$/,
  ],
  [
    'pieces that begin late',
    () => piecewise([[1, 0]]),
    'ERR_OPTION',
    /^schedule\.pieces\[0\]\[0\] must be an integer in \[0, 0\]/,
  ],
  [
    'pieces that go back',
    () =>
      piecewise([
        [0, 0],
        [5, 1],
        [5, 2],
      ]),
    'ERR_OPTION',
    /^schedule\.pieces\[2\]\[0\] must be an integer in \[6, /,
  ],
  [
    'pieces of pieces',
    () => piecewise([[0, piecewise([[0, 1]])]] as never),
    'ERR_OPTION',
    /^schedule\.pieces\[0\]\[1\]\.kind must be 'linear' or 'cosine'/,
  ],
  ['no pieces', () => piecewise([]), 'ERR_TYPE', /^schedule\.pieces must be an array of pairs/],
  [
    'another kind',
    () => make({ scale: { kind: 'step' } as never }),
    'ERR_OPTION',
    /^scale\.kind must be 'linear', 'cosine' or 'piecewise'/,
  ],
])('%s is refused', (_, call, code, message) => expectFailure(async () => call(), code, message));
