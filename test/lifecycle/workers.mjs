/**
 * node workers.mjs ENDING REPEATS: worker threads that end in the middle of their work, one after the other, each
 * followed by a call of this thread. Says how each moment of moments.mjs ended.
 */
import { once } from 'node:events';
import { writeSync } from 'node:fs';
import process from 'node:process';
import { Worker } from 'node:worker_threads';
import { valueAndGrad } from 'marginfc';
import { moments } from './moments.mjs';
import { digest, makeBatch, small } from './problems.mjs';

const [ending = '', repeats = '1'] = process.argv.slice(2);

const batch = makeBatch(small);
const compute = async () => digest(await valueAndGrad(batch));
const expected = await compute();

/** @param {string} moment @param {string} ending */
function start(moment, ending) {
  return new Worker(new URL('./worker.mjs', import.meta.url), {
    workerData: { moment, ending },
    ...(ending === 'by running out of heap' && { resourceLimits: { maxOldGenerationSizeMb: 24 } }),
  });
}

if (ending === 'by the end of the process') {
  const workers = Object.keys(moments).map((moment) => start(moment, 'by its parent'));
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  process.exit(7);
}

for (const moment of Object.keys(moments)) {
  for (let repeat = 0; repeat < Number(repeats); repeat++) {
    const worker = start(moment, ending.startsWith('by terminate') ? 'by its parent' : ending);
    let failure = '';
    worker.on('error', (/** @type {Error & { code?: string }} */ error) => {
      failure = error.code ?? error.message;
    });
    worker.on(ending === 'by terminate while it starts' ? 'online' : 'message', () => worker.terminate());
    // Not `once`, which an error ends.
    const code = await new Promise((resolve) => worker.on('exit', resolve));
    const after = (await compute()) === expected ? '' : 'and another result afterwards';
    writeSync(1, `${moment}: ${[code, failure, after].filter((part) => part !== '').join(', ')}\n`);
  }
}
