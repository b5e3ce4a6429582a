/** A worker thread that is brought to a moment of moments.mjs and ends there, in the way workers.mjs asks for. */
import process from 'node:process';
import { parentPort, workerData } from 'node:worker_threads';
import { moments } from './moments.mjs';

/** @typedef {{ moment: string, ending: string }} Life */

const { moment, ending } = /** @type {Life} */ (workerData);

/** @type {Record<string, () => void>} */
const endings = {
  naturally() {},
  'by process.exit'() {
    process.exit(7);
  },
  'by an uncaught exception'() {
    queueMicrotask(() => {
      throw new Error('uncaught on purpose');
    });
  },
  'by running out of heap'() {
    const hoard = [];
    for (;;) hoard.push([hoard.length]);
  },
  /** By the parent, which hears of it here: `terminate`, or the exit of the process. */
  'by its parent'() {
    parentPort?.on('message', () => {}); // keeps a worker that has nothing left to do
    parentPort?.postMessage('now');
  },
};

await moments[moment]?.(/** @type {() => void} */ (endings[ending]));
