/** Runs programs in several processes over MPI, for tests. */

import { execFile, spawnSync } from 'node:child_process';
import { describeMpi } from '../src/group.js';

/** Why this machine has no mpi(); undefined where it has. Printed once by the test that asks. */
export const mpiMissing: string | undefined = findReason();

function findReason(): string | undefined {
  const mpi = describeMpi();
  if (mpi.startsWith('not available')) return mpi;
  const { error } = spawnSync('mpirun', ['--version'], { stdio: 'ignore' });
  return error === undefined ? undefined : `there is no mpirun: ${error.message}`;
}

/** For Open MPI as root, in containers, and with more ranks than cores; no other MPI minds. */
export const mpiEnvironment = {
  OMPI_ALLOW_RUN_AS_ROOT: '1',
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1',
  OMPI_MCA_rmaps_base_oversubscribe: '1',
  OMPI_MCA_btl_vader_single_copy_mechanism: 'none',
  MARGINFC_THREADS: '1',
  NO_COLOR: '1',
};

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Lines of standard output, sorted: those of different ranks come in any order. */
  readonly said: readonly string[];
  readonly stderr: string;
}

export interface RunOptions {
  readonly environment?: NodeJS.ProcessEnv;
  /** Of mpirun, before the program. */
  readonly flags?: readonly string[];
  /** A command that runs the one after it elsewhere. */
  readonly through?: readonly string[];
}

/** Runs `node program args` on so many ranks to its end; without mpirun where `ranks` is 0. One that hangs ends by SIGKILL. */
export function mpirun(
  ranks: number,
  program: string,
  args: readonly string[],
  { environment = {}, flags = [], through = [] }: RunOptions = {},
): Promise<Ended> {
  const command = [process.execPath, program, ...args];
  if (ranks > 0) command.unshift('mpirun', '-np', String(ranks), ...flags);
  const [file = '', ...rest] = [...through, ...command];
  const env = { ...process.env, ...mpiEnvironment, ...environment };
  return new Promise((resolve) => {
    const child = execFile(
      file,
      rest,
      { env, timeout: 100_000, killSignal: 'SIGKILL' },
      (_, stdout, stderr) => {
        const said = stdout.split('\n').filter((line) => line !== '');
        resolve({ code: child.exitCode, signal: child.signalCode, said: said.sort(), stderr });
      },
    );
  });
}
