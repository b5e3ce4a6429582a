/** AbortSignal on this side, a shared word that native threads look at on the other. */

import { abortedError } from './errors.js';

export interface AbortWatch {
  /** Non-zero once the signal has fired. */
  readonly cancel: Int32Array;
  /** Ends the watch and clears `cancel`. */
  stop(): void;
}

/** What to do when a signal fires, and its one listener, which does it. */
interface Watchers {
  readonly actions: Set<() => void>;
  readonly fire: () => void;
}

/** Many calls may wait for the same signal, and Node warns of more than a few listeners. */
const watched = new WeakMap<AbortSignal, Watchers>();

function watch(signal: AbortSignal): Watchers {
  const actions = new Set<() => void>();
  const fire = () => {
    watched.delete(signal);
    for (const action of actions) action();
  };
  const watchers = { actions, fire };
  watched.set(signal, watchers);
  signal.addEventListener('abort', fire, { once: true });
  return watchers;
}

/** Calls `action` when `signal` fires, unless the returned function is called first. */
export function onAbort(signal: AbortSignal | undefined, action: () => void): () => void {
  if (signal === undefined) return () => {};
  const { actions, fire } = watched.get(signal) ?? watch(signal);
  actions.add(action);
  return () => {
    actions.delete(action);
    if (actions.size > 0 || watched.get(signal)?.actions !== actions) return;
    watched.delete(signal);
    signal.removeEventListener('abort', fire);
  };
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortedError(signal);
}

/**
 * Passes `signal` on to `cancel` until stopped.
 *
 * @throws MarginFcError ERR_ABORTED if it has fired already.
 */
export function watchAbort(
  signal: AbortSignal | undefined,
  cancel: Int32Array = new Int32Array(new SharedArrayBuffer(4)),
): AbortWatch {
  throwIfAborted(signal);
  const forget = onAbort(signal, () => {
    Atomics.store(cancel, 0, 1);
  });
  return {
    cancel,
    stop() {
      forget();
      Atomics.store(cancel, 0, 0);
    },
  };
}
