/**
 * Finds and loads the compiled addon. When that fails, the error lists every file that was tried with its own
 * reason, and what to do about it.
 */

import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MarginFcError } from './errors.js';
import type { Addon } from './native.js';

const require = createRequire(import.meta.url);

/** The package's own folder: this file is in src/ or dist/. */
const packageRoot = fileURLToPath(new URL('..', import.meta.url));

/**
 * The addon of the package in `root`: a local build when there is one, otherwise a prebuilt one.
 *
 * @throws MarginFcError ERR_NATIVE_LOAD
 */
export function loadAddon(root: string = packageRoot): Addon {
  const nodeGypBuild: (root: string) => Addon = require('node-gyp-build');
  try {
    return nodeGypBuild(root);
  } catch (cause) {
    throw new MarginFcError('ERR_NATIVE_LOAD', explain(root), { cause });
  }
}

function explain(root: string): string {
  const { describePlatform, unsupportedPlatform }: Platform = require('../scripts/lib/platform.cjs');
  const attempts = [...tryFolder(join(root, 'build', 'Release')), ...tryFolder(prebuildFolder(root))];
  const lines = [
    `the marginfc addon cannot be loaded on ${describePlatform()}`,
    'Tried:',
    ...attempts.map(({ path, reason }) => `  ${path}: ${reason}`),
    `What to do: ${unsupportedPlatform() ?? remedy(root, attempts)}`,
  ];
  return lines.join('\n');
}

interface Platform {
  describePlatform(): string;
  unsupportedPlatform(): string | undefined;
}

interface Attempt {
  readonly path: string;
  readonly reason: string;
  readonly kind: 'missing' | 'failed' | 'unsuitable';
}

function prebuildFolder(root: string): string {
  return join(root, 'prebuilds', `${process.platform}-${process.arch}`);
}

function tryFolder(folder: string): Attempt[] {
  if (!existsSync(folder)) return [{ path: folder, reason: 'no such folder', kind: 'missing' }];
  const files = readdirSync(folder).filter((file) => file.endsWith('.node'));
  if (files.length === 0) return [{ path: folder, reason: 'holds no .node file', kind: 'missing' }];
  return files.map((file) => tryFile(join(folder, file)));
}

function tryFile(path: string): Attempt {
  try {
    require(path);
    return { path, reason: 'can be loaded, but is not meant for this platform', kind: 'unsuitable' };
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    return { path, reason, kind: 'failed' };
  }
}

function remedy(root: string, attempts: readonly Attempt[]): string {
  const inCheckout = existsSync(join(root, 'tsconfig.json'));
  const rebuild = inCheckout ? 'run `npm run build:native`' : 'run `npm rebuild marginfc`';
  const tools = '(compiling needs a C++ compiler: `sudo apt-get install -y g++ make cmake`)';
  const reasons = attempts.map((attempt) => attempt.reason).join('\n');
  if (attempts.every((attempt) => attempt.kind === 'missing')) {
    return `the install script has not run, or failed. Allow install scripts for marginfc, then ${rebuild} ${tools}`;
  }
  if (/GLIBC(XX)?_[\d.]+' not found/.test(reasons)) {
    return `the addon was built on a newer Linux than this one. To compile it here, ${rebuild} ${tools}`;
  }
  if (
    /invalid ELF header|wrong ELF class|file too short|cannot open shared object file: No such/.test(reasons)
  ) {
    return `the addon is damaged or from another kind of machine (was node_modules copied?). To compile it here, ${rebuild} ${tools}`;
  }
  return `${rebuild} ${tools}`;
}
