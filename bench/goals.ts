/** How many times faster than whom, or with how much less memory, and what it should be. */

import { type ResultRow, settingName } from './results.js';
import { type Size, sizeName } from './size.js';

export interface Gap {
  readonly size: Size;
  readonly of: 'time' | 'memory';
  /** Rows' names. */
  readonly own: string;
  readonly peer: string;
  /** The peer's over this package's; null where either was not measured. */
  readonly times: number | null;
  /** The peer's time is no measurement. */
  readonly extrapolated: boolean;
  /** Other processes disturbed either. */
  readonly disturbed: boolean;
  /** Why there is none. */
  readonly reason?: string;
  /** What it should be at least. */
  readonly goal?: number;
}

type Own = Pick<ResultRow, 'precision' | 'workspace'>;
interface Goal {
  readonly own: Own;
  /** One contestant, or the fastest of several. */
  readonly peers: readonly string[];
  readonly of: 'time' | 'memory';
  readonly name: string;
  readonly sizes: ReadonlyMap<string, number>;
}

const keep32 = { precision: 'float32', workspace: 'keep' } as const;
const keep16 = { precision: 'bfloat16', workspace: 'keep' } as const;
const recompute32 = { precision: 'float32', workspace: 'recompute' } as const;
const pytorch32 = ['PyTorch', 'PyTorch compile'];
// Whatever is fastest, in bfloat16 or not.
const pytorch = [...pytorch32, 'PyTorch autocast', 'PyTorch compile autocast'];
const large = ['128,512,100000', '512,512,100000', '1024,512,100000'];
const each = (goal: number) => new Map(large.map((size) => [size, goal]));

const goals: readonly Goal[] = [
  {
    own: keep32,
    peers: ['tfjs wasm'],
    of: 'time',
    name: 'tfjs wasm',
    sizes: new Map([['128,512,100000', 150]]),
  },
  {
    own: keep32,
    peers: ['tfjs cpu'],
    of: 'time',
    name: 'tfjs cpu',
    sizes: new Map([['128,512,100000', 500]]),
  },
  { own: keep32, peers: ['tfjs node'], of: 'time', name: 'tfjs node', sizes: new Map() },
  { own: keep32, peers: ['plain TypeScript'], of: 'time', name: 'plain TypeScript', sizes: new Map() },
  { own: keep32, peers: ['unfused C++'], of: 'time', name: 'unfused C++', sizes: new Map() },
  { own: keep32, peers: pytorch32, of: 'time', name: 'the fastest PyTorch in float32', sizes: each(2.8) },
  { own: keep16, peers: pytorch, of: 'time', name: 'the fastest PyTorch', sizes: each(2.3) },
  {
    own: recompute32,
    peers: pytorch32,
    of: 'memory',
    name: 'the fastest PyTorch in float32',
    sizes: each(10),
  },
];

const leastMemory = 2 ** 25;

/** Whether a goal was reached; undefined where there is none, or no undisturbed measurement to tell by. */
export function reached({ goal, times, extrapolated, disturbed }: Gap): boolean | undefined {
  return goal === undefined || times === null || extrapolated || disturbed ? undefined : times >= goal;
}

/** Of every size that was measured; those with a goal first. */
export function gaps(rows: readonly ResultRow[]): Gap[] {
  const sizes = [...new Map(rows.map(({ size }) => [sizeName(size), size])).values()];
  const found = sizes.flatMap((size) => {
    const here = rows.filter((row) => sizeName(row.size) === sizeName(size));
    return goals.flatMap((goal) => gapOf(goal, size, here));
  });
  return [
    ...found.filter(({ goal }) => goal !== undefined),
    ...found.filter(({ goal }) => goal === undefined),
  ];
}

function gapOf({ own, peers, of, name, sizes }: Goal, size: Size, rows: readonly ResultRow[]): Gap[] {
  const row = rows.find(
    ({ contestant, precision, workspace, outputs, threads }) =>
      contestant === 'marginfc cpu' &&
      precision === own.precision &&
      workspace === own.workspace &&
      outputs === 'reused' &&
      threads === mostThreads(rows),
  );
  const candidates = rows.filter(({ contestant }) => peers.includes(contestant));
  if (!row || candidates.length === 0) return [];
  const measured = candidates
    .filter(({ medianMs }) => medianMs !== null)
    .sort((a, b) => (a.medianMs ?? 0) - (b.medianMs ?? 0));
  const peer =
    measured[0] ?? candidates.find(({ extrapolatedMs }) => extrapolatedMs !== null) ?? candidates[0];
  const goal = sizes.get(sizeName(size));
  // What is not installed is no row where there is nothing to reach, and little memory is mostly the allocator's.
  if (!peer || (goal === undefined && peer.medianMs === null)) return [];
  if (of === 'memory' && goal === undefined && (peer.extraBytes ?? 0) < leastMemory) return [];
  const value = ({ medianMs, extrapolatedMs, extraBytes }: ResultRow) =>
    of === 'time' ? (medianMs ?? extrapolatedMs) : extraBytes;
  const [a, b] = [value(row), value(peer)];
  const known = a !== null && b !== null && row.medianMs !== null;
  return [
    {
      size,
      of,
      own: settingName(row),
      peer: peer.medianMs === null ? name : settingName(peer),
      times: known ? b / (of === 'time' ? a : Math.max(a, 1)) : null,
      extrapolated: peer.medianMs === null,
      disturbed: row.disturbed || peer.disturbed,
      ...(!known && { reason: row.medianMs === null ? `marginfc ${row.status}` : peer.status }),
      ...(goal !== undefined && { goal }),
    },
  ];
}

function mostThreads(rows: readonly ResultRow[]): number {
  return Math.max(
    ...rows.filter(({ contestant }) => contestant === 'marginfc cpu').map(({ threads }) => threads),
  );
}
