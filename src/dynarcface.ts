/** Dyn-ArcFace: ArcFace with a margin that grows with the angle from a class to the one nearest to it. */

import { checkClassNumbers, keptByHeads } from './class_numbers.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { additiveAngle, type BatchRule, checkedBy, targetsOf } from './target_rows.js';
import { checkInteger, checkOptions, largestFactor } from './validate.js';

/** `F = cos(theta + m)`, m from the angle between class centres. Made by {@link dynArcFace}. */
export interface DynArcFaceMargin {
  readonly kind: 'dynArcFace';
  /** Radians: the angle between neighbours from which on the margin grows. */
  readonly k1: number | Schedule;
  /** Margin for each radian beyond it. */
  readonly k2: number | Schedule;
  /** Radians: the margin up to there. */
  readonly k3: number | Schedule;
  /** Updates that angles last. */
  readonly every: number;
  /** The angles of calls without a head, [C], radians. */
  readonly angles?: { readonly perClass: Float32Array };
}

const known = { k1: true, k2: true, k3: true, every: true, angles: true } as const;

type Parameters = Pick<DynArcFaceMargin, 'k1' | 'k2' | 'k3'> &
  Partial<Pick<DynArcFaceMargin, 'every' | 'angles'>>;

/**
 * Dyn-ArcFace: with phi the angle between the centre w_y of a row's class and the centre nearest to it,
 *
 *     F = cos(theta + m),   m = max(phi - k1, 0) k2 + k3 + 0.03 k3 / (1 + (20 |phi - k1|)^1.1)
 *     dF/dc = sin(theta + m) / sin(theta),   phi is a constant
 *
 * A head computes phi for all its classes when it first needs them, and anew by the first call after each `every` updates, `evaluate`
 * too: the nearest other class of each class, which takes 2 C^2 dim operations, with memory for 1024 classes at a time; the work of
 * the loss is some 6 B C dim a step, so with `every` = n that is C / (3 n B) of it. The angles are those of all processes, go into
 * checkpoints, and are computed anew when classes have come or gone. Calls without a head are given them as `angles`. Policies of
 * `onOverflow` are those of arcface.
 *
 * Source: Jiao et al., Dyn-arcFace: dynamic additive angular margin loss for deep face recognition, Multimedia Tools and Applications
 * 2021, in the form of XieZixiUSTC/X2-Softmax, loss.py, class DYNARCLOSS. That has the gradient of `'straightThrough'`, computes phi of
 * the batch's classes at each step, and names no values of k1, k2 and k3.
 *
 * @param parameters `k1`, `k2` and `k3`; `every` default 1000; `angles`, only without a head.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function dynArcFace(parameters: Parameters): DynArcFaceMargin {
  const {
    k1,
    k2,
    k3,
    every = 1000,
    angles,
  } = checkOptions<Parameters>(parameters, known, 'dynArcFace parameters') as Parameters;
  return checkedBy(dynArcFaceRule, { kind: 'dynArcFace', k1, k2, k3, every, ...(angles && { angles }) });
}

const code = 'ERR_MARGIN';
const range = { magnitude: largestFactor, code } as const;

export const dynArcFaceRule: BatchRule<DynArcFaceMargin> = {
  parameters: {
    k1: (value, argument) => checkScheduled(value, argument, range),
    k2: (value, argument) => checkScheduled(value, argument, range),
    k3: (value, argument) => checkScheduled(value, argument, range),
    every: (value, argument) =>
      checkInteger(value, argument, { least: 1, most: Number.MAX_SAFE_INTEGER, code }),
    angles: checkClassNumbers,
  },
  overflow: ['fallback', 'easy'],
  ...keptByHeads('angles', { withoutHead: 'where there is no MarginHead', onHead: 'which computes them' }),
  *prepare({ every }, { neighbourAngles, neighbourStep = 0 }, { classes, stepCount, angles }) {
    const turn = (step: number) => Math.floor(step / every);
    if (neighbourAngles?.length === classes && turn(neighbourStep) === turn(stepCount)) return {};
    return { neighbourAngles: yield* angles(), neighbourStep: stepCount };
  },
  resolve({ k1, k2, k3, angles }, rows) {
    const all = (angles?.perClass ?? rows.memory.neighbourAngles) as ArrayLike<number>;
    return targetsOf(rows, (cosine, row) => {
      const beyond = (all[rows.labels[row] as number] as number) - k1;
      const bump = (0.03 * k3) / (1 + (20 * Math.abs(beyond)) ** 1.1);
      return additiveAngle(cosine, Math.max(beyond, 0) * k2 + k3 + bump, rows.onOverflow);
    });
  },
};
