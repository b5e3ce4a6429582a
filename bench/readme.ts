/**
 * `npm run bench:readme`: writes what the reference machine measured (bench/results/reference.json) into README.md, between
 * its two comments. Nothing there is written by hand; a test says when the two differ.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { bytesText, gapText, msText, verdictText } from './format.js';
import { type Gap, gaps } from './goals.js';
import { type ResultRow, type Results, readResults, settingKey, settingName } from './results.js';
import { type Size, sizeName } from './size.js';

const begin = '<!-- bench: written by npm run bench:readme -->';
const end = '<!-- /bench -->';

/** What stands between the comments. */
export function readmePart(results: Results | undefined): string {
  if (!results) return 'Not measured yet.';
  const { machine } = results;
  const facts = [
    machine.processor,
    `${machine.threads} threads`,
    machine.instructionSet,
    `${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB`,
    `Node ${machine.node.replace(/^v/, '')}`,
    machine.compiler,
    `commit ${machine.commit}`,
  ];
  return [
    `Measured on ${machine.date.slice(0, 10)} by \`${results.command}\` on ${facts.join(', ')}. Milliseconds for loss and both gradients, median; memory beyond`,
    'inputs and gradients at the last size that was measured. Outputs are reused by marginfc unless it says fresh, and new in every call elsewhere.',
    '',
    timeTable(results.rows),
    ...goalTable(gaps(results.rows).filter(({ goal }) => goal !== undefined)),
  ].join('\n');
}

function markdown(
  heading: readonly string[],
  rows: readonly (readonly string[])[],
  flushLeft: number,
): string {
  const rule = heading.map((_, column) => (column < flushLeft ? '---' : '---:'));
  return [heading, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function timeTable(rows: readonly ResultRow[]): string {
  const sizes = [...new Map(rows.map(({ size }) => [sizeName(size), size])).values()];
  const kinds = [...new Map(rows.map((row) => [settingKey(row), row])).values()];
  const body = kinds.map((kind) => {
    const at = (size: Size) =>
      rows.find((row) => settingKey(row) === settingKey(kind) && sizeName(row.size) === sizeName(size));
    const found = sizes.map(at);
    const last = found.findLast((row) => row?.extraBytes != null);
    return [
      settingName(kind),
      ...found.map((row) => (row ? cellText(row) : '-')),
      last ? bytesText(last.extraBytes) : '-',
    ];
  });
  return markdown(['B, D, C', ...sizes.map(({ B, D, C }) => `${B}, ${D}, ${C}`), 'memory'], body, 1);
}

function cellText({ medianMs, status, disturbed }: ResultRow): string {
  if (medianMs === null) return status;
  return `${msText(medianMs)}${disturbed ? ' (disturbed)' : ''}`;
}

function goalTable(found: readonly Gap[]): string[] {
  if (found.length === 0) return [];
  const rows = found.map((gap) => [
    `${gap.size.B}, ${gap.size.D}, ${gap.size.C}`,
    gap.own,
    gap.peer,
    gap.of,
    gapText(gap),
    `>= ${gap.goal}`,
    verdictText(gap),
  ]);
  return ['', markdown(['B, D, C', 'this package', 'against', 'of', 'times better', 'goal', ''], rows, 4)];
}

/** README.md with that part in its place. */
export function withPart(readme: string, part: string): string {
  const [start, stop] = [readme.indexOf(begin), readme.indexOf(end)];
  if (start < 0 || stop < start) throw new Error(`README.md has no ${begin} followed by ${end}`);
  return `${readme.slice(0, start + begin.length)}\n\n${part}\n\n${readme.slice(stop)}`;
}

/** The reference machine's results in a checkout; undefined before they were measured. */
export function referenceResults(root: URL): Results | undefined {
  const file = new URL('bench/results/reference.json', root);
  return existsSync(file) ? readResults(file.pathname) : undefined;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const root = pathToFileURL(`${process.cwd()}/`);
  const file = new URL('README.md', root);
  writeFileSync(file, withPart(readFileSync(file, 'utf8'), readmePart(referenceResults(root))));
}
