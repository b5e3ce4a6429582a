// Everything that must hold before a change lands, on a clean checkout: what README.md tells a user to type, the
// packaging tests, the sanitizers and processors that this machine is not. Called by .ci/run; needs nothing but Node,
// npm and apt.
//
// Ends by printing `N passed, N failed`: each test of vitest, each check of test/native and each step counts as one.

import { spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readmeBlocks, runBlock } from './readme_commands.mjs';

const root = path.join(import.meta.dirname, '..');
const reports = fs.mkdtempSync(path.join(os.tmpdir(), 'marginfc-ci-'));

/** @type {{ name: string, passed: number, failed: number, seconds: number }[]} */
const results = [];
let started = 0;

/**
 * Runs a step. vitest.config.ts writes a report to MARGINFC_TEST_REPORT: where a step left one, its tests are
 * counted beside the step itself.
 * @param {string} name
 * @param {(env: NodeJS.ProcessEnv, report: string) => boolean | Promise<boolean>} run
 */
async function step(name, run) {
  console.log(`\n=== ${name}`);
  started += 1;
  const report = path.join(reports, `${started}.json`);
  const start = Date.now();
  const ok = await run({ ...process.env, MARGINFC_TEST_REPORT: report }, report);
  const tests = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')) : undefined;
  results.push({
    name,
    passed: (tests?.numPassedTests ?? 0) + (ok ? 1 : 0),
    failed: (tests?.numFailedTests ?? 0) + (ok ? 0 : 1),
    seconds: Math.round((Date.now() - start) / 1000),
  });
}

/**
 * Runs an npm script beside other steps. What it prints is kept and shown whole when it has ended.
 * @param {string} script
 * @param {NodeJS.ProcessEnv} env
 */
async function runScript(script, env) {
  const child = spawn('npm', ['run', '--silent', script], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
      output += text;
    });
  }
  const status = await new Promise((resolve) => child.on('error', () => resolve(-1)).on('close', resolve));
  return { status, output };
}

/**
 * A script whose tests vitest reports, or that only passes or fails.
 * @param {'test:pack' | 'test:mutants' | 'cuda:report'} script
 */
function runTests(script) {
  return async (/** @type {NodeJS.ProcessEnv} */ env) => {
    const { status, output } = await runScript(script, env);
    console.log(`--- npm run ${script}\n${output}`);
    return status === 0;
  };
}

/** The committed CUDA kernels are of these sources. */
function checkKernels() {
  const script = path.join(root, 'scripts', 'fatbin.mjs');
  return spawnSync(process.execPath, [script, '--check'], { cwd: root, stdio: 'inherit' }).status === 0;
}

/** What shows the benchmark's report in the unit tests. Without it they say so and skip that. */
function installBrowser() {
  if (spawnSync('chromium', ['--version'], { stdio: 'ignore' }).status === 0) return true;
  /** @type {import('node:child_process').SpawnSyncOptions} */
  const options = { stdio: ['ignore', 'ignore', 'inherit'] };
  const command = ['apt-get', 'install', '-y', '--no-install-recommends', 'chromium'];
  const installed =
    spawnSync('sudo', ['apt-get', 'update'], options).status === 0 &&
    spawnSync('sudo', command, options).status === 0;
  if (!installed) console.log('chromium could not be installed');
  return true;
}

/** With it `npm ci` compiles what mpi() needs, and the unit tests run it in several processes. */
function installMpi() {
  const packages = ['libopenmpi-dev', 'openmpi-bin', 'iproute2'];
  if (spawnSync('dpkg', ['--status', ...packages], { stdio: 'ignore' }).status === 0) return true;
  /** @type {import('node:child_process').SpawnSyncOptions} */
  const options = { stdio: ['ignore', 'ignore', 'inherit'] };
  const command = ['apt-get', 'install', '-y', '--no-install-recommends', ...packages];
  return (
    spawnSync('sudo', ['apt-get', 'update'], options).status === 0 &&
    spawnSync('sudo', command, options).status === 0
  );
}

/** What only the emulated steps need. README.md's commands have fetched the lists of packages. */
function installEmulators() {
  const packages = ['g++-aarch64-linux-gnu', 'qemu-user'];
  if (spawnSync('dpkg', ['--status', ...packages], { stdio: 'ignore' }).status === 0) return true;
  const command = ['apt-get', 'install', '-y', '--no-install-recommends', ...packages];
  return spawnSync('sudo', command, { stdio: ['ignore', 'inherit', 'inherit'] }).status === 0;
}

/**
 * The engine's own checks, under a sanitizer or emulated, end with their counts, which become the step's report. The
 * output is indented: only the last line of all is CI's count.
 * @param {'test:asan' | 'test:tsan' | 'test:cuda-asan' | 'test:arm64' | 'test:old-x64' | 'test:gpusim-asan' | 'fuzz:gpusim'} script
 */
function runEngineCheck(script) {
  return async (/** @type {NodeJS.ProcessEnv} */ env, /** @type {string} */ report) => {
    const { status, output } = await runScript(script, env);
    console.log(`--- npm run ${script}\n${output.replace(/^(?=.)/gm, '  ')}`);
    const counts = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1);
    if (counts !== undefined) {
      const [numPassedTests, numFailedTests] = counts.slice(1).map(Number);
      fs.writeFileSync(report, JSON.stringify({ numPassedTests, numFailedTests }));
    }
    return status === 0 && counts !== undefined;
  };
}

await step('browser', installBrowser);
await step('MPI', installMpi);
for (const block of readmeBlocks()) {
  const title = `README.md:${block.line} ${block.language === 'sh' ? block.source.split('\n').join('; ') : 'example'}`;
  if (block.skip === undefined) await step(title, (env) => runBlock(block, env));
  else console.log(`\n=== ${title}\nnot run: ${block.skip}`);
}
await step('compiled CUDA kernels', checkKernels);
await step('packaging', runTests('test:pack'));
await step('cross compiler and emulators', installEmulators);

/**
 * Most of these use one core: two rows of them, about as long, run beside each other.
 * @type {[string, Parameters<typeof step>[1]][][]}
 */
const rows = [
  [
    ['CUDA engine on the software device, sanitizers', runEngineCheck('test:cuda-asan')],
    ['CUDA kernels, counted', runTests('cuda:report')],
    ['arm64, emulated', runEngineCheck('test:arm64')],
    ['x86-64 without AVX, emulated', runEngineCheck('test:old-x64')],
  ],
  [
    ['address and undefined-behaviour sanitizers', runEngineCheck('test:asan')],
    ['thread sanitizer', runEngineCheck('test:tsan')],
    ['software CUDA device, sanitizers', runEngineCheck('test:gpusim-asan')],
    ['software CUDA device, malformed input for a minute', runEngineCheck('fuzz:gpusim')],
    ['CUDA kernels, every line and every mutant', runTests('test:mutants')],
  ],
];
await Promise.all(
  rows.map(async (row) => {
    for (const [name, run] of row) await step(name, run);
  }),
);

fs.rmSync(reports, { recursive: true, force: true });

console.log('\n');
for (const { name, passed, failed, seconds } of results) {
  console.log(
    `${failed > 0 ? 'FAILED' : 'ok    '} ${String(seconds).padStart(5)} s  ${passed} passed  ${name}`,
  );
}
const passed = results.reduce((sum, result) => sum + result.passed, 0);
const failed = results.reduce((sum, result) => sum + result.failed, 0);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
