/** The command line of this example. */

import { parseArgs } from 'node:util';
import { UsageError } from '../program.js';
import type { Settings } from './train.js';

export const usage = `npm run demo:classes -- [options]
mpirun -np 2 node build/examples/many_classes/main.js --group mpi [options]

  --classes C         (default 100000)
  --dim D             length of an embedding (default 128)
  --rows B            rows of a step, of all processes together (default 4096)
  --steps N           (default 200)
  --shards N          of all processes together (default 4)
  --exponent X        of the classes' frequencies: rank^-X (default 0.5)
  --noise X           length of what is added to a centre of length 1 (default 0.5)
  --learning-rate X   (default rows / 2560)
  --seed N            (default 1)
  --group mpi         shares the classes among the processes that mpirun started
  --help`;

const text = (fallback?: string) =>
  ({ type: 'string', ...(fallback !== undefined && { default: fallback }) }) as const;

export function readOptions(args: string[]): { settings: Settings; group: 'mpi' | undefined } | 'help' {
  let values: Partial<Record<string, string | boolean>>;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        classes: text('100000'),
        dim: text('128'),
        rows: text('4096'),
        steps: text('200'),
        shards: text('4'),
        exponent: text('0.5'),
        noise: text('0.5'),
        'learning-rate': text(),
        seed: text('1'),
        group: text(),
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help === true) return 'help';
  const number = (name: string, whole: boolean, fallback?: number) => {
    const given = values[name];
    const value = given === undefined && fallback !== undefined ? fallback : Number(given);
    if (given === '' || !(whole ? Number.isSafeInteger(value) && value > 0 : value >= 0 && value < 1e6))
      throw new UsageError(
        `--${name} must be a ${whole ? 'positive integer' : 'number >= 0'}, received '${given}'`,
      );
    return value;
  };
  if (values.group !== undefined && values.group !== 'mpi')
    throw new UsageError(`--group must be mpi, received '${values.group}'`);
  const rows = number('rows', true);
  const settings: Settings = {
    classes: number('classes', true),
    dim: number('dim', true),
    rows,
    steps: number('steps', true),
    shards: number('shards', true),
    exponent: number('exponent', false),
    noise: number('noise', false),
    learningRate: number('learning-rate', false, rows / 2560),
    seed: number('seed', true),
  };
  return { settings, group: values.group };
}
