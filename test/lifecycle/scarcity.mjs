/**
 * node scarcity.mjs CASE: lets this process take only a little more address space than it has, makes a call that
 * needs more, and then one that does not. Says how the two went.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeSync } from 'node:fs';
import process from 'node:process';
import { adamw, forward, forwardSync, MarginHead, valueAndGrad, valueAndGradSync } from 'marginfc';
import { digest, makeBatch, small } from './problems.mjs';

/** Megabytes to spare: enough for every small call, a fraction of what the calls here ask for. */
const some = 96;
/** Less than a thread's stack. */
const none = 4;

const dim = 128;
const { weights } = makeBatch({ rows: 0, dim, classes: 1000 });
const head = await MarginHead.create({ dim, classes: 1000, init: weights });
const batch = makeBatch(small);

/** A batch of zeros, which take no memory before they are looked at. @param {number} rows @param {number} classes */
const zeros = (rows, classes) => ({
  features: new Float32Array(rows * dim),
  labels: new Int32Array(rows),
  weights: new Float32Array(classes * dim),
  dim,
});

/** @typedef {{ call: () => unknown, spare?: number }} Case */
/** @type {Record<string, () => Case>} */
const cases = {
  'a result'() {
    const many = zeros(8, 1_000_000);
    return { call: () => valueAndGrad(many) };
  },
  'a result of a blocking call'() {
    const many = zeros(8, 1_000_000);
    return { call: () => valueAndGradSync(many) };
  },
  'a kept workspace'() {
    const wide = zeros(2000, 100_000);
    return { call: () => forward(wide, { workspace: 'keep' }) };
  },
  'a kept workspace of a blocking call'() {
    const wide = zeros(2000, 100_000);
    return { call: () => forwardSync(wide, { workspace: 'keep' }) };
  },
  "a head's weights": () => ({ call: () => MarginHead.create({ dim, classes: 2_000_000 }) }),
  "a head's optimiser state": () => ({
    call: () => MarginHead.create({ dim, classes: 120_000, optimizer: adamw() }),
  }),
  'a head of as many numbers as can be named': () => ({
    call: () => MarginHead.create({ dim: 2 ** 31 - 1, classes: 2 ** 31 - 1 }),
  }),
  'the feature gradient of a step'() {
    const tall = zeros(500_000, 0);
    return { call: () => head.step(tall) };
  },
  'the workspace of a step'() {
    const tall = zeros(50_000, 0);
    return { call: () => head.step(tall) };
  },
  'the workspace of a blocking step'() {
    const tall = zeros(50_000, 0);
    return { call: () => head.stepSync(tall) };
  },
  'the nearest classes'() {
    const { features } = zeros(100_000, 0);
    return { call: () => head.nearest(features, 1000) };
  },
  'the thread of the first asynchronous call': () => ({ call: () => valueAndGrad(batch), spare: none }),
  'the threads of the first blocking call': () => ({ call: () => valueAndGradSync(batch), spare: none }),
};

/** @param {string} soft */
const limit = (soft) => execFileSync('prlimit', ['--pid', String(process.pid), `--as=${soft}:`]);

const { call, spare = some } = /** @type {() => Case} */ (cases[process.argv[2] ?? ''])();
if (spare !== none) await valueAndGrad(batch);
const size = Number(/VmSize:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
limit(String(size * 2 ** 10 + spare * 2 ** 20));

let outcome = 'succeeded';
try {
  await call();
} catch (error) {
  const { code, message } = /** @type {Error & { code?: string }} */ (error);
  outcome = `${code}: ${message}`;
}
if (spare === none) limit('unlimited');
const { loss } = await head.evaluate({ features: batch.features.subarray(0, dim), labels: Int32Array.of(1) });
const after = digest(await valueAndGrad(batch));
limit('unlimited');
const right = loss > 0 && after === digest(valueAndGradSync(batch));
const intact = head.stepCount === 0 && digest({ weights }) === digest({ weights: head.weights() });
writeSync(
  1,
  `${outcome}\n${right ? 'right' : 'wrong'} afterwards, the head ${intact ? 'intact' : 'changed'}\n`,
);
