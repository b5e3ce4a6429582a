/**
 * Percent of peak that the engine should reach on two AVX-512 cores with a quiet machine: the target and the goal. They
 * say nothing of bfloat16 on AMX.
 */

import { type Size, sizeName } from '../size.js';
import type { Contest, Row } from './results.js';

export interface Target {
  readonly least: number;
  readonly goal?: number;
}

type Case = Pick<Contest, 'operation' | 'precision' | 'workspace' | 'outputs'>;

interface TargetRow extends Case {
  /** By the name of the size. */
  readonly bySize: Readonly<Record<string, Target>>;
}

const sizes = [
  '64,128,10000',
  '128,512,100000',
  '512,512,100000',
  '1024,512,100000',
  '77,200,33333',
] as const;

/** `small` 64,128,10000; `thin` 128,512,100000; `wide` 512 and 1024,512,100000; `odd` 77,200,33333. */
function row(contest: Case, small: Target, thin: Target, wide: Target, odd?: Target): TargetRow {
  const columns = [small, thin, wide, wide, ...(odd ? [odd] : [])];
  return { ...contest, bySize: Object.fromEntries(columns.map((target, i) => [sizes[i], target])) };
}

function target(least: number, goal?: number): Target {
  return goal === undefined ? { least } : { least, goal };
}

const gradients = { operation: 'loss + dX + dW', workspace: 'keep', outputs: 'reused' } as const;
const loss = { operation: 'loss', workspace: 'recompute', outputs: 'none' } as const;

export const targets: readonly TargetRow[] = [
  row({ ...loss, precision: 'float32' }, target(78, 84), target(86, 92), target(90, 93), target(75)),
  row({ ...gradients, precision: 'float32' }, target(77, 84), target(82, 88), target(87, 91), target(75)),
  row(
    { ...gradients, precision: 'float32', workspace: 'recompute' },
    target(60),
    target(63),
    target(65, 69),
    target(55),
  ),
  row({ ...loss, precision: 'bfloat16' }, target(66, 74), target(80, 86), target(87, 91), target(60)),
  row({ ...gradients, precision: 'bfloat16' }, target(69, 76), target(76, 83), target(85, 90), target(60)),
  row(
    { operation: 'step', precision: 'float32', workspace: 'keep', outputs: 'reused' },
    target(76),
    target(80, 85),
    target(85, 90),
  ),
];

/** Whether a row is what a target is about. */
export function isCase(entry: Case, { operation, precision, workspace, outputs }: Row | Case): boolean {
  return (
    entry.operation === operation &&
    entry.precision === precision &&
    entry.workspace === workspace &&
    entry.outputs === outputs
  );
}

/** Whether the targets speak of a row's peak: AMX's is far above that of the cores they were set for. */
export function isComparable({ precision }: Pick<Case, 'precision'>, instructionSet: string): boolean {
  return !(precision === 'bfloat16' && instructionSet === 'amx');
}

/** What is asked of a row at a size, if anything. */
export function targetOf(contest: Case, size: Size, instructionSet = 'avx512'): Target | undefined {
  if (!isComparable(contest, instructionSet)) return undefined;
  return targets.find((entry) => isCase(entry, contest))?.bySize[sizeName(size)];
}
