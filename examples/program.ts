/** What the examples' command lines share. */

import { MarginFcError } from 'marginfc';

/** Something typed that cannot be. */
export class UsageError extends Error {}

/** Runs a program; errors are printed without a stack where they say it all. */
export async function runProgram(usage: string, main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    if (error instanceof UsageError) console.error(`${error.message}\n\n${usage}`);
    else if (error instanceof MarginFcError || !(error instanceof Error)) console.error(error);
    else console.error(error.message);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}

/** An integer in [1, most]. */
export function count(text: string, option: string, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw new UsageError(`${option} must be an integer in [1, ${most}], received '${text}'`);
  return value;
}
