/**
 * node growth.mjs KIND TIMES WARM-UP: does one thing over and over, and says by how many of its largest arrays this
 * process grew at most after the warm-up, in address space and in memory, and by how many threads.
 */
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import process from 'node:process';
import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { forward, MarginHead, valueAndGrad, valueAndGradSync } from 'marginfc';
import { makeBatch } from './problems.mjs';

const batch = makeBatch({ rows: 8, dim: 64, classes: 49_152 });
const { weights, dim } = batch;
const bad = { ...batch, features: new Float32Array(batch.features.length).fill(Number.NaN) };
const makeHead = () => MarginHead.create({ dim, classes: weights.length / dim, init: weights });

/** @type {Record<string, () => unknown>} */
const kinds = {
  'asynchronous calls': () => valueAndGrad(batch),
  'asynchronous calls, four at a time': () => Promise.all([1, 2, 3, 4].map(() => valueAndGrad(batch))),
  'asynchronous calls that fail': () => valueAndGrad(bad).catch(() => {}),
  // The event loop does not turn. They fail before they touch the memory of their results: this program need not
  // have as much.
  'blocking calls'() {
    try {
      valueAndGradSync(bad);
    } catch {}
  },
  async 'aborted calls'() {
    const controller = new AbortController();
    const call = valueAndGrad(batch, { signal: controller.signal });
    controller.abort();
    await call.catch(() => {});
  },
  'forward passes that nobody disposes': () => forward(batch, { workspace: 'keep' }),
  async 'heads that nobody disposes'() {
    await makeHead();
    await turn();
  },
  async 'heads disposed during a step'() {
    const head = await makeHead();
    const step = head.step(batch);
    head.dispose();
    await step;
  },
  // Each loads the addon anew: nothing else in this process uses it.
  async workers() {
    const worker = new Worker(new URL('./worker.mjs', import.meta.url), {
      workerData: { moment: 'with a call at work and others waiting', ending: 'by process.exit' },
    });
    await new Promise((resolve) => worker.on('exit', resolve));
  },
};

const [name = '', times = '', warmUp = ''] = process.argv.slice(2);
const act = /** @type {() => unknown} */ (kinds[name]);

const threads = () => readdirSync('/proc/self/task').length;

/** The kernel lists a thread until it has cleaned up behind it, which may be after the thread has been joined. */
async function threadsBeyond(/** @type {number} */ most) {
  for (let waits = 0; waits < 200 && threads() > most; waits++) await wait(5);
  return threads();
}

function used() {
  const kilobytes = (/** @type {string} */ field) =>
    Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
  const arrays = (/** @type {string} */ field) => (kilobytes(field) * 1024) / weights.byteLength;
  return {
    addressSpace: arrays('VmSize'),
    memory: arrays('VmRSS'),
    threads: threads(),
  };
}

/** @typedef {ReturnType<typeof used>} Used */
/** @type {Used | undefined} */
let before;
const growth = { addressSpace: 0, memory: 0, threads: 0 };
for (let i = 0; i < Number(times); i++) {
  const done = act();
  if (done instanceof Promise) await done;
  if (i < Number(warmUp)) continue;
  const now = used();
  before ??= now;
  now.threads = await threadsBeyond(before.threads);
  for (const field of /** @type {(keyof Used)[]} */ (Object.keys(now)))
    growth[field] = Math.max(growth[field], Math.ceil(now[field] - before[field]));
}
writeSync(1, JSON.stringify(growth));
