/**
 * Companion terms: what the loss of a batch has besides the margin softmax, each with a weight. Plain data, told apart by `kind`. A term
 * is reduced over the rows as the loss is: their mean, by `rowWeights` if there are, or their sum.
 *
 * To add one: a file with its data, its function and its rule, as intra_loss.ts, and an entry in union and table.
 */

import { type CenterLoss, centerRule } from './center_loss.js';
import { type InterLoss, interRule } from './inter_loss.js';
import { type IntraLoss, intraRule } from './intra_loss.js';
import { type RingLoss, ringRule } from './ring_loss.js';
import { valueAt } from './schedule.js';
import type { TermRule } from './term_rules.js';
import { checkedTerm } from './term_rules.js';
import { type TripletLoss, tripletRule } from './triplet_loss.js';
import { checkObject, checkOneOf, mustBe, show } from './validate.js';

/** A part of the loss besides the margin softmax. */
export type LossTerm = IntraLoss | InterLoss | RingLoss | CenterLoss | TripletLoss;

/** A term whose weight is a number. */
export type PlainTerm = LossTerm & { readonly weight: number };

const rules: { readonly [K in LossTerm['kind']]: TermRule<Extract<LossTerm, { kind: K }>> } = {
  intra: intraRule,
  inter: interRule,
  ring: ringRule,
  center: centerRule,
  triplet: tripletRule,
};

export const termKinds = Object.keys(rules) as LossTerm['kind'][];

/** The values of a batch's terms, without their weights; those that the loss has. */
export type TermValues = { readonly [K in LossTerm['kind']]?: number };

/** Names and values, as far as they can be checked without a batch; at most one term of a kind. */
export function checkTerms(terms: readonly LossTerm[]): readonly LossTerm[] {
  if (!Array.isArray(terms)) throw mustBe('ERR_TYPE', 'terms', 'an array of terms', show(terms));
  for (const [i, term] of terms.entries()) {
    const argument = `terms[${i}]`;
    checkObject(term, argument);
    const kind = checkOneOf(term.kind, termKinds, `${argument}.kind`);
    // The types of the table's columns are lost where a kind is looked up.
    checkedTerm(rules[kind] as unknown as TermRule<LossTerm>, term, argument);
    if (terms.findIndex((other) => other.kind === kind) !== i)
      throw mustBe('ERR_OPTION', `${argument}.kind`, 'another one than those before', show(kind));
  }
  return terms;
}

/** The term of this kind, if there is one. */
export function termOf<T extends LossTerm, K extends T['kind']>(
  terms: readonly T[],
  kind: K,
): Extract<T, { kind: K }> | undefined {
  return terms.find((term): term is Extract<T, { kind: K }> => term.kind === kind);
}

/** A head keeps centres of its own. */
export function refuseCenters(terms: readonly LossTerm[]): void {
  for (const [i, term] of terms.entries())
    if (term.kind === 'center' && term.centers)
      throw mustBe(
        'ERR_OPTION',
        `terms[${i}].centers`,
        'left out on a head, which has its own',
        show(term.centers),
      );
}

/** The terms after `step` updates. */
export function termsAt(terms: readonly LossTerm[], step: number): readonly PlainTerm[] {
  return terms.map((term) => ({ ...term, weight: valueAt(term.weight, step) }));
}
