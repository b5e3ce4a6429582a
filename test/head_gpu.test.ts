/**
 * MarginHead on GPUs: steps, accumulation, evaluation and nearest as on the cpu engine, on one device, on several and mixed.
 * On the software device; with MARGINFC_TEST_ENGINES=gpu on this machine's GPUs.
 */
import { afterAll, describe, expect, test } from 'vitest';
import {
  adamw,
  arcface,
  type DeviceName,
  forwardSync,
  linear,
  MarginHead,
  type MarginHeadOptions,
  type SampledUpdate,
  sgd,
  sphereface2,
  uniface,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { takingPart } from './draw.js';
import { expectFailure, failureOf } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { gradientError } from './metrics.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';

const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

const size = { rows: 40, dim: 72, classes: 300 };
const { dim, classes } = size;
const batches = [1, 2, 3, 4].map((seed) => makeProblem(size, 'clustered', 'ignored', seed));
const { weights } = batches[0]!;

const heads: MarginHead[] = [];
afterAll(() => {
  for (const head of heads) head.dispose();
});

async function makeHead(options: Partial<MarginHeadOptions>): Promise<MarginHead> {
  const head = await MarginHead.create({ dim, classes, init: weights, precision: 'float32', ...options });
  heads.push(head);
  return head;
}

const norms = (matrix: Float32Array) =>
  Array.from({ length: matrix.length / dim }, (_, i) =>
    Math.hypot(...matrix.subarray(i * dim, (i + 1) * dim)),
  );

function expectGradientsAlike(got: Float32Array, expected: Float32Array, rows: Float32Array): void {
  expect(gradientError(got, expected, norms(rows))).toBeLessThan(1.2e-4);
}

/** Of losses that have one. */
function expectBiasAlike(got: MarginHead, expected: MarginHead): void {
  if (expected.bias === undefined) expect(got.bias).toBeUndefined();
  else expect(got.bias).toBeCloseTo(expected.bias, 5);
}

describe.skipIf(gpus.length === 0)('a head on engine cuda', () => {
  test('counts angles, and follows schedules, as the cpu', async () => {
    const schedules = { scale: linear({ from: 32, to: 64, steps: 2 }) };
    const [got, expected] = [await makeHead({ devices: [first], ...schedules }), await makeHead(schedules)];
    for (const batch of batches) {
      const [a, b] = [
        await got.step(batch, { histograms: 6 }),
        await expected.step(batch, { histograms: 6 }),
      ];
      expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-4 * Math.max(1, b.loss));
      expect(a.angles).toEqual(b.angles);
    }
  });

  const places: [string, DeviceName[]][] = [
    ['one GPU', [first]],
    ['all GPUs', gpus],
    ['the cpu and a GPU', ['cpu', first]],
  ];
  const momentum = sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4, nesterov: true });
  // Of gradients below epsilon its steps are small, not by the sign of what may be rounding.
  const adaptive = adamw({ learningRate: 0.01, epsilon: 0.01 });
  const trainings: Record<string, Partial<MarginHeadOptions>> = {
    'sgd with momentum': { optimizer: momentum },
    adamw: { optimizer: adaptive },
    'sphereface2, sgd with momentum, clipped classes': {
      margin: sphereface2({ weight: 50 }),
      optimizer: momentum,
      clipWeightGradient: { perClass: 0.15 },
    },
    'uniface, adamw, clipped': {
      margin: uniface(),
      optimizer: adaptive,
      clipWeightGradient: { global: 1 },
    },
  };

  test.each(
    places.flatMap(([place, devices]) =>
      Object.entries(trainings).map(
        ([name, training]) => [`${name} on ${place}`, devices, training] as const,
      ),
    ),
  )('makes the steps of the cpu engine: %s', async (_, devices, training) => {
    const got = await makeHead({ devices, ...training, shards: devices.length + 1 });
    const expected = await makeHead(training);
    for (const batch of batches) {
      const [a, b] = [await got.step(batch), await expected.step(batch)];
      expect(a.engine).toBe(devices.join('+'));
      expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-4 * Math.max(1, b.loss));
      expect(a.accuracy).toBeCloseTo(b.accuracy, 6);
      expectGradientsAlike(a.dFeatures, b.dFeatures, batch.features);
    }
    expect(got.stepCount).toBe(batches.length);
    const [moved, reference] = [got.weights(), expected.weights()];
    const apart = moved.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
    expect(apart).toBeLessThan(1e-5 * weights.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
    expectBiasAlike(got, expected);
  });

  test.each<[string, Partial<MarginHeadOptions>]>([
    ['arcface', {}],
    ['sphereface2, clipped', { margin: sphereface2({ weight: 50 }), clipWeightGradient: { global: 2 } }],
    ['uniface, clipped classes', { margin: uniface(), clipWeightGradient: { perClass: 0.5 } }],
  ])('accumulates and applies as the cpu engine: %s', async (_, options) => {
    const made = await Promise.all([makeHead({ devices: gpus, ...options }), makeHead(options)]);
    for (const head of made) {
      for (const batch of batches) await head.accumulate(batch, { gradientScale: 1 / batches.length });
      expect(await head.apply({ learningRate: 0.2 })).toBe(true);
      expect(await head.apply()).toBe(false);
    }
    const [got, expected] = made.map((head) => head.weights());
    const moved = (values: Float32Array) => values.map((value, i) => value - weights[i]!);
    expectGradientsAlike(moved(got!), moved(expected!), new Float32Array(weights.length).fill(1));
    expectBiasAlike(made[0]!, made[1]!);
  });

  test('shares its classes with a process of the cpu engine, and with one of other GPUs', async () => {
    const options: Partial<MarginHeadOptions> = {
      optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
      labelSmoothing: 0.1,
      clipWeightGradient: { global: 0.5 },
    };
    const alone = await makeHead(options);
    const places: DeviceName[][] = [[first], ['cpu'], gpus];
    const shared = await Promise.all(
      processGroup(places.length).map((group, rank) => {
        const devices = places[rank];
        return makeHead({ ...options, devices, shards: gpus.length, group });
      }),
    );
    for (const batch of batches) {
      const expected = await alone.step(batch, { accuracyTop5: true });
      const outs = await Promise.all(
        shared.map((head, rank) => {
          const [start, end] = [rank * 15, Math.min(rank * 15 + 15, size.rows)];
          const features = batch.features.slice(start * dim, end * dim);
          return head.step({ features, labels: batch.labels.slice(start, end) }, { accuracyTop5: true });
        }),
      );
      for (const { loss, accuracy, accuracyTop5 } of outs) {
        expect(Math.abs(loss - expected.loss)).toBeLessThan(1e-4 * Math.max(1, expected.loss));
        expect(accuracy).toBeCloseTo(expected.accuracy, 6);
        expect(accuracyTop5).toBeCloseTo(expected.accuracyTop5!, 6);
      }
      const dFeatures = Float32Array.from(outs.flatMap((out) => Array.from(out.dFeatures)));
      expectGradientsAlike(dFeatures, expected.dFeatures, batch.features);
    }
    const [moved, reference] = [shared.flatMap((head) => Array.from(head.weights())), alone.weights()];
    const apart = moved.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
    expect(apart).toBeLessThan(1e-5 * weights.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  });

  test('finds the nearest classes of the cpu engine', async () => {
    const [got, expected] = await Promise.all([makeHead({ devices: gpus }), makeHead({})]);
    const { features } = batches[1]!;
    const [a, b] = [await got!.nearest(features, 7), await expected!.nearest(features, 7)];
    expect(a.classes).toEqual(b.classes);
    for (const [i, cosine] of b.cosines.entries())
      expect(Math.abs(a.cosines[i]! - cosine)).toBeLessThan(1e-6);
  });

  test.each<[SampledUpdate, DeviceName[], 'step' | 'accumulate']>([
    ['sampled', [first], 'accumulate'],
    ['all', gpus, 'step'],
    ['sampled', ['cpu', first], 'step'],
    ['all', ['cpu', first], 'accumulate'],
  ])('trains on some of the classes as the cpu engine: %s, %s, %s', async (sampledUpdate, devices, call) => {
    const options = {
      sampleRate: 0.2,
      sampledUpdate,
      seed: 3,
      optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
    };
    const got = await makeHead({ ...options, devices, shards: devices.length + 1 });
    const expected = await makeHead(options);
    for (const batch of batches) {
      const [a, b] = [await got[call](batch), await expected[call](batch)];
      expect(a.sampledClasses).toBe(b.sampledClasses);
      expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-4 * Math.max(1, b.loss));
      // All classes between two steps: the operand of all and that of some are not mixed up.
      const [c, d] = [await got.evaluate(batch), await expected.evaluate(batch)];
      expect(Math.abs(c.loss - d.loss)).toBeLessThan(1e-4 * Math.max(1, d.loss));
      expectGradientsAlike(a.dFeatures, b.dFeatures, batch.features);
      if (call === 'accumulate') for (const head of [got, expected]) await head.apply();
    }
    const [moved, reference] = [got.weights(), expected.weights()];
    const apart = moved.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
    expect(apart).toBeLessThan(1e-5 * weights.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
    for (let j = 0; j < classes; j++) {
      const same = (rows: Float32Array) =>
        rows.subarray(j * dim, (j + 1) * dim).every((value, d) => value === weights[j * dim + d]);
      expect(same(moved)).toBe(same(reference));
    }
  });

  test('does not look at classes that take no part', async () => {
    const init = weights.slice();
    const options = { sampleRate: 0.1, seed: 3, devices: gpus };
    const taking = takingPart({ classes, ...options, step: 0 }, batches[0]!.labels);
    const outside = [...Array(classes).keys()].find((id) => id > 150 && !taking.includes(id))!;
    init[outside * dim + 5] = Number.NaN;
    const head = await makeHead({ ...options, init });
    await head.step(batches[0]!);
    const id = taking[taking.length - 2]!;
    init[id * dim] = Number.NaN;
    const bad = await makeHead({ ...options, init });
    await expectFailure(
      () => bad.step(batches[0]!),
      'ERR_NOT_FINITE',
      new RegExp(`^weights must be finite, row ${id} `),
    );
    expect(bad.weights()).toEqual(init);
  });

  test('draws the first weights of the cpu engine', async () => {
    const init = { std: 0.01, seed: 5 };
    const [got, expected] = await Promise.all([makeHead({ devices: gpus, init }), makeHead({ init })]);
    const reference = expected!.weights();
    const apart = got!
      .weights()
      .reduce((most, value, i) => Math.max(most, Math.abs(value - reference[i]!)), 0);
    expect(apart).toBeLessThan(1e-8);
  });

  test('multiplies float16 unless asked otherwise, float32 where a cpu takes part', async () => {
    const step = async (options: Partial<MarginHeadOptions>) =>
      (await makeHead({ precision: undefined, ...options })).step(batches[0]!);
    expect(await step({ devices: ['cuda'] })).toMatchObject({ engine: gpus.join('+'), precision: 'float16' });
    expect(await step({ devices: ['cpu', first] })).toMatchObject({ precision: 'float32' });
  });

  test('leaves no shard without a device and no device without a shard', async () => {
    expect((await makeHead({ devices: ['cpu', first] })).shards).toBe(2);
    await expectFailure(
      () => makeHead({ devices: ['cpu', first], shards: 1 }),
      'ERR_OPTION',
      /^shards must be at least 2, one for each device, received 1$/,
    );
    await expectFailure(
      () => makeHead({ devices: [first, 'cuda'] }),
      'ERR_OPTION',
      /^devices must be different devices, received cuda:0 twice$/,
    );
  });
});

