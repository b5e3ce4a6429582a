/** What can compute here. */

import { addon } from './native.js';
import type { EngineName } from './options.js';
import { mustBe, show } from './validate.js';

/** One engine or device. */
export type EngineStatus =
  | {
      /** `cpu` or `cuda:N`. */
      readonly name: string;
      readonly available: true;
      /** Instruction set, threads and the like. */
      readonly detail: string;
    }
  | {
      readonly name: string;
      readonly available: false;
      /** Why it cannot be used. */
      readonly reason: string;
    };

/**
 * The engines this build knows, with what they run on or why they cannot.
 *
 * @throws MarginFcError ERR_NATIVE_LOAD if the addon cannot be loaded.
 */
export function listEngines(): EngineStatus[] {
  return addon()
    .listEngines()
    .map(({ name, available, detail = '', reason = 'no reason known' }) =>
      available ? { name, available, detail } : { name, available, reason },
    );
}

/** The engine that will compute, or the reason why the one asked for cannot. Never another one in silence. */
export function checkEngine(choice: unknown, argument: string): EngineName {
  if (choice === 'auto' || choice === 'cpu') return 'cpu';
  if (typeof choice !== 'string' || !/^cuda(:\d+)?$/.test(choice)) {
    const code = typeof choice === 'string' ? 'ERR_OPTION' : 'ERR_TYPE';
    throw mustBe(code, argument, `'auto', 'cpu', 'cuda' or 'cuda:N'`, show(choice));
  }
  const status = listEngines().find(({ name }) => name === choice || name.startsWith(`${choice}:`));
  const reason = status?.available === false ? status.reason : 'this build has no CUDA engine';
  throw mustBe(
    'ERR_ENGINE_UNAVAILABLE',
    argument,
    'an engine that can run here',
    `${show(choice)}: ${reason}`,
  );
}
