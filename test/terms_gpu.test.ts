/**
 * Companion terms on GPUs: their formulas in float64, and what the cpu engine gives. On the software device; with
 * MARGINFC_TEST_ENGINES=gpu on this machine's GPUs.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  centerLoss,
  type DeviceName,
  intraLoss,
  type LossTerm,
  MarginHead,
  ringLoss,
  sgd,
  tripletLoss,
  valueAndGrad,
} from '../src/index.js';
import { closeEngines, runHead } from './engines.js';
import { expectFailure } from './failures.js';
import { floats, freePlaced, placed } from './gpu_memory.js';
import { findEveryKindOfEngine, gpusOfThisProcess } from './gpus.js';
import { expectClose, joined } from './group_heads.js';
import { makeProblem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { centers, formulasOf, numbersOf, problem, size } from './term_cases.js';

const engines = (await findEveryKindOfEngine()).filter(({ choice }) => choice === 'cuda');
const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

afterAll(async () => {
  freePlaced();
  await closeEngines();
});

const { dim, classes } = size;
const { features, labels } = problem;
/** But for the inter-loss, which is float32: inter_gpu.test.ts. */
const formulas = Object.entries(formulasOf(centers)).filter(([name]) => name !== 'inter');
const terms = [
  intraLoss(),
  ringLoss({ weight: 0.1 }),
  centerLoss({ weight: 0.2 }),
  tripletLoss({ weight: 0.5, margin: 1 }),
];
const optimizer = sgd({ learningRate: 0.2, momentum: 0.9 });
const base = { dim, classes, init: problem.weights, terms, optimizer, precision: 'float32' } as const;
const rowWeights = Float32Array.from({ length: size.rows }, (_, i) => (i % 4) / 2);
const batches = [{ features, labels }, makeProblem(size, 'spread', 'ignored', 7)];

