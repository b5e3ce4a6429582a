#!/usr/bin/env node
/** The `marginfc` command. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { describeCuda, listEngines } from './engines.js';
import { MarginFcError } from './errors.js';
import { describeMpi } from './group.js';
import { describeNccl } from './nccl.js';

const usage = `Usage: marginfc <command>

Commands:
  doctor      what can compute here, on what, and why something is missing
  bench       times this package and what else is installed; marginfc bench --help
  plot        draws the course of a loss search: marginfc plot STATE.json [--html FILE]

Options:
  -h, --help      print this
  -v, --version   print the version
`;

/** Environment variables that change what runs. */
const variables = [
  'MARGINFC_ISA',
  'MARGINFC_THREADS',
  'MARGINFC_LIBCUDA',
  'MARGINFC_LIBMPI',
  'MARGINFC_LIBNCCL',
];

const [first, ...others] = process.argv.slice(2);
process.exitCode =
  first === 'bench'
    ? bench(others)
    : first === 'plot'
      ? bench(['plot', ...others])
      : main(process.argv.slice(2));

/** A process of its own, and so it starts others: nothing of the benchmark is loaded here. */
function bench(args: string[]): number {
  const program = fileURLToPath(new URL('bench/main.js', import.meta.url));
  const { status, signal } = spawnSync(process.execPath, [program, ...args], { stdio: 'inherit' });
  return status ?? (signal === 'SIGINT' ? 130 : 1);
}

function main(argv: string[]): number {
  let command: string | undefined;
  let rest: string[];
  try {
    const { values, positionals } = parseArgs({
      args: argv,
      allowPositionals: true,
      options: { help: { type: 'boolean', short: 'h' }, version: { type: 'boolean', short: 'v' } },
    });
    if (values.help) return print(usage);
    if (values.version) return print(`${version()}\n`);
    [command, ...rest] = positionals;
  } catch (error) {
    return misused(error instanceof Error ? error.message : String(error));
  }
  if (command === undefined) return misused('no command given');
  if (rest.length > 0) return misused(`${command} takes no arguments, received '${rest.join(' ')}'`);
  switch (command) {
    case 'doctor':
      return doctor();
    default:
      return misused(`no command '${command}'`);
  }
}

/** Exit status 1 if the addon cannot be loaded: then nothing works. */
function doctor(): number {
  const lines = [
    row('marginfc', version()),
    row('node', `${process.version} (Node-API ${process.versions.napi})`),
    row('platform', `${process.platform} ${process.arch}, ${libc()}`),
    ...variables.flatMap((name) => (process.env[name] === undefined ? [] : [row(name, process.env[name])])),
  ];
  try {
    for (const engine of listEngines()) {
      const { name, available } = engine;
      lines.push(row(name, available ? engine.detail : `not available: ${engine.reason}`));
    }
    const { kernels, driver } = describeCuda();
    lines.push(row('cuda driver', driver), row('cuda kernels', kernels));
    lines.push(row('mpi', describeMpi()), row('nccl', describeNccl()));
    return print(`${lines.join('\n')}\n`);
  } catch (error) {
    if (!(error instanceof MarginFcError)) throw error;
    lines.push(row('addon', `not available: ${error.message}`));
    print(`${lines.join('\n')}\n`);
    return 1;
  }
}

function row(name: string, value: string): string {
  return `${name.padEnd(18)}${value}`;
}

function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  const { version }: { version: string } = JSON.parse(text);
  return version;
}

function libc(): string {
  const report: { header?: { glibcVersionRuntime?: string } } = process.report.getReport();
  const glibc = report.header?.glibcVersionRuntime;
  return glibc === undefined ? 'no glibc' : `glibc ${glibc}`;
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function misused(reason: string): number {
  process.stderr.write(`marginfc: ${reason}\n\n${usage}`);
  return 2;
}
