/** What every group does, whatever connects its processes; each runs test/group/scenarios.mjs. */

import { describe, expect, test } from 'vitest';
import { expectEnd, onEach, scenarios } from './group/launch.js';
import { type Ended, mpiMissing, mpirun, type RunOptions } from './mpirun.js';
import { torchrun } from './torchrun.js';

interface Transport {
  readonly name: string;
  readonly missing?: string | undefined;
  /** What the deadline's message of joining the group says. */
  readonly absent: string;
  run(ranks: number, program: string, args: readonly string[], options?: RunOptions): Promise<Ended>;
}

const transports: readonly Transport[] = [
  {
    name: 'mpi()',
    missing: mpiMissing,
    absent:
      'mpi was not done after 1 second: another rank has stopped or has not called it; this group cannot be used any more',
    run: mpirun,
  },
  {
    name: 'nccl()',
    absent: 'nccl: on rank 0, rank 1 of 2 did not come within 1 second',
    run: (ranks, program, args) =>
      torchrun(ranks, program, args, { environment: { MARGINFC_TEST_GROUP: 'nccl' } }),
  },
];

for (const { name, missing } of transports)
  if (missing !== undefined) console.log(`${name} is not tested: ${missing}`);

describe.each(transports)('$name', ({ missing, absent, ...transport }) => {
  const run = (ranks: number, scenario: string) => transport.run(ranks, scenarios, [scenario]);
  const testHere = test.skipIf(missing !== undefined);

  testHere.each([1, 2, 4])('gives what plain arithmetic does, on %d ranks', (ranks) =>
    expectEnd(run(ranks, 'every collective'), 0, onEach(ranks, `right on ${ranks}`)),
  );

  testHere('settles collectives in the order they were called, and closes after them', () =>
    expectEnd(run(3, 'many at once'), 0, onEach(3, 'in order: true')),
  );

  testHere('refuses on every rank what does not fit together, and goes on', async () => {
    const messages = [
      'ERR_SHAPE: whole.length of allGather must be 4 (the parts of all ranks), received 5 on rank 1',
      'ERR_SHAPE: whole.length of reduceScatter must be 5 (the parts of all ranks), received 4 on rank 0',
      'ERR_SHAPE: values.length of allReduce must be the same on every rank, received 4 on rank 0 and 5 on rank 1',
      "ERR_TYPE: the type of allReduce's arrays must be the same on every rank, received Float32Array on rank 0 and Int32Array on rank 1",
      "ERR_GROUP: operation of allReduce must be the same on every rank, received 'sum' on rank 0 and 'max' on rank 1",
      'ERR_GROUP: root of broadcast must be the same on every rank, received 0 on rank 0 and 1 on rank 1',
      'ERR_GROUP: the function called on a group must be the same on every rank, received barrier on rank 0 and allReduce on rank 1',
      'then 1',
    ];
    const said = [0, 1].flatMap((rank) => messages.map((message) => `${rank}: ${message}`));
    await expectEnd(run(2, 'arguments of ranks that do not fit together'), 0, said.sort());
  });

  testHere('closes where a process ends in order without close', () =>
    expectEnd(run(3, 'ends without close'), 0, onEach(3, 'ends')),
  );

  testHere('tells the others where a process ends in order while they go on', () => {
    const left = (rank: number, call: string) =>
      `${rank}: ERR_GROUP: rank 0 of 3 has left the group: ${call} on rank ${rank} cannot be done`;
    const said = [1, 2].flatMap((rank) => [
      left(rank, 'allReduce'),
      left(rank, 'allReduce'),
      `${rank}: closed`,
    ]);
    return expectEnd(run(3, 'a rank ends while others go on'), 0, said);
  });

  testHere('lets go of a worker that is terminated in the middle of a collective', () =>
    expectEnd(run(2, 'a worker is terminated in the middle'), 9, ['1: terminated with 1']),
  );

  testHere(
    'ends calls by their deadline where a rank stops in the middle, and every later call',
    async () => {
      const message =
        'allReduce on rank 0 of 2 was not done after 8 seconds: another rank has stopped or has not called it; this group cannot be used any more';
      const { code, said, stderr } = await run(2, 'a rank stops in the middle');
      expect(code, stderr).toBe(9);
      // mpirun wakes the stopped rank before it ends it, which may then say the same.
      expect(said.filter((line) => line.startsWith('0: '))).toEqual([
        `0: ERR_GROUP_TIMEOUT: ${message}`,
        `0: true ${message}`,
      ]);
    },
  );

  testHere('does not wait for ever for a rank that does not come', () =>
    expectEnd(run(2, 'a rank does not come'), 9, [`0: ERR_GROUP_TIMEOUT: ${absent}`]),
  );
});
