/** Bad arguments: which error each gives, the same from every function that takes it, blocking or not. */

import { describe, expect, test } from 'vitest';
import {
  arcface,
  cosface,
  customMargin,
  forward,
  forwardSync,
  valueAndGrad,
  valueAndGradSync,
  x2softmax,
} from '../src/index.js';
import { expectFailure } from './failures.js';

/** A problem of 4 rows, 3 columns and 5 classes, each argument open to replacement by anything. */
interface Loose {
  features: unknown;
  weights: unknown;
  labels: unknown;
  dim: unknown;
}

const floats = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i + 1));
const good = (): Loose => ({
  features: floats(12),
  weights: floats(15),
  labels: Int32Array.of(0, 4, -1, 2),
  dim: 3,
});

type LooseCall = (batch: unknown, options?: unknown) => unknown;

/** An asynchronous function must reject, never throw. */
const rejecting =
  (call: LooseCall): LooseCall =>
  (...args) => {
    let promise: unknown;
    expect(() => {
      promise = call(...args);
    }).not.toThrow();
    return promise;
  };

const calls: Record<string, { call: LooseCall; gradients: boolean }> = {
  valueAndGrad: { call: rejecting(valueAndGrad as LooseCall), gradients: true },
  valueAndGradSync: { call: valueAndGradSync as LooseCall, gradients: true },
  forward: { call: rejecting(forward as LooseCall), gradients: false },
  forwardSync: { call: forwardSync as LooseCall, gradients: false },
};