describe.skipIf(gpus.length === 0)('on engine cuda', () => {
  const reductions = {
    'a weighted mean on one GPU': { rowWeights },
    'a sum on two GPUs': { reduction: 'sum' },
  } as const;

  test.each(
    formulas.flatMap((one) =>
      (Object.keys(reductions) as (keyof typeof reductions)[]).map((name) => [one[0], name, one[1]] as const),
    ),
  )(
    '%s is its formula under %s, and its gradients are those of the cpu',
    async (_, name, { term, value }) => {
      const reduction = reductions[name];
      const numbers = numbersOf(problem, reduction);
      const options = { ...reduction, terms: [term], precision: 'float32', scale: 8 } as const;
      const place = name.includes('two') ? ({ engine: 'cuda', shards: 3 } as const) : { engine: first };
      const gpu = await valueAndGrad(problem, { ...options, ...place });
      const cpu = await valueAndGrad(problem, { ...options, engine: 'cpu' });
      expect(gpu.engine.startsWith('cuda')).toBe(true);
      expect(Math.abs(gpu.terms![term.kind]! / value(numbers, numbers) - 1)).toBeLessThan(1e-9);
      expect(Math.abs(gpu.loss / cpu.loss - 1)).toBeLessThan(1e-5);
      expectClose(gpu.dFeatures, cpu.dFeatures, 1e-5);
      expectClose(gpu.dWeights, cpu.dWeights, 1e-5);
    },
  );

  test.each(formulas)('%s is the same with arrays in the memory of a GPU', async (_, { term }) => {
    for (const shards of [1, 3]) {
      const options = { terms: [term], engine: 'cuda', precision: 'float32', shards, dLoss: 2 } as const;
      const expected = await valueAndGrad(problem, options);
      const there = { ...problem, features: placed(0, features, 'float32') };
      const dFeatures = placed(0, new Float32Array(features.length).fill(Number.NaN), 'float32');
      for (const given of [there, problem]) {
        const { loss, terms, dFeatures: sum } = await valueAndGrad(given, { ...options, out: { dFeatures } });
        expect({ loss, terms }).toEqual({ loss: expected.loss, terms: expected.terms });
        expect(sum).toBe(dFeatures);
        expect(floats(0, dFeatures)).toEqual(expected.dFeatures);
      }
      expect((await valueAndGrad(there, options)).dFeatures).toEqual(expected.dFeatures);
    }
  });

  test.each(formulas)('%s is 0 without rows, or with ignored ones alone', async (_, { term }) => {
    for (const labels of [new Int32Array(0), Int32Array.of(-1, -1)]) {
      const given = { ...problem, features: features.slice(0, labels.length * dim), labels };
      const { loss, terms, dFeatures } = await valueAndGrad(given, { terms: [term], engine: first });
      expect({ loss, terms }).toEqual({ loss: 0, terms: { [term.kind]: 0 } });
      expect(dFeatures.every((value) => value === 0)).toBe(true);
    }
  });

  test.each(['hard', 'semihard'] as const)(
    '%s triplets are those of the cpu in any batch',
    async (mining) => {
      const terms = [tripletLoss({ mining, margin: 1 })];
      const ofFew = { ...problem, labels: labels.map((label) => Math.min(label, 2)) };
      const twice = { ...problem, features: features.map((_, at) => features[at % (8 * dim)]!) };
      const strange = {
        ...problem,
        features: features
          .slice()
          .fill(Number.NaN, 0, 1)
          .fill(0, 2 * dim, 3 * dim),
      };
      // Several tiles of anchors.
      const many = makeProblem({ rows: 300, dim: 20, classes: 7 }, 'spread', 'ignored', 23);
      for (const given of [ofFew, twice, strange, many]) {
        const options = { terms, precision: 'float32', scale: 8, checkFinite: false } as const;
        const [gpu, cpu] = [
          await valueAndGrad(given, { ...options, engine: first }),
          await valueAndGrad(given, { ...options, engine: 'cpu' }),
        ];
        expect(gpu.terms!.triplet).toBeCloseTo(cpu.terms!.triplet!, 12);
        if (given === strange) expect(gpu.terms!.triplet).toBeGreaterThan(0);
        else expectClose(gpu.dFeatures, cpu.dFeatures, 2e-5);
      }
      const oneClass = { ...problem, labels: labels.map((label) => Math.min(label, 0)) };
      const { terms: none } = await valueAndGrad(oneClass, { terms, engine: first });
      expect(none!.triplet).toBe(0);
    },
  );

  test('a batch in the memory of a GPU moves centres', async () => {
    const [host, device] = [
      await MarginHead.create({ ...base, devices: gpus, shards: 3 }),
      await MarginHead.create({ ...base, devices: gpus, shards: 3 }),
    ];
    const given = { features: placed(gpus.length - 1, features, 'float32'), labels };
    const dFeatures = placed(0, new Float32Array(features.length), 'float32');
    for (let n = 0; n < 2; n++) {
      const { loss, terms, ...expected } = await host.step({ features, labels }, { rowWeights });
      const got = await device.step(given, { rowWeights, out: { dFeatures } });
      expect({ loss: got.loss, terms: got.terms }).toEqual({ loss, terms });
      expect(floats(0, dFeatures)).toEqual(expected.dFeatures);
    }
    expect(device.centers()).toEqual(host.centers());
    for (const head of [host, device]) head.dispose();
  });

  test('processes of GPUs and of the cpu share terms, and checkpoints keep them', async () => {
    const places: DeviceName[][] = [[first], ['cpu'], gpus, ['cpu', first]];
    const alone = await MarginHead.create(base);
    const shared = await Promise.all(
      processGroup(places.length).map((group, rank) =>
        MarginHead.create({ ...base, devices: places[rank]!, shards: 2, group }),
      ),
    );
    for (const batch of batches) {
      const expected = await alone.step(batch);
      const outs = await Promise.all(
        shared.map((head, rank) =>
          head.step(rowsBetween({ ...batch, dim }, 8 * rank, Math.min(8 * rank + 8, 31))),
        ),
      );
      for (const { loss, terms } of outs) {
        expect(Math.abs(loss / expected.loss - 1)).toBeLessThan(1e-5);
        for (const { kind } of base.terms) expect(terms![kind]).toBeCloseTo(expected.terms![kind]!, 5);
      }
      expectClose(joined(outs.map(({ dFeatures }) => dFeatures)), expected.dFeatures, 2e-5);
    }
    expectClose(joined(shared.map((head) => head.weights())), alone.weights(), 1e-5);
    const moved = joined(shared.map((head) => head.centers()));
    expectClose(moved, alone.centers(), 1e-6);
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-terms-'));
    await Promise.all(shared.map((head) => head.save(folder)));
    const loaded = await MarginHead.load(folder, { devices: [first] });
    expect(loaded.centers()).toEqual(moved);
    await rm(folder, { recursive: true });
    for (const head of [alone, loaded, ...shared]) head.dispose();
  });

  test('classes of too many rows are refused', async () => {
    const message = /^subCenters must be at most 16 on cuda:\d+, as on all GPUs, received 17$/;
    const create = () => MarginHead.create({ dim, classes, subCenters: 17, devices: [first] });
    await expectFailure(create, 'ERR_ENGINE_UNAVAILABLE', message);
    const labels = problem.labels.map((label) => Math.min(label, 1));
    const weights = new Float32Array(2 * 17 * dim).fill(1);
    const call = () => valueAndGrad({ ...problem, labels, weights }, { subCenters: 17, engine: first });
    await expectFailure(call, 'ERR_ENGINE_UNAVAILABLE', message);
  });
});

describe.each(engines)('a head on engine $name', (engine) => {
  test.each<LossTerm>([...terms, tripletLoss({ mining: 'hard' })])(
    'with $kind, $mining, makes the steps of the cpu engine',
    async (term) => {
      const options = { ...base, terms: [term], shards: 2 };
      const expected = await MarginHead.create({ ...base, terms: [term] });
      const { results, weights, centers } = await runHead(engine, options, [
        { call: 'step', batch: batches[0]! },
        { call: 'accumulate', batch: batches[1]!, options: { gradientScale: 0.5 } },
        { call: 'step', batch: batches[0]! },
      ]);
      const [one, two] = batches;
      const wanted = [await expected.step(one!), await expected.accumulate(two!, { gradientScale: 0.5 })];
      await expected.apply();
      wanted.push(await expected.step(one!));
      for (const [n, { loss, terms, dFeatures }] of wanted.entries()) {
        expect(Math.abs(results[n]!.loss / loss - 1)).toBeLessThan(1e-5);
        expect(Math.abs(results[n]!.terms![term.kind]! / terms![term.kind]! - 1)).toBeLessThan(1e-4);
        expectClose(results[n]!.dFeatures, dFeatures, 2e-5);
      }
      expectClose(weights, expected.weights(), 1e-5);
      if (centers) expectClose(centers, expected.centers(), 1e-6);
      expected.dispose();
    },
  );
});
