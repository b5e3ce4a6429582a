/**
 * node scenarios.mjs NAME: what one process of a group does, several of which test/group.test.ts and others start. Each
 * says what it found in lines `rank: text`.
 */
import { writeSync } from 'node:fs';
import { hostname } from 'node:os';
import process from 'node:process';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { mpi, nccl } from 'marginfc';
import { brought, partitions, reduced, severalRounds, types } from './values.mjs';

/** @import { MarginFcError, ProcessGroup } from 'marginfc' */
/** @import { GroupArray, GroupArrayType } from './values.mjs' */

/** What connects the processes. */
const join = process.env.MARGINFC_TEST_GROUP === 'nccl' ? nccl : mpi;
/** Known before they are connected: the launchers of Open MPI and of MPICH, and torchrun. */
const rank = Number(process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK ?? process.env.RANK ?? 0);

/** @param {string} text */
function say(text) {
  writeSync(1, `${rank}: ${text}\n`);
}

/** Says how a call that should fail does. @param {Promise<unknown>} call */
async function sayFailure(call) {
  try {
    await call;
    say('no error');
  } catch (error) {
    const { code, message } = /** @type {MarginFcError} */ (error);
    say(`${code}: ${message}`);
  }
}

/** @param {GroupArray} got @param {GroupArray} expected @param {string} what */
function compare(got, expected, what) {
  const wrong = got.length === expected.length ? got.findIndex((value, i) => value !== expected[i]) : 0;
  if (wrong >= 0) throw new Error(`${what}[${wrong}] is ${got[wrong]}, expected ${expected[wrong]}`);
}

/**
 * Every collective with parts of these lengths.
 * @param {ProcessGroup} group
 * @param {GroupArrayType} Type
 * @param {number[]} lengths
 * @param {string} what
 */
async function checkAll(group, Type, lengths, what) {
  const { size } = group;
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const own = lengths[rank] ?? 0;
  const before = lengths.slice(0, rank).reduce((sum, length) => sum + length, 0);

  const whole = new Type(total).fill(99);
  await group.allGather(brought(Type, own, rank), whole);
  let start = 0;
  for (const [other, length] of lengths.entries()) {
    compare(whole.subarray(start, start + length), brought(Type, length, other), `${what}: gathered`);
    start += length;
  }
  const part = new Type(own).fill(99);
  await group.reduceScatter(brought(Type, total, rank), part);
  const sum = reduced(Type, total, size, 'sum');
  compare(part, sum.subarray(before, before + own), `${what}: scattered`);

  for (const operation of /** @type {const} */ (['sum', 'max'])) {
    const values = brought(Type, total, rank);
    await group.allReduce(values, operation);
    compare(
      values,
      operation === 'sum' ? sum : reduced(Type, total, size, operation),
      `${what}: ${operation}`,
    );
  }
  const root = size - 1;
  const values = brought(Type, total, rank);
  await group.broadcast(values, root);
  compare(values, brought(Type, total, root), `${what}: broadcast`);
  await group.barrier();
}

/**
 * Collectives one after the other for longer than a test lasts, so that something can happen in the middle.
 * @param {ProcessGroup} group
 */
function busy(group) {
  const values = new Float32Array(1_000_000);
  return Array.from({ length: 10_000 }, () => group.allReduce(values, 'max'));
}

