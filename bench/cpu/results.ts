/** What `npm run bench:cpu -- --json FILE` writes. */

import type { Size } from '../size.js';
import type { Figures } from './samples.js';

/** `step`: the update of a head's weights in place of dW, by SGD with momentum or by AdamW. */
export type Operation = 'loss' | 'loss + dX + dW' | 'step' | 'AdamW step';
export const precisions = ['float32', 'bfloat16', 'float16'] as const;
export type Precision = (typeof precisions)[number];
export type Workspace = 'keep' | 'recompute';

/**
 * `reused`: the arrays of a first call, handed back (`out`) in every call. `pooled`: new arrays, after those of the call before were
 * collected. `fresh`: new arrays in memory that was never used. `none`: no gradients.
 */
export type Outputs = 'reused' | 'pooled' | 'fresh' | 'none';

/** What a row measures. */
export interface Contest {
  readonly operation: Operation;
  /** Of the multiply operands. */
  readonly precision: Precision;
  readonly workspace: Workspace;
  readonly outputs: Outputs;
}

/** Largest errors against the float64 reference in the metrics of docs/numerics.md, and what they may be. */
export interface Check {
  /** logSumExp and row losses. */
  readonly loss: number;
  readonly lossLimit: number;
  /** dX and dW, or the updated weights; absent for the loss. */
  readonly gradient?: number;
  readonly gradientLimit?: number;
}

/** Percents of bfloat16 rows are of the bfloat16 peak where there is one; all others of the float32 peak. */
export interface Row extends Contest, Figures {
  /** Floating-point operations counted for a call: 6 BCD, or 2 BCD for the loss, whatever is recomputed. */
  readonly operations: number;
  /** A repetition is the mean of so many calls. */
  readonly callsPerSample: number;
  readonly check: Check;
}

/** Per second, all threads together; the best of what was measured in the process. */
export interface Peaks {
  /** Multiply-adds on registers, two operations each. */
  readonly float32: number;
  /** The same with bfloat16 pairs; absent where the instruction set has none. */
  readonly bfloat16?: number;
  /** Bytes read from main memory. */
  readonly read: number;
  /** Bytes read and written while copying in main memory. */
  readonly copy: number;
}

/** One size on one instruction set and number of threads: one process. */
export interface Run {
  readonly size: Size;
  readonly instructionSet: string;
  readonly threads: number;
  readonly peaks: Peaks;
  /** Rows of the batch and classes that were compared with the reference. */
  readonly checked: { readonly rows: number; readonly classes: number };
  readonly rows: readonly Row[];
}

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly caches: string;
  readonly memoryBytes: number;
  readonly hugePages: string;
  readonly system: string;
  readonly node: string;
  readonly compiler: string;
  readonly version: string;
  readonly commit: string;
  /** ISO 8601. */
  readonly date: string;
  /** Processes that wanted to run, in the mean of the minute before. */
  readonly loadAverage: number;
}

export interface Report {
  readonly machine: Machine;
  /** By its name of lossNamed(). */
  readonly loss: string;
  readonly settings: {
    /** Of calls of each row before any is measured. */
    readonly warmUpSeconds: number;
    /** Undisturbed repetitions wanted of each row. */
    readonly samples: number;
    /** Length of a repetition, at least. */
    readonly sampleSeconds: number;
    /** For a size, after which no further repetition is begun. */
    readonly seconds: number;
  };
  readonly runs: readonly Run[];
}

/** As a row is called in the table. */
export function contestName({ operation, precision, workspace, outputs }: Contest): string {
  return [operation, precision, workspace, outputs].join(' ');
}

/** The rows of the table, those of one precision after another. */
export function contestsOf(precisions: readonly Precision[]): Contest[] {
  const rows = [
    ['loss', 'recompute', 'none'],
    ['loss', 'keep', 'none'],
    ['loss + dX + dW', 'keep', 'reused'],
    ['loss + dX + dW', 'keep', 'pooled'],
    ['loss + dX + dW', 'keep', 'fresh'],
    ['loss + dX + dW', 'recompute', 'reused'],
    ['step', 'keep', 'reused'],
    ['AdamW step', 'keep', 'reused'],
  ] as const;
  return precisions.flatMap((precision) =>
    rows.map(([operation, workspace, outputs]) => ({ operation, precision, workspace, outputs })),
  );
}
