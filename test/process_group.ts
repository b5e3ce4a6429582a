/** A group of processes within one: for tests of what is done over a group, and with a group that fails. */

import type { GroupArray, ProcessGroup } from '../src/index.js';

/** What the members of a group have handed in to one collective. */
interface Round {
  readonly name: string;
  readonly arrays: GroupArray[][];
  readonly done: Promise<void>;
  readonly end: () => void;
}

/** `size` members of one group. Each must make the same calls in the same order, as with any transport. */
export function processGroup(size: number): ProcessGroup[] {
  const rounds: Round[] = [];
  const meet = async (
    round: number,
    name: string,
    rank: number,
    arrays: GroupArray[],
    exchange: (all: GroupArray[][]) => void,
  ) => {
    rounds[round] ??= newRound(name);
    const { arrays: all, done, end, name: first } = rounds[round];
    if (name !== first) throw new Error(`process ${rank} calls ${name} while others call ${first}`);
    all[rank] = arrays;
    if (Object.keys(all).length === size) {
      exchange(all);
      end();
    }
    await done;
  };
  return Array.from({ length: size }, (_, rank) => {
    let round = 0;
    const call = (name: string, arrays: GroupArray[], exchange: (all: GroupArray[][]) => void) =>
      meet(round++, name, rank, arrays, exchange);
    return {
      rank,
      size,
      allGather: (part, whole) =>
        call('allGather', [part, whole], (all) => {
          for (const [, to] of all) {
            let start = 0;
            for (const [from] of all) {
              to!.set(from!, start);
              start += from!.length;
            }
            if (start !== to!.length) throw new Error(`allGather of ${start} values into ${to!.length}`);
          }
        }),
      allReduce: (values, operation) =>
        call(`allReduce ${operation}`, [values], (all) => {
          const total = combined(
            all.map(([array]) => array!),
            operation,
          );
          for (const [array] of all) array!.set(total);
        }),
      reduceScatter: (whole, part) =>
        call('reduceScatter', [whole, part], (all) => {
          const total = combined(
            all.map(([array]) => array!),
            'sum',
          );
          let start = 0;
          for (const [, to] of all) {
            to!.set(total.subarray(start, start + to!.length));
            start += to!.length;
          }
        }),
      broadcast: (values, root) =>
        call(`broadcast ${root}`, [values], (all) => {
          for (const [array] of all) array!.set(all[root]![0]!);
        }),
      barrier: () => call('barrier', [], () => {}),
      close: async () => {},
    };
  });
}

function newRound(name: string): Round {
  let end = () => {};
  const done = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { name, arrays: [], done, end };
}

function combined(arrays: readonly GroupArray[], operation: 'sum' | 'max'): GroupArray {
  const total = arrays[0]!.slice();
  for (const array of arrays.slice(1))
    for (let i = 0; i < total.length; i++)
      total[i] = operation === 'sum' ? total[i]! + array[i]! : Math.max(total[i]!, array[i]!);
  return total;
}
