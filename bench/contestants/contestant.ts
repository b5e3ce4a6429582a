/** What the benchmark knows of a contestant before it starts it. */

import type { Setting } from '../results.js';
import type { Command } from '../session.js';
import type { Size } from '../size.js';

export interface Contestant extends Setting {
  readonly command: Command;
  /** For its process. */
  readonly job: unknown;
  /** Largest errors it may have, in the metrics of docs/numerics.md. */
  readonly limits: { readonly loss: number; readonly gradient: number };
  /** About how much memory its process needs beside the inputs. */
  readonly bytes: (size: Size) => number;
  /** Known to be missing before anything is started. */
  readonly missing?: string;
  /** Time to start that is no part of its budget: libraries to load, code to compile. */
  readonly startSeconds?: number;
}

/** What the engines promise (docs/numerics.md, s = 64). */
export const engineLimits = {
  float32: { loss: 4e-6, gradient: 6.1e-5 },
  bfloat16: { loss: 1e-2, gradient: 6e-2 },
  float16: { loss: 1e-3, gradient: 6e-3 },
} as const;

/** What passes for right elsewhere: nobody else states limits. Wrong formulas are off by far more. */
export const peerLimits = {
  float32: { loss: 1e-4, gradient: 2e-3 },
  bfloat16: { loss: 3e-2, gradient: 2e-1 },
} as const;

/** A contestant in Node: this program again. */
export function nodeCommand(
  program: string,
  kind: string,
  env: Readonly<Record<string, string>> = {},
): Command {
  return {
    file: process.execPath,
    args: ['--expose-gc', '--max-old-space-size=8192', program, '--contestant', kind],
    env,
  };
}
