/** A ProcessGroup over native code. */

import { MarginFcError, publicError } from './errors.js';
import type { GroupArray, ProcessGroup } from './group.js';
import { addon, type NativeGroup, type NativeGroupOptions } from './native.js';
import { checkApart, checkGroupArray, checkInteger, checkOneOf, mustBe, show } from './validate.js';

/** Joins the other processes over the transport that `options` name. */
export async function openGroup(options: NativeGroupOptions): Promise<ProcessGroup> {
  const native = new (addon().Group)(options);
  const { rank, size } = await settled(native.open());
  return groupOf(native, rank, size);
}

function groupOf(native: NativeGroup, rank: number, size: number): ProcessGroup {
  let closing: Promise<void> | undefined;

  // A process that ends in order leaves the group in order. One that fails does not: its launcher must find out.
  const leave = (code: number) => {
    if (code === 0) native.closeAtExit();
  };
  process.once('exit', leave);

  const run = (...call: Parameters<NativeGroup['run']>): Promise<void> => {
    if (closing !== undefined)
      throw new MarginFcError('ERR_DISPOSED', `${call[0]} was called on a group that has been closed`);
    return settled(native.run(...call));
  };

  return {
    rank,
    size,
    async allGather(part, whole) {
      checkPair({ part, whole });
      await run('allGather', {}, part, whole);
    },
    async allReduce(values, operation) {
      checkGroupArray(values, 'values');
      checkOneOf(operation, ['sum', 'max'], 'operation');
      await run('allReduce', { operation }, undefined, values);
    },
    async reduceScatter(whole, part) {
      checkPair({ part, whole });
      await run('reduceScatter', {}, whole, part);
    },
    async broadcast(values, root) {
      checkGroupArray(values, 'values');
      checkInteger(root, 'root', { least: 0, most: size - 1 });
      await run('broadcast', { root }, undefined, values);
    },
    async barrier() {
      await run('barrier', {});
    },
    async close() {
      closing ??= settled(native.close()).finally(() => process.off('exit', leave));
      await closing;
    },
  };
}

function checkPair({ part, whole }: Record<'part' | 'whole', GroupArray>): void {
  checkGroupArray(part, 'part');
  checkGroupArray(whole, 'whole');
  const [type, other] = [part, whole].map((array) => Object.prototype.toString.call(array).slice(8, -1));
  if (type !== other) throw mustBe('ERR_TYPE', 'part', `a ${other}, as whole is`, show(part));
  checkApart({ array: part }, 'part', { whole: { array: whole } });
}

async function settled<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw publicError(error);
  }
}
