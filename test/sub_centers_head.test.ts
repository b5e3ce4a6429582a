/** Heads that train classes of several rows, on the cpu, on a GPU and on both: as the float64 reference, and with all that heads do. */

import { describe, expect, test } from 'vitest';
import {
  adamw,
  arcface,
  centerLoss,
  type DeviceName,
  dynArcFace,
  MarginHead,
  type MarginHeadOptions,
  sgd,
  uniface,
} from '../src/index.js';
import { futureOf, kept, newFolder, stateOf } from './checkpoint_heads.js';
import { takingPart } from './draw.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { cases, optionsOf, referenceOptions, rowsOf } from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { untrained, update } from './optimizer_rules.js';
import { processGroup } from './process_group.js';
import { arcfaceMean, reference } from './reference.js';
import { problemOf, shape } from './sub_center_problems.js';

const places: DeviceName[][] = [
  ['cpu'],
  ...gpusOfThisProcess()
    .slice(0, 1)
    .flatMap((gpu): DeviceName[][] => [[gpu], ['cpu', gpu]]),
];

describe.each(places.map((devices) => [devices.join(' and '), devices] as const))(
  'heads on %s',
  (_, devices) => {
    const onCpu = devices.every((name) => name === 'cpu');
    const size = shape(33, 17, 61);
    const { dim, classes } = size;
    const subCenters = 3;
    const problems = [1, 2, 3].map((seed) => problemOf(size, subCenters, 'clustered', seed));
    const init = problems[0]!.weights;
    const formula = { ...arcfaceMean, scale: 16, subCenters };
    const shared = {
      ...{ dim, classes, subCenters, init, scale: 16 },
      ...{ devices, precision: 'float32' },
    } satisfies MarginHeadOptions;

    const optimizers = {
      sgd: sgd({ learningRate: 0.5, momentum: 0.9, weightDecay: 0.01, nesterov: true }),
      adamw: adamw({ learningRate: 0.01, weightDecay: 0.1, epsilon: 1e-2 }),
    };

    test.each([
      ['arcface', 'sgd', 'step', {}],
      ['arcface', 'sgd', 'step', { sampleRate: 0.3, sampledUpdate: 'sampled', shards: 3 }],
      ['arcface', 'sgd', 'accumulate', { sampleRate: 0.3, sampledUpdate: 'sampled' }],
      ['arcface', 'adamw', 'step', { sampleRate: 0.3, sampledUpdate: 'all', workspace: 'recompute' }],
      ['arcface', 'adamw', 'accumulate', { shards: 7 }],
      ['sphereface2', 'sgd', 'step', { sampleRate: 0.3, sampledUpdate: 'sampled', shards: 3 }],
      ['sphereface2', 'adamw', 'accumulate', { shards: 7 }],
      ['uniface', 'sgd', 'accumulate', { sampleRate: 0.3, sampledUpdate: 'sampled' }],
      ['uniface', 'adamw', 'step', { sampleRate: 0.3, sampledUpdate: 'all', workspace: 'recompute' }],
    ] as const)(
      '%s, %s, %s %j: all rows of the classes that take part move',
      async (loss, rule, call, options) => {
        const optimizer = optimizers[rule];
        const learningRate = optimizer.learningRate as number;
        const tested = cases.find(({ name }) => name === loss);
        const margin = tested && optionsOf(tested);
        const head = kept(await MarginHead.create({ ...shared, ...options, ...margin, optimizer, seed: 4 }));
        const { sampleRate, sampledUpdate } = head;
        const state = untrained(init);
        for (const [step, { features, labels }] of problems.entries()) {
          const before = head.weights();
          state.weights.set(before);
          const ids =
            sampleRate < 1
              ? takingPart({ classes, sampleRate, seed: 4, step }, labels)
              : [...Array(classes).keys()];
          const place = new Map(ids.map((id, n) => [id, n]));
          const length = subCenters * dim;
          const weights = Float32Array.from(
            ids.flatMap((id) => [...before.subarray(id * length, (id + 1) * length)]),
          );
          const own = labels.map((label) => place.get(label) ?? -1);
          const batch = { features, weights, labels: own, dim };
          const changed = tested && referenceOptions(tested, rowsOf(batch, 16, subCenters), 'exact');
          const binary = changed?.binary && { ...changed.binary, bias: head.bias ?? changed.binary.bias };
          const expected = reference(batch, { ...formula, ...changed, ...(binary && { binary }) });
          const out = await head[call]({ features, labels });
          if (call === 'accumulate') await head.apply();
          const limits = float32Limits(changed ? 3 * 16 : 16);
          expectWithinLimits(out, { ...expected, dWeights: new Float64Array() }, limits);
          if (binary) expect(head.bias).toBeCloseTo(binary.bias - learningRate * expected.dBias, 5);
          expect(out.sampledClasses).toBe(sampleRate < 1 ? ids.length : undefined);
          const gradient = new Float64Array(before.length);
          for (const [id, n] of place)
            gradient.set(expected.dWeights.subarray(n * length, (n + 1) * length), id * length);
          const moves = (i: number) => sampledUpdate === 'all' || place.has(Math.floor(i / length));
          update(state, gradient, optimizer, learningRate, moves);
          const after = head.weights();
          const apart = after.reduce(
            (most, value, i) => Math.max(most, Math.abs(value - state.weights[i]!)),
            0,
          );
          expect(apart).toBeLessThan(2e-5);
          expect([...after.keys()].every((i) => moves(i) || after[i] === before[i])).toBe(true);
        }
      },
    );

    test.each([arcface(), uniface()])(
      'accuracy, angles and nearest go by class, with $kind',
      async (margin) => {
        const problem = problemOf(size, subCenters, 'clustered', 8);
        const head = kept(await MarginHead.create({ ...shared, margin, init: problem.weights, shards: 2 }));
        const expected = reference(problem, formula);
        const out = await head.evaluate(problem, { accuracyTop5: true, histograms: 18 });
        expect(out).toMatchObject({ accuracy: expected.accuracy, accuracyTop5: expected.accuracyTop5 });
        const counted = problem.labels.filter((label) => label >= 0).length;
        const bins = new Uint32Array(18);
        for (const [i, label] of problem.labels.entries())
          if (label >= 0) bins[Math.floor((Math.acos(expected.hardestCosine[i]!) * 18) / Math.PI)]!++;
        expect(out.angles!.hardestNegative.reduce((sum, count) => sum + count, 0)).toBe(counted);
        expect([...out.angles!.hardestNegative]).toEqual([...bins]);
        const { classes: ids, cosines } = await head.nearest(problem.features, 4);
        const { cosines: all } = rowsOf(problem, 16, subCenters);
        for (const [i, row] of all.entries()) {
          const order = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 4);
          expect([...ids.subarray(4 * i, 4 * i + 4)]).toEqual(order);
          for (const [n, j] of order.entries()) expect(cosines[4 * i + n]).toBeCloseTo(row[j]!, 5);
        }
      },
    );

    test.each([2, 4])('%i processes do what one does', async (ranks) => {
      const optimizer = optimizers.sgd;
      const margin = dynArcFace({ k1: 0.5, k2: 0.3, k3: 0.4, every: 2 });
      const given = { ...shared, margin, optimizer, sampleRate: 0.5, seed: 2 };
      const alone = kept(await MarginHead.create(given));
      const heads = await Promise.all(
        processGroup(ranks).map((group) => MarginHead.create({ ...given, group })),
      );
      heads.map(kept);
      for (const { features, labels } of problems) {
        const one = await alone.step({ features, labels });
        const outs = await Promise.all(
          heads.map((head, rank) => {
            const [start, end] = [rank, rank + 1].map((r) => Math.floor((33 * r) / ranks)) as [
              number,
              number,
            ];
            return head.step({
              features: features.slice(start * dim, end * dim),
              labels: labels.slice(start, end),
            });
          }),
        );
        for (const { loss } of outs) expect(loss).toBeCloseTo(one.loss, 4);
      }
      const weights = heads.flatMap((head) => [...head.weights()]);
      const apart = alone
        .weights()
        .reduce((most, value, i) => Math.max(most, Math.abs(value - weights[i]!)), 0);
      expect(weights).toHaveLength(classes * subCenters * dim);
      expect(apart).toBeLessThan(2e-5);
      const found = await Promise.all(heads.map((head) => head.nearest(problems[0]!.features, 3)));
      for (const { classes: ids } of found)
        expect(ids).toEqual((await alone.nearest(problems[0]!.features, 3)).classes);
    });

    // GPUs have no centre loss.
    const terms = onCpu ? [centerLoss({ weight: 0.1 })] : [];
    const trained = async (options: Partial<MarginHeadOptions> = {}) => {
      const head = kept(
        await MarginHead.create({
          ...shared,
          optimizer: optimizers.adamw,
          terms,
          ...options,
        }),
      );
      for (const problem of problems.slice(0, 2)) await head.step(problem);
      await head.accumulate(problems[2]!);
      return head;
    };

    test.each(onCpu ? (['float32', 'bfloat16'] as const) : (['float32'] as const))(
      'checkpoints and snapshots keep all rows, %s',
      async (storage) => {
        const folder = newFolder();
        const head = await trained({ storage, shards: 2 });
        await head.save(folder);
        const loaded = kept(await MarginHead.load(folder, { devices, shards: 2 }));
        expect(loaded).toMatchObject({ dim, classes, subCenters });
        const restored = kept(
          await MarginHead.create({
            ...shared,
            optimizer: optimizers.adamw,
            storage,
            terms,
            shards: 2,
          }),
        );
        await restored.restore(await head.snapshot());
        if (onCpu) expect(loaded.centers()).toEqual(head.centers());
        const future = await futureOf(head);
        expect(await futureOf(loaded)).toEqual(future);
        expect(await futureOf(restored)).toEqual(future);
        const plain = kept(await MarginHead.create({ dim, classes, optimizer: optimizers.adamw }));
        const message = /^snapshot\.subCenters must be the head's, 1, received 3$/;
        const snapshot = await restored.snapshot();
        await expectFailure(() => plain.restore(snapshot), 'ERR_SHAPE', message);
      },
    );

    test('classes come and go with all their rows', async () => {
      const head = await trained({ shards: 2 });
      const length = subCenters * dim;
      const before = await stateOf(head);
      const added = Float32Array.from({ length: 2 * length }, (_, i) => Math.sin(i));
      expect(await head.addClasses(added)).toEqual(Int32Array.of(61, 62));
      expect(await head.addClasses(1)).toEqual(Int32Array.of(63));
      expect(head.weights(61, 63)).toEqual(added);
      await head.removeClasses([0, 7, 62]);
      const after = await stateOf(head);
      for (const name of ['weight', 'momentum', 'variance', 'accumulated', ...(onCpu ? ['centers'] : [])]) {
        const width = name === 'centers' ? dim : length;
        const old = before[name]!;
        expect(after[name]).toHaveLength(61 * width);
        expect(after[name]!.subarray(0, 59 * width)).toEqual(
          Float32Array.from([...old.subarray(width, 7 * width), ...old.subarray(8 * width)]),
        );
      }
    });
  },
);
