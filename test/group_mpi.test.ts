/** mpi(): real processes that mpirun starts, each running test/group/scenarios.mjs. */

import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { mpi } from '../src/index.js';
import { expectFailure } from './failures.js';
import { type Ended, mpiMissing, mpirun, type RunOptions } from './mpirun.js';

if (mpiMissing !== undefined) console.log(`mpi() is not tested: ${mpiMissing}`);

const scenarios = fileURLToPath(new URL('./group/scenarios.mjs', import.meta.url));
const run = (ranks: number, scenario: string, options?: RunOptions): Promise<Ended> =>
  mpirun(ranks, scenarios, [scenario], options);

/** A line for each rank, in order. */
const onEach = (ranks: number, text: string) =>
  Array.from({ length: ranks }, (_, rank) => `${rank}: ${text}`);

async function expectEnd(ended: Promise<Ended>, code: number, said: readonly unknown[]): Promise<void> {
  const { stderr, ...rest } = await ended;
  expect(rest, stderr).toEqual({ code, signal: null, said });
}

test.skipIf(mpiMissing !== undefined).each([1, 2, 4])(
  'every collective gives what plain arithmetic does, on %d ranks',
  (ranks) => expectEnd(run(ranks, 'every collective'), 0, onEach(ranks, `right on ${ranks}`)),
);

describe.skipIf(mpiMissing !== undefined)('a group', () => {
  test('is of one process without mpirun', () => expectEnd(run(0, 'every collective'), 0, ['0: right on 1']));

  test('settles collectives in the order they were called, and closes after them', () =>
    expectEnd(run(3, 'many at once'), 0, onEach(3, 'in order: true')));

  test('refuses on every rank what does not fit together, and goes on', async () => {
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

  test('checks arguments, and is the only one of its process', async () => {
    const once = /^0: ERR_ENGINE_UNAVAILABLE: mpi\(\) has been called in this process before/;
    const expected = [
      /^0: ERR_DISPOSED: barrier was called on a group that has been closed$/,
      once,
      once,
      /^0: ERR_OPTION: a name in options must be one of timeout, received 'timeOut'$/,
      /^0: ERR_OPTION: operation must be 'sum' or 'max', received 'product'$/,
      /^0: ERR_OPTION: part must be apart from whole in memory, received an overlapping array$/,
      /^0: ERR_OPTION: root must be an integer in \[0, 0\], received 1$/,
      /^0: ERR_OPTION: timeout must be a finite number > 0, received 0$/,
      /^0: ERR_TYPE: part must be a Float32Array, Float64Array, Int32Array or Uint8Array, received Array\(2\)$/,
      /^0: ERR_TYPE: part must be a Float32Array, as whole is, received Float64Array\(4\)$/,
      /^0: ERR_TYPE: values must be a Float32Array, Float64Array, Int32Array or Uint8Array, received Uint16Array\(4\)$/,
    ];
    await expectEnd(
      run(0, 'bad arguments'),
      0,
      expected.map((message) => expect.stringMatching(message)),
    );
  });

  test('works in a worker thread, and keeps other threads out', () =>
    expectEnd(run(2, 'in a worker'), 0, [
      expect.stringMatching(/^0: ERR_ENGINE_UNAVAILABLE: mpi\(\) has been called in this process before/),
      '0: worker ended with 0',
      '0: worker has 1,2',
      '1: worker ended with 0',
      '1: worker has 1,2',
    ]));
});

describe.skipIf(mpiMissing !== undefined)('a process ends', () => {
  test('in order without close, and the job does', () =>
    expectEnd(run(3, 'ends without close'), 0, onEach(3, 'ends')));

  test('in order while others go on: they are told', () => {
    const left = (rank: number, name: string) =>
      `${rank}: ERR_GROUP: rank 0 of 3 has left the group: ${name} on rank ${rank} cannot be done`;
    const said = [1, 2].flatMap((rank) => [
      left(rank, 'allReduce'),
      left(rank, 'allReduce'),
      `${rank}: closed`,
    ]);
    return expectEnd(run(3, 'a rank ends while others go on'), 0, said);
  });

  // mpirun's own status, which differs between versions; the ranks that remain say nothing.
  test.each(['process.exit(0) in the middle', 'an uncaught error', 'a rank is killed in the middle'])(
    'otherwise, and mpirun ends the job: %s',
    async (scenario) => {
      const { code, said, stderr } = await run(3, scenario);
      expect({ ended: code !== null && code > 0, said }, stderr).toEqual({ ended: true, said: [] });
    },
  );

  test('its worker in the middle of a collective', () =>
    expectEnd(run(2, 'a worker is terminated in the middle'), 9, ['1: terminated with 1']));
});

describe.skipIf(mpiMissing !== undefined)('a deadline', () => {
  test('ends the calls of the others where a rank stops in the middle, and every later call', async () => {
    const message =
      'allReduce on rank 0 of 2 was not done after 8 seconds: another rank has stopped or has not called it; this group cannot be used any more';
    const { code, said, stderr } = await run(2, 'a rank stops in the middle');
    expect(code, stderr).toBe(9);
    // mpirun wakes the stopped rank before it ends it, which may then say the same.
    expect(said.filter((line) => line.startsWith('0: '))).toEqual([
      `0: ERR_GROUP_TIMEOUT: ${message}`,
      `0: true ${message}`,
    ]);
  });

  test('ends mpi() itself where a rank does not call it', () =>
    expectEnd(run(2, 'a rank does not come'), 9, [
      '0: ERR_GROUP_TIMEOUT: mpi was not done after 1 second: another rank has stopped or has not called it; this group cannot be used any more',
    ]));
});

describe('without MPI', () => {
  test('mpi() says what to install', async () => {
    process.env.MARGINFC_LIBMPI = '/nonexistent/marginfc_mpi.so';
    const message =
      /no mpicc \(there is no \/nonexistent\/marginfc_mpi\.so\).*`sudo apt-get install libopenmpi-dev openmpi-bin`.*`npm rebuild marginfc`/;
    try {
      await expectFailure(() => mpi(), 'ERR_ENGINE_UNAVAILABLE', message);
    } finally {
      delete process.env.MARGINFC_LIBMPI;
    }
  });

  test.skipIf(mpiMissing !== undefined)('of the mpirun that started the processes, mpi() says so', () =>
    expectEnd(run(0, 'a rank does not come', { environment: { PMI_SIZE: '2' } }), 9, [
      expect.stringMatching(/^0: ERR_ENGINE_UNAVAILABLE: mpirun started 2 processes, but .* sees one/),
    ]),
  );
});
