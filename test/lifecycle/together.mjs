/**
 * node together.mjs: worker threads and the main thread compute at the same time, all on the same shared arrays. Says
 * what each of them got.
 */
import { writeSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { adamw, forward, MarginHead, valueAndGrad, valueAndGradSync } from 'marginfc';
import { digest, makeBatch, small } from './problems.mjs';

/** @import { Problem } from '../problems.js' */

const workers = 4;

/** @param {Problem} batch */
async function compute(batch) {
  const dWeights = new Float32Array(new SharedArrayBuffer(batch.weights.byteLength));
  const head = await MarginHead.create({
    dim: batch.dim,
    classes: batch.weights.length / batch.dim,
    init: batch.weights,
    optimizer: adamw(),
    shards: 3,
  });
  const calls = await Promise.all([
    valueAndGrad(batch),
    valueAndGrad(batch, { out: { dWeights }, shards: 2 }),
    forward(batch).then((pass) => pass.backward()),
    head.step(batch),
    head.step(batch),
    head.nearest(batch.features, 3),
  ]);
  return [...calls, valueAndGradSync(batch), { weights: head.weights() }].map(digest).join(' ');
}

/** @type {{ batch: Problem, running: Int32Array }} */
const given = isMainThread
  ? { batch: makeBatch(small, { shared: true }), running: new Int32Array(new SharedArrayBuffer(4)) }
  : workerData;
const { batch, running } = given;

/** Waits until every thread has come here, so that none computes alone. */
function meet() {
  Atomics.add(running, 0, 1);
  Atomics.notify(running, 0);
  for (let here = 0; here <= workers; here = Atomics.load(running, 0)) Atomics.wait(running, 0, here);
}

if (isMainThread) {
  const alone = await compute(batch);
  const others = Array.from({ length: workers }, () => {
    const worker = new Worker(new URL(import.meta.url), { workerData: given });
    return new Promise((resolve) => worker.on('message', resolve));
  });
  meet();
  for (const result of await Promise.all([compute(batch), ...others]))
    writeSync(1, result === alone ? 'as alone\n' : `${alone}\n${result}\n`);
} else {
  meet();
  parentPort?.postMessage(await compute(batch));
}
