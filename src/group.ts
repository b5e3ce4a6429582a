/** Groups of processes that share a head's classes. */

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addon } from './native.js';
import { openGroup } from './native_group.js';
import { checkNumber, checkOptions, longestTimeout } from './validate.js';

/** The package's own folder: this file is in src/ or dist/. */
const packageRoot = fileURLToPath(new URL('..', import.meta.url));

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

/** Options of {@link mpi}. */
export interface MpiOptions {
  /**
   * Seconds after which a call that another process has not answered rejects with ERR_GROUP_TIMEOUT; the group cannot be
   * used afterwards. From 0 (exclusive) to 10,000,000; by default 1800, as with PyTorch's Gloo: longer than one process
   * may let the others wait while it saves a checkpoint.
   */
  readonly timeout?: number;
}

const mpiOptionNames = { timeout: true } as const;

/**
 * The processes that `mpirun -np 4 node train.mjs`, or another launcher of MPI, started; resolves when each of them has
 * called it. Without a launcher: a group of one. The collectives run over MPI on threads of their own, each after those
 * called before it; calls that compute go on meanwhile. Long arrays travel in rounds of 32 MiB.
 *
 * Before each collective the processes tell each other what they were asked for, so arguments that do not fit together are
 * the same error on every process, and the group can be used on: ERR_SHAPE for lengths, ERR_TYPE for types, ERR_GROUP for
 * different functions, operations or roots. A collective's arrays must not be written to until its promise has settled. After
 * ERR_GROUP_TIMEOUT, or ERR_GROUP because a process has left, every later call rejects with the same error.
 *
 * MPI starts and ends once in a process. So a second call, from whichever thread and also after `close`, rejects with
 * ERR_ENGINE_UNAVAILABLE: share the group. `close` waits until every process leaves. A process that ends with exit code 0
 * and nothing pending leaves as if it had called `close`; one that ends otherwise makes `mpirun` end the others. See
 * docs/distributed.md.
 *
 * @throws MarginFcError ERR_ENGINE_UNAVAILABLE where MPI is missing or not usable, with what to install;
 *   ERR_GROUP_TIMEOUT if not every process called it in time.
 */
export async function mpi(options?: MpiOptions): Promise<ProcessGroup> {
  const { timeout = 1800 } = checkOptions(options, mpiOptionNames);
  checkNumber(timeout, 'timeout', { least: 0, exclusive: true, magnitude: longestTimeout });
  return openGroup({ transport: 'mpi', library: mpiShim(), timeout });
}

/** What there is of MPI, for `marginfc doctor`. */
export function describeMpi(): string {
  const { library, missing } = addon().describeMpi(mpiShim());
  return library ?? `not available: ${missing}`;
}

/** MARGINFC_LIBMPI, or what the install script or the build compiled. */
function mpiShim(): string {
  return process.env.MARGINFC_LIBMPI ?? join(packageRoot, 'build', 'Release', 'marginfc_mpi.so');
}
