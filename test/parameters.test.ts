/** Parameters of margins and optimisers, and arrays for results: what is refused where they are given. */

import { describe, test } from 'vitest';
import {
  adamw,
  arcface,
  combined,
  cosface,
  customMargin,
  sgd,
  valueAndGradSync,
  x2softmax,
} from '../src/index.js';
import { expectFailure } from './failures.js';

test('an output may not lie on an input or on the other output', () => {
  const memory = new Float32Array(64);
  const batch = {
    features: memory.subarray(0, 12),
    weights: memory.subarray(12, 27),
    labels: Int32Array.of(0, 1, 2, 3),
    dim: 3,
  };
  const overlaps: [object, RegExp][] = [
    [{ dFeatures: memory.subarray(11, 23) }, /^out\.dFeatures must be apart from features in memory/],
    [{ dFeatures: memory.subarray(26, 38) }, /^out\.dFeatures must be apart from weights in memory/],
    [{ dWeights: memory.subarray(0, 15) }, /^out\.dWeights must be apart from features in memory/],
    [
      { dFeatures: memory.subarray(27, 39), dWeights: memory.subarray(38, 53) },
      /^out\.dWeights must be apart from out\.dFeatures in memory/,
    ],
  ];
  return Promise.all(
    overlaps.map(([out, message]) =>
      expectFailure(() => valueAndGradSync(batch, { out }), 'ERR_OPTION', message),
    ),
  );
});

describe('parameters of margins and optimisers', () => {
  test.each<[string, () => unknown, string, RegExp]>([
    [
      'arcface in degrees by another name',
      () => arcface({ margin: 28.6 } as object),
      'ERR_OPTION',
      /^a name in arcface parameters must be one of m, received 'margin'$/,
    ],
    [
      'arcface NaN',
      () => arcface({ m: Number.NaN }),
      'ERR_MARGIN',
      /^margin\.m must be a finite number, received NaN$/,
    ],
    [
      'arcface a string',
      () => arcface({ m: '0.5' as unknown as number }),
      'ERR_TYPE',
      /^margin\.m must be a number, .*received '0\.5'$/,
    ],
    ['cosface infinite', () => cosface({ m: Infinity }), 'ERR_MARGIN', /^margin\.m must be a finite number/],
    [
      'x2softmax with m',
      () => x2softmax({ m: 1 } as object),
      'ERR_OPTION',
      /^a name in x2softmax parameters must be one of a, h, k/,
    ],
    ['combined NaN', () => combined({ m3: Number.NaN }), 'ERR_MARGIN', /^margin\.m3 must be a finite number/],
    [
      'combined array of doubles',
      () => combined({ m1: { perRow: new Float64Array(2) as unknown as Float32Array } }),
      'ERR_TYPE',
      /^margin\.m1\.perRow must be a Float32Array/,
    ],
    [
      'customMargin of data',
      () => customMargin({} as () => never),
      'ERR_TYPE',
      /^margin\.callback must be a function, received \{\}$/,
    ],
    [
      'sgd with dampening',
      () => sgd({ dampening: 0.1 } as object),
      'ERR_OPTION',
      /^a name in sgd parameters must be one of learningRate, momentum, weightDecay, nesterov, received 'dampening'$/,
    ],
    [
      'sgd negative learning rate',
      () => sgd({ learningRate: -1 }),
      'ERR_OPTION',
      /^optimizer\.learningRate must be a finite number >= 0, received -1$/,
    ],
    ['sgd negative momentum', () => sgd({ momentum: -0.1 }), 'ERR_OPTION', /^optimizer\.momentum must be/],
    [
      'sgd nesterov without momentum',
      () => sgd({ nesterov: true }),
      'ERR_OPTION',
      /^optimizer\.momentum must be > 0 with nesterov, received 0$/,
    ],
    [
      'adamw beta 1',
      () => adamw({ beta2: 1 }),
      'ERR_OPTION',
      /^optimizer\.beta2 must be a finite number >= 0 and < 1, received 1$/,
    ],
    [
      'adamw negative decay',
      () => adamw({ weightDecay: -1e-4 }),
      'ERR_OPTION',
      /^optimizer\.weightDecay must be/,
    ],
  ])('%s', (_, make, code, message) => expectFailure(make, code, message));
});
