/**
 * What the benchmark and a contestant's process say to each other: a line of JSON each. Requests come on the contestant's
 * standard input; it answers on file descriptor 3, since libraries print what they like on the others.
 * bench/serve.ts and bench/peers/serve.py are the contestants' side.
 */

import type { Size } from './size.js';

export type Request =
  | {
      readonly do: 'prepare';
      /** Features [B, D] and weights [C, D], or [C, K, D] of a loss with K rows a class, in float32, then labels [B] in int32. */
      readonly input: string;
      readonly size: Size;
      /** Of the loss that all compute: ArcFace. */
      readonly scale: number;
      readonly m: number;
      /** The loss by name, for contestants that have others. */
      readonly loss: string;
      readonly job: unknown;
    }
  | {
      /** Makes the first call, whose memory is measured, and another for its results if it has to. */
      readonly do: 'check';
      /** Of which results are wanted; rows of W. */
      readonly rows: readonly number[];
      readonly classes: readonly number[];
      /** Where they go, float32: row losses [rows], dX [rows, D], dW [classes, D]. */
      readonly output: string;
    }
  | {
      readonly do: 'sample';
      /** Calls that last so long together make a sample. */
      readonly seconds: number;
      readonly warmUp: boolean;
    };

export interface Prepared {
  /** What was found, as in `PyTorch 2.13.0`. */
  readonly version?: string;
}

export interface Checked {
  /** Of the call. */
  readonly seconds: number;
  /** Most resident memory beyond that before the call; null where the system does not say. */
  readonly peakBytes: number | null;
}

export interface Sampled {
  /** Mean of the calls. */
  readonly seconds: number;
  readonly calls: number;
  /** Of the sample on the clock, and in processor time of all threads. */
  readonly elapsed: number;
  readonly own: number;
  /** Processor time since the request came, which the sample is a part of. */
  readonly ownInAll: number;
}

/** Instead of an answer. */
export interface Refusal {
  /** Why the contestant cannot be had on this machine. */
  readonly missing?: string;
  /** What went wrong. */
  readonly failed?: string;
  /** There was not enough memory. */
  readonly memory?: boolean;
}
