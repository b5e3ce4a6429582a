/**
 * The compiled CUDA kernels that a build carries, as PTX for each compute capability, and the program that compares each of
 * them with float64 on the software device (test/native/cuda_kernels_check.cc).
 */
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { everything, softwareDriver } from './gpus.js';

const root = join(import.meta.dirname, '..');
const program = join(root, 'build', 'cuda_kernels', 'cuda_kernels_check');

/** Compute capabilities with PTX of their own in the image. That for 80 hardly differs from what is in that for 90. */
export const capabilities: readonly number[] = everything ? [75, 80, 90] : [75, 90];

/** The fatbin of this build; undefined, with the reason printed, where it carries none. */
export const image: string | undefined = (() => {
  const header = readFileSync(join(root, 'build', 'kernels', 'embedded.h'), 'utf8');
  const [, path] = /MARGINFC_KERNELS_IMAGE (".*")/.exec(header) ?? [];
  if (path === undefined) console.log(`the CUDA kernels are not tested: ${header}`);
  return path && JSON.parse(path);
})();

/** A kernel's lines in its module, counted from 1. */
export interface Kernel {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  /** The same for kernels that are the same, whatever the compute capability. */
  readonly text: string;
}

export interface Module {
  readonly sm: number;
  readonly lines: readonly string[];
  readonly kernels: readonly Kernel[];
}

/** What a device of this compute capability would run. */
export function moduleFor(sm: number): Module {
  const gpusim = join(root, 'build', 'gpusim', 'gpusim_check');
  const ptx = execFileSync(gpusim, ['ptx', image ?? '', String(sm)], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  const lines = ptx.split('\n');
  const kernels: Kernel[] = [];
  for (let at = 0; at < lines.length; at++) {
    const [, name] = /\.entry\s+(\w+)/.exec(lines[at] ?? '') ?? [];
    if (name === undefined) continue;
    const first = at;
    for (let depth = 0, begun = false; !begun || depth > 0; at++) {
      const line = (lines[at] ?? '').replace(/\/\/.*/, '');
      depth += count(line, '{') - count(line, '}');
      begun ||= line.includes('{');
    }
    // Labels are numbered through the module.
    const text = lines
      .slice(first, at)
      .join('\n')
      .replaceAll(/__BB\d+_/g, '__BB_');
    kernels.push({ name, first: first + 1, last: at, text });
  }
  return { sm, lines, kernels };
}

const count = (line: string, character: string) => line.split(character).length - 1;

/** The module's text with nothing in place of the other kernels: lines keep their numbers. */
export function textOf(module: Module, names: readonly string[]): string[] {
  const lines = [...module.lines];
  for (const { name, first, last } of module.kernels)
    if (!names.includes(name)) lines.fill('', first - 1, last);
  return lines;
}

/** Instructions without the numbers of registers and labels. */
export function shape(line: string): string {
  return line
    .trim()
    .replaceAll(/%([a-z]+)\d+/g, '%$1')
    .replaceAll(/\$L__BB\d+_\d+/g, '$L')
    .replaceAll(/param_\d+/g, 'param')
    .replaceAll(/__local_depot\d+/g, '__local_depot');
}

/** What each kernel's check launches, itself first. */
export function checksOn(sm: number): ReadonlyMap<string, readonly string[]> {
  const list = execFileSync(program, [image ?? '', '--list'], {
    encoding: 'utf8',
    env: environment(sm),
  });
  return new Map(
    list
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map((names) => [names[0] ?? '', names]),
  );
}

function environment(sm: number): NodeJS.ProcessEnv {
  return {
    ...process.env,
    MARGINFC_LIBCUDA: softwareDriver,
    GPUSIM_SM: String(sm),
    GPUSIM_DEVICES: '1',
    GPUSIM_THREADS: '1',
  };
}

export interface Outcome {
  readonly ok: boolean;
  readonly output: string;
  /** A crash of the program itself, which says nothing about a kernel. */
  readonly crashed: boolean;
}

/** Runs the check of one kernel. */
export function runCheck(
  sm: number,
  kernel: string,
  options: { readonly env: Readonly<Record<string, string>>; readonly firstFailure?: boolean },
): Promise<Outcome> {
  const argumentsOf = [image ?? '', ...(options.firstFailure ? ['--first-failure'] : []), kernel];
  return new Promise((resolve, reject) => {
    const child = spawn(program, argumentsOf, {
      env: { ...environment(sm), ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    child.stderr.on('data', (data) => {
      output += data;
    });
    child.on('error', reject);
    child.on('close', (status, signal) => {
      const passed = Number(/^(\d+) passed, 0 failed$/m.exec(output)?.[1] ?? 0);
      resolve({ ok: status === 0 && passed > 0, output, crashed: signal !== null });
    });
  });
}

/** Runs tasks on all cores; results in the tasks' order. */
export async function onAllCores<T>(tasks: readonly (() => Promise<T>)[]): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const work = async () => {
    for (let task = next++; task < tasks.length; task = next++)
      results[task] = await (tasks[task] as () => Promise<T>)();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return results;
}

/** Lines of a committed list of exceptions: fields between bars, the last of which is the reason. */
export function exceptionsIn(file: string): string[][] {
  return readFileSync(join(import.meta.dirname, file), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split('|').map((field) => field.trim()));
}

/** Whether a kernel is meant by a pattern such as `update_*`. */
export const matches = (pattern: string, kernel: string): boolean =>
  new RegExp(`^(${pattern.replaceAll('*', '\\w*').replaceAll(', ', '|')})$`).test(kernel);
