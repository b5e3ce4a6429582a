/** Heads whose weights are bfloat16: what an update makes of them, bit for bit, and that small updates are not lost. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { type LoadOptions, MarginHead, type MarginHeadOptions, sgd, valueAndGradSync } from '../src/index.js';
import { halves, nearestBfloat16, stochasticBfloat16 } from './bfloat16.js';
import {
  batchOf,
  futureOf,
  kept,
  newFolder,
  optimizers,
  shardsOf,
  size,
  trainedHead,
} from './checkpoint_heads.js';
import { closeEngines, findEngines, halfInstructionSets } from './engines.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { makeProblem } from './problems.js';

const create = async (options: MarginHeadOptions) => kept(await MarginHead.create(options));

/** A head of the same weights, state and step count with other options. */
async function copyOf(head: MarginHead, options: LoadOptions): Promise<MarginHead> {
  const folder = newFolder();
  await head.save(folder);
  return kept(await MarginHead.load(folder, options));
}

/** A batch that leaves the gradient 0, so that an update is weight decay, and the same arithmetic on any machine. */
const ignored = (dim: number) => ({ features: new Float32Array(dim).fill(1), labels: Int32Array.of(-1) });

describe.each(Object.entries(optimizers))('with %s, an update', (_, optimizer) => {
  // Widths around a vector, a group of draws and a piece of a row.
  test.each<[number, string, Pick<MarginHeadOptions, 'sampleRate' | 'sampledUpdate'>]>([
    [1, 'step', {}],
    [33, 'accumulate and apply', {}],
    [128, 'step', { sampleRate: 0.5 }],
    [700, 'accumulate and apply', { sampleRate: 0.5 }],
    [1100, 'step', { sampleRate: 0.5, sampledUpdate: 'all' }],
  ])(
    'of %i columns is that of float32 weights, rounded by the formula: %s, %o',
    async (dim, call, sampling) => {
      const [rows, classes, seed] = [9, 19, 77];
      const head = await create({
        ...{ dim, classes, optimizer, seed, shards: 2, scale: 8, storage: 'bfloat16', init: { std: 1 } },
        ...sampling,
      });
      for (let step = 1; step <= 3; step++) {
        const wide = await copyOf(head, { storage: 'float32', shards: 2 });
        expect(wide.weights()).toEqual(head.weights());
        const { features, labels } = makeProblem({ rows, dim, classes }, 'spread', 'ignored', step);
        for (const each of [head, wide]) {
          if (call === 'step') {
            await each.step({ features, labels });
          } else {
            await each.accumulate({ features, labels });
            await each.apply();
          }
        }
        const expected = wide
          .weights()
          .map((value, i) => stochasticBfloat16(value, seed, step, Math.floor(i / dim), i % dim));
        expect(head.weights()).toEqual(expected);
      }
    },
  );
});

test('updates far below half a unit in the last place survive in the mean, and would be lost by rounding to nearest', async () => {
  const [dim, classes, steps] = [128, 256, 200];
  const [learningRate, weightDecay] = [0.1, 1e-3];
  const optimizer = sgd({ learningRate, weightDecay });
  const init = new Float32Array(classes * dim).fill(1);
  const head = await create({ dim, classes, init, optimizer, storage: 'bfloat16', seed: 1 });
  for (let step = 0; step < steps; step++) head.stepSync(ignored(dim));
  const shrunk = 1 - learningRate * weightDecay;
  const mean = head.weights().reduce((sum, value) => sum + value, 0) / init.length;
  // Each step of a weight adds chance with mean 0 and variance p (1 - p) unit^2, where p unit <= 1e-4 is what is rounded; below
  // 1 a unit in the last place is 2^-8. Six standard errors of the mean over independent weights.
  const unit = 2 ** -8;
  const error = Math.sqrt((steps * learningRate * weightDecay * unit) / init.length);
  expect(Math.abs(mean - shrunk ** steps)).toBeLessThan(6 * error);
  // The bound is a hundredth of what the updates add up to.
  expect(6 * error).toBeLessThan((1 - shrunk ** steps) / 20);
  expect(learningRate * weightDecay).toBeLessThan(unit / 2 / 15);
  expect(nearestBfloat16(Math.fround(1 - learningRate * weightDecay))).toBe(1);
});

test('the same bits come of any number of shards and threads and any instruction set', async () => {
  const engines = await findEngines(halfInstructionSets);
  await closeEngines();
  const program = fileURLToPath(new URL('./storage_child.mjs', import.meta.url));
  const digests = new Set<string>();
  for (const { environment, missing } of engines)
    for (const threads of missing === undefined ? ['1', '3'] : []) {
      const env = { ...process.env, ...environment, MARGINFC_THREADS: threads };
      const { stdout } = await promisify(execFile)(process.execPath, [program, '1', '2', '3', '7'], { env });
      const lines = stdout.trim().split('\n');
      expect(lines).toHaveLength(4);
      for (const line of lines) digests.add(line);
    }
  expect(digests.size).toBe(1);
});

test('loss and gradients are those of the functional call on the same bfloat16 weights', async () => {
  const classes = 131;
  const problem = makeProblem({ rows: 33, dim: 31, classes }, 'spread', 'ignored', 8);
  const { features, labels, dim } = problem;
  for (const [shards, precision] of [
    [1, 'float32'],
    [3, 'bfloat16'],
  ] as const) {
    const init = problem.weights;
    const head = await create({ dim, classes, init, shards, precision, storage: 'bfloat16' });
    const stored = init.map(nearestBfloat16);
    expect(head.weights()).toEqual(stored);
    const weights = { data: halves(stored), dtype: 'bfloat16' } as const;
    const expected = valueAndGradSync({ features, weights, labels, dim }, { shards, precision });
    const { loss, rowLoss, dFeatures } = await head.step({ features, labels }, { learningRate: 0 });
    expect({ loss, rowLoss, dFeatures }).toEqual({
      loss: expected.loss,
      rowLoss: expected.rowLoss,
      dFeatures: expected.dFeatures,
    });
    expect(head.weights()).toEqual(stored);
    const { classes: nearest } = await head.nearest(stored.subarray(0, 5 * dim), 1);
    expect(nearest).toEqual(Int32Array.of(0, 1, 2, 3, 4));
  }
});

