/** What is printed: the machine, a table for each size, and the targets beside what was measured. */

import { styleText } from 'node:util';
import { type Size, sizeName } from '../size.js';
import type { Machine, Row, Run } from './results.js';
import { type Disturbance, disturbances } from './samples.js';
import { isCase, isComparable, type Target, targetOf, targets } from './targets.js';

const colours = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;

export function styled(style: Parameters<typeof styleText>[0], text: string): string {
  return colours ? styleText(style, text) : text;
}

/** Columns as wide as their widest cell, each flush left or right; the heading in dim. */
export function table(
  heading: readonly string[],
  rows: readonly (readonly string[])[],
  flushLeft: ReadonlySet<string>,
): string[] {
  const widths = heading.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => {
        const width = widths[column] ?? 0;
        return flushLeft.has(heading[column] ?? '') ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('   ')
      .trimEnd();
  return [styled('dim', line(heading)), ...rows.map(line)].map((text) => `  ${text}`);
}

/** A title, then the machine and `more` in two columns. */
export function printMachine(title: string, machine: Machine, more: Readonly<Record<string, string>>): void {
  const facts = {
    processor: `${machine.processor}, ${machine.cores} cores`,
    caches: machine.caches,
    memory: `${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB, huge pages: ${machine.hugePages}`,
    system: machine.system,
    node: machine.node,
    compiler: machine.compiler,
    commit: machine.commit,
    date: machine.date.replace(/\.\d+Z$/, 'Z'),
    load: `${machine.loadAverage.toFixed(2)} in the minute before`,
    ...more,
  };
  console.log(styled('bold', title));
  for (const [name, fact] of Object.entries(facts))
    console.log(`  ${styled('dim', name.padEnd(9))}  ${fact}`);
}

export function threadCount(threads: number): string {
  return `${threads} ${threads === 1 ? 'thread' : 'threads'}`;
}

/** In billions. */
function giga(perSecond: number): string {
  return (perSecond / 1e9).toFixed(perSecond < 99.5e9 ? 1 : 0);
}

export function printRun(run: Run, withTargets: boolean): void {
  const { size, instructionSet, threads, peaks, checked } = run;
  const operations = [
    `${giga(peaks.float32)} GFLOP/s float32`,
    ...(peaks.bfloat16 === undefined ? [] : [`${giga(peaks.bfloat16)} GFLOP/s bfloat16`]),
  ].join(', ');
  const amount = (count: number, all: number) => (count === all ? `all ${all}` : `${count} of ${all}`);
  console.log(
    `\n${styled('bold', `B,D,C = ${sizeName(size)}`)}   ${instructionSet}, ${threadCount(threads)}`,
  );
  console.log(
    `  ${styled('dim', 'peak')}     ${operations}; memory read ${giga(peaks.read)} GB/s, copied ${giga(peaks.copy)} GB/s`,
  );
  console.log(
    `  ${styled('dim', 'checked')}  ${amount(checked.rows, size.B)} rows and ${amount(checked.classes, size.C)} classes against float64\n`,
  );
  const heading = [
    'operation',
    'precision',
    'workspace',
    'outputs',
    'ms',
    '±',
    'GFLOP/s',
    '% of peak',
    'by CPU time',
    ...(withTargets ? ['target'] : []),
    'samples',
    'dropped',
    '',
  ];
  const rows = run.rows.map((row) => [
    row.operation,
    row.precision,
    row.workspace,
    row.outputs === 'none' ? '-' : row.outputs,
    milliseconds(row.milliseconds.median),
    `${(50 * ((row.milliseconds.high - row.milliseconds.low) / row.milliseconds.median)).toFixed(1)} %`,
    giga(row.gigaflops.median * 1e9),
    row.percentOfPeak.median.toFixed(1),
    row.percentByProcessorTime.median.toFixed(1),
    ...(withTargets ? [targetText(targetOf(row, size, instructionSet))] : []),
    String(row.samples),
    dropped(row.dropped),
    row.disturbed ? 'disturbed' : '',
  ]);
  const flushLeft = new Set(['operation', 'precision', 'workspace', 'outputs', 'dropped', '']);
  table(heading, rows, flushLeft).forEach((line, i) => {
    // The heading is line 0.
    if (i > 1 && run.rows[i - 1]?.precision !== run.rows[i - 2]?.precision) console.log();
    console.log(line.replace(/disturbed$/, styled('yellow', 'disturbed')));
  });
}

function milliseconds(value: number): string {
  return value.toFixed(value < 9.95 ? 3 : value < 99.5 ? 2 : 1);
}

/** As in `3 others, 1 peak`. */
function dropped(counts: Readonly<Record<Disturbance, number>>): string {
  const parts = disturbances.filter((reason) => counts[reason] > 0);
  return parts.length === 0 ? '0' : parts.map((reason) => `${counts[reason]} ${reason}`).join(', ');
}

function targetText(target: Target | undefined): string {
  if (target === undefined) return '-';
  return target.goal === undefined ? `${target.least}` : `${target.least} (${target.goal})`;
}

/** What the columns mean. */
export function printLegend(): void {
  const lines = [
    'ms: median of the samples; ±: half the distance of the quartiles; % of peak: of the peaks just before and after.',
    'by CPU time: the same by processor time instead of the clock, for machines that others use too.',
    "outputs: reused = a first call's arrays in every call (out), pooled = new ones after earlier ones were collected,",
    'fresh = new ones in memory that was never used.',
    'dropped: samples during which other processes (others) or other machines (stolen) computed, this process did not',
    'get its share (waited), or the peak changed (peak). disturbed: too few samples were left; figures are of all.',
  ];
  console.log();
  for (const line of lines) console.log(styled('dim', `  ${line}`));
}

/** The targets, and what was measured where it was: by the best run of each size. */
export function printTargets(runs: readonly Run[]): void {
  const sizes = [...new Map(runs.map(({ size }) => [sizeName(size), size])).values()];
  const measured = (entry: Parameters<typeof isCase>[0], size: Size): Row | undefined =>
    runs
      .filter((run) => sizeName(run.size) === sizeName(size))
      .flatMap(({ rows, instructionSet }) =>
        rows.filter((row) => isCase(entry, row) && isComparable(row, instructionSet)),
      )
      .sort((a, b) => b.percentOfPeak.median - a.percentOfPeak.median)[0];
  const rows = targets.map((entry) => [
    `${entry.precision} ${entry.operation}${entry.workspace === 'recompute' && entry.operation !== 'loss' ? ', recompute' : ''}`,
    ...sizes.map((size) => {
      const row = measured(entry, size);
      const value = row ? `${row.percentOfPeak.median.toFixed(1)}${row.disturbed ? '?' : ''}` : '-';
      return `${value} | ${targetText(entry.bySize[sizeName(size)])}`;
    }),
  ]);
  console.log(
    `\n${styled('bold', '% of peak, measured | target (goal)')}   targets are for two AVX-512 cores; ?: disturbed`,
  );
  console.log();
  const heading = ['', ...sizes.map(sizeName)];
  for (const line of table(heading, rows, new Set(['']))) console.log(line);
}
