/** Calls that all processes of a group make on their heads. */

import { throwIfAborted } from './abort.js';
import { agree, attempt, sameCall } from './agreement.js';
import type { ProcessGroup } from './group.js';
import type { HeadCall } from './head_calls.js';
import type { Twin } from './twin.js';

/** Checks a call on every process, compares the calls, and makes them. */
export function* callTogether<T>(group: ProcessGroup, name: string, plan: () => HeadCall<T>): Twin<T> {
  const checked = attempt(() => {
    const call = plan();
    throwIfAborted(call.signal);
    return call;
  });
  const { terms, rows, twin } = yield* agree(group, checked);
  return yield* twin('async', yield* sameCall(group, name, terms, rows));
}
