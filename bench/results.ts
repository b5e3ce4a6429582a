/** What `npm run bench -- --json FILE` writes, and the check of such a file. */

import { readFileSync } from 'node:fs';
import type { Machine, Peaks } from './cpu/results.js';
import type { Disturbance } from './cpu/samples.js';
import type { Size } from './size.js';

/** Bumped when a reader of older files would misread newer ones. */
export const formatVersion = 1;

/**
 * `wrong`: the results differ from the float64 reference, so no time was taken. `not reached`: the whole run's time was
 * over before.
 */
export const statuses = [
  'measured',
  'wrong',
  'not installed',
  'does not fit',
  'would take longer',
  'failed',
  'not reached',
] as const;
export type Status = (typeof statuses)[number];

/** What tells rows of one size apart. */
export interface Setting {
  /** As in `marginfc cpu`, `tfjs wasm`, `PyTorch compile`. */
  readonly contestant: string;
  /** `loss + dX + dW`, or `loss + dX + dW, kernels`: the time of a GPU's kernels alone. */
  readonly operation: string;
  /** Of the multiply operands. */
  readonly precision: string;
  /** `logits`: all B x C logits in memory, as everyone else does it. */
  readonly workspace: 'keep' | 'recompute' | 'logits';
  /** `reused`: the same arrays in every call; `fresh`: new ones. */
  readonly outputs: 'reused' | 'fresh';
  readonly threads: number;
  /** `keeps freed`: the C library's allocator is told not to give freed buffers back to the system. */
  readonly allocator: 'default' | 'keeps freed';
  /** Which derivative of the margin: see docs/numerics.md. */
  readonly gradient: 'exact' | 'straightThrough';
}

/** Largest errors against the float64 reference in the metrics of docs/numerics.md, and what they may be. */
export interface Errors {
  readonly loss: number;
  readonly gradient: number;
  readonly lossLimit: number;
  readonly gradientLimit: number;
}

export interface ResultRow extends Setting {
  readonly size: Size;
  readonly status: Status;
  /** Why it was not measured. */
  readonly reason?: string;
  /** Whether loss and gradients were compared with the reference and found right. */
  readonly checked: boolean;
  /** The gradients' error, or null where there was nothing to compare. */
  readonly error: number | null;
  readonly errors: Errors | null;
  /** Each the mean of the calls of a repetition; undisturbed ones, where there are enough of them. */
  readonly samplesMs: readonly number[];
  readonly medianMs: number | null;
  /** Of the median, 95 %, by bootstrap. */
  readonly intervalMs: readonly [low: number, high: number] | null;
  /** Quartiles of the samples. */
  readonly quartilesMs: readonly [low: number, high: number] | null;
  readonly dropped: Readonly<Record<Disturbance, number>>;
  /** Too few repetitions were undisturbed: the samples are all of them. */
  readonly disturbed: boolean;
  /** Most resident memory while it computed, beyond its inputs. */
  readonly peakBytes: number | null;
  /** The same without the gradients themselves. */
  readonly extraBytes: number | null;
  /** What a call would take by the time of a smaller size; never a measurement. */
  readonly extrapolatedMs: number | null;
  readonly extrapolatedFrom?: Size;
}

export type PhaseName = 'prepare' | 'targets' | 'negatives' | 'epilogue' | 'gradients' | 'update';

/** One phase of the cpu engine at one size. */
export interface PhaseRow {
  readonly size: Size;
  readonly precision: string;
  readonly workspace: 'keep' | 'recompute';
  readonly phase: PhaseName;
  readonly samplesMs: readonly number[];
  readonly medianMs: number;
  /** Floating-point operations of the products, and bytes that have to cross the memory bus at least. */
  readonly operations: number;
  readonly bytes: number;
  /** Of the peaks of multiply-adds and of memory reads in the same process. */
  readonly percentOfCompute: number;
  readonly percentOfBandwidth: number;
}