function detached(array: Float32Array | Int32Array): Float32Array | Int32Array {
  structuredClone(array, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}

const limits = [48, { maxByteLength: 96 }];
const resizable = new Float32Array(Reflect.construct(ArrayBuffer, limits) as ArrayBuffer);
const growable = new Float32Array(Reflect.construct(SharedArrayBuffer, limits) as SharedArrayBuffer);

type BadBatch = [what: string, change: () => Partial<Loose>, code: string, message: RegExp];
const badBatches: BadBatch[] = [
  [
    'features missing',
    () => ({ features: undefined }),
    'ERR_TYPE',
    /^features must be a Float32Array, received undefined$/,
  ],
  [
    'features of doubles',
    () => ({ features: new Float64Array(12) }),
    'ERR_TYPE',
    /^features must be a Float32Array, received Float64Array\(12\)$/,
  ],
  ['features a plain array', () => ({ features: [1, 2] }), 'ERR_TYPE', /received Array\(2\)$/],
  [
    'features too short',
    () => ({ features: floats(11) }),
    'ERR_SHAPE',
    /^features\.length must be 12 \(labels\.length 4 \* dim 3\), received 11$/,
  ],
  [
    'features too long',
    () => ({ features: floats(13) }),
    'ERR_SHAPE',
    /^features\.length must be 12 .*received 13$/,
  ],
  [
    'weights of integers',
    () => ({ weights: new Int32Array(15) }),
    'ERR_TYPE',
    /^weights must be a Float32Array, received Int32Array\(15\)$/,
  ],
  [
    'weights with a part of a row',
    () => ({ weights: floats(16) }),
    'ERR_SHAPE',
    /^weights\.length must be a positive multiple of dim 3, received 16$/,
  ],
  [
    'no classes',
    () => ({ weights: floats(0) }),
    'ERR_SHAPE',
    /^weights\.length must be a positive multiple of dim 3, received 0$/,
  ],
  [
    'labels of floats',
    () => ({ labels: new Float32Array(4) }),
    'ERR_TYPE',
    /^labels must be an Int32Array, received Float32Array\(4\)$/,
  ],
  [
    'labels a plain array',
    () => ({ labels: [0, 1, 2, 3] }),
    'ERR_TYPE',
    /^labels must be an Int32Array, received Array\(4\)$/,
  ],
  [
    'label too large',
    () => ({ labels: Int32Array.of(0, 5, 9, 0) }),
    'ERR_LABEL_RANGE',
    /^labels\[1\] must be in \[-1, 4\], received 5$/,
  ],
  [
    'label too small',
    () => ({ labels: Int32Array.of(0, 0, 0, -2) }),
    'ERR_LABEL_RANGE',
    /^labels\[3\] must be in \[-1, 4\], received -2$/,
  ],
  ['dim 0', () => ({ dim: 0 }), 'ERR_SHAPE', /^dim must be an integer in \[1, 2147483647\], received 0$/],
  ['dim not whole', () => ({ dim: 1.5 }), 'ERR_SHAPE', /^dim must be an integer .*received 1\.5$/],
  ['dim NaN', () => ({ dim: Number.NaN }), 'ERR_SHAPE', /^dim must be an integer .*received NaN$/],
  ['dim a string', () => ({ dim: '3' }), 'ERR_TYPE', /^dim must be an integer .*received '3'$/],
  [
    'features detached',
    () => ({ features: detached(floats(12)) }),
    'ERR_DETACHED',
    /^features must be backed by attached memory, received/,
  ],
  [
    'weights detached',
    () => ({ weights: detached(floats(15)) }),
    'ERR_DETACHED',
    /^weights must be backed by attached memory/,
  ],
  [
    'labels detached',
    () => ({ labels: detached(new Int32Array(4)) }),
    'ERR_DETACHED',
    /^labels must be backed by attached memory/,
  ],
  [
    'features resizable',
    () => ({ features: resizable }),
    'ERR_DETACHED',
    /^features must be backed by memory of fixed size, received one on a resizable ArrayBuffer$/,
  ],
  [
    'features growable',
    () => ({ features: growable }),
    'ERR_DETACHED',
    /^features must be backed by memory of fixed size, received one on a growable SharedArrayBuffer$/,
  ],
];

type BadOptions = [what: string, options: () => object, code: string, message: RegExp];
const badOptions: BadOptions[] = [
  [
    'unknown name',
    () => ({ marign: arcface() }),
    'ERR_OPTION',
    /^a name in options must be one of margin, scale, .*, received 'marign'$/,
  ],
  [
    'margin a string',
    () => ({ margin: 'arcface' }),
    'ERR_TYPE',
    /^margin must be an object, received 'arcface'$/,
  ],
  [
    'margin of unknown kind',
    () => ({ margin: { kind: 'circle', m: 4 } }),
    'ERR_OPTION',
    /^margin\.kind must be 'arcface', .* or 'custom', received 'circle'$/,
  ],
  ['margin without kind', () => ({ margin: {} }), 'ERR_TYPE', /^margin\.kind must be .*received undefined$/],
  [
    'margin without m',
    () => ({ margin: { kind: 'arcface' } }),
    'ERR_TYPE',
    /^margin\.m must be a number, \{ perRow \} or \{ perClass \}, received undefined$/,
  ],
  [
    'margin with a foreign parameter',
    () => ({ margin: { kind: 'cosface', m: 0.1, k: 1 } }),
    'ERR_OPTION',
    /^a name in margin must be one of kind, m, received 'k'$/,
  ],
  [
    'm NaN',
    () => ({ margin: { kind: 'arcface', m: Number.NaN } }),
    'ERR_MARGIN',
    /^margin\.m must be a finite number, received NaN$/,
  ],
  [
    'm both per row and per class',
    () => ({ margin: { kind: 'arcface', m: { perRow: floats(4), perClass: floats(5) } } }),
    'ERR_TYPE',
    /^margin\.m must be a number, \{ perRow \} or \{ perClass \}/,
  ],
  [
    'm per row of wrong length',
    () => ({ margin: cosface({ m: { perRow: floats(5) } }) }),
    'ERR_SHAPE',
    /^margin\.m\.perRow\.length must be 4 \(rows of the batch\), received 5$/,
  ],
  [
    'm per class of wrong length',
    () => ({ margin: cosface({ m: { perClass: floats(4) } }) }),
    'ERR_SHAPE',
    /^margin\.m\.perClass\.length must be 5 \(classes\), received 4$/,
  ],
  [
    'm per row infinite',
    () => ({ margin: x2softmax({ h: { perRow: Float32Array.of(0, 1, Infinity, NaN) } }) }),
    'ERR_MARGIN',
    /^margin\.h\.perRow\[2\] must be a finite number, received Infinity$/,
  ],
  [
    'custom margin without callback',
    () => ({ margin: { kind: 'custom' } }),
    'ERR_TYPE',
    /^margin\.callback must be a function, received undefined$/,
  ],
  ['scale 0', () => ({ scale: 0 }), 'ERR_OPTION', /^scale must be a finite number > 0, received 0$/],
  [
    'scale beyond float32',
    () => ({ scale: 1e38 }),
    'ERR_OPTION',
    /^scale must be at most 1000000 in magnitude, received 1e\+38$/,
  ],
  [
    'scale infinite',
    () => ({ scale: Infinity }),
    'ERR_OPTION',
    /^scale must be a finite number > 0, received Infinity$/,
  ],
  ['scale null', () => ({ scale: null }), 'ERR_TYPE', /^scale must be a finite number > 0, received null$/],
  [
    'gradient unknown',
    () => ({ gradient: 'straight_through' }),
    'ERR_OPTION',
    /^gradient must be 'exact' or 'straightThrough', received 'straight_through'$/,
  ],
  [
    'onOverflow unknown',
    () => ({ onOverflow: 'easyMargin' }),
    'ERR_OPTION',
    /^onOverflow must be 'none', 'fallback' or 'easy', received 'easyMargin'$/,
  ],
  [
    'onOverflow with cosface',
    () => ({ margin: cosface(), onOverflow: 'easy' }),
    'ERR_OPTION',
    /^onOverflow must be 'none' with margin cosface, received 'easy'$/,
  ],
  [
    'onOverflow with a custom margin',
    () => ({ margin: customMargin(() => ({ target: 0, dTarget: 0 })), onOverflow: 'fallback' }),
    'ERR_OPTION',
    /^onOverflow must be 'none' with margin custom, received 'fallback'$/,
  ],
  [
    'reduction unknown',
    () => ({ reduction: 'avg' }),
    'ERR_OPTION',
    /^reduction must be 'mean', 'sum' or 'none', received 'avg'$/,
  ],
  [
    'rowWeights of wrong length',
    () => ({ rowWeights: floats(5) }),
    'ERR_SHAPE',
    /^rowWeights\.length must be 4 \(rows of the batch\), received 5$/,
  ],
  [
    'rowWeights negative',
    () => ({ rowWeights: Float32Array.of(1, 0, -1, 1) }),
    'ERR_OPTION',
    /^rowWeights\[2\] must be a finite number >= 0, received -1$/,
  ],
  [
    'rowWeights NaN',
    () => ({ rowWeights: Float32Array.of(1, NaN, 1, 1) }),
    'ERR_OPTION',
    /^rowWeights\[1\] must be a finite number >= 0, received NaN$/,
  ],
  [
    'rowWeights with reduction none',
    () => ({ reduction: 'none', rowWeights: new Float32Array(4) }),
    'ERR_OPTION',
    /^rowWeights must be left out with reduction 'none'/,
  ],
  [
    'engine unknown',
    () => ({ engine: 'gpu' }),
    'ERR_OPTION',
    /^engine must be 'auto', 'cpu', 'cuda' or 'cuda:N', received 'gpu'$/,
  ],
  ['engine a number', () => ({ engine: 0 }), 'ERR_TYPE', /^engine must be .*received 0$/],
  [
    'precision unknown',
    () => ({ precision: 'float64' }),
    'ERR_OPTION',
    /^precision must be 'float32', 'bfloat16' or 'float16', received 'float64'$/,
  ],
  [
    'workspace unknown',
    () => ({ workspace: 'none' }),
    'ERR_OPTION',
    /^workspace must be 'keep', 'recompute' or 'auto', received 'none'$/,
  ],
  [
    'workspaceBytes negative',
    () => ({ workspaceBytes: -1 }),
    'ERR_OPTION',
    /^workspaceBytes must be an integer in \[0, \d+\], received -1$/,
  ],
  [
    'shards 0',
    () => ({ shards: 0 }),
    'ERR_OPTION',
    /^shards must be an integer in \[1, 65536\], received 0$/,
  ],
  [
    'checkFinite a number',
    () => ({ checkFinite: 1 }),
    'ERR_TYPE',
    /^checkFinite must be a boolean, received 1$/,
  ],
  ['signal an object', () => ({ signal: {} }), 'ERR_TYPE', /^signal must be an AbortSignal, received \{\}$/],
];

const badGradientOptions: BadOptions[] = [
  [
    'gradients unknown',
    () => ({ gradients: 'none' }),
    'ERR_OPTION',
    /^gradients must be 'both', 'features' or 'weights', received 'none'$/,
  ],
  ['dLoss NaN', () => ({ dLoss: Number.NaN }), 'ERR_OPTION', /^dLoss must be a finite number, received NaN$/],
  [
    'dLoss per row with a mean',
    () => ({ dLoss: floats(4) }),
    'ERR_TYPE',
    /^dLoss must be a finite number, received Float32Array\(4\)$/,
  ],
  [
    'dLoss missing without reduction',
    () => ({ reduction: 'none' }),
    'ERR_TYPE',
    /^dLoss must be a Float32Array, received undefined$/,
  ],
  [
    'dLoss of wrong length',
    () => ({ reduction: 'none', dLoss: floats(3) }),
    'ERR_SHAPE',
    /^dLoss\.length must be 4 \(rows of the batch\), received 3$/,
  ],
  [
    'dLoss infinite in a row',
    () => ({ reduction: 'none', dLoss: Float32Array.of(1, 1, 1, Infinity) }),
    'ERR_OPTION',
    /^dLoss\[3\] must be a finite number, received Infinity$/,
  ],
  [
    'out with an unknown name',
    () => ({ out: { dX: floats(12) } }),
    'ERR_OPTION',
    /^a name in out must be one of dFeatures, dWeights, received 'dX'$/,
  ],
  [
    'out of wrong length',
    () => ({ out: { dWeights: floats(14) } }),
    'ERR_SHAPE',
    /^out\.dWeights\.length must be 15 \(as weights\), received 14$/,
  ],
  [
    'out of doubles',
    () => ({ out: { dFeatures: new Float64Array(12) } }),
    'ERR_TYPE',
    /^out\.dFeatures must be a Float32Array, received Float64Array\(12\)$/,
  ],
  [
    'out resizable',
    () => ({ out: { dFeatures: resizable } }),
    'ERR_DETACHED',
    /^out\.dFeatures must be backed by memory of fixed size/,
  ],
  [
    'out not wanted',
    () => ({ gradients: 'features', out: { dWeights: floats(15) } }),
    'ERR_OPTION',
    /^out\.dWeights must be left out with gradients 'features', received Float32Array\(15\)$/,
  ],
];

for (const [name, { call, gradients }] of Object.entries(calls)) {
  describe(name, () => {
    test.each(badBatches)('%s', (_, change, code, message) =>
      expectFailure(() => call({ ...good(), ...change() }), code, message),
    );

    test.each(gradients ? [...badOptions, ...badGradientOptions] : badOptions)(
      '%s',
      (_, options, code, message) => expectFailure(() => call(good(), options()), code, message),
    );

    test('no batch, options that are no object', async () => {
      await expectFailure(() => call(undefined), 'ERR_TYPE', /^batch must be an object, received undefined$/);
      for (const options of [null, 3, [], 'fast'])
        await expectFailure(() => call(good(), options), 'ERR_TYPE', /^options must be an object/);
    });
  });
}
