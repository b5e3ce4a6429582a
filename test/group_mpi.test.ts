/** mpi(): real processes that mpirun starts. What it has in common with other groups is in test/group.test.ts. */

import { describe, expect, test } from 'vitest';
import { mpi } from '../src/index.js';
import { expectFailure } from './failures.js';
import { expectEnd, scenarios } from './group/launch.js';
import { type Ended, mpiMissing, mpirun, type RunOptions } from './mpirun.js';

if (mpiMissing !== undefined) console.log(`mpi() is not tested: ${mpiMissing}`);

const run = (ranks: number, scenario: string, options?: RunOptions): Promise<Ended> =>
  mpirun(ranks, scenarios, [scenario], options);

describe.skipIf(mpiMissing !== undefined)('a group', () => {
  test('is of one process without mpirun', () => expectEnd(run(0, 'every collective'), 0, ['0: right on 1']));

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

describe.skipIf(mpiMissing !== undefined)('a process ends otherwise than in order', () => {
  // mpirun's own status, which differs between versions; the ranks that remain say nothing.
  test.each(['process.exit(0) in the middle', 'an uncaught error', 'a rank is killed in the middle'])(
    'and mpirun ends the job: %s',
    async (scenario) => {
      const { code, said, stderr } = await run(3, scenario);
      expect({ ended: code !== null && code > 0, said }, stderr).toEqual({ ended: true, said: [] });
    },
  );
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
