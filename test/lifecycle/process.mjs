/**
 * node process.mjs MOMENT ENDING: brings this process to a moment of moments.mjs and ends it there. Says `settled` when it
 * outlives all its work.
 */
import { writeSync } from 'node:fs';
import process from 'node:process';
import { valueAndGrad, valueAndGradSync } from 'marginfc';
import { moments } from './moments.mjs';
import { digest, makeBatch, small } from './problems.mjs';

/** @type {Record<string, () => void>} */
const endings = {
  naturally() {},
  'by process.exit'() {
    process.exit(7);
  },
  'by process.exit, with calls in the exit handler'() {
    const batch = makeBatch(small);
    process.on('exit', () => {
      valueAndGrad(batch);
      valueAndGrad(batch);
      writeSync(1, `${digest(valueAndGradSync(batch))}\n`);
    });
    process.exit(7);
  },
  'by an uncaught exception'() {
    queueMicrotask(() => {
      throw new Error('uncaught on purpose');
    });
  },
};

const [moment = '', ending = ''] = process.argv.slice(2);
await moments[moment]?.(/** @type {() => void} */ (endings[ending]));
writeSync(1, 'settled\n');