export interface Results {
  readonly format: number;
  readonly machine: Machine & { readonly instructionSet: string; readonly threads: number };
  /** What was typed, but for the files that were to be written. */
  readonly command: string;
  readonly settings: {
    /** By its name of lossNamed(); absent in older files: arcface. */
    readonly loss?: string;
    readonly quick: boolean;
    readonly samples: number;
    readonly sampleSeconds: number;
    /** For a contestant at a size; null where the whole run's time is shared out. */
    readonly seconds: number | null;
    readonly elapsedSeconds: number;
  };
  /** Versions of what was compared, as found. */
  readonly versions: Readonly<Record<string, string>>;
  readonly peaks: Peaks | null;
  readonly rows: readonly ResultRow[];
  readonly phases: readonly PhaseRow[];
}

/** The same for the same row of two files. */
export function rowKey(row: Setting & { readonly size: Size }): string {
  const { B, D, C } = row.size;
  return [`${B},${D},${C}`, settingKey(row)].join(' | ');
}

export function settingKey(row: Setting): string {
  const { contestant, operation, precision, workspace, outputs, threads, allocator, gradient } = row;
  return [contestant, operation, precision, workspace, outputs, threads, allocator, gradient].join(' | ');
}

/** As in `marginfc cpu, bfloat16, keep, fresh outputs`: with what is not as usual for the contestant. */
export function settingName(row: Setting): string {
  const { contestant, operation, precision, workspace, outputs, threads, allocator } = row;
  const own = contestant.startsWith('marginfc');
  const onCpu = contestant === 'marginfc cpu';
  return [
    contestant,
    ...(operation.endsWith(', kernels') ? ['kernels'] : []),
    ...(own || precision !== 'float32' ? [precision] : []),
    ...(onCpu ? [workspace] : []),
    ...(onCpu && outputs === 'fresh' ? ['fresh outputs'] : []),
    ...(onCpu && threads === 1 ? ['1 thread'] : []),
    ...(allocator === 'default' ? [] : ['freed memory kept']),
  ].join(', ');
}

/** Reads a file that this version wrote; throws with what is wrong with it. */
export function readResults(file: string): Results {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`);
  }
  const problem = problemOf(value);
  if (problem !== undefined) throw new Error(`${file}: ${problem}`);
  return value as Results;
}

/** Why a value is not {@link Results}; undefined if it is. */
export function problemOf(value: unknown): string | undefined {
  if (!isRecord(value)) return 'not an object';
  if (value.format !== formatVersion)
    return `format must be ${formatVersion}, received ${String(value.format)}`;
  if (!isRecord(value.machine)) return 'machine must be an object';
  if (!Array.isArray(value.rows)) return 'rows must be an array';
  for (const [i, row] of value.rows.entries()) {
    const problem = rowProblem(row);
    if (problem !== undefined) return `rows[${i}].${problem}`;
  }
  return undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function rowProblem(row: unknown): string | undefined {
  if (!isRecord(row)) return 'must be an object';
  for (const name of [
    'contestant',
    'operation',
    'precision',
    'workspace',
    'outputs',
    'allocator',
    'gradient',
  ])
    if (typeof row[name] !== 'string') return `${name} must be a string`;
  const { size, status, samplesMs, medianMs, checked } = row;
  if (!isRecord(size) || !['B', 'D', 'C'].every((name) => Number.isInteger(size[name])))
    return 'size must be { B, D, C }';
  if (!statuses.some((known) => known === status)) return `status must be one of ${statuses.join(', ')}`;
  if (typeof checked !== 'boolean') return 'checked must be a boolean';
  const isTime = (time: unknown) => typeof time === 'number' && time > 0 && Number.isFinite(time);
  if (!Array.isArray(samplesMs) || !samplesMs.every(isTime)) return 'samplesMs must be an array of times';
  if (status === 'measured' && (!isTime(medianMs) || samplesMs.length === 0 || !checked))
    return 'a measured row must be checked and have samples and a median';
  if (status !== 'measured' && (medianMs !== null || samplesMs.length > 0))
    return `a row that is ${String(status)} must have no samples`;
  return undefined;
}
