/** The loader as a support desk: each way in which the addon can be missing or unusable gets its own advice. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { unsupportedPlatform } from '../scripts/lib/platform.cjs';
import { MarginFcError } from '../src/errors.js';
import { loadAddon } from '../src/load_addon.js';

describe('loadAddon', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'marginfc-load-'));
    writeFileSync(join(root, 'package.json'), '{"name":"marginfc"}');
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  function failure(): MarginFcError {
    try {
      loadAddon(root);
    } catch (error) {
      if (error instanceof MarginFcError) return error;
    }
    throw new Error('loadAddon did not fail with MarginFcError');
  }

  function write(folder: string, file: string, content: string): string {
    mkdirSync(join(root, folder), { recursive: true });
    const path = join(root, folder, file);
    writeFileSync(path, content);
    return path;
  }

  const prebuilds = `prebuilds/${process.platform}-${process.arch}`;

  it('loads the addon of this checkout', () => {
    expect(
      loadAddon()
        .listEngines()
        .map((engine) => engine.name),
    ).toContain('cpu');
  });

  it('with nothing built, names both places and says that the install script has not run', () => {
    const error = failure();
    expect(error.code).toBe('ERR_NATIVE_LOAD');
    expect(error.message).toContain(join(root, 'build', 'Release'));
    expect(error.message).toContain(join(root, prebuilds));
    expect(error.message).toContain('the install script has not run');
    expect(error.message).toContain('npm rebuild marginfc');
    expect(error.cause).toBeInstanceOf(Error);
  });

  it('in a checkout, names the build script instead', () => {
    write('.', 'tsconfig.json', '{}');
    expect(failure().message).toContain('npm run build:native');
  });

  it('lists every unusable file with its own reason', () => {
    const files = [
      write(
        'build/Release',
        'marginfc.node',
        'not an ELF file, but long enough to hold a header: '.repeat(4),
      ),
      write(prebuilds, 'marginfc.glibc.node', ''),
    ];
    const { message } = failure();
    for (const file of files) {
      expect(message.split('\n').find((line) => line.includes(file))).toMatch(
        /invalid ELF header|file too short/,
      );
    }
    expect(message).toContain('from another kind of machine');
  });

  it('names a prebuilt addon for another C library', () => {
    const file = write(prebuilds, 'marginfc.musl.node', '');
    expect(failure().message).toContain(file);
  });
});

describe('unsupportedPlatform', () => {
  it.each([
    { platform: 'linux', arch: 'x64', libc: 'glibc 2.36' },
    { platform: 'linux', arch: 'arm64', libc: 'glibc 2.39' },
  ])('accepts $platform-$arch with $libc', (machine) => {
    expect(unsupportedPlatform(machine)).toBeUndefined();
  });

  it.each([
    [{ platform: 'darwin', arch: 'arm64', libc: 'glibc 2.36' }, 'this is darwin-arm64'],
    [{ platform: 'win32', arch: 'x64', libc: 'glibc 2.36' }, 'this is win32-x64'],
    [{ platform: 'linux', arch: 'riscv64', libc: 'glibc 2.36' }, 'this is linux-riscv64'],
    [{ platform: 'linux', arch: 'x64', libc: 'musl' }, 'this is linux-x64 with musl'],
  ])('refuses %j and says what it is', (machine, reason) => {
    expect(unsupportedPlatform(machine)).toContain(reason);
  });
});
