/** Companion terms on GPUs: those that follow from what every engine gives of a row. On the software device, as head_gpu.test.ts. */

import { describe, expect, test } from 'vitest';
import {
  centerLoss,
  type DeviceName,
  intraLoss,
  MarginHead,
  ringLoss,
  tripletLoss,
  valueAndGrad,
} from '../src/index.js';
import { expectFailure } from './failures.js';
import { gpusOfThisProcess } from './gpus.js';
import { expectClose } from './group_heads.js';
import { centers, problem, size } from './term_cases.js';

const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

describe.skipIf(gpus.length === 0)('on engine cuda', () => {
  test('intra and ring are those of the cpu engine', async () => {
    const terms = [intraLoss({ weight: 2 }), ringLoss({ weight: 0.5 })];
    const options = { terms, precision: 'float32', scale: 8 } as const;
    const [gpu, cpu] = [
      await valueAndGrad(problem, { ...options, engine: first }),
      await valueAndGrad(problem, { ...options, engine: 'cpu' }),
    ];
    expect(gpu.engine).toBe(first);
    expect(gpu.loss).toBeCloseTo(cpu.loss, 4);
    for (const kind of ['intra', 'ring'] as const) expect(gpu.terms![kind]).toBeCloseTo(cpu.terms![kind]!, 8);
    expectClose(gpu.dFeatures, cpu.dFeatures, 1e-5);
    expectClose(gpu.dWeights, cpu.dWeights, 1e-5);
  });

  test.each([centerLoss({ centers }), tripletLoss()])('$kind is refused', async (term) => {
    const message =
      /terms must be intra, inter and ring on cuda:\d+, as on all GPUs, received '(center|triplet)'/;
    const call = () => valueAndGrad(problem, { terms: [term], engine: first });
    await expectFailure(call, 'ERR_ENGINE_UNAVAILABLE', message);
    const { dim, classes } = size;
    const create = () => MarginHead.create({ dim, classes, terms: [tripletLoss()], devices: [first] });
    await expectFailure(create, 'ERR_ENGINE_UNAVAILABLE', message);
  });

  test('classes of too many rows are refused', async () => {
    const message = /^subCenters must be at most 16 on cuda:\d+, as on all GPUs, received 17$/;
    const { dim, classes } = size;
    const create = () => MarginHead.create({ dim, classes, subCenters: 17, devices: [first] });
    await expectFailure(create, 'ERR_ENGINE_UNAVAILABLE', message);
    const labels = problem.labels.map((label) => Math.min(label, 1));
    const weights = new Float32Array(2 * 17 * dim).fill(1);
    const call = () => valueAndGrad({ ...problem, labels, weights }, { subCenters: 17, engine: first });
    await expectFailure(call, 'ERR_ENGINE_UNAVAILABLE', message);
  });
});
