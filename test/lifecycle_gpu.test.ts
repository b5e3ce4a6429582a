/** Processes and worker threads that end while GPUs compute for them, on the software device: test/lifecycle/gpu.mjs. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { closeEngines } from './engines.js';
import { findSoftwareGpus, softwareGpu } from './gpus.js';

const usable = (await findSoftwareGpus()).some(({ missing }) => missing === undefined);
afterAll(closeEngines);

function run(how: string): Promise<{ code: number | null; signal: NodeJS.Signals | null; said: string }> {
  const program = fileURLToPath(new URL('./lifecycle/gpu.mjs', import.meta.url));
  const env = { ...process.env, ...softwareGpu({ sm: 80, devices: 2, seed: 1 }).environment };
  return new Promise((resolve) => {
    const options = { env, timeout: 100_000, killSignal: 'SIGKILL' } as const;
    const child = execFile(process.execPath, [program, how], options, (_, stdout, stderr) =>
      resolve({ code: child.exitCode, signal: child.signalCode, said: stdout + stderr }),
    );
  });
}

describe.skipIf(!usable)('while GPUs compute', () => {
  test('a process may exit', async () => {
    expect(await run('process exits')).toEqual({ code: 7, signal: null, said: '' });
  });

  test.each([
    ['end naturally', 'naturally', 0],
    ['exit', 'exits', 7],
    ['be terminated', 'terminated', 1],
    ['be terminated in a blocking call', 'terminated while blocked', 1],
  ])('a worker may %s, and the main thread goes on computing', async (_, how, code) => {
    expect(await run(how)).toEqual({
      code: 0,
      signal: null,
      said: `worker ended with ${code}, results are the same\n`,
    });
  });
});
