/** What the figures were measured on. */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { addon } from './addon.js';
import type { Machine } from './results.js';

/** The first match in a file; undefined where there is none. */
function inFile(file: string, pattern: RegExp): string | undefined {
  return existsSync(file) ? pattern.exec(readFileSync(file, 'utf8'))?.[1]?.trim() : undefined;
}

function processor(): string {
  const field = (name: string) => inFile('/proc/cpuinfo', new RegExp(`^${name}\\s*:(.*)$`, 'm'));
  const name = field('model name') ?? `${process.arch} processor`;
  const family = field('cpu family');
  // Virtual machines often hide the name; the numbers still say which generation it is.
  return family === undefined ? name : `${name} (family ${family}, model ${field('model')})`;
}

/** As in `L1d 32 KiB, L2 1024 KiB, L3 32768 KiB`. */
function caches(): string {
  const folder = '/sys/devices/system/cpu/cpu0/cache';
  const found = [0, 1, 2, 3, 4].flatMap((index) => {
    const field = (name: string) => inFile(`${folder}/index${index}/${name}`, /^(.*)$/m);
    const kind = field('type');
    if (kind === undefined || kind === 'Instruction') return [];
    return [`L${field('level')}${kind === 'Data' ? 'd' : ''} ${field('size')?.replace(/K$/, ' KiB')}`];
  });
  return found.length === 0 ? 'unknown' : found.join(', ');
}

function git(...args: string[]): string | undefined {
  try {
    return execFileSync('git', args, {
      cwd: new URL('.', import.meta.url),
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return undefined;
  }
}

/** Of the package's own checkout: an installed package may lie in one of somebody else's. */
function commit(): string {
  if (!existsSync(new URL('../.git', import.meta.resolve('marginfc')))) return 'none';
  const hash = git('rev-parse', '--short=12', 'HEAD');
  if (hash === undefined) return 'unknown';
  return git('status', '--porcelain') === '' ? hash : `${hash}, modified`;
}

export function describeMachine(): Machine {
  const root = new URL('../package.json', import.meta.resolve('marginfc'));
  const { version }: { version: string } = JSON.parse(readFileSync(root, 'utf8'));
  const distribution = inFile('/etc/os-release', /^PRETTY_NAME="?([^"\n]*)/m) ?? os.type();
  return {
    processor: processor(),
    cores: os.availableParallelism(),
    caches: caches(),
    memoryBytes: os.totalmem(),
    hugePages: inFile('/sys/kernel/mm/transparent_hugepage/enabled', /\[(\w+)\]/) ?? 'unknown',
    system: `${distribution}, Linux ${os.release()}`,
    node: process.version,
    compiler: addon().describeCpu().compiler,
    version,
    commit: commit(),
    date: new Date().toISOString(),
    loadAverage: os.loadavg()[0] ?? NaN,
  };
}
