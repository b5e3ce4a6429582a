/** Measurements run in processes of their own: with their own environment, memory and peaks. */

import { fork } from 'node:child_process';
import { once } from 'node:events';

/**
 * Runs the program again with `--child` and the job, and returns what it sends with {@link reply}. The program
 * must answer by itself: see {@link childJob}.
 */
export async function runInChild<Answer>(
  program: string,
  job: unknown,
  { env = {}, execArgv = [] }: { env?: Readonly<Record<string, string>>; execArgv?: string[] } = {},
): Promise<Answer> {
  const child = fork(program, ['--child', JSON.stringify(job)], {
    env: { ...process.env, ...env },
    execArgv,
  });
  let answer: { value: Answer } | undefined;
  child.once('message', (value) => {
    answer = { value: value as Answer };
  });
  const [code, signal] = await once(child, 'close');
  if (!answer || code !== 0) throw new Error(`the measuring process ended with ${signal ?? code}`);
  return answer.value;
}

/** The job of this process, if it is a child of {@link runInChild}. */
export function childJob<Job>(): Job | undefined {
  const [flag, job] = process.argv.slice(2);
  return flag === '--child' && job !== undefined ? (JSON.parse(job) as Job) : undefined;
}

/** Answers {@link runInChild}. */
export function reply(answer: object | number): void {
  process.send?.(answer);
}
