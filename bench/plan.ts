/** What is to be measured, and how long it may take. */

import type { Contestant } from './contestants/contestant.js';
import type { ResultRow } from './results.js';
import type { Size } from './size.js';

export interface Plan {
  readonly sizes: readonly Size[];
  /** By its name of lossNamed(). */
  readonly loss: string;
  readonly contestants: readonly Contestant[];
  /** Undisturbed samples wanted of each row, and how long each is at least. */
  readonly samples: number;
  readonly sampleSeconds: number;
  /** For a contestant at a size. Undefined: the time until the deadline, shared out among what is left to do. */
  readonly seconds?: number;
  /** By performance.now(), milliseconds; nothing is begun or waited for after it. */
  readonly deadline: number;
  readonly onProgress?: (done: number, all: number, now: string) => void;
  readonly onRows?: (size: Size, rows: readonly ResultRow[]) => void;
}

/** For all contestants at a size together: large sizes get more of what is left, though less than by their work. */
export function secondsOfCell({ sizes, contestants, seconds, deadline }: Plan, index: number): number {
  if (seconds !== undefined) return seconds * contestants.length;
  const share = (size: Size) => Math.cbrt(work(size));
  const all = sizes.slice(index).reduce((sum, size) => sum + share(size), 0);
  return (((deadline - performance.now()) / 1e3) * share(sizes[index] as Size)) / all;
}

/** What time goes by, apart from what a call costs at any size. */
export function work({ B, D, C }: Size): number {
  return B * D * C;
}
