/**
 * `npm run bench:cpu`: how much of what this machine can do the cpu engine does. Options: --help.
 *
 * Every size, instruction set and number of threads is a process of its own (measure.ts). It measures the machine's
 * peaks with the engine's own threads, compares all results with a float64 reference, and then takes the rows
 * in turns, with the peak measured anew before and after each sample.
 */

import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { childJob, reply, runInChild } from '../child.js';
import { lossText, timedLoss, usualLoss } from '../formula.js';
import { parseSize, type Size, sizeName } from '../size.js';
import { describeMachine } from './machine.js';
import { type Job, measure } from './measure.js';
import { precisions as allPrecisions, type Precision, type Report, type Run } from './results.js';
import { printLegend, printMachine, printRun, printTargets } from './table.js';

const usage = `npm run bench:cpu -- [options]

  --sizes LIST    B,D,C;B,D,C;... (default 64,128,10000;128,512,100000;
                  512,512,100000;1024,512,100000;77,200,33333)
  --loss NAME     what to time instead of arcface: a loss of lossNamed()
  --isa LIST      instruction sets, as MARGINFC_ISA takes them (default: the best of this machine)
  --threads LIST  numbers of threads (default: one for each core)
  --precision LIST
                  of float32, bfloat16 and float16, as far as the engine has them
                  (default float32,bfloat16)
  --only TEXT     only rows whose name contains TEXT, such as 'float32 keep reused'; may be repeated
  --quick         few short samples, to see that all works
  --targets       the percentages that the engine should reach, beside those measured
  --json FILE     also write all of it to FILE
  --help`;

const program = fileURLToPath(import.meta.url);
const defaultSizes = '64,128,10000;128,512,100000;512,512,100000;1024,512,100000;77,200,33333';

const job = childJob<Job>();
if (job) reply(await measure(job).catch(({ message }: Error): Failure => ({ failure: message })));
else process.exitCode = await main();

/** Why a size could not be measured. */
interface Failure {
  readonly failure: string;
}

interface Options {
  readonly sizes: readonly Size[];
  readonly loss: string;
  readonly environments: readonly Readonly<Record<string, string>>[];
  readonly precisions: readonly Precision[];
  readonly only: readonly string[];
  readonly settings: Report['settings'];
  readonly targets: boolean;
  readonly json: string | undefined;
}

function readOptions(): Options | undefined {
  const { values } = parseArgs({
    options: {
      sizes: { type: 'string', default: defaultSizes },
      loss: { type: 'string', default: usualLoss },
      isa: { type: 'string' },
      threads: { type: 'string' },
      precision: { type: 'string', default: 'float32,bfloat16' },
      only: { type: 'string', multiple: true, default: [] },
      quick: { type: 'boolean', default: false },
      targets: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const list = (name: string, text: string | undefined) =>
    text === undefined ? [{}] : text.split(',').map((value) => ({ [name]: value.trim() }));
  const threads = list('MARGINFC_THREADS', values.threads);
  for (const { MARGINFC_THREADS: count } of threads)
    if (count !== undefined && !/^[1-9]\d{0,3}$/.test(count))
      throw new Error(`--threads must be a list of positive integers, received ${values.threads}`);
  const precisions = values.precision.split(',').map((name) => {
    const precision = allPrecisions.find((known) => known === name.trim());
    if (!precision)
      throw new Error(`--precision must be a list of ${allPrecisions.join(', ')}, received ${name}`);
    return precision;
  });
  return {
    sizes: values.sizes.split(';').map(parseSize),
    loss: timedLoss(values.loss),
    environments: list('MARGINFC_ISA', values.isa).flatMap((isa) =>
      threads.map((count) => ({ ...isa, ...count })),
    ),
    precisions,
    only: values.only,
    settings: values.quick
      ? { warmUpSeconds: 0.02, samples: 3, sampleSeconds: 0.02, seconds: 5 }
      : { warmUpSeconds: 1.5, samples: 7, sampleSeconds: 0.1, seconds: 150 },
    targets: values.targets,
    json: values.json,
  };
}

async function main(): Promise<number> {
  let options: Options | undefined;
  try {
    options = readOptions();
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    return 2;
  }
  if (options === undefined) {
    console.log(usage);
    return 0;
  }
  const machine = describeMachine();
  const { environments, sizes, loss, precisions, only, settings } = options;
  printMachine(`marginfc ${machine.version} on the cpu engine`, machine, {
    loss: lossText(loss),
    work: '6 BCD operations for loss + dX + dW and for a step, 2 BCD for the loss, whatever is recomputed',
  });
  const runs: Run[] = [];
  let failed = false;
  for (const env of environments)
    for (const size of sizes) {
      const done = showProgress(`measuring ${sizeName(size)}`);
      const job: Job = { size, loss, precisions, only, settings };
      const run = await runInChild<Run | Failure>(program, job, { env, execArgv: ['--expose-gc'] });
      done();
      if ('failure' in run) {
        console.error(`\nB,D,C = ${sizeName(size)}: ${run.failure}`);
        failed = true;
      } else {
        printRun(run, options.targets);
        runs.push(run);
      }
    }
  if (runs.length > 0) printLegend();
  if (options.targets) printTargets(runs);
  const report: Report = { machine, loss, settings, runs };
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  return failed ? 1 : 0;
}

/** A line on a terminal until the returned function is called. */
function showProgress(text: string): () => void {
  const { stderr } = process;
  if (!stderr.isTTY) return () => {};
  stderr.write(`\n  ${text} ...`);
  return () => stderr.write('\r\x1b[K\x1b[A');
}
