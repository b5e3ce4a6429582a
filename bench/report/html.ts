/** The benchmark's report. */

import { bytesText, gapText, msText, statusText, verdictText } from '../format.js';
import { lossText, usualLoss } from '../formula.js';
import { gaps, reached } from '../goals.js';
import { type PhaseRow, type ResultRow, type Results, settingName } from '../results.js';
import { type Size, sizeName } from '../size.js';
import { type Column, dateText, page, plots, section, table, text } from './page.js';
import { figures } from './plots.js';

export function html(results: Results): string {
  const { machine } = results;
  const sizes = [...new Map(results.rows.map(({ size }) => [sizeName(size), size])).values()];
  const parts = [
    `<h1>marginfc ${text(machine.version)}: benchmark</h1>`,
    `<p class="dim">${text(machine.processor)}, ${machine.threads} threads, ${text(dateText(machine.date))}</p>`,
    `<p>${text(lossText(results.settings.loss ?? usualLoss))}: loss and the gradients of features and class weights. Every contestant ran in a process of its own
and was compared with a float64 reference before it was timed; then all took turns.</p>`,
    section('How much better', gapTable(results.rows)),
    section('Machine', machineList(results)),
    section('Plots', plots(figures(results))),
    section('Results', `${legend}${sizes.map((size) => sizeTable(size, results.rows)).join('\n')}`),
    results.phases.length > 0 ? section('Phases of the cpu engine', phasesPart(results)) : '',
  ];
  return page(`marginfc ${machine.version}: benchmark`, parts);
}

function machineList({ machine, versions, command, settings }: Results): string {
  const minutes = (settings.elapsedSeconds / 60).toFixed(1);
  const facts: readonly (readonly [string, string])[] = [
    ['processor', machine.processor],
    ['cores', `${machine.cores}; ${machine.threads} threads used`],
    ['instruction set', machine.instructionSet],
    ['caches', machine.caches],
    ['memory', `${(machine.memoryBytes / 2 ** 30).toFixed(1)} GiB, huge pages: ${machine.hugePages}`],
    ['system', machine.system],
    ['Node', machine.node],
    ['compiler', machine.compiler],
    ['commit', machine.commit],
    ['date', dateText(machine.date)],
    ['load before', machine.loadAverage.toFixed(2)],
    [
      'compared',
      [...new Set(Object.entries(versions).map(([name, version]) => `${name}: ${version}`))].join('; ') ||
        'nothing',
    ],
    ['took', `${minutes} minutes`],
  ];
  const rows = facts.map(([name, fact]) => `<dt>${name}</dt><dd>${text(fact)}</dd>`);
  return `<dl>${rows.join('')}<dt>command</dt><dd><code>${text(command)}</code></dd></dl>`;
}

function gapTable(rows: readonly ResultRow[]): string {
  const found = gaps(rows);
  if (found.length === 0) return '';
  return table(
    [
      { title: 'B, D, C', text: true, cell: ({ size }) => sizeName(size) },
      { title: 'this package', text: true, cell: ({ own }) => own },
      { title: 'against', text: true, cell: ({ peer }) => peer },
      { title: 'of', text: true, cell: ({ of }) => of },
      { title: 'times better', cell: gapText, value: ({ times }) => times },
      {
        title: 'goal',
        cell: ({ goal }) => (goal === undefined ? '' : String(goal)),
        value: ({ goal }) => goal ?? null,
      },
      {
        title: '',
        text: true,
        cell: verdictText,
        className: (gap) => ({ true: 'good', false: 'bad', undefined: 'dim' })[`${reached(gap)}`],
      },
    ],
    found,
  );
}

const legend = `<p class="dim">ms: median of the samples, with its 95 % interval by bootstrap. Dropped: samples during which other processes
computed or this one did not get its share; where too few were left, the row says disturbed and has all of them. Memory: most resident
memory beyond inputs and gradients. Error: of the gradients against float64. Click a heading to sort.</p>\n`;

