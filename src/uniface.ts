/** UniFace: one threshold between the cosines of own and other classes, by a binary cross-entropy for each class. */

import { checkBias, learnBias } from './learned_bias.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkOptions, largestFactor } from './validate.js';

/** A binary cross-entropy of each `s cos(theta) + b`, the own class's with `s m` less. Made by {@link uniface}. */
export interface UniFaceMargin {
  readonly kind: 'uniface';
  /** Cosine units. */
  readonly m: number | Schedule;
  /** Weight of the other classes. */
  readonly lambda: number | Schedule;
  /** What is added to every logit, of a head at first: the paper's is -b. */
  readonly bias?: number | undefined;
}

const code = 'ERR_MARGIN';

/**
 * UniFace's unified cross-entropy: with softplus(z) = log(1 + e^z), the loss of a row is
 *
 *     softplus(-z_y) + lambda sum over j != y of softplus(z_j),   z_y = s (cos theta_y - m) + b,   z_j = s cos theta_j + b
 *
 * so that -b / s is a threshold that all cosines to own classes, less m, are drawn above and all others below. Not with
 * `labelSmoothing`, `rowFunction`, `filterThreshold` or `adacos`.
 *
 * b is learned as {@link sphereface2}'s is, and starts from -ln(10 C r), r being the head's `sampleRate` (the paper's rate of
 * negatives, which are sampled by class): what `bias` and `dBias` mean is what is added to logits, where the paper subtracts.
 *
 * Source: Zhou et al., UniFace: Unified Cross-Entropy Loss for Deep Face Recognition, ICCV 2023. Released code: CVI-SZU/UniFace's
 * `Unified_Cross_Entropy_Loss`, with these defaults and scale 64, but for its clamp of logits to [-s, s], beyond which rows far
 * from their class have no gradient, and its optimiser of b, which has momentum and weight decay.
 *
 * @param parameters `m` default 0.4, `lambda` 1.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function uniface(parameters: Partial<Omit<UniFaceMargin, 'kind'>> = {}): UniFaceMargin {
  const known = { m: true, lambda: true, bias: true } as const;
  const { m = 0.4, lambda = 1, bias } = checkOptions(parameters, known, 'uniface parameters');
  return checkedBy(unifaceRule, { kind: 'uniface', m, lambda, ...(bias === undefined ? {} : { bias }) });
}

export const unifaceRule: BatchRule<UniFaceMargin> = {
  parameters: {
    m: (value, argument) => checkScheduled(value, argument, { magnitude: largestFactor, code }),
    lambda: (value, argument) =>
      checkScheduled(value, argument, { least: 0, magnitude: largestFactor, code }),
    bias: checkBias,
  },
  overflow: [],
  transforms: true,
  binary: true,
  resolve({ m, lambda, bias: first }, rows) {
    const bias = rows.memory.bias ?? first ?? -Math.log(10 * rows.trainedClasses);
    return {
      ...targetsOf(rows, (cosine) => ({ target: cosine - m, dTarget: 1 })),
      binary: { bias, positive: 1, negative: lambda, shift: 0, power: 1 },
      memory: { bias },
    };
  },
  learn: (_, rows, memory) => learnBias(rows, memory),
};
