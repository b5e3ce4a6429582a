/**
 * Margins that are computed here, over a whole batch at once, between phases 1 and 2: from cosines, feature norms, labels, a seed
 * and the step. Native code gets each row's target and derivatives, so they cost nothing per class and run on every engine. In a
 * group each process computes them over the rows of all, to the same result.
 *
 * To add one: a file with its data, its function and its rule, as sphereface.ts, and an entry here. docs/adding-a-loss.md.
 */

import { adafaceRule } from './adaface.js';
import { elasticArcFaceRule, elasticCosFaceRule } from './elasticface.js';
import { magfaceRule } from './magface.js';
import type { OverflowPolicy } from './options.js';
import { randomSoftmaxRule } from './random_softmax.js';
import { spherefaceRule } from './sphereface.js';
import { type BatchRows, type BatchRule, checkedBy, type Targets } from './target_rows.js';

const rules = {
  adaface: adafaceRule,
  magface: magfaceRule,
  elasticArcFace: elasticArcFaceRule,
  elasticCosFace: elasticCosFaceRule,
  sphereface: spherefaceRule,
  randomSoftmax: randomSoftmaxRule,
} as const;

/** A margin that is computed over a whole batch; plain data, told apart by `kind`. */
export type BatchMargin = Parameters<(typeof rules)[keyof typeof rules]['resolve']>[0];

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

export function batchTargets(margin: BatchMargin, rows: BatchRows): Targets {
  return ruleOf(margin).resolve(margin, rows);
}