function sizeTable(size: Size, all: readonly ResultRow[]): string {
  const rows = all.filter((row) => sizeName(row.size) === sizeName(size));
  const missing = rows.filter(({ status }) => status === 'not installed');
  const columns: readonly Column<ResultRow>[] = [
    { title: 'contestant', text: true, cell: settingName },
    {
      title: 'ms',
      cell: ({ medianMs }) => (medianMs === null ? '' : msText(medianMs)),
      value: ({ medianMs }) => medianMs,
    },
    {
      title: '95 %',
      cell: ({ intervalMs }) => (intervalMs === null ? '' : intervalMs.map(msText).join(' – ')),
      value: ({ intervalMs }) => intervalMs?.[0] ?? null,
    },
    {
      title: 'samples',
      cell: ({ samplesMs }) => String(samplesMs.length || ''),
      value: ({ samplesMs }) => samplesMs.length || null,
    },
    {
      title: 'dropped',
      cell: (row) => (row.status === 'measured' ? String(droppedCount(row)) : ''),
      value: (row) => (row.status === 'measured' ? droppedCount(row) : null),
    },
    {
      title: 'memory',
      cell: ({ extraBytes }) => (extraBytes === null ? '' : bytesText(extraBytes)),
      value: ({ extraBytes }) => extraBytes,
    },
    {
      title: 'error',
      cell: ({ error }) => (error === null ? '' : error.toExponential(0)),
      value: ({ error }) => error,
    },
    {
      title: 'derivative',
      text: true,
      cell: ({ gradient }) => (gradient === 'exact' ? 'exact' : 'straight-through'),
    },
    {
      title: '',
      text: true,
      wrap: true,
      cell: (row) => (row.status === 'measured' ? (row.disturbed ? 'disturbed' : '') : statusText(row)),
      className: ({ status }) => (status === 'wrong' ? 'bad' : ''),
    },
  ];
  const note =
    missing.length === 0
      ? ''
      : `<p class="dim">Not installed: ${text(missing.map(settingName).join('; '))}.</p>`;
  const shown = rows.filter((row) => !missing.includes(row));
  return `<h3>B ${size.B}, D ${size.D}, C ${size.C}</h3>\n${table(columns, shown, ({ contestant }) => (contestant.startsWith('marginfc') ? 'own' : ''))}${note}`;
}

function droppedCount({ dropped }: ResultRow): number {
  return Object.values(dropped).reduce((sum, count) => sum + count, 0);
}

function phasesPart({ phases, peaks }: Results): string {
  const giga = (value: number) => (value / 1e9).toFixed(0);
  const intro =
    peaks === null
      ? ''
      : `<p class="dim">Peaks of the same minutes: ${giga(peaks.float32)} GFLOP/s in float32${
          peaks.bfloat16 === undefined ? '' : `, ${giga(peaks.bfloat16)} in bfloat16`
        }; ${giga(peaks.read)} GB/s read. dX is gathered with the negatives; with workspace recompute the gradients' phase makes the
probabilities again. Update: that phase with SGD and momentum in place of dW. Bytes: each array once a phase.</p>`;
  const columns: readonly Column<PhaseRow>[] = [
    { title: 'B, D, C', text: true, cell: ({ size }) => sizeName(size) },
    { title: 'precision', text: true, cell: ({ precision }) => precision },
    { title: 'workspace', text: true, cell: ({ workspace }) => workspace },
    { title: 'phase', text: true, cell: ({ phase }) => phase },
    { title: 'ms', cell: ({ medianMs }) => msText(medianMs), value: ({ medianMs }) => medianMs },
    {
      title: 'GFLOP/s',
      cell: ({ operations, medianMs }) => (operations / medianMs / 1e6).toFixed(0),
      value: ({ operations, medianMs }) => operations / medianMs,
    },
    {
      title: '% of peak',
      cell: ({ percentOfCompute }) => percentOfCompute.toFixed(0),
      value: ({ percentOfCompute }) => percentOfCompute,
    },
    {
      title: 'GB/s',
      cell: ({ bytes, medianMs }) => (bytes / medianMs / 1e6).toFixed(1),
      value: ({ bytes, medianMs }) => bytes / medianMs,
    },
    {
      title: '% of memory',
      cell: ({ percentOfBandwidth }) => percentOfBandwidth.toFixed(0),
      value: ({ percentOfBandwidth }) => percentOfBandwidth,
    },
  ];
  return `${intro}${table(columns, phases)}`;
}