/** @type {Record<string, () => Promise<void>>} */
const scenarios = {
  async 'every collective'() {
    const group = await join();
    if (group.rank !== rank) throw new Error(`the launcher said ${rank}, MPI ${group.rank}`);
    for (const Type of types)
      for (const [name, lengthsOf] of Object.entries(partitions))
        await checkAll(group, Type, lengthsOf(group.size), `${Type.name}, ${name}`);
    await checkAll(group, Float32Array, severalRounds(group.size), 'several rounds');
    await group.close();
    say(`right on ${group.size}`);
  },
  async 'short collectives'() {
    const group = await join();
    for (const [name, lengthsOf] of Object.entries(partitions))
      await checkAll(group, Float32Array, lengthsOf(group.size), name);
    await group.close();
    say(`right on ${group.size}, here ${hostname()}`);
  },
  async 'many at once'() {
    const group = await join();
    /** @type {number[]} */
    const order = [];
    const calls = Array.from({ length: 300 }, async (_, i) => {
      const values = Int32Array.of(rank, i);
      if (i % 3 === 0) await group.allReduce(values, 'sum');
      else if (i % 3 === 1) await group.broadcast(values, i % group.size);
      else await group.allGather(values.subarray(0, 1), new Int32Array(group.size));
      order.push(i);
      if (values[1] !== (i % 3 === 0 ? i * group.size : i)) throw new Error(`call ${i} gave ${values[1]}`);
    });
    const closed = group.close();
    await Promise.all(calls);
    await closed;
    say(`in order: ${order.every((call, i) => call === i)}`);
  },
  async 'arguments of ranks that do not fit together'() {
    const group = await join();
    const first = rank === 0;
    await sayFailure(group.allGather(new Float32Array(2), new Float32Array(first ? 4 : 5)));
    await sayFailure(group.reduceScatter(new Float32Array(4), new Float32Array(first ? 3 : 2)));
    await sayFailure(group.allReduce(new Float32Array(first ? 4 : 5), 'sum'));
    await sayFailure(group.allReduce(first ? new Float32Array(4) : new Int32Array(4), 'sum'));
    await sayFailure(group.allReduce(new Float32Array(4), first ? 'sum' : 'max'));
    await sayFailure(group.broadcast(new Float32Array(4), first ? 0 : 1));
    await sayFailure(first ? group.barrier() : group.allReduce(new Float32Array(4), 'sum'));
    const values = Float64Array.of(rank);
    await group.allReduce(values, 'sum');
    say(`then ${values}`);
    await group.close();
  },
  async 'bad arguments'() {
    const group = await join();
    /** @type {any} */
    const any = group;
    const floats = new Float32Array(4);
    await sayFailure(any.allGather([1, 2], floats));
    await sayFailure(any.allGather(new Float64Array(4), floats));
    await sayFailure(any.allReduce(new Uint16Array(4), 'sum'));
    await sayFailure(any.allReduce(floats, 'product'));
    await sayFailure(any.broadcast(floats, 1));
    await sayFailure(group.allGather(floats.subarray(0, 2), floats));
    await sayFailure(mpi({ timeout: 0 }));
    await sayFailure(mpi(/** @type {any} */ ({ timeOut: 1 })));
    await sayFailure(mpi());
    await group.close();
    await group.close();
    await sayFailure(group.barrier());
    await sayFailure(mpi());
  },
  async 'a rank stops in the middle'() {
    const group = await join({ timeout: 8 });
    const calls = busy(group);
    await calls[0];
    if (rank === 1) process.kill(process.pid, 'SIGSTOP');
    const ended = await Promise.allSettled(calls);
    const failures = ended.flatMap((call) => (call.status === 'rejected' ? [call.reason] : []));
    const timeouts = failures.filter(({ code }) => code === 'ERR_GROUP_TIMEOUT');
    say(`${failures.length > 0 && timeouts.length === failures.length} ${failures[0].message}`);
    await sayFailure(group.barrier());
    await group.close();
    process.exit(9);
  },
  async 'a rank is killed in the middle'() {
    const group = await join();
    const calls = busy(group);
    await calls[0];
    if (rank === 1) process.kill(process.pid, 'SIGKILL');
    await Promise.all(calls);
    say('went on');
  },
  async 'a rank is killed in the middle, and nobody ends the others'() {
    const group = await join({ timeout: 8 });
    const calls = busy(group);
    await calls[0];
    if (rank === 1) process.kill(process.pid, 'SIGKILL');
    await sayFailure(Promise.all(calls));
    await Promise.allSettled(calls);
    await group.close();
  },
  async 'a rank does not come'() {
    if (rank === 1) return pause(60_000);
    await sayFailure(join({ timeout: 1 }));
    process.exit(9);
  },
  async 'ends without close'() {
    const group = await join();
    await group.barrier();
    say('ends');
  },
  async 'a rank ends while others go on'() {
    const group = await join();
    await group.barrier();
    if (rank === 0) return;
    await sayFailure(group.allReduce(new Float32Array(3), 'sum'));
    await sayFailure(group.barrier());
    await group.close();
    say('closed');
  },
  async 'process.exit(0) in the middle'() {
    const group = await join();
    await group.barrier();
    const calls = busy(group);
    await calls[0];
    if (rank === 1) process.exit(0);
    await Promise.all(calls);
  },
  async 'an uncaught error'() {
    const group = await join();
    await group.barrier();
    if (rank === 1) throw new Error('uncaught on purpose');
    await group.barrier();
  },
  async 'in a worker'() {
    const worker = new Worker(new URL(import.meta.url), { argv: ['as a worker'] });
    worker.on('exit', (code) => say(`worker ended with ${code}`));
    worker.on('message', () => {
      if (rank === 0) sayFailure(mpi());
      worker.postMessage('go');
    });
  },
  async 'as a worker'() {
    const { parentPort } = await import('node:worker_threads');
    const group = await join();
    const values = Float32Array.of(rank, 1);
    await group.allReduce(values, 'sum');
    parentPort?.postMessage('joined');
    await new Promise((resolve) => parentPort?.once('message', resolve));
    say(`worker has ${values}`);
  },
  async 'a worker is terminated in the middle'() {
    const worker = new Worker(new URL(import.meta.url), { argv: ['as a worker in the middle'] });
    await new Promise((resolve) => worker.once('message', resolve));
    if (rank === 0) await pause(60_000);
    say(`terminated with ${await worker.terminate()}`);
    process.exit(9);
  },
  async 'as a worker in the middle'() {
    const { parentPort } = await import('node:worker_threads');
    const group = await join();
    const calls = busy(group);
    await calls[0];
    parentPort?.postMessage('in the middle');
    await Promise.all(calls);
  },
  /** With the options in the next argument. */
  async opens() {
    const options = JSON.parse(process.argv[3] ?? '{}');
    await sayFailure(nccl(options).then((group) => group.close()));
  },
  /** A second group that the first one's ranks meet over, with nothing of the launcher. */
  async 'over another group'() {
    const first = await nccl();
    for (const name of ['LOCAL_RANK', 'RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'])
      delete process.env[name];
    const over = /** @type {const} */ ({ over: first, device: `cuda:${rank}` });
    await sayFailure(nccl({ ...over, device: rank === 1 ? 'cuda:9' : over.device }));
    const second = await nccl(over);
    await checkAll(second, Float32Array, partitions.uneven?.(second.size) ?? [], 'over');
    await second.close();
    await first.barrier();
    await first.close();
    say(`right on ${second.size}`);
  },
};

const scenario = scenarios[process.argv[2] ?? ''];
if (scenario === undefined) throw new Error(`no scenario ${process.argv[2]}`);
await scenario();
