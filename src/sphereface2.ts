/** SphereFace2: a binary classification for each class instead of one softmax over all. */

import { checkBias, learnBias } from './learned_bias.js';
import { checkScheduled, type Schedule } from './schedule.js';
import {
  angleOf,
  type BatchRows,
  type BatchRule,
  checkedBy,
  type RowTarget,
  targetsOf,
} from './target_rows.js';
import { checkInteger, checkNumber, checkOneOf, checkOptions, largestFactor, mustBe } from './validate.js';

/** A binary cross-entropy of each `s (g(cos(theta)) -+ m) + b`. Made by {@link sphereface2}. */
export interface SphereFace2Margin {
  readonly kind: 'sphereface2';
  /** Where the margin is: `C` on cosines, of both signs; `A` added to the own class's angle, `M` a factor on it. */
  readonly form: 'C' | 'A' | 'M';
  /** >= 0: cosine units of `C`, radians of `A`; a factor >= 1 of `M`. */
  readonly m: number | Schedule;
  /** The exponent of g, an integer in [1, 16]. */
  readonly t: number;
  /** Weight of the own class, in (0, 1); the others have 1 - lambda. */
  readonly lambda: number;
  /** A factor on the loss. */
  readonly weight: number | Schedule;
  /** b, of a head its first one. */
  readonly bias?: number | undefined;
}

const known = { form: true, m: true, t: true, lambda: true, weight: true, bias: true } as const;

/**
 * SphereFace2: with g(c) = 2 ((c + 1) / 2)^t - 1 and softplus(z) = log(1 + e^z), the loss of a row is
 *
 *     (weight / s) (lambda softplus(-z_y) + (1 - lambda) sum over j != y of softplus(z_j))
 *     C:  z_y = s (g(cos theta_y) - m) + b,           z_j = s (g(cos theta_j) + m) + b
 *     A:  z_y = s g(cos(min(theta_y + m, pi))) + b,   z_j = s g(cos theta_j) + b
 *     M:  z_y = s g(cos(min(m theta_y, pi))) + b,     z_j = s g(cos theta_j) + b
 *
 * Each class so has a loss of its own: no row's gradient depends on a sum over all of them. `gradient: 'straightThrough'` takes the
 * derivatives of g and of the margin as 1, of all classes. Not with `labelSmoothing`, `rowFunction`, `filterThreshold` or `adacos`.
 *
 * b is learned: a head keeps it (`head.bias`), starting from `bias`, by default from the one that is best where all angles are
 * right, and moves it with each update by its learning rate, by plain gradient descent. With a `sampleRate` that default is of the
 * classes that are drawn. `accumulate` adds its gradients up for `apply`. It is in checkpoints, and the same on all processes.
 * Calls without a head take `bias`, and return `dBias`.
 *
 * Source: Wen et al., SphereFace2: Binary Classification is All You Need for Deep Face Recognition, ICLR 2022, arXiv 2108.01513.
 * Released code: opensphere's `SphereFace2`, which is `presets.sphereFace2` (scale 40, weight 50, `straightThrough`) but for its
 * optimiser of b, which has momentum and weight decay, its clamp of angles to [1e-5, pi - 3e-6] in forms A and M, and class rows
 * that it normalises in place.
 *
 * @param parameters `form` default 'C', `m` 0.4, `t` 3, `lambda` 0.7, `weight` 1, the paper's.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function sphereface2(parameters: Partial<Omit<SphereFace2Margin, 'kind'>> = {}): SphereFace2Margin {
  const {
    form = 'C',
    m = 0.4,
    t = 3,
    lambda = 0.7,
    weight = 1,
    bias,
  } = checkOptions(parameters, known, 'sphereface2 parameters');
  const given = bias === undefined ? {} : { bias };
  return checkedBy(sphereface2Rule, { kind: 'sphereface2', form, m, t, lambda, weight, ...given });
}

const code = 'ERR_MARGIN';

export const sphereface2Rule: BatchRule<SphereFace2Margin> = {
  parameters: {
    form: (value, argument) => checkOneOf(value, ['C', 'A', 'M'], argument),
    m: (value, argument) => checkScheduled(value, argument, { least: 0, magnitude: 1000, code }),
    t: (value, argument) => checkInteger(value, argument, { least: 1, most: 16, code }),
    lambda: (value, argument) => checkNumber(value, argument, { least: 0, exclusive: true, below: 1, code }),
    weight: (value, argument) =>
      checkScheduled(value, argument, { least: 0, magnitude: largestFactor, code }),
    bias: checkBias,
  },
  together({ form, m }) {
    if (form === 'M' && typeof m === 'number' && m < 1)
      throw mustBe(code, 'margin.m', `at least 1 with form 'M', where it is a factor,`, String(m));
  },
  overflow: [],
  transforms: true,
  binary: true,
  resolve({ form, m, t, lambda, weight, bias: first }, rows) {
    const own = targetOf(form, m, t);
    const shift = form === 'C' ? m : 0;
    const bias = rows.memory.bias ?? first ?? firstBias(own(0).target, adjusted(0, t) + shift, lambda, rows);
    return {
      ...targetsOf(rows, own),
      binary: {
        bias,
        positive: (weight * lambda) / rows.scale,
        negative: (weight * (1 - lambda)) / rows.scale,
        shift,
        power: t,
      },
      memory: { bias },
    };
  },
  learn: (_, rows, memory) => learnBias(rows, memory),
};

/** g */
function adjusted(cosine: number, t: number): number {
  return 2 * ((cosine + 1) / 2) ** t - 1;
}

function targetOf(form: SphereFace2Margin['form'], m: number, t: number): (cosine: number) => RowTarget {
  const slope = (cosine: number) => t * ((cosine + 1) / 2) ** (t - 1);
  if (form === 'C') return (cosine) => ({ target: adjusted(cosine, t) - m, dTarget: slope(cosine) });
  const [factor, added] = form === 'A' ? [1, m] : [m, 0];
  return (cosine) => {
    const { theta, divisor } = angleOf(cosine);
    const angle = factor * theta + added;
    if (angle >= Math.PI) return { target: -1, dTarget: 0 };
    const moved = Math.cos(angle);
    return {
      target: adjusted(moved, t),
      dTarget: (slope(moved) * factor * Math.sin(angle)) / divisor,
    };
  };
}

/**
 * Of the released code: where the loss has its least if all angles are right ones. `own` and `other` are then F and g + m. As a
 * quotient of what does not cancel, where there are few classes.
 */
function firstBias(own: number, other: number, lambda: number, { scale, trainedClasses }: BatchRows): number {
  const ratio = lambda / ((1 - lambda) * Math.max(trainedClasses - 1, 1));
  const root = Math.hypot(1 - ratio, 2 * Math.sqrt(ratio * Math.exp(scale * (own - other))));
  return ratio <= 1
    ? Math.log(2 * ratio) - scale * other - Math.log(1 - ratio + root)
    : Math.log((root + ratio - 1) / 2) - scale * own;
}
