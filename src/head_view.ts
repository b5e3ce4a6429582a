/** What a head lets a margin know before a batch. */

import type { HeadState } from './head_state.js';
import type { NativeMode } from './native.js';
import { neighbourAngles } from './nearest.js';
import type { HeadView } from './target_rows.js';

export function headView(
  mode: NativeMode,
  state: Pick<HeadState, 'native' | 'settings'>,
  signal?: AbortSignal,
): HeadView {
  const { native, settings } = state;
  return {
    classes: settings.classes,
    seed: settings.sampling.seed,
    stepCount: native.stepCount,
    angles: () => neighbourAngles(mode, state, signal),
  };
}
