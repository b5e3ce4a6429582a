/** How processes find each other in torchrun's convention: the environment, and what comes to rank 0's port. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { describe, expect, it, test } from 'vitest';
import { localRank, type MeetingPoint, meet, meetingPoint } from '../src/rendezvous.js';
import { expectFailure, failureOf } from './failures.js';
import { freePort } from './torchrun.js';

const torchrun = { RANK: '1', WORLD_SIZE: '4', LOCAL_RANK: '0', MASTER_ADDR: 'node0', MASTER_PORT: '29500' };

test.each([
  ['of torchrun with a static store', {}, undefined, { rank: 1, size: 4, host: 'node0', port: 29500 }],
  [
    'of torchrun with its own store on MASTER_PORT',
    { TORCHELASTIC_USE_AGENT_STORE: 'True' },
    undefined,
    { port: 29501 },
  ],
  ['and a port that the caller gives', { MASTER_PORT: undefined }, 4000, { port: 4000 }],
  [
    'of one process',
    { RANK: '0', WORLD_SIZE: '1', MASTER_ADDR: undefined, MASTER_PORT: undefined },
    undefined,
    { rank: 0, size: 1 },
  ],
])('the environment %s says where to meet', (_, environment, port, expected) => {
  expect(meetingPoint({ ...torchrun, ...environment }, port)).toMatchObject(expected);
});

test.each([
  ['RANK', undefined, 'an integer in [0, 3], received nothing: torchrun sets it for each process'],
  ['RANK', '', "an integer in [0, 3], received ''"],
  ['RANK', '4', "an integer in [0, 3], received '4'"],
  ['RANK', '-1', "an integer in [0, 3], received '-1'"],
  ['RANK', '1e0', "an integer in [0, 3], received '1e0'"],
  ['WORLD_SIZE', '0', "an integer in [1, 2147483647], received '0'"],
  ['WORLD_SIZE', undefined, 'an integer in [1, 2147483647], received nothing'],
  ['MASTER_ADDR', '', "the host name or address of rank 0, received ''"],
  ['MASTER_PORT', '70000', "an integer in [1, 65535], received '70000'"],
])('%s=%s is refused', async (name, value, message) => {
  const error = await failureOf(() => meetingPoint({ ...torchrun, [name]: value }, undefined));
  expect(error.code).toBe('ERR_OPTION');
  expect(error.message).toContain(`the environment variable ${name} must be ${message}`);
});

test.each([
  [{ LOCAL_RANK: '2', SLURM_LOCALID: '1' }, 2],
  [{ OMPI_COMM_WORLD_LOCAL_RANK: '3' }, 3],
  [{ MPI_LOCALRANKID: '1' }, 1],
  [{ SLURM_LOCALID: '0' }, 0],
])('%o gives the local rank', (environment, rank) => {
  expect(localRank(environment)).toBe(rank);
});

const bytes = Uint8Array.from({ length: 128 }, (_, i) => 255 - i);
const unasked = () => expect.fail('only rank 0 makes bytes');

async function points(size: number): Promise<MeetingPoint[]> {
  const port = await freePort();
  return Array.from({ length: size }, (_, rank) => ({ rank, size, host: '127.0.0.1', port }));
}

/** A connection that says something, and all that comes back. */
async function stranger(port: number, says: string): Promise<string> {
  for (;;) {
    const socket = connect({ host: '127.0.0.1', port });
    try {
      await once(socket, 'connect');
      socket.write(says);
      let heard = '';
      for await (const chunk of socket) heard += chunk;
      return heard;
    } catch (error) {
      // Nobody listens yet, or it was cut off while it spoke.
      if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED') return '';
    }
  }
}

