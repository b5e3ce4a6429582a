/** What a batch margin is told of the rows of a batch, what it answers, and the formulas that several of them share. */

import type { LossMemory } from './loss_memory.js';
import type { NativeWeightGradient } from './native.js';
import type { NativeBinary, NativeTransform } from './native_loss.js';
import type { OverflowPolicy } from './options.js';
import type { Schedule } from './schedule.js';
import type { Twin } from './twin.js';
import { checkOptions } from './validate.js';

/** All rows of a batch: in a group those of all processes, and on each of them the same. */
export interface BatchRows {
  /** [B], cosine between a row and its class, in [-1, 1], without margin. */
  readonly cosine: Float64Array;
  /** [B], |x|. */
  readonly featureNorm: Float64Array;
  /** [B], -1 where a row is ignored; its target is not used. */
  readonly labels: Int32Array;
  readonly scale: number;
  readonly onOverflow: OverflowPolicy;
  /** Of the head, or 0. */
  readonly seed: number;
  /** Updates the head has made, or 0. */
  readonly step: number;
  /** That a step looks at: all, or the part of a head's that is sampled. */
  readonly trainedClasses: number;
  /** What the head's batches so far have left. */
  readonly memory: LossMemory;
  /** Whether the batch changes that: not that of an `evaluate`. */
  readonly training: boolean;
}

/** F of a row and its derivatives, in cosine units. */
export interface RowTarget {
  readonly target: number;
  /** dF / dcosine. */
  readonly dTarget: number;
  /** dF / d|x|. Default 0. */
  readonly dFeatureNorm?: number;
}

/** [B] each. */
export interface Targets {
  readonly kind: 'custom';
  readonly target: Float64Array;
  readonly dTarget: Float64Array;
  readonly dFeatureNorm?: Float64Array;
}

/** What a head lets a margin know before the first batch it is used for. */
export interface HeadView {
  readonly classes: number;
  readonly seed: number;
  /** Updates made. */
  readonly stepCount: number;
  /** [C], between each class and the one nearest to it. */
  readonly angles: () => Twin<Float64Array>;
}

/** All rows of a training batch whose loss is known: in a group those of all processes, and on each of them the same. */
export interface LearnedRows {
  /** [B], -1 where a row is ignored. */
  readonly labels: Int32Array;
  /** [B] */
  readonly targetCosine: Float32Array;
  /** [B], logarithm of the sum over all other classes of exp(logit). */
  readonly logNegatives: Float64Array;
  /** [B], dLoss/dF of the loss as it is reduced. */
  readonly targetGradient: Float64Array;
  /** [B], each row's part of dLoss/dbias; of a binary rule. */
  readonly biasGradient?: Float64Array | undefined;
  /** What multiplies every gradient. */
  readonly dLoss: number;
  /** What becomes of gradients. */
  readonly update: NativeWeightGradient;
}

/** Targets that follow from what phase 2 says of the negatives. */
export interface LateTargets {
  readonly kind: 'late';
  /** `hard`: [B], mean cosine of the negatives above the transform's threshold, 0 where there are none. */
  readonly targets: (hard: Float64Array) => Targets;
}

/** What a batch margin makes of a batch. */
export type Resolution = (Targets | LateTargets) & {
  /** Of the negatives, if they are not left as they are. */
  readonly transform?: NativeTransform;
  /** Instead of a softmax. */
  readonly binary?: NativeBinary;
  /** What this batch makes of parts of the memory. */
  readonly memory?: LossMemory;
};

/** A margin at one step, its schedules evaluated. */
export type AtStep<M> = { readonly [K in keyof M]: Exclude<M[K], Schedule> };

/** A kind of batch margin: its checks and its formula. */
export interface BatchRule<M extends { readonly kind: string }> {
  /** How each parameter is checked; one that may be left out allows undefined. */
  readonly parameters: {
    readonly [K in Exclude<keyof M, 'kind'> & string]-?: (value: unknown, argument: string) => unknown;
  };
  /** What the parameters must be together. */
  readonly together?: (margin: M) => void;
  /** Policies it knows besides `none`. */
  readonly overflow: readonly OverflowPolicy[];
  /** Whether there is a transform, or a binary reduction. */
  readonly transforms?: true;
  /** Whether there is a binary reduction. */
  readonly binary?: true;
  readonly resolve: (margin: AtStep<M>, rows: BatchRows) => Resolution;
  /** What a call without a head must give it; where there is nothing to remember, nothing. */
  readonly withoutHead?: (margin: M, classes: number) => void;
  /** What it must be on a head. */
  readonly onHead?: (margin: M) => void;
  /** Parts of a head's memory that `resolve` needs and that are missing. */
  readonly prepare?: (margin: AtStep<M>, memory: LossMemory, head: HeadView) => Twin<LossMemory>;
  /** Parts of the memory that a training batch changes once its loss is known. */
  readonly learn?: (
    margin: AtStep<M>,
    rows: LearnedRows,
    memory: LossMemory,
    head: Pick<HeadView, 'classes'>,
  ) => LossMemory;
}

/** Names and values; they need no batch. */
export function checkedBy<M extends { readonly kind: string }>(rule: BatchRule<M>, margin: M): M {
  const checks = Object.entries<(value: unknown, argument: string) => unknown>(rule.parameters);
  const known = Object.fromEntries([['kind', true], ...checks.map(([name]) => [name, true])]);
  checkOptions<object>(margin, known, 'margin');
  for (const [name, check] of checks) check(Reflect.get(margin, name), `margin.${name}`);
  rule.together?.(margin);
  return margin;
}

/** The targets of the rows that are not ignored, each by `of`. */
export function targetsOf(rows: BatchRows, of: (cosine: number, row: number) => RowTarget): Targets {
  const count = rows.labels.length;
  const target = new Float64Array(count);
  const dTarget = new Float64Array(count);
  let dFeatureNorm: Float64Array | undefined;
  for (let row = 0; row < count; row++) {
    if (rows.labels[row] === -1) continue;
    const own = of(rows.cosine[row] as number, row);
    target[row] = own.target;
    dTarget[row] = own.dTarget;
    if (own.dFeatureNorm === undefined) continue;
    dFeatureNorm ??= new Float64Array(count);
    dFeatureNorm[row] = own.dFeatureNorm;
  }
  return { kind: 'custom', target, dTarget, ...(dFeatureNorm && { dFeatureNorm }) };
}

/** Of engine/margin.h: sin(theta) is not taken smaller than this in the quotient of dF/dc. */
const sineFloor = 1e-6;

/** theta, and sin(theta) as quotients take it. */
export function angleOf(cosine: number): { readonly theta: number; readonly divisor: number } {
  const sine = Math.sqrt((1 - cosine) * (1 + cosine));
  return { theta: Math.atan2(sine, cosine), divisor: Math.max(sine, sineFloor) };
}

/** ArcFace's `F = cos(theta + m)` with its policies, as engine/margin.h, and its derivative by the margin. */
export function additiveAngle(
  cosine: number,
  m: number,
  onOverflow: OverflowPolicy,
): RowTarget & { readonly dMargin: number } {
  const { theta, divisor } = angleOf(cosine);
  if (onOverflow === 'fallback' && theta > Math.PI - m)
    return { target: cosine - m * Math.sin(m), dTarget: 1, dMargin: -Math.sin(m) - m * Math.cos(m) };
  if (onOverflow === 'easy' && !(cosine > 0)) return { target: cosine, dTarget: 1, dMargin: 0 };
  const sine = Math.sin(theta + m);
  return { target: Math.cos(theta + m), dTarget: sine / divisor, dMargin: -sine };
}
