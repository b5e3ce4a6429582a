/**
 * Margins that are computed here, over a whole batch at once, between phases 1 and 2: from cosines, feature norms, labels, a seed
 * and the step. Native code gets each row's target and derivatives, so they cost nothing per class and run on every engine; what
 * becomes of the negatives, where a margin changes them too, it gets as coefficients and each row's threshold. In a group each process computes them over the rows of all, to the same result.
 *
 * To add one: a file with its data, its function and its rule, as sphereface.ts, and an entry in union and table. docs/adding-a-loss.md.
 */

import { type AdaFaceMargin, adafaceRule } from './adaface.js';
import { type AdaptiveFaceMargin, adaptiveFaceRule } from './adaptiveface.js';
import { type CircleLossMargin, circleLossRule } from './circle_loss.js';
import { type CurricularFaceMargin, curricularfaceRule } from './curricularface.js';
import { type DynArcFaceMargin, dynArcFaceRule } from './dynarcface.js';
import {
  type ElasticArcFaceMargin,
  type ElasticCosFaceMargin,
  elasticArcFaceRule,
  elasticCosFaceRule,
} from './elasticface.js';
import type { LossMemory } from './loss_memory.js';
import { type MagFaceMargin, magfaceRule } from './magface.js';
import { type MvSoftmaxMargin, mvSoftmaxRule } from './mv_softmax.js';
import { type NpcFaceMargin, npcfaceRule } from './npcface.js';
import type { OverflowPolicy } from './options.js';
import { type RandomSoftmaxMargin, randomSoftmaxRule } from './random_softmax.js';
import { type SphereFaceMargin, spherefaceRule } from './sphereface.js';
import { type SphereFace2Margin, sphereface2Rule } from './sphereface2.js';
import {
  type AtStep,
  type BatchRows,
  type BatchRule,
  checkedBy,
  type HeadView,
  type LearnedRows,
  type Resolution,
} from './target_rows.js';
import type { Twin } from './twin.js';
import { type UniFaceMargin, unifaceRule } from './uniface.js';

/** A margin that is computed over a whole batch; plain data, told apart by `kind`. */
export type BatchMargin =
  | MagFaceMargin
  | AdaFaceMargin
  | AdaptiveFaceMargin
  | DynArcFaceMargin
  | ElasticArcFaceMargin
  | ElasticCosFaceMargin
  | SphereFaceMargin
  | RandomSoftmaxMargin
  | MvSoftmaxMargin
  | CurricularFaceMargin
  | NpcFaceMargin
  | CircleLossMargin
  | SphereFace2Margin
  | UniFaceMargin;

const rules: { readonly [K in BatchMargin['kind']]: BatchRule<Extract<BatchMargin, { kind: K }>> } = {
  magface: magfaceRule,
  adaface: adafaceRule,
  adaptiveFace: adaptiveFaceRule,
  dynArcFace: dynArcFaceRule,
  elasticArcFace: elasticArcFaceRule,
  elasticCosFace: elasticCosFaceRule,
  sphereface: spherefaceRule,
  randomSoftmax: randomSoftmaxRule,
  mvSoftmax: mvSoftmaxRule,
  curricularface: curricularfaceRule,
  npcface: npcfaceRule,
  circleLoss: circleLossRule,
  sphereface2: sphereface2Rule,
  uniface: unifaceRule,
};

export const batchKinds = Object.keys(rules) as BatchMargin['kind'][];

export function isBatchMargin(margin: { readonly kind: string }): margin is BatchMargin {
  return Object.hasOwn(rules, margin.kind);
}

/** The types of the table's columns are lost where a kind is looked up. */
function ruleOf({ kind }: BatchMargin): BatchRule<BatchMargin> {
  return rules[kind] as unknown as BatchRule<BatchMargin>;
}

/** Names and values; they need no batch. */
export function checkBatchMargin(margin: BatchMargin): BatchMargin {
  return checkedBy(ruleOf(margin), margin);
}

/** Policies it knows besides `none`. */
export function batchOverflow(margin: BatchMargin): readonly OverflowPolicy[] {
  return ruleOf(margin).overflow;
}

/** Whether it changes the negatives too. */
export function transforms(margin: BatchMargin): boolean {
  return ruleOf(margin).transforms === true;
}

/** Whether it gives each logit a binary cross-entropy of its own. */
export function isBinary(margin: { readonly kind: string }): boolean {
  return isBatchMargin(margin) && ruleOf(margin).binary === true;
}

/** Its schedules have been evaluated: heads plan a call at their step, and other calls refuse them. */
export function resolution(margin: BatchMargin, rows: BatchRows): Resolution {
  return ruleOf(margin).resolve(margin as AtStep<BatchMargin>, rows);
}

/** What of a head's memory a margin needs that is not there yet. */
export function* batchPrepared(margin: BatchMargin, memory: LossMemory, head: HeadView): Twin<LossMemory> {
  const { prepare } = ruleOf(margin);
  return prepare ? yield* prepare(margin as AtStep<BatchMargin>, memory, head) : {};
}

/** What becomes of parts of a head's memory once a training batch's loss is known. */
export type Learner = (rows: LearnedRows, memory: LossMemory, classes: number) => LossMemory;

/** Of a margin, if it learns. */
export function batchLearner(margin: BatchMargin): Learner | undefined {
  const { learn } = ruleOf(margin);
  return (
    learn && ((rows, memory, classes) => learn(margin as AtStep<BatchMargin>, rows, memory, { classes }))
  );
}

/** Refuses one that needs a head. */
export function checkWithoutHead(margin: BatchMargin, classes: number): void {
  ruleOf(margin).withoutHead?.(margin, classes);
}

/** Refuses one with what heads keep themselves. */
export function checkOnHead(margin: BatchMargin): void {
  ruleOf(margin).onHead?.(margin);
}
