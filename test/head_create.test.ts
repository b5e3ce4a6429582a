/** MarginHead.create: defaults, first weights, and what it refuses. */

import { describe, expect, test } from 'vitest';
import { arcface, cosface, MarginHead, type MarginHeadOptions, sgd } from '../src/index.js';
import { expectFailure } from './failures.js';
import { makeProblem } from './problems.js';

const size = { rows: 0, dim: 33, classes: 131 };
const { dim, classes } = size;
const { weights } = makeProblem(size, 'spread', 'random', 1);
const makeHead = (options: Partial<MarginHeadOptions>) =>
  MarginHead.create({ dim, classes, init: weights, ...options });

describe('create', () => {
  test('fills in defaults, and copies the first weights', async () => {
    const init = Float32Array.from(weights);
    const head = await MarginHead.create({ dim, classes, init });
    init.fill(0);
    expect(head.weights()).toEqual(weights);
    const { margin, scale, gradient, onOverflow, optimizer, shards, stepCount } = head;
    expect({ margin, scale, gradient, onOverflow, optimizer, shards, stepCount }).toEqual({
      margin: arcface({ m: 0.5 }),
      scale: 64,
      gradient: 'exact',
      onOverflow: 'none',
      optimizer: sgd(),
      shards: 1,
      stepCount: 0,
    });
    expect({ dim: head.dim, classes: head.classes }).toEqual({ dim, classes });
    head.dispose();
  });

  test('draws normal weights of deviation 0.01 that depend on the seed and not on shards', async () => {
    const options = { dim: 64, classes: 1009 };
    const drawn = async (more: object) => {
      const head = await MarginHead.create({ ...options, ...more });
      const values = head.weights();
      head.dispose();
      return values;
    };
    const values = await drawn({});
    const count = values.length;
    const mean = values.reduce((sum, value) => sum + value, 0) / count;
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / count);
    // Five standard errors of n deviates' mean and deviation.
    expect(Math.abs(mean)).toBeLessThan((5 * 0.01) / Math.sqrt(count));
    expect(Math.abs(deviation - 0.01)).toBeLessThan((5 * 0.01) / Math.sqrt(2 * count));
    expect(await drawn({ shards: 7, seed: 0 })).toEqual(values);
    expect(await drawn({ init: { seed: 0 }, seed: 5 })).toEqual(values);
    expect(await drawn({ seed: 5 })).not.toEqual(values);
    expect((await drawn({ init: { std: 0 } })).every((value) => value === 0)).toBe(true);
    const doubled = await drawn({ init: { std: 0.02 } });
    expect(doubled).toEqual(values.map((value) => 2 * value));
  });

  test('asks an init function for one range of classes after the other', async () => {
    const ranges: number[][] = [];
    const head = await MarginHead.create({
      dim: 2,
      classes: 65_536 + 10,
      shards: 3,
      init: async (start, end) => {
        ranges.push([start, end]);
        return Float32Array.from({ length: 2 * (end - start) }, (_, i) => 2 * start + i);
      },
    });
    expect(ranges).toEqual([
      [0, 65_536],
      [65_536, 65_546],
    ]);
    expect(head.weights(65_535, 65_537)).toEqual(Float32Array.of(131_070, 131_071, 131_072, 131_073));
    head.dispose();
  });

  test('rejects with what an init function throws, and checks what it returns', async () => {
    const error = new Error('disk gone');
    const broken = () => {
      throw error;
    };
    await expect(makeHead({ init: broken })).rejects.toBe(error);
    await expectFailure(
      () => makeHead({ init: () => new Float32Array(3) }),
      'ERR_SHAPE',
      /^init\(0, 131\)\.length must be 4323 \(131 \* dim 33\), received 3$/,
    );
  });

  test.each<[string, object, string, RegExp]>([
    ['dim', { dim: 0 }, 'ERR_SHAPE', /^dim must be an integer in \[1, 2147483647\], received 0$/],
    ['classes', { classes: 2 ** 31 }, 'ERR_SHAPE', /^classes must be an integer .*received 2147483648$/],
    [
      'an unknown name',
      { embedding: 3 },
      'ERR_OPTION',
      /^a name in options must be one of .*received 'embedding'$/,
    ],
    ['margin', { margin: { kind: 'arc' } }, 'ERR_OPTION', /^margin\.kind must be/],
    [
      'onOverflow',
      { margin: cosface(), onOverflow: 'easy' },
      'ERR_OPTION',
      /^onOverflow must be 'none' with/,
    ],
    [
      'init of wrong length',
      { init: new Float32Array(7) },
      'ERR_SHAPE',
      /^init\.length must be 4323 \(classes \* dim\), received 7$/,
    ],
    [
      'init of doubles',
      { init: new Float64Array(4323) },
      'ERR_TYPE',
      /^init must be a Float32Array, received Float64Array\(4323\)$/,
    ],
    [
      'init.std',
      { init: { std: -1 } },
      'ERR_OPTION',
      /^init\.std must be a finite number >= 0, received -1$/,
    ],
    ['seed', { seed: 0.5 }, 'ERR_OPTION', /^seed must be an integer in \[0, 4294967295\], received 0\.5$/],
    ['optimizer', { optimizer: 'sgd' }, 'ERR_TYPE', /^optimizer must be an object, received 'sgd'$/],
    [
      'optimizer.kind',
      { optimizer: { kind: 'lamb' } },
      'ERR_OPTION',
      /^optimizer\.kind must be 'sgd' or 'adamw', received 'lamb'$/,
    ],
    [
      'devices of a missing engine',
      { devices: ['cuda:99'] },
      'ERR_ENGINE_UNAVAILABLE',
      /^devices\[0\] must be an engine that can run here, received 'cuda:99': /,
    ],
    ['devices of nonsense', { devices: ['tpu'] }, 'ERR_OPTION', /^devices\[0\] must be/],
    ['devices as a string', { devices: 'cpu' }, 'ERR_TYPE', /^devices must be an array/],
    [
      'one device twice',
      { devices: ['cpu', 'cpu'] },
      'ERR_OPTION',
      /^devices must be different devices, received cpu twice$/,
    ],
    ['group', { group: {} }, 'ERR_TYPE', /^group.size must be/],
    [
      'featureGradientScale',
      { featureGradientScale: 'sum' },
      'ERR_OPTION',
      /^featureGradientScale must be 'mean' or 'worldSize'/,
    ],
  ])('refuses a bad %s', async (_, options, code, message) => {
    await expectFailure(() => makeHead(options), code, message);
  });

  test('accepts the defaults of options that have no other value yet', async () => {
    const head = await makeHead({
      devices: ['cpu'],
      storage: 'float32',
      precision: 'float32',
      group: undefined,
      featureGradientScale: 'mean',
    });
    head.dispose();
  });
});
