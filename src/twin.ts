/**
 * One text for a call and its Sync twin. The work is a generator that yields what native calls return: a
 * promise when they run off the thread, the value itself when they block. Who drives it decides which.
 */

import type { NativeMode, NativeReturn } from './native.js';

/** Work that ends in T. */
export type Twin<T> = Generator<unknown, T, unknown>;

/** Inside a twin: the value of a native call, waited for if need be. Write `yield* settled(...)`. */
export function* settled<T>(value: NativeReturn<T>): Twin<T> {
  // The driver hands back exactly what was yielded, or what its promise resolved to.
  return (yield value) as T;
}

/** Inside a twin of long work on this thread: others have their turn. */
export function* giveWay(mode: NativeMode): Twin<void> {
  if (mode === 'async') yield* settled(new Promise<void>((resolve) => setImmediate(resolve)));
}

/** Runs a twin whose native calls all use mode `sync`. */
export function runSync<T>(twin: Twin<T>): T {
  let step = twin.next();
  while (!step.done) step = twin.next(step.value);
  return step.value;
}

/** Runs a twin whose native calls all use mode `async`. Up to the first of them it runs at once. */
export async function runAsync<T>(twin: Twin<T>): Promise<T> {
  let step = twin.next();
  while (!step.done) {
    let value: unknown;
    try {
      value = await step.value;
    } catch (error) {
      step = twin.throw(error);
      continue;
    }
    step = twin.next(value);
  }
  return step.value;
}
