/** What kinds of companion terms have in common: how their data are checked. */

import { checkScheduled, type Schedule } from './schedule.js';
import { checkObject, checkOptions, largestFactor } from './validate.js';

/** A part of the loss besides the margin softmax. */
export interface WeightedTerm {
  /** >= 0; the loss has the term times this. On a `MarginHead` also a schedule. */
  readonly weight: number | Schedule;
}

/** A kind of term. */
export interface TermRule<T extends WeightedTerm & { readonly kind: string }> {
  /** How each parameter but the weight is checked; one that may be left out allows undefined. */
  readonly parameters: {
    readonly [K in Exclude<keyof T, 'kind' | 'weight'> & string]-?: (
      value: unknown,
      argument: string,
    ) => unknown;
  };
}

/** Names and values; they need no batch. */
export function checkedTerm<T extends WeightedTerm & { readonly kind: string }>(
  rule: TermRule<T>,
  term: T,
  argument: string = term.kind,
): T {
  checkObject(term, argument);
  const checks = Object.entries<(value: unknown, argument: string) => unknown>(rule.parameters);
  const known = { kind: true, weight: true, ...Object.fromEntries(checks.map(([name]) => [name, true])) };
  checkOptions<object>(term, known, argument);
  checkScheduled(term.weight, `${argument}.weight`, { least: 0, magnitude: largestFactor });
  for (const [name, check] of checks) check(Reflect.get(term, name), `${argument}.${name}`);
  return term;
}

/** A parameter that may be left out. */
export function optional(
  check: (value: unknown, argument: string) => unknown,
): (value: unknown, argument: string) => unknown {
  return (value, argument) => value === undefined || check(value, argument);
}