describe('first weights', () => {
  test('are rounded to nearest: drawn, in an array, and by ranges', async () => {
    const { dim, classes } = { dim: 7, classes: 1009 };
    const wide = (await create({ dim, classes, init: { std: 1, seed: 4 } })).weights();
    const expected = wide.map(nearestBfloat16);
    expect(expected).not.toEqual(wide);
    const slices = (start: number, end: number) => wide.subarray(start * dim, end * dim);
    for (const init of [{ std: 1, seed: 4 }, wide, slices])
      for (const shards of [1, 3]) {
        const head = await create({ dim, classes, init, shards, storage: 'bfloat16' });
        expect(head.weights()).toEqual(expected);
        expect(head.storage).toBe('bfloat16');
      }
  });
});

describe('classes that come and go', () => {
  test('leave the bits of the others', async () => {
    const head = await trainedHead({ storage: 'bfloat16', optimizer: optimizers.adamw, shards: 3 });
    const before = head.weights();
    const twin = await copyOf(head, { shards: 3 });
    await head.addClasses(Float32Array.from({ length: 2 * size.dim }, (_, i) => i / 7));
    expect(head.weights(0, size.classes)).toEqual(before);
    expect(head.weights(size.classes)).toEqual(
      Float32Array.from({ length: 2 * size.dim }, (_, i) => nearestBfloat16(Math.fround(i / 7))),
    );
    await head.removeClasses([size.classes, size.classes + 1]);
    expect(await futureOf(head)).toEqual(await futureOf(twin));
  });
});

describe('a checkpoint', () => {
  test.each(Object.entries(optimizers))('goes on with the same bits: %s', async (_, optimizer) => {
    const head = await trainedHead({ storage: 'bfloat16', optimizer, shards: 3 }, { accumulated: true });
    const folder = newFolder();
    await head.save(folder);
    const bytes = shardsOf(folder).map((name) => readFileSync(join(folder, name)).length);
    const loaded = kept(await MarginHead.load(folder, { shards: 3 }));
    const other = kept(await MarginHead.load(folder, { shards: 7 }));
    const wide = await copyOf(head, { storage: 'float32', shards: 3 });
    const second = newFolder();
    await wide.save(second);
    const more = shardsOf(second).map((name, i) => readFileSync(join(second, name)).length - (bytes[i] ?? 0));
    // Half the weights' bytes, but for the text of the header.
    for (const [i, classes] of [18, 18, 17].entries())
      expect(Math.abs((more[i] ?? 0) - classes * size.dim * 2)).toBeLessThan(64);
    expect(loaded.storage).toBe('bfloat16');
    // Sums over shards differ in rounding; the update with a gradient that is there already does not.
    expect(await other.apply()).toBe(true);
    const twin = kept(await MarginHead.load(folder, { shards: 3 }));
    await twin.apply();
    expect(other.weights()).toEqual(twin.weights());
    expect(await futureOf(loaded)).toEqual(await futureOf(head));
  });

  test('of float32 weights is rounded to nearest where bfloat16 is asked for, and the reverse keeps every bit', async () => {
    const head = await trainedHead({ shards: 2 });
    const narrow = await copyOf(head, { storage: 'bfloat16' });
    expect(narrow.weights()).toEqual(head.weights().map(nearestBfloat16));
    expect(narrow.weights()).not.toEqual(head.weights());
    const wide = await copyOf(narrow, { storage: 'float32' });
    expect({ storage: wide.storage, weights: wide.weights() }).toEqual({
      storage: 'float32',
      weights: narrow.weights(),
    });
    await wide.step(batchOf(3));
    expect(wide.weights()).not.toEqual(wide.weights().map(nearestBfloat16));
  });
});

describe('storage', () => {
  const small = { dim: 2, classes: 3 };
  test.each<[unknown, string, RegExp]>([
    [
      'float16',
      'ERR_PRECISION_UNSUPPORTED',
      /^storage must be 'float32' or 'bfloat16' \(.*range of float16.*\), received 'float16'$/,
    ],
    ['int8', 'ERR_OPTION', /^storage must be 'float32', 'bfloat16' or 'float16', received 'int8'$/],
    [16, 'ERR_TYPE', /^storage must be/],
  ])('refuses %s', async (storage, code, message) => {
    await expectFailure(() => MarginHead.create({ ...small, storage: storage as 'float32' }), code, message);
  });

  const [gpu] = gpusOfThisProcess();
  test.skipIf(gpu === undefined)('refuses bfloat16 on GPUs, in create and in load', async () => {
    const refused = [
      'ERR_PRECISION_UNSUPPORTED',
      /^storage must be 'float32' on cuda:0 \(.*stochastically\), received 'bfloat16'$/,
    ] as const;
    const devices = ['cpu', gpu as string];
    await expectFailure(() => MarginHead.create({ ...small, devices, storage: 'bfloat16' }), ...refused);
    const head = await trainedHead({ storage: 'bfloat16' });
    await expectFailure(() => copyOf(head, { devices }), ...refused);
    const moved = await copyOf(head, { devices: [gpu as string], storage: 'float32' });
    expect(moved.weights()).toEqual(head.weights());
  });
});
