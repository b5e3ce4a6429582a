/**
 * What the processes of a group tell each other besides their arrays: that they make the same call, and whether their part of it
 * failed. A call ends on every process as it does on the worst: where one fails, all do, and none waits for what will not come.
 */

import { createHash } from 'node:crypto';
import { MarginFcError } from './errors.js';
import type { ProcessGroup } from './group.js';
import { settled, type Twin } from './twin.js';
import { checkInteger, checkObject, mustBe, show } from './validate.js';

const functions = ['allGather', 'allReduce', 'reduceScatter', 'broadcast', 'barrier'] as const;

/** A group as an option. */
export function checkGroup(group: unknown, argument: string): ProcessGroup | undefined {
  if (group === undefined) return undefined;
  checkObject(group, argument);
  const checked = group as ProcessGroup;
  checkInteger(checked.size, `${argument}.size`, { least: 1, most: 2 ** 20 });
  checkInteger(checked.rank, `${argument}.rank`, { least: 0, most: checked.size - 1 });
  for (const name of functions)
    if (typeof checked[name] !== 'function')
      throw mustBe('ERR_TYPE', `${argument}.${name}`, 'a function', show(checked[name]));
  return checked;
}

/** How a process's part ended. */
export type Outcome<T> = { readonly value: T } | { readonly error: unknown };

export function attempt<T>(work: () => T): Outcome<T> {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}

export function* attemptTwin<T>(work: Twin<T>): Twin<Outcome<T>> {
  try {
    return { value: yield* work };
  } catch (error) {
    return { error };
  }
}

/**
 * The value of an outcome, if all processes have one. Else throws: the process's own error, or ERR_GROUP with the message of the
 * first one that failed. `release` is called with a value that is not wanted then.
 */
export function* agree<T>(
  group: ProcessGroup | undefined,
  outcome: Outcome<T>,
  release: (value: T) => void = () => {},
): Twin<T> {
  if (group !== undefined) {
    const { rank, size } = group;
    const worst = Float64Array.of('error' in outcome ? size - rank : 0);
    try {
      yield* settled(group.allReduce(worst, 'max'));
      if (worst[0] !== 0) yield* fail(group, size - (worst[0] as number), outcome);
    } catch (error) {
      if ('value' in outcome) release(outcome.value);
      throw error;
    }
  }
  if ('error' in outcome) throw outcome.error;
  return outcome.value;
}

const longestMessage = 4096;

function* fail(group: ProcessGroup, root: number, outcome: Outcome<unknown>): Twin<void> {
  const own = 'error' in outcome ? outcome.error : undefined;
  const text = new TextEncoder().encode(own instanceof Error ? own.message : show(own));
  const length = Int32Array.of(Math.min(text.length, longestMessage));
  yield* settled(group.broadcast(length, root));
  const message = new Uint8Array(length[0] as number);
  if (group.rank === root) message.set(text.subarray(0, message.length));
  yield* settled(group.broadcast(message, root));
  if ('error' in outcome) throw outcome.error;
  throw new MarginFcError(
    'ERR_GROUP',
    `process ${root} of the group failed: ${new TextDecoder().decode(message)}`,
  );
}

/**
 * Checks that all processes make the same call on the same terms.
 *
 * @param terms What must be equal, as JSON; of arrays only that they are there.
 * @param rows Rows that this process brings.
 * @returns The rows of each process.
 * @throws MarginFcError ERR_GROUP on all processes if they differ.
 */
export function* sameCall(
  group: ProcessGroup,
  call: string,
  terms: unknown,
  rows: number,
): Twin<readonly number[]> {
  const text = JSON.stringify([call, terms], (_, value) =>
    ArrayBuffer.isView(value) || typeof value === 'function' ? 'present' : value,
  );
  const digest = createHash('sha256').update(text).digest().readUIntBE(0, 6);
  const all = new Float64Array(2 * group.size);
  yield* settled(group.allGather(Float64Array.of(rows, digest), all));
  for (let rank = 0; rank < group.size; rank++)
    if (all[2 * rank + 1] !== all[1])
      throw mustBe(
        'ERR_GROUP',
        call,
        'called by all processes of the group with the same options',
        `something else from process ${rank} than from process 0`,
      );
  return Array.from({ length: group.size }, (_, rank) => all[2 * rank] as number);
}

/** What each process has to say, in the order of ranks. */
export function* exchangeJson<T>(group: ProcessGroup, value: T): Twin<T[]> {
  const own = new TextEncoder().encode(JSON.stringify(value));
  const lengths = new Int32Array(group.size);
  yield* settled(group.allGather(Int32Array.of(own.length), lengths));
  const all = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
  yield* settled(group.allGather(own, all));
  let next = 0;
  return Array.from(lengths, (length) => {
    const text = new TextDecoder().decode(all.subarray(next, next + length));
    next += length;
    return JSON.parse(text);
  });
}
