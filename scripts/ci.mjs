// Everything that must hold before a change lands, on a clean checkout: what README.md tells a user to type, the
// packaging tests, the sanitizers and processors that this machine is not. Called by .ci/run; needs nothing but Node,
// npm and apt.
//
// Ends by printing `N passed, N failed`: each test of vitest, each check of test/native and each step counts as one.

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readmeBlocks, runBlock } from './readme_commands.mjs';

const root = path.join(import.meta.dirname, '..');
const reports = fs.mkdtempSync(path.join(os.tmpdir(), 'marginfc-ci-'));

/** @type {{ name: string, passed: number, failed: number, seconds: number }[]} */
const results = [];

/**
 * Runs a step. vitest.config.ts writes a report to MARGINFC_TEST_REPORT: where a step left one, its tests are
 * counted beside the step itself.
 * @param {string} name
 * @param {(env: NodeJS.ProcessEnv, report: string) => boolean} run
 */
function step(name, run) {
  console.log(`\n=== ${name}`);
  const report = path.join(reports, `${results.length}.json`);
  const start = Date.now();
  const ok = run({ ...process.env, MARGINFC_TEST_REPORT: report }, report);
  const tests = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')) : undefined;
  results.push({
    name,
    passed: (tests?.numPassedTests ?? 0) + (ok ? 1 : 0),
    failed: (tests?.numFailedTests ?? 0) + (ok ? 0 : 1),
    seconds: Math.round((Date.now() - start) / 1000),
  });
}

/** @param {NodeJS.ProcessEnv} env */
function runPackaging(env) {
  const { status } = spawnSync('npm', ['run', 'test:pack'], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return status === 0;
}

/** The limits of the CUDA kernels' instructions, registers and memory accesses. @param {NodeJS.ProcessEnv} env */
function runCudaReport(env) {
  const child = spawnSync('npm', ['run', '--silent', 'cuda:report'], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return child.status === 0;
}

/** Every line and every mutant of the CUDA kernels. @param {NodeJS.ProcessEnv} env */
function runMutants(env) {
  const child = spawnSync('npm', ['run', '--silent', 'test:mutants'], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  return child.status === 0;
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
  return (/** @type {NodeJS.ProcessEnv} */ env, /** @type {string} */ report) => {
    const { status, stdout } = spawnSync('npm', ['run', '--silent', script], {
      cwd: root,
      env,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
      maxBuffer: 1 << 28,
    });
    console.log(stdout.replace(/^(?=.)/gm, '  '));
    const counts = /^(\d+) passed, (\d+) failed$/m.exec(stdout);
    if (counts !== null) {
      const [numPassedTests, numFailedTests] = counts.slice(1).map(Number);
      fs.writeFileSync(report, JSON.stringify({ numPassedTests, numFailedTests }));
    }
    return status === 0 && counts !== null;
  };
}

step('browser', installBrowser);
step('MPI', installMpi);
for (const block of readmeBlocks()) {
  const title = `README.md:${block.line} ${block.language === 'sh' ? block.source.split('\n').join('; ') : 'example'}`;
  if (block.skip === undefined) step(title, (env) => runBlock(block, env));
  else console.log(`\n=== ${title}\nnot run: ${block.skip}`);
}
step('compiled CUDA kernels', checkKernels);
step('packaging', runPackaging);
step('address and undefined-behaviour sanitizers', runEngineCheck('test:asan'));
step('thread sanitizer', runEngineCheck('test:tsan'));
step('CUDA engine on the software device, sanitizers', runEngineCheck('test:cuda-asan'));
step('software CUDA device, sanitizers', runEngineCheck('test:gpusim-asan'));
step('software CUDA device, malformed input for a minute', runEngineCheck('fuzz:gpusim'));
step('CUDA kernels, every line and every mutant', runMutants);
step('CUDA kernels, counted', runCudaReport);
step('cross compiler and emulators', installEmulators);
step('arm64, emulated', runEngineCheck('test:arm64'));
step('x86-64 without AVX, emulated', runEngineCheck('test:old-x64'));

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
