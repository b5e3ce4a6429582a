/** What the types say, checked by the compiler: results follow from options, impossible options do not compile. */

import { expectTypeOf, test } from 'vitest';
import {
  type ArcFaceMargin,
  arcface,
  type Batch,
  forward,
  type Margin,
  MarginHead,
  sgd,
  type ValueAndGrad,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { failureOf } from './failures.js';

const weight = new Float32Array(1);

const batch: Batch = {
  features: Float32Array.of(1, 0),
  weights: Float32Array.of(1, 0, 0, 1),
  labels: Int32Array.of(0),
  dim: 2,
};

test('gradients are defined where they were asked for', () => {
  const both = valueAndGradSync(batch);
  expectTypeOf(both.dFeatures).toEqualTypeOf<Float32Array>();
  expectTypeOf(both.dWeights).toEqualTypeOf<Float32Array>();
  const features = valueAndGradSync(batch, { gradients: 'features' });
  expectTypeOf(features.dFeatures).toEqualTypeOf<Float32Array>();
  expectTypeOf(features.dWeights).toEqualTypeOf<undefined>();
  expectTypeOf(valueAndGrad(batch, { scale: 30 })).toEqualTypeOf<Promise<ValueAndGrad<'both'>>>();
  expectTypeOf(both.workspace).toEqualTypeOf<'keep' | 'recompute'>();
});

test('gradients are where `out` put them', () => {
  const out = { dFeatures: { devicePtr: 1n, length: 2, dtype: 'float32' } as const };
  const onGpu = () => valueAndGradSync(batch, { out });
  expectTypeOf(onGpu)
    .returns.toHaveProperty('dFeatures')
    .toEqualTypeOf<Float32Array | typeof out.dFeatures>();
  expectTypeOf(onGpu).returns.toHaveProperty('dWeights').toEqualTypeOf<Float32Array>();
  const inHost = valueAndGradSync(batch, { out: { dFeatures: new Float32Array(2) } });
  expectTypeOf(inHost.dFeatures).toEqualTypeOf<Float32Array>();
});

test('margins are told apart by kind', () => {
  expectTypeOf(arcface()).toEqualTypeOf<ArcFaceMargin>();
  expectTypeOf<Extract<Margin, { kind: 'combined' }>>().toHaveProperty('m3');
  expectTypeOf<Extract<Margin, { kind: 'custom' }>>().toHaveProperty('callback');
});

test('what cannot be does not compile, and is refused where nobody compiled', async () => {
  const head = { dim: 2, classes: 2 };
  const impossible = [
    // @ts-expect-error no reduction needs a dLoss per row
    () => valueAndGrad(batch, { reduction: 'none' }),
    // @ts-expect-error a mean takes one number
    () => valueAndGrad(batch, { reduction: 'mean', dLoss: new Float32Array(1) }),
    // @ts-expect-error row weights need a reduction
    () => forward(batch, { reduction: 'none', rowWeights: new Float32Array(1) }),
    // @ts-expect-error no such option
    () => valueAndGrad(batch, { marign: arcface() }),
    // @ts-expect-error no such parameter
    () => arcface({ margin: 0.5 }),
    // @ts-expect-error one or the other
    () => valueAndGrad(batch, { margin: arcface({ m: { perRow: weight, perClass: weight } }) }),
    // @ts-expect-error no such parameter
    () => sgd({ dampening: 0.1 }),
    // @ts-expect-error no such update
    () => MarginHead.create({ ...head, sampledUpdate: 'none' }),
  ];
  for (const call of impossible) await failureOf(call);
});
