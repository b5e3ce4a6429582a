/** Runs programs in several processes with a software GPU each, started as torchrun starts them, for tests. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { softwareDriver } from './gpus.js';
import type { Ended, RunOptions } from './mpirun.js';

/** The stand-in for NCCL on the software device; test/global_setup.ts makes it. */
export const softwareNccl = join(softwareDriver, '..', 'libnccl.so.2');

export async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Of all ranks of one machine with as many GPUs. */
export const ncclEnvironment = (ranks: number): NodeJS.ProcessEnv => ({
  MARGINFC_LIBCUDA: softwareDriver,
  MARGINFC_LIBNCCL: softwareNccl,
  MARGINFC_THREADS: '1',
  GPUSIM_DEVICES: String(ranks),
  GPUSIM_THREADS: '1',
  NO_COLOR: '1',
});

export interface TorchrunOptions extends RunOptions {
  /** Of one rank, over the environment of all. */
  readonly rankEnvironment?: (rank: number) => NodeJS.ProcessEnv;
}

/**
 * Runs `node program args` on so many ranks to their ends. As torchrun does, it ends the others when one ends with a code other than
 * 0, which is the code of the whole; one that a signal ends is left for the others to find out. Ranks that hang end by SIGKILL.
 */
export async function torchrun(
  ranks: number,
  program: string,
  args: readonly string[],
  { environment = {}, rankEnvironment = () => ({}) }: TorchrunOptions = {},
): Promise<Ended> {
  const port = await freePort();
  const children = Array.from({ length: ranks }, (_, rank) =>
    spawn(process.execPath, [program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        ...ncclEnvironment(ranks),
        RANK: String(rank),
        LOCAL_RANK: String(rank),
        WORLD_SIZE: String(ranks),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: String(port),
        ...environment,
        ...rankEnvironment(rank),
      },
    }),
  );
  let stdout = '';
  let stderr = '';
  for (const child of children) {
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
    });
    child.stderr.on('data', (chunk) => {
      stderr += chunk;
    });
  }
  const end = () => {
    for (const child of children) child.kill('SIGKILL');
  };
  const deadline = setTimeout(end, 100_000);
  let code: number | null = 0;
  await Promise.all(
    children.map(async (child) => {
      await once(child, 'close');
      if (code !== 0 || child.exitCode === 0) return;
      code = child.exitCode ?? 0;
      if (code !== 0) end();
    }),
  );
  clearTimeout(deadline);
  const said = stdout.split('\n').filter((line) => line !== '');
  return { code, signal: null, said: said.sort(), stderr };
}
