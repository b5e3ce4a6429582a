/** valueAndGrad and forward: what they take and give back, apart from numerics (test/cases.test.ts). */

import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import {
  arcface,
  type Batch,
  cosface,
  forward,
  forwardSync,
  listEngines,
  presets,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { failureOf } from './failures.js';
import { presetFormulas } from './loss_cases.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { makeProblem } from './problems.js';
import { type ReferenceOptions, reference } from './reference.js';

const batch = makeProblem({ rows: 31, dim: 33, classes: 131 }, 'spread', 'ignored', 1);
const defaults: ReferenceOptions = {
  margin: { kind: 'arcface', m: 0.5 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};
const limits = float32Limits(64);

/** Work of some tenths of a second: this thread comes to abort it in time even on a busy machine. */
const long = makeProblem({ rows: 4096, dim: 64, classes: 20_000 }, 'spread', 'random', 2);

describe('results', () => {
  test('without options are ArcFace with m 0.5 and scale 64, the mean, and both gradients', async () => {
    const out = await valueAndGrad(batch);
    expectWithinLimits(out, reference(batch, defaults), limits);
    const { engine, precision, workspace } = out;
    expect({ engine, precision, workspace }).toEqual({
      engine: 'cpu',
      precision: 'float32',
      workspace: 'keep',
    });
    expect(Object.keys(out).sort()).toEqual(
      'dFeatures dWeights engine logSumExp loss precision rowLoss targetCosine workspace'.split(' '),
    );
  });

  test('are the same from the Sync twin, and from forward and backward', async () => {
    const out = await valueAndGrad(batch);
    expect(valueAndGradSync(batch)).toEqual(out);
    const pass = await forward(batch);
    expect(pass.loss).toBe(out.loss);
    expectWithinLimits({ ...pass, ...(await pass.backward()) }, reference(batch, defaults), limits);
    expect(pass.backwardSync()).toEqual(await pass.backward());
    pass.dispose();
  });

  test('are new arrays in each call', () => {
    const [first, second] = [valueAndGradSync(batch), valueAndGradSync(batch)];
    expect(first.dWeights.buffer).not.toBe(second.dWeights.buffer);
    expect(first.rowLoss.buffer).not.toBe(second.rowLoss.buffer);
  });

  test('are written to the arrays of `out`, and nowhere else', () => {
    const memory = new Float32Array(2 + batch.weights.length + 2).fill(7);
    const out = {
      dFeatures: new Float32Array(new SharedArrayBuffer(batch.features.byteLength)),
      dWeights: memory.subarray(2, -2),
    };
    const got = valueAndGradSync(batch, { out });
    const expected = valueAndGradSync(batch);
    expect(got.dFeatures).toBe(out.dFeatures);
    expect(got.dWeights).toBe(out.dWeights);
    expect([...out.dFeatures]).toEqual([...expected.dFeatures]);
    expect([...out.dWeights]).toEqual([...expected.dWeights]);
    expect([...memory.subarray(0, 2), ...memory.subarray(-2)]).toEqual([7, 7, 7, 7]);
  });

  test('with `gradients` hold only the one asked for', async () => {
    const expected = valueAndGradSync(batch);
    const features = await valueAndGrad(batch, { gradients: 'features' });
    const weights = await valueAndGrad(batch, { gradients: 'weights' });
    expect(features.dFeatures).toEqual(expected.dFeatures);
    expect(features.dWeights).toBeUndefined();
    expect(weights.dFeatures).toBeUndefined();
    expectWithinLimits({ dWeights: weights.dWeights }, reference(batch, defaults), limits);
  });

  test('say which workspace was used: kept while it fits workspaceBytes', () => {
    expect(valueAndGradSync(batch, { workspace: 'recompute' }).workspace).toBe('recompute');
    expect(valueAndGradSync(batch, { workspaceBytes: 1000 }).workspace).toBe('recompute');
    expect(valueAndGradSync(batch, { workspaceBytes: 1000, workspace: 'keep' }).workspace).toBe('keep');
  });

  test('without reduction have the loss that the gradients are of, or NaN without dLoss', () => {
    const dLoss = Float32Array.from(batch.labels, (_, i) => i / 10 - 1);
    const out = valueAndGradSync(batch, { reduction: 'none', dLoss });
    expectWithinLimits(out, reference(batch, { ...defaults, reduction: 'none', dLoss }), limits);
    const pass = forwardSync(batch, { reduction: 'none' });
    expect(pass.loss).toBeNaN();
    expect(pass.rowLoss).toEqual(out.rowLoss);
    expectWithinLimits(
      pass.backwardSync(dLoss),
      reference(batch, { ...defaults, reduction: 'none', dLoss }),
      limits,
    );
    expect(() => pass.backwardSync()).toThrow(/^dLoss must be a Float32Array, received undefined$/);
    expect(() => pass.backwardSync(2)).toThrow(/^dLoss must be a Float32Array, received 2$/);
    pass.dispose();
  });

  test('dLoss multiplies gradients, not the loss', () => {
    const out = valueAndGradSync(batch, { dLoss: -3 });
    expect(out.loss).toBe(valueAndGradSync(batch).loss);
    const { dFeatures, dWeights } = out;
    expectWithinLimits({ dFeatures, dWeights }, reference(batch, { ...defaults, dLoss: -3 }), limits);
  });

  const elsewhere = Object.keys(presetFormulas);
  const named = Object.entries(presets).filter(
    ([name, preset]) => !elsewhere.includes(name) && !('subCenters' in preset),
  );
  test.each(named)('preset %s is what its options say', (_, preset) => {
    const out = valueAndGradSync(batch, preset);
    expectWithinLimits(out, reference(batch, { ...preset, reduction: 'mean' } as ReferenceOptions), limits);
  });
});

describe('inputs', () => {
  /** Arrays that must do as well as any. */
  const kinds: Record<string, (values: Float32Array | Int32Array) => unknown> = {
    'a view with an offset': (values) => {
      const Kind = values instanceof Float32Array ? Float32Array : Int32Array;
      const memory = new Kind(values.length + 16).fill(1e9);
      memory.set(values, 3);
      return memory.subarray(3, 3 + values.length);
    },
    'on a SharedArrayBuffer': (values) => {
      const memory = new SharedArrayBuffer(values.byteLength);
      const shared = values instanceof Float32Array ? new Float32Array(memory) : new Int32Array(memory);
      shared.set(values);
      return shared;
    },
    'of another realm': (values) => {
      const kind = values instanceof Float32Array ? 'Float32Array' : 'Int32Array';
      const foreign = runInNewContext(`${kind}.from(values)`, { values });
      expect(foreign instanceof Float32Array || foreign instanceof Int32Array).toBe(false);
      return foreign;
    },
  };

  test.each(Object.entries(kinds))('may be %s', async (_, make) => {
    const input = {
      features: make(batch.features),
      weights: make(batch.weights),
      labels: make(batch.labels),
      dim: batch.dim,
    } as Batch;
    const m = make(Float32Array.from(batch.labels, (_, i) => i / 50)) as Float32Array;
    const rowWeights = make(new Float32Array(batch.labels.length).fill(1)) as Float32Array;
    const expected = valueAndGradSync(batch, { margin: arcface({ m: { perRow: Float32Array.from(m) } }) });
    const options = { margin: arcface({ m: { perRow: m } }), rowWeights };
    expect(valueAndGradSync(input, options)).toEqual(expected);
    expect(await valueAndGrad(input, options)).toEqual(expected);
  });

  test('may be no rows: the loss is 0', async () => {
    const empty = { ...batch, features: new Float32Array(0), labels: new Int32Array(0) };
    const out = await valueAndGrad(empty);
    expect(out.loss).toBe(0);
    expect(out.rowLoss).toEqual(new Float32Array(0));
    expect(out.dFeatures).toEqual(new Float32Array(0));
    expect(out.dWeights).toEqual(new Float32Array(batch.weights.length));
  });

  test('may be one class: without negatives the loss and its gradients are 0', () => {
    const out = valueAndGradSync({
      features: Float32Array.of(1, 2, 3, 4),
      weights: Float32Array.of(-1, 1),
      labels: Int32Array.of(0, -1),
      dim: 2,
    });
    expect(out.loss).toBe(0);
    expect([...out.rowLoss, ...out.dFeatures, ...out.dWeights].every((value) => value === 0)).toBe(true);
    expect(out.targetCosine[0]).toBeCloseTo(1 / Math.sqrt(10), 6);
    expect(out.logSumExp[1]).toBeCloseTo((64 * 1) / Math.sqrt(50), 4);
  });

  test('may have no row that counts: the loss is 0 and so is every gradient', () => {
    const ignored = { ...batch, labels: new Int32Array(batch.labels.length).fill(-1) };
    const out = valueAndGradSync(ignored);
    expect(out.loss).toBe(0);
    expect([...out.rowLoss, ...out.targetCosine, ...out.dFeatures, ...out.dWeights]).not.toContain(NaN);
    expect([...out.dFeatures, ...out.dWeights].every((value) => value === 0)).toBe(true);
    expectWithinLimits(out, reference(ignored, defaults), limits);
  });

  test.each(['valueAndGrad', 'forward'] as const)(
    'that are not finite are an error of %s that names the first bad row',
    async (name) => {
      const call = { valueAndGrad, forward }[name];
      const dim = batch.dim;
      const features = Float32Array.from(batch.features);
      features[3 * dim + 2] = Number.NaN;
      features[7 * dim] = Number.POSITIVE_INFINITY;
      const weights = Float32Array.from(batch.weights);
      weights[100 * dim + 32] = Number.NEGATIVE_INFINITY;
      const bad = await failureOf(() => call({ ...batch, features }));
      expect(bad.code).toBe('ERR_NOT_FINITE');
      expect(bad.message).toMatch(/^features must be finite, row 3 /);
      const worse = await failureOf(() => call({ ...batch, weights }, { shards: 3 }));
      expect(worse.code).toBe('ERR_NOT_FINITE');
      expect(worse.message).toMatch(/^weights must be finite, row 100 /);
    },
  );

  test.each(['float32', 'bfloat16', 'float16'] as const)(
    'with a NaN in a class that no row owns give NaN with checkFinite: false, %s operands',
    (precision) => {
      const weights = batch.weights.slice();
      const unowned = [...Array(131).keys()].find((id) => !batch.labels.includes(id)) as number;
      weights[unowned * batch.dim] = Number.NaN;
      for (const scale of [64, 128])
        for (const shards of [1, 3]) {
          const { loss, rowLoss, logSumExp } = valueAndGradSync(
            { ...batch, weights },
            { checkFinite: false, precision, scale, shards },
          );
          expect(loss).toBeNaN();
          expect(logSumExp.every(Number.isNaN)).toBe(true);
          expect(
            rowLoss.every((value, i) => (batch.labels[i] === -1 ? value === 0 : Number.isNaN(value))),
          ).toBe(true);
        }
    },
  );

  test('that are not finite go through with checkFinite: false', () => {
    const features = Float32Array.from(batch.features);
    features[0] = Number.NaN;
    const out = valueAndGradSync({ ...batch, features }, { checkFinite: false });
    expect(out.loss).toBeNaN();
    expect(out.rowLoss[2]).toBe(valueAndGradSync(batch).rowLoss[2]);
  });

  test('are not written', async () => {
    const copy = structuredClone(batch);
    await valueAndGrad(batch, { margin: cosface(), workspace: 'recompute', shards: 3 });
    expect(batch).toEqual(copy);
  });
});

describe('signal', () => {
  test('fired before the call rejects it, blocking or not', async () => {
    const signal = AbortSignal.abort('too late');
    for (const call of [valueAndGrad, valueAndGradSync, forward, forwardSync]) {
      const error = await failureOf(() => call(batch, { signal }));
      expect(error.code).toBe('ERR_ABORTED');
      expect(error.cause).toBe('too late');
    }
  });

  test.each([
    ['valueAndGrad', (signal: AbortSignal) => valueAndGrad(long, { signal })],
    ['forward', (signal: AbortSignal) => forward(long, { signal })],
  ])('fired at work ends %s', async (_, call) => {
    const controller = new AbortController();
    const promise = call(controller.signal);
    controller.abort(new Error('stop'));
    const error = await failureOf(() => promise);
    expect(error.code).toBe('ERR_ABORTED');
    expect(error.cause).toEqual(new Error('stop'));
  });

  test('fired at work ends backward, which can be called again', async () => {
    const pass = await forward(long);
    const controller = new AbortController();
    const promise = pass.backward(1, { signal: controller.signal });
    controller.abort();
    expect((await failureOf(() => promise)).code).toBe('ERR_ABORTED');
    const [first, second] = [pass.backwardSync(), pass.backwardSync()];
    expect(Buffer.from(first.dWeights.buffer).equals(Buffer.from(second.dWeights.buffer))).toBe(true);
    pass.dispose();
  });

  test('fired after the call changes nothing, and no listener stays', async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const added: unknown[] = [];
    const removed: unknown[] = [];
    const { addEventListener, removeEventListener } = signal;
    signal.addEventListener = function (this: AbortSignal, ...args: Parameters<typeof addEventListener>) {
      added.push(args[1]);
      addEventListener.apply(this, args);
    };
    signal.removeEventListener = function (this: AbortSignal, ...args: Parameters<typeof addEventListener>) {
      removed.push(args[1]);
      removeEventListener.apply(this, args);
    };
    const pass = await forward(batch, { signal });
    await pass.backward(1, { signal });
    expect(added.length).toBeGreaterThan(0);
    expect(removed).toEqual(expect.arrayContaining(added));
    controller.abort();
    expect(pass.backwardSync().dFeatures.length).toBe(batch.features.length);
    pass.dispose();
  });
});

describe('a forward pass', () => {
  test('refuses backward after dispose, which may be called twice', async () => {
    const pass = await forward(batch);
    pass[Symbol.dispose]();
    pass.dispose();
    expect((await failureOf(() => pass.backward())).code).toBe('ERR_DISPOSED');
    expect((await failureOf(() => pass.backwardSync())).code).toBe('ERR_DISPOSED');
  });

  test('lets a backward in flight finish when disposed', async () => {
    const pass = await forward(batch);
    const promise = pass.backward();
    pass.dispose();
    expect((await promise).dWeights.length).toBe(batch.weights.length);
  });

  test('refuses backwardSync while a backward is pending', async () => {
    const pass = await forward(batch);
    const promises = [pass.backward(), pass.backward(2)];
    const error = await failureOf(() => pass.backwardSync());
    expect(error.code).toBe('ERR_BUSY');
    expect(error.message).toBe(
      'backwardSync must be called while nothing on the forward pass is pending, received 2 pending',
    );
    await Promise.all(promises);
    expect(pass.backwardSync()).toEqual(await promises[0]);
    pass.dispose();
  });
});

describe('engines', () => {
  test('listEngines names the cpu engine, with its instruction set and threads', () => {
    expect(listEngines()[0]).toEqual({
      name: 'cpu',
      available: true,
      detail: expect.stringMatching(/^\w+, \d+ threads?$/),
    });
  });

  test('that are missing are an error with the reason, never another engine', async () => {
    const available = listEngines()
      .filter((engine) => engine.available)
      .map((engine) => engine.name);
    for (const engine of ['cuda', 'cuda:0', 'cuda:7'] as const) {
      if (available.some((name) => name === engine || name.startsWith(`${engine}:`))) continue;
      const error = await failureOf(() => valueAndGrad(batch, { engine }));
      expect(error.code).toBe('ERR_ENGINE_UNAVAILABLE');
      expect(error.message).toMatch(
        new RegExp(`^engine must be an engine that can run here, received '${engine}': .+`),
      );
    }
  });
});

test('several calls may be in flight at once, and blocking ones made meanwhile', async () => {
  const options = [1, 2, 3, 7].map((shards) => ({ shards, margin: cosface({ m: shards / 10 }) }));
  const promises = options.map((option) => valueAndGrad(batch, option));
  const blocking = options.map((option) => valueAndGradSync(batch, option));
  expect(await Promise.all(promises)).toEqual(blocking);
});
