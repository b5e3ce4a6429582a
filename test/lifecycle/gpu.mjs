/**
 * node gpu.mjs ENDING: a process, or worker threads one after the other, that end while GPUs compute for them. Says what the
 * main thread gets before and after.
 */
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import process from 'node:process';
import { setImmediate as turn } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { MarginHead, valueAndGrad, valueAndGradSync } from 'marginfc';
import { digest, makeBatch, small } from './problems.mjs';

const engine = 'cuda';
const batch = makeBatch(small);
/** Tenths of a second on the software device. */
const long = makeBatch({ rows: 128, dim: 64, classes: 3000 });

/** A step, a call and another step, all pending. */
async function start() {
  const head = await MarginHead.create({ dim: 64, classes: 3000, init: long.weights, devices: ['cuda'] });
  const pending = [head.step(long), valueAndGrad(long, { engine, shards: 3 }), head.step(long)];
  await turn();
  return pending;
}

/** @param {string} how */
async function live(how) {
  if (how === 'terminated while blocked') {
    parentPort?.postMessage('now');
    for (;;) valueAndGradSync(long, { engine });
  }
  const pending = await start();
  if (how === 'exits') process.exit(7);
  if (how === 'terminated') parentPort?.postMessage('now');
  await Promise.all(pending);
}

const how = isMainThread ? (process.argv[2] ?? '') : workerData;
if (!isMainThread) {
  await live(how);
} else if (how === 'process exits') {
  await start();
  process.exit(7);
} else {
  const compute = async () => digest(await valueAndGrad(batch, { engine }));
  const expected = await compute();
  const worker = new Worker(new URL(import.meta.url), { workerData: how });
  if (how.startsWith('terminated')) {
    await once(worker, 'message');
    worker.terminate();
  }
  const together = compute();
  const [code] = await once(worker, 'exit');
  const same = (await together) === expected && (await compute()) === expected;
  writeSync(1, `worker ended with ${code}, results are ${same ? 'the same' : 'others'}\n`);
}
