/** What the plots show: a line for each way to compute, through the sizes that differ in C alone. */

import { type ResultRow, settingName } from '../results.js';
import type { Size } from '../size.js';

export interface Point {
  readonly C: number;
  readonly value: number;
  /** Where there is an interval. */
  readonly low?: number;
  readonly high?: number;
}

export interface Series {
  readonly name: string;
  readonly own: boolean;
  readonly points: readonly Point[];
}

/** B and D of the sizes that reach over most C. */
export function sweep(rows: readonly ResultRow[]): Pick<Size, 'B' | 'D'> | undefined {
  const counts = new Map<string, Set<number>>();
  for (const { size, status } of rows) {
    if (status !== 'measured') continue;
    const key = `${size.B},${size.D}`;
    counts.set(key, (counts.get(key) ?? new Set()).add(size.C));
  }
  const best = [...counts].sort(([, a], [, b]) => b.size - a.size)[0];
  if (!best) return undefined;
  const [B = 0, D = 0] = best[0].split(',').map(Number);
  return { B, D };
}

/** Those with at least one point, marginfc first, the fastest at the largest C before others. */
export function seriesOf(
  rows: readonly ResultRow[],
  { B, D }: Pick<Size, 'B' | 'D'>,
  point: (row: ResultRow) => Omit<Point, 'C'> | undefined,
): Series[] {
  const found = new Map<string, Point[]>();
  for (const row of rows) {
    if (row.size.B !== B || row.size.D !== D || !isShown(row)) continue;
    const value = point(row);
    if (value === undefined) continue;
    const name = settingName(row);
    found.set(name, [...(found.get(name) ?? []), { C: row.size.C, ...value }]);
  }
  return [...found].map(([name, points]) => ({
    name,
    own: name.startsWith('marginfc'),
    points: points.sort((a, b) => a.C - b.C),
  }));
}

/** What would be one more line beside a nearly equal one stays in the tables. */
function isShown({ contestant, outputs, threads, precision, allocator, operation }: ResultRow): boolean {
  if (contestant === 'marginfc cpu') return outputs === 'reused' && threads > 1 && precision !== 'float16';
  if (contestant.startsWith('marginfc')) return operation === 'loss + dX + dW';
  return !(contestant === 'PyTorch' && allocator === 'default');
}
