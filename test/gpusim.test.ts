/**
 * The software CUDA device (test/gpusim/, which test/global_setup.ts builds): that it exports what a driver exports, and passes its own checks,
 * which are in C++ beside it.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
const folder = join(root, 'build', 'gpusim');

/** Parts of `gpusim_check`; test/gpusim/tests/ has one file for each. */
const parts = [
  'parser',
  'integer',
  'float',
  'conversion',
  'predicate',
  'control',
  'functions',
  'memory',
  'races',
  'collectives',
  'matrix',
  'async',
  'driver',
  'ptx-cases',
  'mutations',
  'stats',
] as const;

describe('the software CUDA device', () => {
  it.each(parts)('passes its checks: %s', (part) => {
    const { status, stdout, stderr } = spawnSync(join(folder, 'gpusim_check'), [part], {
      encoding: 'utf8',
      env: { ...process.env, GPUSIM_SOURCE: join(root, 'test', 'gpusim') },
      maxBuffer: 1 << 28,
    });
    for (const line of stdout.split('\n')) if (/^skipped|^mutations:/.test(line)) console.log(line);
    expect(stdout + stderr).not.toContain('FAILED');
    expect(status, stdout + stderr).toBe(0);
  });

  it('has an NCCL that passes its checks', () => {
    const { status, stdout, stderr } = spawnSync(join(folder, 'nccl_check'), { encoding: 'utf8' });
    expect(status, stdout + stderr).toBe(0);
  });

  it.each([
    ['the driver API', 'libcuda.so.1', 'cu', 45, ['gpusim_set_seed']],
    ['the API of NCCL', 'libnccl.so.2', 'nccl', 15, []],
  ] as const)('exports %s, and what is its own', (_, library, prefix, least, own) => {
    const symbols = execFileSync('nm', ['-D', '--defined-only', join(folder, library)], {
      encoding: 'utf8',
    });
    const names = symbols
      .trim()
      .split('\n')
      .map((line) => line.split(' ').at(-1) ?? '');
    expect(names.filter((name) => !name.startsWith(prefix))).toEqual(own);
    expect(names.length).toBeGreaterThanOrEqual(least);
  });
});
