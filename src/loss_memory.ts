/** What a loss remembers between the steps of a head: kept in checkpoints, and the same on all processes of a group. */

import { checkNumber, checkOptions } from './validate.js';

/** Running statistics of features' norms. */
export interface NormStatistics {
  readonly mean: number;
  readonly deviation: number;
}

/** Only what a loss of the head has needed is there. */
export interface LossMemory {
  /** Of AdaFace. */
  readonly norms?: NormStatistics;
  /** Of AdaCos: what the last training batch makes of the scale. */
  readonly scale?: number;
}

/** One call's view of it. */
export interface MemoryTrack {
  /** What it is when the call's turn comes. */
  readonly before: () => LossMemory;
  /** Whether the batch may change it: not that of an `evaluate`. */
  readonly training: boolean;
  /** What the batch makes of parts of it, before its loss is known. */
  after?: LossMemory;
}

/** Of a call without a head, which forgets. */
export function noMemory(): MemoryTrack {
  return { before: () => ({}), training: true };
}

/** What a checkpoint says. */
export function checkMemory(memory: LossMemory, argument: string): LossMemory {
  const { norms, scale } = checkOptions(memory, { norms: true, scale: true }, argument);
  if (norms !== undefined) {
    const { mean, deviation } = checkOptions(norms, { mean: true, deviation: true }, `${argument}.norms`);
    checkNumber(mean, `${argument}.norms.mean`, { least: 0 });
    checkNumber(deviation, `${argument}.norms.deviation`, { least: 0 });
  }
  if (scale !== undefined) checkNumber(scale, `${argument}.scale`, { least: 0, exclusive: true });
  return memory;
}
