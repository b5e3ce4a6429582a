/**
 * Memory that native code keeps for the next call: workspaces and collected results, on huge pages, because the page
 * faults of fresh memory cost more than any detail of a kernel. At most 1 GiB of each, and none of it after a while
 * without calls.
 */

import { addon } from './native.js';

/** Milliseconds after the last call at which memory is given back. */
export const idleTime = 10_000;

let timer: NodeJS.Timeout | undefined;

/** Every call that may leave memory behind says so. */
export function noteUse(): void {
  if (timer !== undefined) {
    timer.refresh();
    return;
  }
  timer = setTimeout(() => {
    timer = undefined;
    releaseMemory();
  }, idleTime);
  timer.unref();
}

/**
 * Gives the memory that is kept for the next call back to the system at once; this happens by itself after
 * ten seconds without calls. Results and heads that are in use stay as they are.
 *
 * @returns How many bytes were given back.
 */
export function releaseMemory(): number {
  return addon().releaseMemory();
}
