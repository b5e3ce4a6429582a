/**
 * `npm run demo:classes`: trains a head of 100,000 classes in 4 shards for 200 steps, on batches drawn afresh, until nearly every
 * row of a batch is nearest to its own class. Options: --help.
 */

import { runProgram } from '../program.js';
import { usage } from './options.js';
import { run } from './run.js';

await runProgram(usage, () => run(process.argv.slice(2), console.log));
