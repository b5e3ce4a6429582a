'use strict';
// Compiling the addon and trying it out; shared by the install script, the developer's build and prebuildify.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { prepareKernels } = require('./kernels.cjs');

/** @param {string} program */
function onPath(program) {
  if (program.includes('/')) return fs.existsSync(program);
  return (process.env.PATH ?? '')
    .split(path.delimiter)
    .some((folder) => folder !== '' && fs.existsSync(path.join(folder, program)));
}

/**
 * What compiling needs and this machine lacks, as Debian's package names; empty when all is there.
 * @returns {string[]}
 */
function missingTools() {
  const chosen = process.env.CXX?.split(' ')[0];
  const compilers = chosen ? [chosen] : ['c++', 'g++', 'clang++'];
  const missing = [];
  if (!compilers.some(onPath)) missing.push('g++');
  if (!onPath('cmake')) missing.push('cmake');
  if (!onPath('make') && !onPath('ninja')) missing.push('make');
  return missing;
}

/**
 * Loads the addon through node-gyp-build as a user's process will, in a child process: code that this
 * processor cannot run must not take npm down.
 * @param {string} root the package's folder
 * @returns {string | undefined} why it cannot be loaded, on one line; undefined when it can
 */
function loadFailure(root) {
  const script = `try { require(${JSON.stringify(require.resolve('node-gyp-build'))})(${JSON.stringify(root)}); }
    catch (error) { process.stdout.write(String(error.message)); process.exitCode = 1; }`;
  const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' });
  if (child.status === 0) return undefined;
  const reason = child.signal
    ? `the addon died of ${child.signal} while loading`
    : child.stdout || child.stderr;
  return reason.trim().split('\n')[0];
}

/**
 * Compiles the addon into build/Release with cmake-js, with the CUDA kernels that are at hand in it.
 * @param {string} root
 * @param {{ clean?: boolean, quiet?: boolean }} [options] clean: forget an earlier build, perhaps another machine's
 * @returns {{ ok: boolean, log: string }} log is empty unless quiet
 */
function compile(root, { clean = false, quiet = false } = {}) {
  const build = path.join(root, 'build');
  if (clean || configuredElsewhere(build, root)) fs.rmSync(build, { recursive: true, force: true });
  const note = prepareKernels(root);
  if (note !== '' && !quiet) console.log(`marginfc: ${note}`);
  const child = spawnSync(
    process.execPath,
    [
      require.resolve('cmake-js/bin/cmake-js'),
      'build',
      '--directory',
      root,
      '--parallel',
      String(os.availableParallelism()),
      '--log-level',
      'warn',
    ],
    { cwd: root, encoding: 'utf8', stdio: quiet ? 'pipe' : 'inherit', maxBuffer: 1 << 28 },
  );
  return { ok: child.status === 0, log: quiet ? child.stdout + child.stderr : '' };
}

/**
 * CMake refuses a cache that was made for another folder, as after copying or moving a checkout.
 * @param {string} build
 * @param {string} source the folder of CMakeLists.txt
 */
function configuredElsewhere(build, source) {
  const cache = path.join(build, 'CMakeCache.txt');
  if (!fs.existsSync(cache)) return false;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(fs.readFileSync(cache, 'utf8'));
  return home === null || (home[1] !== source && home[1] !== fs.realpathSync(source));
}

module.exports = { compile, configuredElsewhere, loadFailure, missingTools };
