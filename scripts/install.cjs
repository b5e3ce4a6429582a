#!/usr/bin/env node
'use strict';
// npm's `install` script. Does nothing when a compiled addon can be loaded (a local build or a prebuilt
// one); otherwise compiles it; otherwise says in three lines what is wrong, why, and what to do. Where there is mpicc, also
// compiles what mpi() needs.

const path = require('node:path');
const { describePlatform, unsupportedPlatform } = require('./lib/platform.cjs');
const { buildMpiShim } = require('./lib/mpi_shim.cjs');
const { compile, loadFailure, missingTools } = require('./lib/native_build.cjs');

const root = path.join(__dirname, '..');

/** @param {string[]} lines */
function fail(...lines) {
  for (const line of lines) console.error(`marginfc: ${line}`);
  process.exitCode = 1;
}

function main() {
  const unsupported = unsupportedPlatform();
  if (unsupported !== undefined) return fail(`${unsupported}.`);

  const failure = loadFailure(root);
  if (failure === undefined) return undefined;

  const missing = missingTools();
  if (missing.length > 0) {
    return fail(
      `no usable prebuilt addon for ${describePlatform()}, and none can be compiled: ${missing.join(', ')} not found.`,
      `loading said: ${failure}.`,
      'to compile it: sudo apt-get install -y g++ make cmake, then run npm again.',
    );
  }

  const { ok, log } = compile(root, { clean: true, quiet: true });
  if (!ok) {
    console.error(log);
    return fail('compiling the addon failed; the output is above.', `platform: ${describePlatform()}.`);
  }
  const still = loadFailure(root);
  if (still !== undefined)
    return fail('the addon was compiled but cannot be loaded.', `loading said: ${still}.`);
  return undefined;
}

main();
// With a prebuilt addon too. Without it there is no mpi(), whose error says so; no reason for npm to fail.
if (process.exitCode === undefined) buildMpiShim(root);
