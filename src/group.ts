/** Groups of processes that share a head's classes. */

import { MarginFcError } from './errors.js';

/** Arrays that processes exchange. */
export type GroupArray = Float32Array | Float64Array | Int32Array | Uint8Array;

/**
 * What processes that share the classes of one head need of each other; for trainers with a transport of
 * their own, and what {@link mpi} and {@link nccl} return. Every process calls the same functions in the same order.
 */
export interface ProcessGroup {
  /** This process, from 0. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** Gathers every process's `part`, which may differ in length, into `whole`, in the order of ranks. */
  allGather(part: GroupArray, whole: GroupArray): Promise<void>;
  /** Replaces `values` by their sum, or largest, over all processes. */
  allReduce(values: GroupArray, operation: 'sum' | 'max'): Promise<void>;
  /** Adds `whole` over all processes and leaves this process's part of the sum in `part`. */
  reduceScatter(whole: GroupArray, part: GroupArray): Promise<void>;
  /** Replaces `values` by those of process `root`. */
  broadcast(values: GroupArray, root: number): Promise<void>;
  /** Returns when every process has called it. */
  barrier(): Promise<void>;
  /** Leaves the group. */
  close(): Promise<void>;
}

/**
 * The processes that `mpirun` started. Not in this version: rejects with ERR_ENGINE_UNAVAILABLE, so that a trainer that
 * asks for it finds out at its start.
 */
export async function mpi(): Promise<ProcessGroup> {
  throw unavailable('mpi');
}

/** The processes of a launcher in torchrun's convention, one GPU each. Not in this version, as {@link mpi}. */
export async function nccl(): Promise<ProcessGroup> {
  throw unavailable('nccl');
}

function unavailable(transport: string): MarginFcError {
  return new MarginFcError(
    'ERR_ENGINE_UNAVAILABLE',
    `${transport} is not part of this version: a head's classes are shared between the threads of one process only`,
  );
}
