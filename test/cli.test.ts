/** The `marginfc` command, as it is installed. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { listEngines } from '../src/index.js';
import { softwareGpu } from './gpus.js';

const root = join(import.meta.dirname, '..');
const { version, bin }: { version: string; bin: { marginfc: string } } = JSON.parse(
  readFileSync(join(root, 'package.json'), 'utf8'),
);

function marginfc(args: readonly string[], environment: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, bin.marginfc), ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  });
  return { status, stdout, stderr };
}

describe('doctor', () => {
  test('prints versions, the platform and every engine with what it runs on', () => {
    const { status, stdout, stderr } = marginfc(['doctor']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(new RegExp(`^marginfc +${version.replaceAll('.', '\\.')}$`, 'm'));
    expect(stdout).toMatch(new RegExp(`^node +${process.version}`, 'm'));
    expect(stdout).toMatch(new RegExp(`^platform +${process.platform} ${process.arch}, glibc [\\d.]+$`, 'm'));
    for (const engine of listEngines()) {
      const text = engine.available ? engine.detail : `not available: ${engine.reason}`;
      expect(stdout.split('\n')).toContain(`${engine.name.padEnd(18)}${text}`);
    }
  });

  test('says which driver and which compiled kernels there are, or why none', () => {
    const without = marginfc(['doctor'], { MARGINFC_LIBCUDA: '/nonexistent/libcuda.so.1' }).stdout;
    expect(without).toMatch(/^cuda driver +none: .*\/nonexistent\/libcuda\.so\.1/m);
    expect(without).toMatch(/^cuda:0 +not available: .*\/nonexistent\/libcuda\.so\.1/m);
    expect(without).toMatch(/^cuda kernels +(none in this build: .+|.*PTX .+; nvcc .+)$/m);

    const { MARGINFC_LIBCUDA = '' } = softwareGpu({ sm: 75, devices: 2, seed: 0 }).environment;
    const { stdout } = marginfc(['doctor'], { MARGINFC_LIBCUDA, GPUSIM_DEVICES: '2', GPUSIM_SM: '75' });
    expect(stdout).toMatch(/^cuda driver +for CUDA \d+\.\d+$/m);
    expect(stdout).toMatch(/^cuda:0 +(.*, compute capability 7\.5, .*|not available: .+)$/m);
    expect(stdout).toMatch(/^cuda:1 /m);
  });

  test('shows the environment variables that change what runs', () => {
    const { stdout } = marginfc(['doctor'], { MARGINFC_ISA: 'baseline', MARGINFC_THREADS: '1' });
    expect(stdout).toMatch(/^MARGINFC_ISA +baseline$/m);
    expect(stdout).toMatch(/^MARGINFC_THREADS +1$/m);
    expect(stdout).toMatch(/^cpu +baseline, 1 thread$/m);
  });

  test('says which MPI there is, or how to get it', () => {
    expect(marginfc(['doctor']).stdout).toMatch(/^mpi +(not available: .+|.*\d.*)$/m);
    const { stdout } = marginfc(['doctor'], { MARGINFC_LIBMPI: '/nonexistent/marginfc_mpi.so' });
    expect(stdout).toMatch(/^mpi +not available: .*\/nonexistent\/marginfc_mpi\.so.*npm rebuild marginfc/m);
    expect(stdout).toMatch(/^MARGINFC_LIBMPI +\/nonexistent\/marginfc_mpi\.so$/m);
  });

  test('says why an engine cannot be used', () => {
    const { stdout } = marginfc(['doctor'], { MARGINFC_ISA: 'sse9' });
    expect(stdout).toMatch(/^cpu +not available: .*MARGINFC_ISA/m);
  });
});

test('--version prints the version, --help the usage', () => {
  expect(marginfc(['--version'])).toEqual({ status: 0, stdout: `${version}\n`, stderr: '' });
  const help = marginfc(['-h']);
  expect(help).toEqual({
    status: 0,
    stdout: expect.stringMatching(/^Usage: marginfc <command>\n/),
    stderr: '',
  });
});

test('bench passes its arguments on, and its exit status back', () => {
  expect(marginfc(['bench', '--help'])).toMatchObject({ status: 0, stderr: '' });
  expect(marginfc(['bench', '--help']).stdout).toMatch(/^Usage: marginfc bench \[options\]/);
  expect(marginfc(['bench', '--fast'])).toMatchObject({ status: 2, stdout: '' });
});

test.each([
  ['no command', [], 'no command given'],
  ['an unknown command', ['train'], `no command 'train'`],
  ['an argument too many', ['doctor', 'please'], `doctor takes no arguments, received 'please'`],
  ['an unknown option', ['doctor', '--fix'], `Unknown option '--fix'`],
])('with %s prints the usage and exits with 2', (_, args, reason) => {
  const { status, stdout, stderr } = marginfc(args);
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr.startsWith(`marginfc: ${reason}`)).toBe(true);
  expect(stderr).toContain('\nUsage: marginfc <command>\n');
});
