/**
 * node reload.mjs: loads the addon a second time, as a program does that clears require.cache. Says what the two give.
 */
import { writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { digest, makeBatch, small } from './problems.mjs';

/** @import { Addon } from '../../src/native.js' */

const require = createRequire(import.meta.url);
const path = require('node-gyp-build').path(fileURLToPath(new URL('../..', import.meta.url)));

/** @returns {Addon} */
function load() {
  delete require.cache[path];
  return require(path);
}

const addons = [load(), load()];
const { features, weights, dim } = makeBatch(small);
const heads = addons.map(({ Head }) => {
  const rule = /** @type {const} */ ({ kind: 'sgd', momentum: 0, weightDecay: 0, nesterov: false });
  const optimizer = /** @type {const} */ ({ ...rule, storage: 'float32', seed: 0 });
  const sampling = /** @type {const} */ ({ sampleRate: 1, sampledUpdate: 'sampled', seed: 0 });
  const classes = weights.length / dim;
  const range = { start: 0, end: classes };
  const head = new Head({ dim, classes, ...range, shards: 2, engines: ['cpu'], optimizer, sampling });
  head.write('weights', 0, weights);
  return head;
});
const results = await Promise.all(
  heads.map(async (head) => {
    const result = { classes: new Int32Array(small.rows), cosines: new Float32Array(small.rows) };
    await head.nearest('async', features, 1, result);
    return digest(result);
  }),
);
writeSync(1, `${addons[0] === addons[1] ? 'one' : 'two'} addons, ${new Set(results).size} result\n`);

try {
  // @ts-expect-error: the rest of the problem does not matter
  new addons[1].Evaluation({ dim, weights: heads[0] });
} catch (error) {
  writeSync(1, `a head of the other: ${/** @type {{ nativeCode?: string }} */ (error).nativeCode}\n`);
}
