/** Calls on one head, or on one forward pass, happen one after the other in the order they were made. */

import { onAbort } from './abort.js';
import { abortedError } from './errors.js';
import { mustBe } from './validate.js';

export class CallQueue {
  readonly #owner: string;
  readonly #waiting: (() => void)[] = [];
  readonly #whenIdle: (() => void)[] = [];
  #running = false;

  /** `owner` names the thing the calls are made on, for messages. */
  constructor(owner: string) {
    this.#owner = owner;
  }

  /** Runs `task` in its turn. A signal that fires before then takes it out of the queue. */
  run<T>(task: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      let forget = () => {};
      const start = () => {
        forget();
        this.#running = true;
        // The next call starts before this one's caller hears of the end, so that the caller finds the
        // queue idle when nothing else waits.
        task().then(
          (value) => {
            this.#finish();
            resolve(value);
          },
          (error: unknown) => {
            this.#finish();
            reject(error);
          },
        );
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(start), 1);
        reject(abortedError(signal));
      };
      if (signal?.aborted) {
        reject(abortedError(signal));
      } else if (this.#running) {
        forget = onAbort(signal, leave);
        this.#waiting.push(start);
      } else {
        start();
      }
    });
  }

  /** Runs `task` now; a blocking call cannot wait for the asynchronous ones before it. */
  runSync<T>(task: () => T, call: string): T {
    this.assertIdle(call);
    this.#running = true;
    try {
      return task();
    } finally {
      this.#finish();
    }
  }

  assertIdle(call: string): void {
    if (!this.#running) return;
    const pending = 1 + this.#waiting.length;
    throw mustBe(
      'ERR_BUSY',
      call,
      `called while nothing on the ${this.#owner} is pending`,
      `${pending} pending`,
    );
  }

  /** Runs `action` after the calls made so far. */
  whenIdle(action: () => void): void {
    if (this.#running) this.#whenIdle.push(action);
    else action();
  }

  #finish(): void {
    this.#running = false;
    const next = this.#waiting.shift();
    if (next) next();
    else for (const action of this.#whenIdle.splice(0)) action();
  }
}
