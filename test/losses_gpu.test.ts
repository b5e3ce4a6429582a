/** Margins over a whole batch on GPUs: as on the cpu engine, alone and in a group of both. On the software device, as head_gpu.test.ts. */

import { describe, expect, test } from 'vitest';
import { adaface, type DeviceName, MarginHead, valueAndGrad } from '../src/index.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { cases, clustered, expected, optionsOf, size, spread } from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { processGroup } from './process_group.js';

const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

describe.skipIf(gpus.length === 0)('on engine cuda', () => {
  test.each(cases.filter(({ negative }) => !negative))('$name is its formula', async (tested) => {
    for (const gradient of ['exact', 'straightThrough'] as const) {
      const options = { ...optionsOf(tested), gradient, precision: 'float32', engine: first } as const;
      const out = await valueAndGrad(clustered, options);
      expect(out.engine).toBe(first);
      expectWithinLimits(out, expected(clustered, { ...tested, gradient }), float32Limits(64));
    }
  });

  test.each(cases.filter(({ negative }) => negative))('$name is refused', async (tested) => {
    const message = tested.binary
      ? /^margin must be one with a softmax on cuda:\d+, as on all GPUs, received '(sphereface2|uniface)'$/
      : /^(margin must be one that leaves negatives alone|filterThreshold must be 0) on cuda:\d+, /;
    const options = optionsOf(tested);
    const call = () => valueAndGrad(clustered, { ...options, engine: first });
    await expectFailure(call, 'ERR_ENGINE_UNAVAILABLE', message);
    const create = () =>
      MarginHead.create({ dim: size.dim, classes: size.classes, ...options, devices: [first] });
    await expectFailure(create, 'ERR_ENGINE_UNAVAILABLE', message);
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
