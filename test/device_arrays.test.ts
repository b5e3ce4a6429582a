/**
 * Features, weights and gradients in a GPU's memory: the results of arrays in the host's, bit for bit, and errors for memory
 * that is none. On the software device; with MARGINFC_TEST_ENGINES=gpu on this machine's GPUs.
 */
import { afterAll, describe, expect, test } from 'vitest';
import {
  type DeviceName,
  forward,
  interLoss,
  MarginHead,
  sgd,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { failureOf } from './failures.js';
import { floats, freePlaced, memory, placed } from './gpu_memory.js';
import { gpusOfThisProcess } from './gpus.js';
import { makeProblem } from './problems.js';

const gpus = gpusOfThisProcess();

afterAll(freePlaced);

const batch = makeProblem({ rows: 37, dim: 72, classes: 300 }, 'clustered', 'ignored', 5);
const { features, weights, labels, dim } = batch;
const last = gpus.length - 1;

describe.skipIf(gpus.length === 0)('arrays in the memory of a GPU', () => {
  test.each([
    ['the one that computes', 'cuda:0', 0, 1, 0, []],
    ['the one that computes, not aligned', 'cuda:0', 0, 2, 1, []],
    ['another one', 'cuda:0', last, 3, 0, []],
    ['one of several that compute', 'cuda', last, 3, 0, []],
    ['the one that computes, not aligned, with a term of the weights', 'cuda:0', 0, 2, 1, [interLoss()]],
    ['one of several that compute, likewise', 'cuda', last, 3, 0, [interLoss()]],
  ] as const)('give the results of the host: %s', async (_, engine, gpu, shards, lead, terms) => {
    const options = { engine, shards, terms, precision: 'float32' } as const;
    const expected = await valueAndGrad(batch, options);
    const given = {
      features: placed(gpu, features, 'float32', lead),
      weights: placed(gpu, weights, 'float32', lead),
      labels,
      dim,
    };
    const out = {
      dFeatures: placed(gpu, new Float32Array(features.length).fill(7), 'float32', lead),
      dWeights: placed(gpu, new Float32Array(weights.length).fill(7), 'float32', lead),
    };
    const got = await valueAndGrad(given, { ...options, out });
    expect(got.loss).toBe(expected.loss);
    expect(got.rowLoss).toEqual(expected.rowLoss);
    expect(got.dFeatures).toBe(out.dFeatures);
    expect(got.dWeights).toBe(out.dWeights);
    expect(floats(gpu, out.dFeatures)).toEqual(expected.dFeatures);
    expect(floats(gpu, out.dWeights)).toEqual(expected.dWeights);
    expect(floats(gpu, given.features)).toEqual(features);
    expect(floats(gpu, given.weights)).toEqual(weights);

    // To the host where `out` names no array; and in two calls.
    expect(valueAndGradSync(given, { ...options }).dWeights).toEqual(expected.dWeights);
    const pass = await forward(given, options);
    await pass.backward(1, { out });
    expect(await pass.backward(1, { out: { dFeatures: out.dFeatures } })).toEqual({
      dFeatures: out.dFeatures,
      dWeights: expected.dWeights,
    });
    pass.dispose();
  });

  test.each(['float16', 'bfloat16'] as const)('may hold %s weights', (dtype) => {
    const bits = Uint16Array.from(
      weights,
      (_, i) => 0x3000 + ((i * 7919) % 4096) + (i % 3 === 0 ? 0x8000 : 0),
    );
    const options = { engine: 'cuda:0', gradients: 'both', terms: [interLoss()] } as const;
    const host = valueAndGradSync({ ...batch, weights: { data: bits, dtype } }, options);
    const { loss, dFeatures, dWeights } = valueAndGradSync(
      { ...batch, weights: placed(0, bits, dtype) },
      options,
    );
    expect({ loss, dFeatures, dWeights }).toEqual({
      loss: host.loss,
      dFeatures: host.dFeatures,
      dWeights: host.dWeights,
    });
  });

  test('serve the steps of a head', async () => {
    const make = () =>
      MarginHead.create({
        dim,
        classes: 300,
        init: weights,
        devices: gpus,
        shards: 3,
        optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
      });
    const [host, device] = [await make(), await make()];
    const given = { features: placed(last, features, 'float32'), labels };
    const dFeatures = placed(0, new Float32Array(features.length), 'float32');
    for (let n = 0; n < 2; n++) {
      const expected = await host.step({ features, labels });
      const got = await device.step(given, { out: { dFeatures } });
      expect(got.loss).toBe(expected.loss);
      expect(got.dFeatures).toBe(dFeatures);
      expect(floats(0, dFeatures)).toEqual(expected.dFeatures);
    }
    expect(device.weights()).toEqual(host.weights());
    const pass = device.forwardSync(given);
    expect(pass.backwardSync({ learningRate: 0, out: { dFeatures } })).toBe(dFeatures);
    pass.dispose();
    for (const head of [host, device]) head.dispose();
  });

  test('that are none are errors, before anything is done', async () => {
    const onGpu = placed(0, features, 'float32');
    const short = placed(0, features.subarray(1), 'float32');
    const freed = memory.allocate(0, 4 * features.length);
    memory.free(0, freed);
    const head = await MarginHead.create({ dim, classes: 300, init: weights, devices: ['cuda:0'] });
    const step = (given: object, out?: object) => () =>
      head.stepSync({ features, labels, ...given } as never, { out } as never);
    const call =
      (given: object, engine = 'cuda:0') =>
      () =>
        valueAndGradSync({ ...batch, ...given } as never, { engine: engine as DeviceName });
    const bad: [() => unknown, string, RegExp][] = [
      [
        call({ features: onGpu }, 'cpu'),
        'ERR_OPTION',
        /^features must be in the host's memory with the cpu engine/,
      ],
      [
        call({ features: { ...onGpu, devicePtr: 4096 } }),
        'ERR_TYPE',
        /^features.devicePtr must be an address as a/,
      ],
      [call({ features: { ...onGpu, devicePtr: 0n } }), 'ERR_TYPE', /^features.devicePtr must be/],
      [call({ features: { ...onGpu, devicePtr: onGpu.devicePtr + 2n } }), 'ERR_OPTION', /a multiple of 4/],
      [call({ features: { ...onGpu, length: 5 } }), 'ERR_SHAPE', /^features.length must be/],
      [call({ features: { ...onGpu, length: -1 } }), 'ERR_SHAPE', /^features.length must be an integer/],
      [call({ features: { ...onGpu, dtype: 'float16' } }), 'ERR_OPTION', /^features.dtype must be 'float32'/],
      [call({ weights: { ...onGpu, dtype: 'float64' } }), 'ERR_OPTION', /^weights.dtype must be/],
      [call({ weights: { ...onGpu, size: 1 } }), 'ERR_OPTION', /^a name in weights must be/],
      [
        call({ features: { ...onGpu, devicePtr: freed } }),
        'ERR_TYPE',
        /^features.devicePtr must be an address of a/,
      ],
      [
        call({ features: { ...onGpu, devicePtr: 4096n } }),
        'ERR_TYPE',
        /^features.devicePtr must be an address of a/,
      ],
      [
        call({ features: { ...short, length: features.length } }),
        'ERR_SHAPE',
        /^features must have 10656 bytes of memory at its devicePtr, received 10652$/,
      ],
      [
        step({}, { dFeatures: { ...onGpu, dtype: 'bfloat16' } }),
        'ERR_OPTION',
        /^out.dFeatures.dtype must be/,
      ],
      [
        step({ features: onGpu }, { dFeatures: onGpu }),
        'ERR_OPTION',
        /^out.dFeatures must be apart from features/,
      ],
      [
        step({}, { dFeatures: { ...onGpu, devicePtr: freed } }),
        'ERR_TYPE',
        /^out.dFeatures.devicePtr must be/,
      ],
      [
        step({}, { dFeatures: { ...short, length: features.length } }),
        'ERR_SHAPE',
        /^out.dFeatures must have 10656 bytes/,
      ],
    ];
    for (const [run, code, message] of bad) {
      const error = await failureOf(run);
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    }
    expect(head.stepCount).toBe(0);
    expect(head.weights()).toEqual(weights);
    expect(head.stepSync({ features: onGpu, labels }).loss).toBeGreaterThan(0);
    head.dispose();
  });
});