describe.skipIf(gpus.length === 0)('a call on engine cuda', () => {
  const batch = batches[0]!;

  test('uses all GPUs with `cuda`, the one named, or as many as there are shards', () => {
    const all = valueAndGradSync(batch, { engine: 'cuda' });
    expect(all).toMatchObject({ engine: gpus.join('+'), precision: 'float16', workspace: 'recompute' });
    for (const gpu of gpus) expect(valueAndGradSync(batch, { engine: gpu }).engine).toBe(gpu);
    expect(valueAndGradSync(batch, { engine: 'cuda', shards: 1 }).engine).toBe(first);
  });

  test('is the cpu engine with `auto`', () => {
    expect(valueAndGradSync(batch, { engine: 'auto' })).toMatchObject({
      engine: 'cpu',
      precision: 'float32',
    });
  });

  test('gives the same bits again, blocking or not', async () => {
    const options = { engine: 'cuda', shards: 3, margin: arcface() } as const;
    const [blocking, again] = [valueAndGradSync(batch, options), await valueAndGrad(batch, options)];
    expect(again).toEqual(blocking);
  });

  test('keeps nothing, and goes backward more than once', () => {
    const pass = forwardSync(batch, { engine: 'cuda', workspace: 'keep' });
    expect(pass.workspace).toBe('recompute');
    expect(pass.backwardSync()).toEqual(pass.backwardSync());
    pass.dispose();
  });

  test('says which row is not finite', async () => {
    const features = batch.features.slice();
    features[7 * dim + 3] = Number.NaN;
    const bad = await failureOf(() => valueAndGrad({ ...batch, features }, { engine: 'cuda' }));
    expect(bad).toMatchObject({
      code: 'ERR_NOT_FINITE',
      message: expect.stringMatching(/^features .* row 7 /),
    });
    const rows = batch.weights.slice();
    rows[250 * dim] = Number.POSITIVE_INFINITY;
    const worse = await failureOf(() => valueAndGrad({ ...batch, weights: rows }, { engine: 'cuda' }));
    expect(worse).toMatchObject({
      code: 'ERR_NOT_FINITE',
      message: expect.stringMatching(/^weights .* row 250 /),
    });
  });

  test('ends early when its signal fires, and the next one works', async () => {
    const controller = new AbortController();
    const promise = valueAndGrad(batch, { engine: 'cuda', signal: controller.signal });
    controller.abort();
    expect((await failureOf(() => promise)).code).toBe('ERR_ABORTED');
    expect(valueAndGradSync(batch, { engine: 'cuda' }).loss).toBeGreaterThan(0);
  });
});
