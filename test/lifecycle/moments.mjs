/**
 * The steps of the addon's life at which a process or a worker may end. Each begins its work, calls `end` when the
 * step is reached, and goes on to the end of the work in case `end` does not end anything.
 */
import { setImmediate as turn } from 'node:timers/promises';
import {
  centerLoss,
  customMargin,
  forward,
  interLoss,
  MarginHead,
  sgd,
  tripletLoss,
  valueAndGrad,
  valueAndGradSync,
} from 'marginfc';
import { large, makeBatch, small } from './problems.mjs';

/** @import { Problem } from '../problems.js' */

/** @param {Problem} batch */
const makeHead = ({ weights, dim }) =>
  MarginHead.create({
    dim,
    classes: weights.length / dim,
    init: weights,
    optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
  });

/** @type {Record<string, (end: () => void) => Promise<unknown>>} */
export const moments = {
  async 'before its first call'(end) {
    end();
  },
  async 'idle after a call'(end) {
    await valueAndGrad(makeBatch(small));
    end();
  },
  async 'idle with a head and a forward pass that nobody disposes'(end) {
    const batch = makeBatch(small);
    const head = await makeHead(batch);
    await head.accumulate(batch);
    const pass = await forward(batch, { workspace: 'keep' });
    end();
    return [head, pass];
  },
  async 'with a call just made'(end) {
    const call = valueAndGrad(makeBatch(large));
    end();
    await call;
  },
  async 'with a call that is writing gradients'(end) {
    const batch = makeBatch(large);
    const dWeights = new Float32Array(batch.weights.length).fill(Number.NaN);
    const call = valueAndGrad(batch, { out: { dWeights } });
    while (Number.isNaN(dWeights[0])) await turn();
    end();
    await call;
  },
  async 'with a call at work and others waiting'(end) {
    const [first, ...others] = [small, large, small, large].map((size) => valueAndGrad(makeBatch(size)));
    await first;
    end();
    await Promise.all(others);
  },
  async 'with a backward pass at work and another waiting'(end) {
    const pass = await forward(makeBatch(large), { workspace: 'keep' });
    const calls = [pass.backward(), pass.backward(2)];
    pass.dispose();
    await turn();
    end();
    await Promise.all(calls);
  },
  async 'with a step of a head at work and others waiting'(end) {
    const batch = makeBatch(large);
    const head = await makeHead(batch);
    const [first, ...others] = [head.step(batch), head.step(batch), head.evaluate(batch), head.step(batch)];
    head.dispose();
    await first;
    end();
    await Promise.all(others);
  },
  async 'with a step with companion terms at work and another waiting'(end) {
    const batch = makeBatch(large);
    const head = await makeHead(batch);
    const terms = [centerLoss(), interLoss(), tripletLoss()];
    const calls = [head.step(batch, { terms }), head.step(batch, { terms })];
    await turn();
    end();
    await Promise.all(calls);
  },
  async 'with a call being aborted and another waiting'(end) {
    const batch = makeBatch(large);
    const controller = new AbortController();
    const calls = [valueAndGrad(batch, { signal: controller.signal }), valueAndGrad(batch)];
    await turn();
    controller.abort();
    end();
    await Promise.allSettled(calls);
  },
  async 'in the margin callback of an asynchronous call'(end) {
    await valueAndGrad(makeBatch(small), { margin: callback(end) });
  },
  async 'in the margin callback of a blocking call'(end) {
    valueAndGradSync(makeBatch(small), { margin: callback(end) });
  },
  async 'as a blocking call begins'(end) {
    const batch = makeBatch(large);
    end();
    valueAndGradSync(batch);
  },
  async 'while short calls follow each other'(end) {
    const batch = makeBatch(small);
    await valueAndGrad(batch);
    end();
    const chain = async () => {
      for (let i = 0; i < 20; i++) await valueAndGrad(batch);
    };
    await Promise.all([chain(), chain(), chain(), chain()]);
  },
};

/** @param {() => void} end called for the first row */
function callback(end) {
  return customMargin(({ cosine, row }) => {
    if (row === 0) end();
    return { target: cosine - 0.3, dTarget: 1 };
  });
}
