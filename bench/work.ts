/** What a phase has to do. */

import type { PhaseName } from './results.js';
import type { Size } from './size.js';

/**
 * Floating-point operations of the products, and bytes between processor and memory if every array were moved once a phase.
 * dX is gathered beside the negatives; without E kept, the gradients' phase makes it again.
 */
export function workOf(
  phase: PhaseName,
  { B, D, C }: Size,
  workspace: 'keep' | 'recompute',
  precision: string,
): { operations: number; bytes: number } {
  const product = 2 * B * D * C;
  const [x, w] = [4 * B * D, 4 * C * D];
  const kept = workspace === 'keep' ? B * C * (precision === 'bfloat16' ? 2 : 4) : 0;
  switch (phase) {
    case 'prepare':
      return { operations: 0, bytes: 2 * x };
    case 'targets':
      return { operations: 4 * B * D, bytes: 3 * x };
    case 'negatives':
      return { operations: 2 * product, bytes: x + w + kept };
    case 'epilogue':
      return { operations: 0, bytes: 8 * 4 * B };
    case 'gradients':
      return { operations: workspace === 'keep' ? product : 2 * product, bytes: 2 * x + 2 * w + kept };
    case 'update':
      return { operations: workspace === 'keep' ? product : 2 * product, bytes: 2 * x + 4 * w + kept };
  }
}
