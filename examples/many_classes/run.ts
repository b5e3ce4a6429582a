/** A run of this example, from its arguments to what it prints. */

import { listEngines, mpi } from 'marginfc';
import { UsageError } from '../program.js';
import { readOptions, usage } from './options.js';
import { train } from './train.js';

/** Trains, and prints the loss on the way and the accuracy at the end; with a group, process 0 prints. */
export async function run(args: string[], log: (line: string) => void): Promise<void> {
  const options = readOptions(args);
  if (options === 'help') {
    log(usage);
    return;
  }
  const { settings } = options;
  const group = options.group === 'mpi' ? await mpi() : undefined;
  const size = group?.size ?? 1;
  if (settings.shards % size !== 0)
    throw new UsageError(
      `--shards must be a multiple of the ${size} processes, received '${settings.shards}'`,
    );
  const print = group === undefined || group.rank === 0 ? log : () => {};
  const started = performance.now();
  const { classes, dim, rows, steps, shards, exponent, noise, learningRate, seed } = settings;
  const engine = listEngines().find(({ name }) => name === 'cpu');
  print(
    `${classes} classes in ${shards} shards, ${dim} dimensions, ${rows} rows a step, ArcFace with m = 0.5 and s = 64`,
  );
  print(`noise ${noise}, Zipf exponent ${exponent}, sgd with learning rate ${learningRate}, seed ${seed}`);
  print(
    `${size} process${size === 1 ? '' : 'es'} on cpu (${engine?.available ? engine.detail : engine?.reason})\n`,
  );
  print('  step      loss  accuracy  seconds');
  const every = Math.max(1, Math.floor(steps / 20));
  const history = await train(settings, group, ({ step, loss, accuracy, seconds }) => {
    if (step !== 1 && step % every !== 0 && step !== steps) return;
    const columns = [step, loss.toFixed(5), `${(100 * accuracy).toFixed(2)} %`, seconds.toFixed(3)];
    print(columns.map((column, i) => String(column).padStart([6, 10, 10, 9][i] ?? 0)).join(''));
  });
  const times = history.map(({ seconds }) => seconds).sort((a, b) => a - b);
  const median = times[Math.floor(times.length / 2)] ?? NaN;
  print(
    `\naccuracy of the last batch, without margin: ${(100 * (history.at(-1)?.accuracy ?? NaN)).toFixed(2)} %\n` +
      `${median.toFixed(3)} s a step (median), ${((performance.now() - started) / 1000).toFixed(0)} s in all`,
  );
  await group?.close();
}
