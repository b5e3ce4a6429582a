/** Partial FC: the options that say which classes take part in a step. */

import type { NativeSampling } from './native.js';
import type { Loss } from './options.js';
import { checkInteger, checkNumber, checkOneOf, mustBe, show } from './validate.js';

/** What becomes of classes that take no part in a step. */
export type SampledUpdate = 'sampled' | 'all';

/** Options of a head that trains on some of its classes at a time. */
export interface SamplingOptions {
  /**
   * Partial FC (An et al., arXiv 2010.05222 and 2203.15565): the part of the classes, in (0, 1], that is drawn for each step,
   * for many classes in less time. Default 1: all take part.
   *
   * Of each block of 4096 consecutive ids (the last one may be shorter) the `Math.round(sampleRate * size)` classes with the
   * smallest random number take part, and besides them all that a row of the batch owns. The number depends on `seed`,
   * `stepCount` and the class alone, so that the same classes are drawn whatever shards, devices and processes there are, and
   * after a checkpoint is loaded. `step`, `accumulate` and `forwardSync` look at these classes only: loss, gradients and accuracy
   * are as if there were no others, without a correction. `accumulate` draws the same until `apply`. `evaluate` and `nearest`
   * look at all.
   *
   * In InsightFace's partial_fc.py and partial_fc_v2.py and Paddle's class_center_sample, owned classes come out of the number that
   * is drawn, and a process draws from its own range by a generator of its own.
   */
  readonly sampleRate?: number | undefined;
  /**
   * What an update does to the weights and the optimiser's state of classes that took no part. `sampled`: nothing, as
   * InsightFace's partial_fc.py and Paddle. `all`: what a gradient of zero does (momentum and weight decay), as
   * partial_fc_v2.py with a torch optimiser; it reads and writes all of them. Either way adamw corrects its bias by the head's
   * `stepCount`. `apply` counts classes as taking part that are drawn or whose accumulated gradient is not zero. Default
   * `sampled`.
   */
  readonly sampledUpdate?: SampledUpdate | undefined;
  /** Everything random about the head follows from it: an integer in [0, 2^32). Default 0. */
  readonly seed?: number | undefined;
}

export const samplingNames = {
  sampleRate: true,
  sampledUpdate: true,
  seed: true,
} as const satisfies Record<keyof SamplingOptions, true>;

/** As engine/sampling.h has it. */
const blockSize = 4096;

export function checkSeed(seed: unknown, argument: string): number {
  return checkInteger(seed, argument, { least: 0, most: 2 ** 32 - 1 });
}

export function checkSampling({
  sampleRate = 1,
  sampledUpdate = 'sampled',
  seed = 0,
}: SamplingOptions): NativeSampling {
  checkNumber(sampleRate, 'sampleRate', { least: 0, exclusive: true });
  if (sampleRate > 1) throw mustBe('ERR_OPTION', 'sampleRate', 'a number in (0, 1]', String(sampleRate));
  checkOneOf(sampledUpdate, ['sampled', 'all'], 'sampledUpdate');
  return { sampleRate, sampledUpdate, seed: checkSeed(seed, 'seed') };
}

/** A batch without labels would have no class at all if none were drawn. */
export function checkDraw({ sampleRate }: NativeSampling, classes: number): void {
  const size = Math.min(classes, blockSize);
  if (Math.round(sampleRate * size) < 1)
    throw mustBe(
      'ERR_OPTION',
      'sampleRate',
      `at least 0.5 / ${size}, which draws a class`,
      String(sampleRate),
    );
}

/** Smoothing shares out among all classes, and an inter-loss looks at all, of which a sampled step knows some. */
export function checkWholeLoss({ labelSmoothing, terms }: Loss, { sampleRate }: NativeSampling): void {
  if (sampleRate < 1 && terms.some(({ kind }) => kind === 'inter'))
    throw mustBe('ERR_OPTION', 'terms', 'without inter where a sampleRate leaves classes out', 'inter');
  if (labelSmoothing > 0 && sampleRate < 1)
    throw mustBe(
      'ERR_OPTION',
      'labelSmoothing',
      '0 where a sampleRate leaves classes out',
      show(labelSmoothing),
    );
}
