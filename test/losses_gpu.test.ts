/** Margins over a whole batch on GPUs: as on the cpu engine, alone and in a group of both. On the software device, as head_gpu.test.ts. */

import { describe, expect, test } from 'vitest';
import { adaface, type DeviceName, MarginHead, sgd, valueAndGrad } from '../src/index.js';
import { gpusOfThisProcess } from './gpus.js';
import { cases, clustered, expected, optionsOf, size, spread } from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { processGroup } from './process_group.js';

/** Each number to a part of the largest. */
function expectNear(got: readonly number[], wanted: Float32Array, part: number) {
  const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(got.length).toBe(wanted.length);
  const apart = got.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
  expect(apart).toBeLessThan(part * largest);
}

const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

describe.skipIf(gpus.length === 0)('on engine cuda', () => {
  test.each(cases)('$name is its formula', async (tested) => {
    // Of transforms also a scale at which rows differ in what their exponentials need.
    for (const scale of tested.negative ? [64, 256] : [64])
      for (const gradient of ['exact', 'straightThrough'] as const) {
        const options = {
          ...optionsOf(tested),
          scale,
          gradient,
          precision: 'float32',
          engine: first,
        } as const;
        const out = await valueAndGrad(clustered, options);
        expect(out.engine).toBe(first);
        const limits = float32Limits(tested.negative ? 3 * scale : scale);
        const wanted = expected(clustered, { ...tested, scale, gradient });
        expectWithinLimits(out, wanted, limits);
        if (tested.binary) expect(out.dBias).toBeCloseTo(wanted.dBias, 4);
      }
  });

  const transformed = cases.filter(({ negative }) => negative);
  /** Devices of each process. */
  const places: [string, DeviceName[][]][] = [
    ['on a GPU', [[first]]],
    ['on the cpu and a GPU', [['cpu', first]]],
    ['of two processes, one on the cpu', [['cpu'], [first]]],
  ];
  describe.each(places)('a head %s', (_, processes) => {
    test.each(transformed)('$name: its steps are those on the cpu', async (tested) => {
      const { dim, classes } = size;
      const optimizer = sgd({ learningRate: 0.1, momentum: 0.9 });
      const init = spread.weights;
      const given = { ...optionsOf(tested), dim, classes, init, optimizer, sampleRate: 0.9, seed: 7 };
      const alone = await MarginHead.create(given);
      const heads = await Promise.all(
        processGroup(processes.length).map((group, rank) =>
          MarginHead.create({
            ...given,
            devices: processes[rank]!,
            precision: 'float32',
            ...(processes.length > 1 && { group }),
          }),
        ),
      );
      for (const [{ features, labels }, options] of [
        [spread, {}],
        [clustered, { scale: 100, accuracyTop5: true }],
        [spread, { scale: 100 }],
      ] as const) {
        const one = await alone.step({ features, labels }, options);
        const outs = await Promise.all(
          heads.map((head, rank) => {
            const [start, end] = heads.length === 1 ? [0, size.rows] : rank === 0 ? [0, 20] : [20, size.rows];
            return head.step(
              { features: features.slice(start * dim, end * dim), labels: labels.slice(start, end) },
              options,
            );
          }),
        );
        const { accuracy, accuracyTop5 } = one;
        for (const out of outs) {
          expect(out).toMatchObject({ accuracy, ...(accuracyTop5 !== undefined && { accuracyTop5 }) });
          expect(out.loss).toBeCloseTo(one.loss, 3);
        }
        for (const head of heads)
          alone.bias === undefined
            ? expect(head.bias).toBeUndefined()
            : expect(head.bias).toBeCloseTo(alone.bias, 4);
        expectNear(
          outs.flatMap(({ dFeatures }) => [...dFeatures]),
          one.dFeatures,
          2e-4,
        );
      }
      expectNear(
        heads.flatMap((head) => [...head.weights()]),
        alone.weights(),
        1e-4,
      );
      for (const head of [...heads, alone]) head.dispose();
    });
  });

  test('processes of both engines have the same statistics of norms', async () => {
    const { dim, classes } = size;
    const heads = await Promise.all(
      processGroup(2).map((group) => {
        const devices = group.rank === 0 ? ['cpu'] : [first];
        const options = {
          dim,
          classes,
          init: spread.weights,
          margin: adaface(),
          precision: 'float32',
        } as const;
        return MarginHead.create({ ...options, devices, group });
      }),
    );
    const { features, labels } = spread;
    for (let step = 0; step < 3; step++)
      await Promise.all(
        heads.map((head, rank) => {
          const [start, end] = rank === 0 ? [0, 20] : [20, size.rows];
          return head.step({
            features: features.slice(start * dim, end * dim),
            labels: labels.slice(start, end),
          });
        }),
      );
    expect(heads[0]!.normStatistics).toBeDefined();
    expect(heads[1]!.normStatistics).toEqual(heads[0]!.normStatistics);
    for (const head of heads) head.dispose();
  });
});
