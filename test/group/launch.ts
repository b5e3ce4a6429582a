/** What tests of groups share: the program that each process runs, and what all of them say. */

import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { Ended } from '../mpirun.js';

export const scenarios = fileURLToPath(new URL('./scenarios.mjs', import.meta.url));

/** A line for each rank, in order. */
export const onEach = (ranks: number, text: string) =>
  Array.from({ length: ranks }, (_, rank) => `${rank}: ${text}`);

export async function expectEnd(
  ended: Promise<Ended>,
  code: number,
  said: readonly unknown[],
): Promise<void> {
  const { stderr, ...rest } = await ended;
  expect(rest, stderr).toEqual({ code, signal: null, said });
}
