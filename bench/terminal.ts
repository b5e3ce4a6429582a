/** What is printed: the machine, a table for each size, the phases, how much faster, and comparisons of two runs. */

import { type Differences, verdicts } from './compare.js';
import { styled, table } from './cpu/table.js';
import { bytesText, gapText, msText, statusText, verdictText } from './format.js';
import { type Gap, gaps } from './goals.js';
import type { Phases } from './phases.js';
import { type ResultRow, settingName } from './results.js';
import { type Size, sizeName } from './size.js';

export function printRows(size: Size, rows: readonly ResultRow[]): void {
  console.log(`\n${styled('bold', `B,D,C = ${sizeName(size)}`)}\n`);
  const heading = ['contestant', 'ms', '95 % of median', 'samples', 'dropped', 'memory', 'error', ''];
  const cells = rows.map((row) => [
    settingName(row),
    row.medianMs === null ? '-' : msText(row.medianMs),
    row.intervalMs === null ? '-' : row.intervalMs.map(msText).join(' - '),
    String(row.samplesMs.length || '-'),
    row.status === 'measured'
      ? String(Object.values(row.dropped).reduce((sum, count) => sum + count, 0))
      : '-',
    bytesText(row.extraBytes),
    row.error === null ? '-' : row.error.toExponential(0),
    row.status === 'measured' ? (row.disturbed ? 'disturbed' : '') : statusText(row),
  ]);
  for (const line of table(heading, cells, new Set(['contestant', '']))) console.log(line);
}

export function printPhases({ rows, peaks }: Phases): void {
  const giga = (value: number) => (value / 1e9).toFixed(0);
  const bfloat16 = peaks.bfloat16 === undefined ? '' : `, ${giga(peaks.bfloat16)} bfloat16`;
  console.log(
    `\n${styled('bold', 'Phases of the cpu engine')}   peak ${giga(peaks.float32)} GFLOP/s float32${bfloat16}; memory read ${giga(peaks.read)} GB/s\n`,
  );
  const heading = [
    'B,D,C',
    'precision',
    'workspace',
    'phase',
    'ms',
    'GFLOP/s',
    '% of peak',
    'GB/s',
    '% of memory',
  ];
  const cells = rows.map((row) => [
    sizeName(row.size),
    row.precision,
    row.workspace,
    row.phase,
    msText(row.medianMs),
    giga(row.operations / (row.medianMs / 1e3)),
    row.percentOfCompute.toFixed(0),
    (row.bytes / row.medianMs / 1e6).toFixed(1),
    row.percentOfBandwidth.toFixed(0),
  ]);
  for (const line of table(heading, cells, new Set(['B,D,C', 'precision', 'workspace', 'phase'])))
    console.log(line);
}

/** How many times faster than whom. */
export function printSummary(rows: readonly ResultRow[]): void {
  const found = gaps(rows);
  if (found.length === 0) return;
  console.log(`\n${styled('bold', 'Times as fast, and times less memory')}\n`);
  const heading = ['B,D,C', 'this package', 'against', 'of', 'times', 'goal', ''];
  const cells = found.map((gap: Gap) => [
    sizeName(gap.size),
    gap.own,
    gap.peer,
    gap.of,
    gapText(gap),
    gap.goal === undefined ? '' : `>= ${gap.goal}`,
    verdictText(gap),
  ]);
  for (const line of table(heading, cells, new Set(['B,D,C', 'this package', 'against', 'of', ''])))
    console.log(line);
}

export function printDifferences({ compared, onlyBefore, onlyAfter, warnings }: Differences): void {
  for (const warning of warnings) console.log(styled('yellow', `warning: ${warning}`));
  const heading = ['verdict', 'B,D,C', 'row', 'before', 'after', 'change', '95 %', ''];
  const percent = (ratio: number) => `${ratio >= 1 ? '+' : ''}${(100 * (ratio - 1)).toFixed(1)} %`;
  const cells = compared.map((row) => [
    row.verdict,
    row.size,
    row.name,
    msText(row.before),
    msText(row.after),
    percent(row.ratio),
    row.interval === null ? '-' : row.interval.map(percent).join(' .. '),
    row.reason ?? '',
  ]);
  for (const line of table(heading, cells, new Set(['verdict', 'B,D,C', 'row', '']))) console.log(line);
  for (const name of onlyBefore) console.log(`  only before: ${name}`);
  for (const name of onlyAfter) console.log(`  only after: ${name}`);
  const counts = verdicts.map(
    (verdict) => `${compared.filter((row) => row.verdict === verdict).length} ${verdict}`,
  );
  console.log(`\n${counts.join(', ')}`);
}
