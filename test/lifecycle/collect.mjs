/**
 * node --expose-gc collect.mjs: makes each kind of call with arrays and objects that nothing else refers to, and
 * collects garbage until it has settled. Says for each whether its result was right, and how many of the arrays
 * were still held afterwards.
 */
import { writeSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { arcface, cosface, customMargin, forward, MarginHead, valueAndGrad } from 'marginfc';
import { addon } from '../../dist/native.js';
import { digest, makeBatch } from './problems.mjs';

const size = { rows: 256, dim: 64, classes: 40_000 };
const gc = /** @type {() => void} */ (globalThis.gc);

/** @import { NativeRows } from '../../src/native.js' */
/** @import { NativeMargin } from '../../src/native_loss.js' */

/** @param {number} length @param {number} value */
const filled = (length, value) => new Float32Array(length).fill(value);

/** Arrays that a call was given. @type {WeakRef<object>[]} */
let given = [];
/** @template {object} T @param {T} batch @returns {T} */
function noted(batch) {
  for (const value of Object.values(batch))
    if (ArrayBuffer.isView(value)) given.push(new WeakRef(value), new WeakRef(value.buffer));
  return batch;
}

const makeHead = () =>
  MarginHead.create({ dim: size.dim, classes: size.classes, init: noted(makeBatch(size)).weights });

/** @type {Record<string, () => Promise<object>>} */
const calls = {
  valueAndGrad: () => valueAndGrad(noted(makeBatch(size))),
  'valueAndGrad with arrays in every option': () => {
    const margin = arcface({ m: { perClass: filled(size.classes, 0.4) } });
    const rowWeights = filled(size.rows, 0.5);
    noted({ rowWeights, perClass: margin.m });
    return valueAndGrad(noted(makeBatch(size)), { margin, rowWeights });
  },
  'valueAndGrad without reduction': () => {
    const margin = cosface({ m: { perRow: filled(size.rows, 0.4) } });
    const { dLoss } = noted({ dLoss: filled(size.rows, 0.5) });
    return valueAndGrad(noted(makeBatch(size)), { margin, reduction: 'none', dLoss });
  },
  'valueAndGrad with a margin callback': () =>
    valueAndGrad(noted(makeBatch(size)), {
      margin: customMargin(({ cosine }) => ({ target: cosine - 0.2, dTarget: 1, dFeatureNorm: 0.1 })),
    }),
  'forward, then backward of a pass that nobody keeps': async () =>
    (await forward(noted(makeBatch(size)), { workspace: 'keep' })).backward(),
  'step of a head that nobody keeps': async () => (await makeHead()).step(noted(makeBatch(size))),
  'evaluate of a head that nobody keeps': async () => (await makeHead()).evaluate(noted(makeBatch(size))),
  'nearest of a head that nobody keeps': async () =>
    (await makeHead()).nearest(noted(makeBatch(size)).features, 5),
  'apply of a head that nobody keeps': async () => {
    const head = await makeHead();
    await head.accumulate(noted(makeBatch(size)));
    return { applied: Number(await head.apply()) };
  },
  // Here nothing in JavaScript keeps what the addon must keep. Not async: a function that waits keeps its temporaries.
  'valueAndGrad of the addon alone': () => {
    const [rowLoss, logSumExp, targetCosine] = [1, 2, 3].map(() => filled(size.rows, 0));
    const rows = /** @type {NativeRows} */ ({ rowLoss, logSumExp, targetCosine });
    const dWeights = filled(size.classes * size.dim, 0);
    const evaluation = new (addon().Evaluation)({
      ...noted(makeBatch(size)),
      ...noted({ rowWeights: filled(size.rows, 0.5) }),
      featuresType: 'float32',
      weightsType: 'float32',
      precision: 'float32',
      scale: 64,
      straightThrough: false,
      onOverflow: 'none',
      reduction: 'mean',
      workspace: 'recompute',
      workspaceBytes: 0,
      shards: 1,
      engines: ['cpu'],
      checkFinite: true,
      labelSmoothing: 0,
      diagnostics: false,
      sampled: false,
      topFive: false,
      transforms: false,
      gradientTolerance: 0,
    });
    const margin = /** @type {NativeMargin} */ ({
      kind: 'arcface',
      parameters: [noted({ perRow: filled(size.rows, 0.4) })],
    });
    const call = evaluation.valueAndGrad('async', margin, rows, {
      dLoss: 1,
      weightGradient: { kind: 'write', dWeights },
    });
    return Promise.resolve(call).then(() => ({ ...rows, dWeights }));
  },
};

/** Memory that garbage left is given to others at once, and overwritten. */
const overwrite = () => [size.rows, size.classes].map((rows) => filled(rows * size.dim, Number.NaN));

for (const [name, call] of Object.entries(calls)) {
  const expected = digest(await call());
  given = [];
  let result = '';
  const promise = call().then((value) => {
    result = digest(value);
  });
  while (result === '') {
    gc();
    overwrite();
    await turn();
  }
  await promise;
  // A WeakRef holds until the end of the turn it was looked at, finalizers run in a turn of their own.
  for (let i = 0; i < 3; i++) {
    await turn();
    gc();
  }
  const held = given.filter((reference) => reference.deref() !== undefined).length;
  writeSync(1, `${name}: ${result === expected ? 'right' : 'wrong'}, ${held} still held\n`);
}
