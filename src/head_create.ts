/** New heads, on one process or on all of a group. */

import { agree, attempt, attemptTwin, checkGroup, sameCall } from './agreement.js';
import { publicError } from './errors.js';
import {
  checkHeadOptions,
  commonTerms,
  type FirstWeights,
  fillWeights,
  type HeadSettings,
  type MarginHeadOptions,
  newNativeHead,
} from './head_options.js';
import type { LossMemory } from './loss_memory.js';
import type { NativeHead } from './native.js';
import type { Twin } from './twin.js';

export interface MadeHead {
  readonly native: NativeHead;
  readonly settings: HeadSettings;
  readonly memory: LossMemory;
  /** [classes of the process, dim], of a centre loss, once there is one. */
  readonly centers: Float32Array | undefined;
}

export function* createHead(options: MarginHeadOptions): Twin<MadeHead> {
  const group = checkGroup(options?.group, 'group');
  const { settings, init } = yield* agree(
    group,
    attempt(() => checkHeadOptions(options)),
  );
  if (group) yield* sameCall(group, 'MarginHead.create', commonTerms(settings), 0);
  const made = yield* attemptTwin(makeNative(settings, init));
  const native = yield* agree(group, made, (unwanted) => unwanted.dispose());
  return { native, settings, memory: {}, centers: undefined };
}

function* makeNative(settings: HeadSettings, init: FirstWeights): Twin<NativeHead> {
  const { dim, subCenters, range, classes: count } = settings;
  let native: NativeHead | undefined;
  try {
    native = newNativeHead(settings);
    yield* fillWeights('async', native, init, { dim, subCenters, range, first: 0, count });
    return native;
  } catch (error) {
    native?.dispose();
    throw publicError(error);
  }
}
