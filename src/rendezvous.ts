/**
 * How processes of a launcher in torchrun's convention find each other: where a process stands, from its environment, and
 * how a few bytes of rank 0 come to all ranks, over TCP.
 */

import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { MarginFcError, type MarginFcErrorCode } from './errors.js';
import { maxCount, mustBe, show } from './validate.js';

type Environment = Readonly<Record<string, string | undefined>>;

/** Where the processes of a job meet. */
export interface MeetingPoint {
  readonly rank: number;
  readonly size: number;
  /** Of rank 0. */
  readonly host: string;
  readonly port: number;
}

/** Greets, so that nothing else that speaks on the port is taken for a rank. */
const greeting = 'marginfc-nccl-1';
const longestLine = 1024;
/** For a connection to say who it is, ms. */
const patience = 10_000;
/** Between attempts to connect, ms. */
const retryPause = 100;
/** Of Node's timers, ms: three weeks. */
const longestTimer = 2 ** 31 - 1;

/** RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of the environment; the last two are not looked at where there is one rank. */
export function meetingPoint(environment: Environment, port: number | undefined): MeetingPoint {
  const size = variable(environment, 'WORLD_SIZE', 1, maxCount);
  const rank = variable(environment, 'RANK', 0, size - 1);
  if (size === 1) return { rank, size, host: '', port: 0 };
  const host = environment.MASTER_ADDR;
  if (host === undefined || host === '')
    throw missing('MASTER_ADDR', 'the host name or address of rank 0', host);
  if (port !== undefined) return { rank, size, host, port };
  const master = variable(environment, 'MASTER_PORT', 1, 65535);
  // There torchrun itself listens on MASTER_PORT.
  const taken = environment.TORCHELASTIC_USE_AGENT_STORE === 'True';
  return { rank, size, host, port: taken && master < 65535 ? master + 1 : master };
}

/** Which process of its machine this is, as torchrun, Open MPI, MPICH or Slurm say. */
export function localRank(environment: Environment): number {
  const names = ['LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MPI_LOCALRANKID', 'SLURM_LOCALID'];
  const name = names.find((each) => environment[each] !== undefined) ?? 'LOCAL_RANK';
  return variable(environment, name, 0, 999);
}

function variable(environment: Environment, name: string, least: number, most: number): number {
  const text = environment[name];
  const value = Number(text);
  if (text !== undefined && /^\d{1,10}$/.test(text) && value >= least && value <= most) return value;
  throw missing(name, `an integer in [${least}, ${most}]`, text);
}

function missing(name: string, expectation: string, received: string | undefined): MarginFcError {
  return mustBe(
    'ERR_OPTION',
    `the environment variable ${name}`,
    expectation,
    received === undefined ? 'nothing: torchrun sets it for each process' : show(received),
  );
}

/** Hands the bytes that rank 0 makes to all ranks, once all have come, within `timeout` seconds. */
export async function meet(
  point: MeetingPoint,
  timeout: number,
  make: () => Uint8Array,
): Promise<Uint8Array> {
  if (point.size === 1) return make();
  const deadline = AbortSignal.timeout(Math.min(timeout * 1000, longestTimer));
  return point.rank === 0 ? receive(point, timeout, deadline, make()) : ask(point, timeout, deadline);
}

/** Rank 0: waits for the others, then answers all. */
async function receive(
  { size, port }: MeetingPoint,
  timeout: number,
  deadline: AbortSignal,
  bytes: Uint8Array,
): Promise<Uint8Array> {
  const present = new Map<number, Socket>();
  const open = new Set<Socket>();
  const refused: string[] = [];
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      const complete = () => {
        if (present.size === size - 1) resolve();
      };
      server.on('connection', (socket) => {
        open.add(socket);
        socket.on('close', () => open.delete(socket));
        readLine(socket, patience).then(
          (line) => {
            const { rank, why } = readGreeting(line, size, present);
            if (why !== undefined) {
              refused.push(why);
              socket.end(`${JSON.stringify({ refused: why })}\n`);
              return;
            }
            present.set(rank, socket);
            // It may come again.
            socket.on('close', () => present.delete(rank));
            complete();
          },
          () => socket.destroy(),
        );
      });
      server.on('error', (error) => reject(cannotListen(error, port)));
      deadline.addEventListener('abort', () => {
        const absent = Array.from({ length: size - 1 }, (_, i) => i + 1).filter((rank) => !present.has(rank));
        const others = refused.length > 0 ? `; refused: ${refused.slice(0, 3).join('; ')}` : '';
        reject(timedOut(`on rank 0, ${listRanks(absent)} of ${size} did not come`, timeout, others));
      });
      server.listen(port);
    });
    const answer = `${JSON.stringify({ bytes: Buffer.from(bytes).toString('base64') })}\n`;
    await Promise.all([...present.values()].map((socket) => finish(socket, answer)));
    return bytes;
  } finally {
    close(server, open);
  }
}

