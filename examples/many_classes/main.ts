/**
 * `npm run demo:classes`: trains a head of 100,000 classes in 4 shards for 200 steps, on batches drawn afresh, until nearly every
 * row of a batch is nearest to its own class. Options: --help.
 */

import { MarginFcError } from 'marginfc';
import { UsageError, usage } from './options.js';
import { run } from './run.js';

try {
  await run(process.argv.slice(2), console.log);
} catch (error) {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${usage}`);
  else if (error instanceof MarginFcError || !(error instanceof Error)) console.error(error);
  else console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
