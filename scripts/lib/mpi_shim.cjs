'use strict';
// Compiles group/mpi_shim.c, the one file that sees mpi.h, with the compiler that belongs to this machine's MPI.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

/** Where src/group.ts looks for it, also beside a prebuilt addon. */
const SHIM = 'build/Release/marginfc_mpi.so';
const SHIM_SOURCES = ['group/mpi_shim.c', 'group/mpi_shim.h'];

/**
 * Never fails: mpi() says what is missing when it is asked for. An old shim does not stay.
 * @param {string} root the package's folder
 * @returns {string | undefined} why there is none although there is mpicc
 */
function buildMpiShim(root) {
  const output = path.join(root, SHIM);
  try {
    fs.rmSync(output, { force: true });
    const flags = ['-std=c11', '-O2', '-Wall', '-Wextra', '-fPIC', '-shared', '-fvisibility=hidden'];
    const made = `${output}.${process.pid}`;
    if (spawnSync('mpicc', ['--version'], { stdio: 'ignore' }).error !== undefined) return undefined;
    fs.mkdirSync(path.dirname(output), { recursive: true });
    const child = spawnSync(
      'mpicc',
      [...flags, '-I', root, path.join(root, 'group', 'mpi_shim.c'), '-o', made],
      {
        encoding: 'utf8',
      },
    );
    if (child.status !== 0)
      return `mpicc could not compile group/mpi_shim.c, so there is no mpi():\n${child.stderr}`;
    // In one step: a process that has the old one open keeps that.
    fs.renameSync(made, output);
    return undefined;
  } catch (error) {
    return `there is no mpi(): ${error instanceof Error ? error.message : error}`;
  }
}

module.exports = { buildMpiShim, SHIM, SHIM_SOURCES };
