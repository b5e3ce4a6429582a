/** Groups of processes with a GPU each, over NCCL. */

import { MarginFcError, publicError } from './errors.js';
import type { ProcessGroup } from './group.js';
import { addon } from './native.js';
import { openGroup } from './native_group.js';
import { localRank, meet, meetingPoint } from './rendezvous.js';
import { checkInteger, checkNumber, checkOptions, longestTimeout, mustBe, show } from './validate.js';

/** Options of {@link nccl}. */
export interface NcclOptions {
  /** This process's GPU, which no other process of the group may use; by default `cuda:` with the number in LOCAL_RANK. */
  readonly device?: `cuda:${number}`;
  /**
   * Seconds after which a call that another process has not answered rejects with ERR_GROUP_TIMEOUT; the group cannot be
   * used afterwards. From 0 (exclusive) to 10,000,000; by default 600, as with PyTorch's NCCL.
   */
  readonly timeout?: number;
  /**
   * Where rank 0 listens until all have come; the same on every rank. By default MASTER_PORT, or the port after it where
   * torchrun's own store is on that one.
   */
  readonly port?: number;
  /** A group of the same processes, such as that of `mpi()`, which they meet over instead. */
  readonly over?: ProcessGroup;
}

const optionNames = { device: true, timeout: true, port: true, over: true } as const;

/**
 * The processes that `torchrun`, or another launcher in its convention, started, a GPU each; resolves when each of them has
 * called it. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say who and where they are: rank 0 listens for the
 * others, and hands them NCCL's unique id. With `over` ranks are those of that group, which must not be in use meanwhile.
 *
 * Arrays are the host's, as with {@link mpi}, and everything said there of collectives, their arrays and their errors holds
 * here. They travel through 32 MiB of the GPU's memory. `close` waits until every process leaves. See
 * docs/distributed.md.
 *
 * @throws MarginFcError ERR_ENGINE_UNAVAILABLE where NCCL (2.14 or newer), the driver or the GPU is missing, with the reason;
 *   ERR_OPTION naming an environment variable that is missing or wrong; ERR_GROUP where rank 0 cannot listen or refuses this
 *   process, or NCCL fails; ERR_GROUP_TIMEOUT if not every process called it in time.
 */
export async function nccl(options?: NcclOptions): Promise<ProcessGroup> {
  const { device, timeout = 600, port, over } = checkOptions(options, optionNames);
  checkNumber(timeout, 'timeout', { least: 0, exclusive: true, magnitude: longestTimeout });
  if (port !== undefined) checkInteger(port, 'port', { least: 1, most: 65535 });
  if (over !== undefined) checkGroup(over);
  if (over !== undefined && port !== undefined)
    throw mustBe('ERR_OPTION', 'port', 'left out where over is given', show(port));
  const gpu = device === undefined ? localRank(process.env) : checkDevice(device);
  if (over !== undefined) {
    const { rank, size } = over;
    return openGroup({ transport: 'nccl', id: await share(over, gpu), rank, size, device: gpu, timeout });
  }
  const point = meetingPoint(process.env, port);
  const missing = addon().ncclMissing(gpu);
  if (missing !== undefined) throw unavailable(missing);
  const id = await meet(point, timeout, makeId);
  const { rank, size } = point;
  return openGroup({ transport: 'nccl', id, rank, size, device: gpu, timeout });
}

/** What there is of NCCL, for `marginfc doctor`. */
export function describeNccl(): string {
  const { version, missing } = addon().describeNccl();
  return version ?? `not available: ${missing}`;
}

function makeId(): Uint8Array {
  try {
    return addon().makeNcclId();
  } catch (error) {
    throw publicError(error);
  }
}

/** No rank waits for one that cannot go on. */
async function share(over: ProcessGroup, gpu: number): Promise<Uint8Array> {
  let failure: unknown;
  let id: Uint8Array = new Uint8Array(128);
  const missing = addon().ncclMissing(gpu);
  if (missing !== undefined) failure = unavailable(missing);
  try {
    if (failure === undefined && over.rank === 0) id = makeId();
  } catch (error) {
    failure = error;
  }
  const failed = new Int32Array([failure === undefined ? 0 : 1]);
  await over.allReduce(failed, 'max');
  if (failure !== undefined) throw failure;
  if (failed[0] !== 0) throw unavailable('another rank of the group cannot use NCCL, and says why');
  await over.broadcast(id, 0);
  return id;
}

function unavailable(reason: string): MarginFcError {
  return new MarginFcError('ERR_ENGINE_UNAVAILABLE', `nccl() is not available: ${reason}`);
}

function checkDevice(device: unknown): number {
  const index = typeof device === 'string' ? /^cuda:(\d{1,3})$/.exec(device)?.[1] : undefined;
  if (index === undefined)
    throw mustBe(typeof device === 'string' ? 'ERR_OPTION' : 'ERR_TYPE', 'device', `'cuda:N'`, show(device));
  return Number(index);
}

function checkGroup(over: unknown): void {
  const fits =
    typeof over === 'object' &&
    over !== null &&
    typeof Reflect.get(over, 'allReduce') === 'function' &&
    typeof Reflect.get(over, 'broadcast') === 'function';
  if (!fits) throw mustBe('ERR_TYPE', 'over', 'a ProcessGroup', show(over));
  const size = checkInteger(Reflect.get(over, 'size'), 'over.size', { least: 1, most: 2 ** 31 - 1 });
  checkInteger(Reflect.get(over, 'rank'), 'over.rank', { least: 0, most: size - 1 });
}