describe('ranks that meet', () => {
  it.each([1, 2, 5])('all %i get the bytes of rank 0, whoever comes first', async (size) => {
    const all = await points(size);
    const got = await Promise.all(
      all.reverse().map((point) => meet(point, 10, point.rank === 0 ? () => bytes : unasked)),
    );
    for (const each of got) expect(Buffer.from(each).equals(bytes)).toBe(true);
  });

  it.each([
    ['another protocol', 'GET / HTTP/1.1\r\n\r\n', 'something that is no rank of marginfc'],
    ['bytes without end', 'x'.repeat(5000), undefined],
    ['another world size', 'marginfc-nccl-1 1 3\n', 'rank 1 has WORLD_SIZE 3, rank 0 has 2'],
    ['a rank that does not exist', 'marginfc-nccl-1 2 2\n', 'there is no rank 2 of 2'],
    ['rank 0 once more', 'marginfc-nccl-1 0 2\n', 'there is no rank 0 of 2'],
    ['too many words', 'marginfc-nccl-1 1 2 3\n', 'something that is no rank of marginfc'],
  ])('go on after %s', async (_, says, why) => {
    const [first, second] = (await points(2)) as [MeetingPoint, MeetingPoint];
    const met = meet(first, 10, () => bytes);
    const heard = await stranger(first.port, says);
    if (why === undefined) expect(heard).toBe('');
    else expect(JSON.parse(heard)).toEqual({ refused: why });
    expect(Buffer.from(await meet(second, 10, unasked)).equals(bytes)).toBe(true);
    await met;
  });

  it('go on while a connection says nothing', async () => {
    const [first, second] = (await points(2)) as [MeetingPoint, MeetingPoint];
    const met = meet(first, 10, () => bytes);
    const silent = stranger(first.port, '');
    await meet(second, 10, unasked);
    await met;
    expect(await silent).toBe('');
  });

  it('refuse a second one of the same rank, but not one that comes back', async () => {
    const [first, second, third] = (await points(3)) as [MeetingPoint, MeetingPoint, MeetingPoint];
    const met = meet(first, 10, () => bytes);
    const lost = await connected(first.port);
    lost.write('marginfc-nccl-1 1 3\n');
    expect(JSON.parse(await stranger(first.port, 'marginfc-nccl-1 1 3\n'))).toEqual({
      refused: 'rank 1 is there already',
    });
    lost.destroy();
    await Promise.all([meet(second, 10, unasked), meet(third, 10, unasked), met]);
  });

  it('learn that rank 0 refused them', async () => {
    const [first, second] = (await points(2)) as [MeetingPoint, MeetingPoint];
    const met = failureOf(() => meet(first, 0.5, () => bytes));
    await expectFailure(
      () => meet({ ...second, size: 3 }, 10, unasked),
      'ERR_GROUP',
      /^nccl: rank 0 at 127\.0\.0\.1:\d+ refused: rank 1 has WORLD_SIZE 3, rank 0 has 2$/,
    );
    const { code, message } = await met;
    expect(code).toBe('ERR_GROUP_TIMEOUT');
    expect(message).toMatch(/rank 1 of 2 did not come within 0.5 seconds; refused: rank 1 has WORLD_SIZE 3/);
  });

  it('give up when nobody listens', async () => {
    const [, second] = (await points(2)) as [MeetingPoint, MeetingPoint];
    await expectFailure(
      () => meet(second, 0.3, unasked),
      'ERR_GROUP_TIMEOUT',
      /^nccl: on rank 1, no answer of rank 0 at 127\.0\.0\.1:\d+ within 0.3 seconds \(.*ECONNREFUSED/,
    );
  });

  it.each([
    ['says something else', (socket: Socket) => socket.end('SSH-2.0\r\n')],
    ['closes the connection', (socket: Socket) => socket.end()],
    ['never answers', () => {}],
  ])('give up when what listens %s', async (_, behave) => {
    const other = createServer((socket) => {
      socket.on('error', () => {});
      behave(socket);
    }).listen(0);
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    await expectFailure(
      () => meet({ rank: 1, size: 2, host: '127.0.0.1', port }, 0.3, unasked),
      'ERR_GROUP_TIMEOUT',
      /no answer of rank 0/,
    );
    await expectFailure(
      () => meet({ rank: 0, size: 2, host: '127.0.0.1', port }, 10, () => bytes),
      'ERR_GROUP',
      /^nccl: rank 0 cannot listen: port \d+ is in use .*give all ranks the option port/,
    );
    other.close();
  });
});

async function connected(port: number): Promise<Socket> {
  for (;;) {
    const socket = connect({ host: '127.0.0.1', port });
    socket.on('error', () => {});
    const arrived = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'close').then(() => false),
    ]).catch(() => false);
    if (arrived) return socket;
  }
}
