// The unit tests on the full product of cases, in parts (test/part_runner.ts), one on each core: an hour and a half on two, so what is done is
// kept in build/matrix/ and left out when this runs again on the same commit. Ends by printing the sum of all parts that are done.
//
//   node scripts/matrix.mjs [--parts N] [--part I/N] [--turns] [--fresh]

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

const root = path.join(import.meta.dirname, '..');
const usage = `npm run test:matrix -- [options]

  --parts N    run all of N parts that are not done (default: 20)
  --part I/N   run one of N parts
  --turns      each case on one software GPU of each kind instead of on all of them: some 20 minutes, in 10 parts
  --fresh      forget what is done`;

/** @typedef {{ passed: number, failed: string[], seconds: number }} Part */

/** @param {string} part @param {string} cases @param {string} file */
async function run(part, cases, file) {
  const report = `${file}.report`;
  const start = Date.now();
  const child = spawn(
    path.join(root, 'node_modules', '.bin', 'vitest'),
    [
      'run',
      '--project',
      'unit',
      '--silent',
      '--reporter=dot',
      '--reporter=json',
      `--outputFile.json=${report}`,
    ],
    {
      cwd: root,
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, MARGINFC_TEST_CASES: cases, MARGINFC_TEST_PART: part },
    },
  );
  const [status] = await once(child, 'exit');
  if (!fs.existsSync(report)) throw new Error(`part ${part} left no report: vitest ended with ${status}`);
  /** @type {{ numPassedTests: number, testResults: { name: string, status: string, message: string, assertionResults: { status: string, fullName: string, failureMessages: string[] }[] }[] }} */
  const { numPassedTests, testResults } = JSON.parse(fs.readFileSync(report, 'utf8'));
  const failed = testResults.flatMap(({ name, status, message, assertionResults }) => {
    // With what they said, for the seed of a random problem.
    const tests = assertionResults
      .filter((test) => test.status === 'failed')
      .map((test) => [test.fullName, ...test.failureMessages].join('\n'));
    const titles = status === 'failed' && tests.length === 0 ? [message] : tests;
    return titles.map((title) => `${path.relative(root, name)} > ${title}`);
  });
  const seconds = Math.round((Date.now() - start) / 1000);
  fs.rmSync(report);
  fs.writeFileSync(file, JSON.stringify({ passed: numPassedTests, failed, seconds }));
}

async function main() {
  const { values } = parseArgs({
    options: {
      parts: { type: 'string' },
      part: { type: 'string' },
      turns: { type: 'boolean', default: false },
      fresh: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return 0;
  }
  const [, index, of] =
    /^([1-9]\d*)\/([1-9]\d*)$/.exec(values.part ?? `1/${values.parts ?? (values.turns ? 10 : 20)}`) ?? [];
  const parts = Number(of);
  if (index === undefined || Number(index) > parts) {
    console.error(usage);
    return 2;
  }
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
    cwd: root,
    encoding: 'utf8',
  }).trim();
  const cases = values.turns ? 'turns' : 'all';
  const folder = path.join(root, 'build', 'matrix', `${commit}-${cases}-${parts}`);
  if (values.fresh) fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder, { recursive: true });
  const fileOf = (/** @type {number} */ k) => path.join(folder, `${k}.json`);
  // Spread evenly over the product however far a run comes.
  const spread = (/** @type {number} */ k) => (0.618034 * k) % 1;
  const all = Array.from({ length: parts }, (_, k) => k + 1).sort((a, b) => spread(a) - spread(b));
  const wanted = values.part === undefined ? all : [Number(index)];
  const left = wanted.filter((k) => !fs.existsSync(fileOf(k))).values();
  const runLeft = async () => {
    for (const k of left) {
      await run(`${k}/${parts}`, cases, fileOf(k));
      const { passed, failed, seconds } = JSON.parse(fs.readFileSync(fileOf(k), 'utf8'));
      console.log(`part ${k}/${parts}: ${passed} passed, ${failed.length} failed, ${seconds} s`);
    }
  };
  // What all parts need, before two of them build it.
  execFileSync(process.execPath, [path.join(root, 'scripts', 'build.mjs'), 'gpusim', 'kernels_check'], {
    stdio: 'inherit',
  });
  await Promise.all(Array.from({ length: os.availableParallelism() }, runLeft));

  const done = all.filter((k) => fs.existsSync(fileOf(k)));
  /** @type {Part[]} */
  const results = done.map((k) => JSON.parse(fs.readFileSync(fileOf(k), 'utf8')));
  const sum = (/** @type {(part: Part) => number} */ of) =>
    results.reduce((total, part) => total + of(part), 0);
  for (const name of results.flatMap(({ failed }) => failed)) console.log(`failed: ${name}`);
  console.log(
    `${done.length} of ${parts} parts of ${commit}, ${(sum(({ seconds }) => seconds) / 3600).toFixed(1)} hours added up`,
  );
  const failed = sum((part) => part.failed.length);
  console.log(`${sum(({ passed }) => passed)} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
