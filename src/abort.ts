/** AbortSignal on this side, a shared word that native threads look at on the other. */

import { abortedError } from './errors.js';

export interface AbortWatch {
  /** Non-zero once the signal has fired. */
  readonly cancel: Int32Array;
  /** Ends the watch and clears `cancel`. */
  stop(): void;
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
  if (signal?.aborted) throw abortedError(signal);
  const fire = () => Atomics.store(cancel, 0, 1);
  signal?.addEventListener('abort', fire, { once: true });
  return {
    cancel,
    stop() {
      signal?.removeEventListener('abort', fire);
      Atomics.store(cancel, 0, 0);
    },
  };
}
