/**
 * `npm run bench`, `npx marginfc bench`: this package against what else users have, on this machine. Options: --help.
 *
 * The same program is every contestant's process in Node (--contestant) and that of the phases (--child).
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { childJob, reply, runInChild } from './child.js';
import { allContestants } from './contestants/list.js';
import { runContestant } from './contestants/run.js';
import { addon } from './cpu/addon.js';
import { describeMachine } from './cpu/machine.js';
import { printMachine, threadCount } from './cpu/table.js';
import { lossText } from './formula.js';
import { type Command, compareFiles, type RunOptions, readCommand, usage } from './options.js';
import { measurePhases, type Phases, type PhasesJob } from './phases.js';
import { progressBar } from './progress.js';
import { html } from './report/html.js';
import { readSearch, searchPage } from './report/search.js';
import { formatVersion, type Results, readResults } from './results.js';
import { run } from './run.js';
import { printDifferences, printPhases, printRows, printSummary } from './terminal.js';

const program = fileURLToPath(import.meta.url);

const job = childJob<PhasesJob>();
const [flag, kind] = process.argv.slice(2);
if (job) reply(measurePhases(job));
else if (flag === '--contestant' && kind !== undefined) await runContestant(kind);
else process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  let command: Command;
  try {
    command = readCommand(args);
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${usage}`);
    return 2;
  }
  try {
    switch (command.kind) {
      case 'help':
        console.log(usage);
        return 0;
      case 'compare':
        return compareFiles(command, printDifferences);
      case 'report':
      case 'plot':
        write(command.html, pageOf(command));
        console.log(`written: ${command.html}`);
        return 0;
      case 'run':
        return await bench(command);
    }
  } catch (error) {
    console.error((error as Error).message);
    return 2;
  }
}

function pageOf({ kind, file }: Extract<Command, { kind: 'report' | 'plot' }>): string {
  return kind === 'report' ? html(readResults(file)) : searchPage(basename(file), readSearch(file));
}

async function bench(options: RunOptions): Promise<number> {
  const start = performance.now();
  const { instructionSet, threads } = addon().describeCpu();
  const machine = { ...describeMachine(), instructionSet, threads };
  printMachine(`marginfc ${machine.version}`, machine, {
    engine: `${instructionSet}, ${threadCount(threads)}`,
    work: `${lossText(options.loss)}: loss and both gradients. Every result is checked against float64 first.`,
  });
  const deadline = start + options.totalSeconds * 1e3;

  const contestants = allContestants(program, options.quick, options.loss).filter(({ contestant }) =>
    options.only.every((part) => contestant.includes(part)),
  );
  if (contestants.length === 0) {
    console.error(`no contestant's name contains ${options.only.join(' and ')}`);
    return 2;
  }
  const bar = progressBar();
  const phases = await phasesOf(options);
  const { rows, versions } = await run({
    sizes: options.sizes,
    loss: options.loss,
    contestants,
    samples: options.samples,
    sampleSeconds: options.sampleSeconds,
    ...(options.seconds !== undefined && { seconds: options.seconds }),
    deadline,
    onProgress: bar.update,
    onRows: (size, found) => bar.pause(() => printRows(size, found)),
  });
  bar.stop();
  if (phases) printPhases(phases);
  printSummary(rows);

  const results: Results = {
    format: formatVersion,
    machine,
    command: options.typed,
    settings: {
      loss: options.loss,
      quick: options.quick,
      samples: options.samples,
      sampleSeconds: options.sampleSeconds,
      seconds: options.seconds ?? null,
      elapsedSeconds: Math.round((performance.now() - start) / 1e3),
    },
    versions,
    peaks: phases?.peaks ?? null,
    rows,
    phases: phases?.rows ?? [],
  };
  write(options.json, `${JSON.stringify(results, null, 1)}\n`);
  write(options.html, html(results));
  console.log(`\nwritten: ${options.json}, ${options.html}`);
  return rows.some(({ status }) => status === 'wrong') ? 1 : 0;
}

function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}

async function phasesOf(options: RunOptions): Promise<Phases | undefined> {
  if (options.phaseSizes.length === 0) return undefined;
  const job: PhasesJob = {
    phases: true,
    sizes: options.phaseSizes,
    precisions: ['float32', 'bfloat16'],
    samples: options.samples,
    seconds: options.phaseSeconds,
  };
  return runInChild<Phases>(program, job, { execArgv: ['--expose-gc'] });
}
