/** ElasticFace: margins drawn anew for each row and step. */

import { normalOf } from './counter_random.js';
import { checkSeed } from './sampling.js';
import { checkScheduled, type Schedule } from './schedule.js';
import {
  type AtStep,
  additiveAngle,
  type BatchRows,
  type BatchRule,
  checkedBy,
  type RowTarget,
  targetsOf,
} from './target_rows.js';
import { checkBoolean, checkInteger, checkOptions, largestFactor, mustBe } from './validate.js';

/** What a margin's draws follow from. */
export interface DrawnMargin {
  /** An integer in [0, 2^32). Default: the head's seed, or 0. */
  readonly seed?: number;
  /** An integer >= 0. Default: the updates that the head has made, or 0. */
  readonly step?: number;
}

interface ElasticMargin extends DrawnMargin {
  /** Mean of the margins. */
  readonly m: number | Schedule;
  /** Their standard deviation. */
  readonly sigma: number | Schedule;
  /** Whether larger margins go to rows of smaller cosine. */
  readonly plus: boolean;
  /** Whether `plus` is that of the released code. */
  readonly released: boolean;
}

/** `F = cos(theta + m_i)`, m_i normal. Made by {@link elasticArcFace}. */
export interface ElasticArcFaceMargin extends ElasticMargin {
  readonly kind: 'elasticArcFace';
}

/** `F = cos(theta) - m_i`, m_i normal. Made by {@link elasticCosFace}. */
export interface ElasticCosFaceMargin extends ElasticMargin {
  readonly kind: 'elasticCosFace';
}

type Parameters = { readonly [K in keyof ElasticMargin]?: ElasticMargin[K] | undefined };

const known = { m: true, sigma: true, plus: true, released: true, seed: true, step: true } as const;

/**
 * ElasticFace-Arc: ArcFace whose margin is drawn for each row and step,
 *
 *     F = cos(theta + m_i),   m_i ~ N(m, sigma^2),   dF/dc = sin(theta + m_i) / sin(theta)
 *
 * `plus` (ElasticFace-Arc+): the margins of a batch, sorted, go to its rows by cosine, the largest to the row farthest from its
 * class. `released: true` with it does what the released code does instead: of the margins in ascending order row i gets number
 * argsort(-cosine)[i], which is the inverse permutation and all but independent of the cosine.
 *
 * m_i follows from `seed`, `step` and the row of the (global) batch alone, whatever shards and processes there are; calls at the
 * same step, so also `accumulate` until `apply`, and `evaluate`, draw the same: give another `step` where that matters.
 * PyTorch's own numbers are not reproduced. Policies of `onOverflow` are those of arcface; the released code has none. Its gradient
 * is exact.
 *
 * Source: Boutros et al., arXiv 2109.09416. Released code: fdbtrs/ElasticFace, utils/losses.py.
 *
 * @param parameters `m` radians, default 0.5; `sigma` default 0.05, with `plus` 0.0175 (the released config.py); `plus` and
 * `released` default false.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function elasticArcFace(parameters: Parameters = {}): ElasticArcFaceMargin {
  const filledIn = filled(parameters, 'elasticArcFace', [0.5, 0.05, 0.0175]);
  return checkedBy(elasticArcFaceRule, { kind: 'elasticArcFace', ...filledIn });
}

/**
 * ElasticFace-Cos: CosFace whose margin is drawn for each row and step,
 *
 *     F = cos(theta) - m_i,   m_i ~ N(m, sigma^2),   dF/dc = 1
 *
 * Draws, `plus`, `released` and sources as of {@link elasticArcFace}; no policies of `onOverflow`.
 *
 * @param parameters `m` default 0.35; `sigma` default 0.05, with `plus` 0.02 (the released config.py); `plus` and `released`
 * default false.
 * @throws MarginFcError as {@link elasticArcFace}.
 */
export function elasticCosFace(parameters: Parameters = {}): ElasticCosFaceMargin {
  const filledIn = filled(parameters, 'elasticCosFace', [0.35, 0.05, 0.02]);
  return checkedBy(elasticCosFaceRule, { kind: 'elasticCosFace', ...filledIn });
}

function filled(
  parameters: Parameters,
  name: string,
  [mean, deviation, plusDeviation]: readonly [number, number, number],
): ElasticMargin {
  const checked = checkOptions(parameters, known, `${name} parameters`);
  const { m = mean, plus = false, released = false, seed, step } = checked;
  const { sigma = plus ? plusDeviation : deviation } = checked;
  return {
    m,
    sigma,
    plus,
    released,
    ...(seed !== undefined && { seed }),
    ...(step !== undefined && { step }),
  };
}

/** Checks of {@link DrawnMargin}. */
export const drawParameters = {
  seed: (value: unknown, argument: string) => value === undefined || checkSeed(value, argument),
  step: (value: unknown, argument: string) =>
    value === undefined || checkInteger(value, argument, { least: 0, most: Number.MAX_SAFE_INTEGER }),
};

const range = { magnitude: largestFactor, code: 'ERR_MARGIN' } as const;

function elasticRule<M extends ElasticMargin & { readonly kind: string }>(
  overflow: BatchRule<M>['overflow'],
  apply: (cosine: number, m: number, rows: BatchRows) => RowTarget,
): BatchRule<ElasticMargin & { readonly kind: M['kind'] }> {
  return {
    parameters: {
      m: (value, argument) => checkScheduled(value, argument, range),
      sigma: (value, argument) => checkScheduled(value, argument, { ...range, least: 0 }),
      plus: checkBoolean,
      released: checkBoolean,
      ...drawParameters,
    },
    together({ plus, released }) {
      if (released && !plus)
        throw mustBe(
          'ERR_MARGIN',
          'margin.released',
          'false without plus, where released code and paper agree',
          'true',
        );
    },
    overflow,
    resolve(margin, rows) {
      const margins = marginsOf(margin, rows);
      return targetsOf(rows, (cosine, row) => {
        const { target, dTarget } = apply(cosine, margins[row] as number, rows);
        return { target, dTarget };
      });
    },
  };
}

/** [B] */
function marginsOf(
  { m, sigma, plus, released, ...draw }: AtStep<ElasticMargin>,
  rows: BatchRows,
): Float64Array {
  const { seed = rows.seed, step = rows.step } = draw;
  const margins = Float64Array.from(rows.labels, (_, row) => m + sigma * normalOf(seed, step, row));
  if (!plus) return margins;
  const counted = Array.from(rows.labels.keys()).filter((row) => rows.labels[row] !== -1);
  const ascending = Float64Array.from(counted, (row) => margins[row] as number).sort();
  // Places in `counted`, of the largest cosine first; ties in the order of rows.
  const cosineAt = (place: number) => rows.cosine[counted[place] as number] as number;
  const order = Array.from(counted.keys()).sort((a, b) => cosineAt(b) - cosineAt(a));
  for (const [i, place] of order.entries()) {
    const [to, from] = released ? [i, place] : [place, i];
    margins[counted[to] as number] = ascending[from] as number;
  }
  return margins;
}

export const elasticArcFaceRule: BatchRule<ElasticArcFaceMargin> = elasticRule<ElasticArcFaceMargin>(
  ['fallback', 'easy'],
  (cosine, m, { onOverflow }) => additiveAngle(cosine, m, onOverflow),
);

export const elasticCosFaceRule: BatchRule<ElasticCosFaceMargin> = elasticRule<ElasticCosFaceMargin>(
  [],
  (cosine, m) => ({ target: cosine - m, dTarget: 1 }),
);