function finish(socket: Socket, answer: string): Promise<void> {
  return new Promise((resolve) => {
    socket.on('close', () => resolve());
    socket.end(answer);
    // Also where the other side never closes.
    socket.setTimeout(patience, () => socket.destroy());
  });
}

function close(server: Server, open: ReadonlySet<Socket>): void {
  server.close();
  for (const socket of open) socket.destroy();
}

function readGreeting(
  line: string,
  size: number,
  present: ReadonlyMap<number, Socket>,
): { rank: number; why?: string } {
  const [word, first = '', second = '', ...rest] = line.split(' ');
  const [rank, theirs] = [Number(first), Number(second)];
  const numbers = /^\d+$/.test(first) && /^\d+$/.test(second) && rest.length === 0;
  if (word !== greeting || !numbers) return { rank, why: 'something that is no rank of marginfc' };
  if (theirs !== size) return { rank, why: `rank ${rank} has WORLD_SIZE ${theirs}, rank 0 has ${size}` };
  if (rank < 1 || rank >= size) return { rank, why: `there is no rank ${rank} of ${size}` };
  if (present.has(rank)) return { rank, why: `rank ${rank} is there already` };
  return { rank };
}

/** Another rank: asks rank 0 until it answers. */
async function ask(point: MeetingPoint, timeout: number, deadline: AbortSignal): Promise<Uint8Array> {
  const { rank, size, host, port } = point;
  let last = 'nothing was heard';
  while (!deadline.aborted) {
    const socket = connect({ host, port });
    const giveUp = () => socket.destroy();
    deadline.addEventListener('abort', giveUp);
    try {
      const answered = readLine(socket);
      socket.write(`${greeting} ${rank} ${size}\n`);
      const answer = readAnswer(await answered);
      if (answer === undefined) last = 'what listens there does not answer as rank 0 of marginfc does';
      else if ('refused' in answer)
        throw failed('ERR_GROUP', `rank 0 at ${host}:${port} refused: ${answer.refused}`);
      else return answer.bytes;
    } catch (error) {
      if (error instanceof MarginFcError) throw error;
      if (!deadline.aborted) last = error instanceof Error ? error.message : String(error);
    } finally {
      deadline.removeEventListener('abort', giveUp);
      socket.destroy();
    }
    if (!deadline.aborted) await pause(retryPause);
  }
  throw timedOut(`on rank ${rank}, no answer of rank 0 at ${host}:${port}`, timeout, ` (${last})`);
}

function readAnswer(line: string): { bytes: Uint8Array } | { refused: string } | undefined {
  try {
    const answer: unknown = JSON.parse(line);
    if (typeof answer !== 'object' || answer === null) return undefined;
    if ('bytes' in answer && typeof answer.bytes === 'string')
      return { bytes: Buffer.from(answer.bytes, 'base64') };
    if ('refused' in answer && typeof answer.refused === 'string') return { refused: answer.refused };
  } catch {
    // Not of rank 0.
  }
  return undefined;
}

/** The first line that comes; fails where the connection ends before, the line is too long, or `within` ms have passed. */
function readLine(socket: Socket, within?: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const timer =
      within === undefined ? undefined : setTimeout(() => reject(new Error('no greeting came')), within);
    const settle = (act: () => void) => {
      clearTimeout(timer);
      socket.off('data', read);
      act();
    };
    const read = (chunk: Buffer) => {
      text += chunk.toString('latin1');
      const end = text.indexOf('\n');
      if (end >= 0) settle(() => resolve(text.slice(0, end)));
      else if (text.length > longestLine) settle(() => reject(new Error('the line is too long')));
    };
    socket.on('data', read);
    socket.on('error', (error) => settle(() => reject(error)));
    socket.on('close', () => settle(() => reject(new Error('the connection was closed'))));
  });
}

function cannotListen(error: Error, port: number): MarginFcError {
  const why =
    'code' in error && error.code === 'EADDRINUSE'
      ? `port ${port} is in use (perhaps by the launcher's own store): give all ranks the option port, such as MASTER_PORT + 1`
      : error.message;
  return failed('ERR_GROUP', `rank 0 cannot listen: ${why}`, { cause: error });
}

function timedOut(what: string, timeout: number, detail: string): MarginFcError {
  return failed(
    'ERR_GROUP_TIMEOUT',
    `${what} within ${timeout} ${timeout === 1 ? 'second' : 'seconds'}${detail}`,
  );
}

function failed(code: MarginFcErrorCode, message: string, options?: ErrorOptions): MarginFcError {
  return new MarginFcError(code, `nccl: ${message}`, options);
}

function listRanks(ranks: readonly number[]): string {
  const shown = ranks.slice(0, 8).join(', ') + (ranks.length > 8 ? ', …' : '');
  return `${ranks.length === 1 ? 'rank' : 'ranks'} ${shown}`;
}
