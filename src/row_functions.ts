/**
 * Functions of p, the probability that the softmax gives a row's own class (its logit with the margin): a row's loss is phi(p)
 * instead of -log p. One number a row multiplies all its gradients, so they cost nothing per class, run on every engine and go with
 * every margin. Formulas: engine/row_function.h.
 */

import type { NativeRowFunction } from './native_loss.js';
import { checkScheduled, type Schedule } from './schedule.js';
import {
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  largestFactor,
  mustBe,
  show,
} from './validate.js';

/** `-(1 - p)^gamma log p`. Made by {@link focal}. */
export interface FocalFunction {
  readonly kind: 'focal';
  readonly gamma: number | Schedule;
}

/** `-log(p / (a p + 1 - a))`. Made by {@link searchSoftmax}. */
export interface SearchSoftmaxFunction {
  readonly kind: 'searchSoftmax';
  /** One for each of as many equal bins of p; <= 0. */
  readonly a: readonly number[];
  /** What a is multiplied with is exp(exponent * scale). */
  readonly exponent: number | Schedule;
}

/** `-log(a p + b)`. Made by {@link amLfs}. */
export interface AmLfsFunction {
  readonly kind: 'amLfs';
  /** Slopes, one for each of as many equal bins of p. */
  readonly a: readonly number[];
  /** As many intercepts. */
  readonly b: readonly number[];
}

/** A row's loss as a function of its probability; plain data, told apart by `kind`. */
export type RowFunction = FocalFunction | SearchSoftmaxFunction | AmLfsFunction;

/**
 * Focal loss of the softmax: rows that are classified well weigh less.
 *
 *     phi(p) = -(1 - p)^gamma log p
 *
 * Source: Lin et al., arXiv 1708.02002, without its class weights; `gamma` 0 is -log p. Each row has its own p: face.evoLVe's
 * FocalLoss takes p from the mean of -log p over the batch instead.
 *
 * @param parameters `gamma` >= 0, default 2.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE for a parameter that is of no use.
 */
export function focal(parameters: { readonly gamma?: number | Schedule | undefined } = {}): FocalFunction {
  const { gamma = 2 } = checkOptions(parameters, { gamma: true }, 'focal parameters');
  return checked({ kind: 'focal', gamma }, 'focal parameters');
}

/**
 * Search-Softmax, with a factor for each of n equal bins of p: bin j has the p in (j / n, (j + 1) / n], the first one 0 too.
 *
 *     phi(p) = -log(p / (a_j p + 1 - a_j)),   a_j <= 0 multiplied with exp(exponent scale)
 *
 * With one factor for all p and no margin it is {@link cosface} with `m = ln(1 - a) / scale`, as is {@link randomSoftmax}.
 *
 * Source: Wang et al., Loss Function Search for Face Recognition, arXiv 2007.06542, equation 8. The released code's mode `local` has
 * 10 bins and `exponent` 1/2 at scale 32, `global` one factor and 1/3. phi jumps where bins meet; its derivative is that inside them.
 *
 * @param parameters `a`, one number or one for each bin; `exponent` default 0.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE for a parameter that is of no use.
 */
export function searchSoftmax(parameters: {
  readonly a: number | readonly number[];
  readonly exponent?: number | Schedule | undefined;
}): SearchSoftmaxFunction {
  const { a, exponent = 0 } = checkOptions(
    parameters,
    { a: true, exponent: true },
    'searchSoftmax parameters',
  );
  const factors = typeof a === 'number' ? [a] : (a as readonly number[]);
  return checked({ kind: 'searchSoftmax', a: factors, exponent }, 'searchSoftmax parameters');
}

/**
 * AM-LFS: the logarithm of a line for each of n equal bins of p, which {@link searchSoftmax} describes.
 *
 *     phi(p) = -log(a_j p + b_j),   above 0 in all of its bin, but for 0 at p = 0
 *
 * Source: Li et al., AM-LFS: AutoML for Loss Function Search, arXiv 1905.07375: the function of the probability, whose parameters
 * are searched around a = 1 and b = 0, which is -log p. Theirs of the logit is not part of it; a margin may be. There is no released
 * code.
 *
 * @param parameters `a` and `b`, as many numbers each.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE for a parameter that is of no use.
 */
export function amLfs(parameters: {
  readonly a: readonly number[];
  readonly b: readonly number[];
}): AmLfsFunction {
  const { a, b } = checkOptions(parameters, { a: true, b: true }, 'amLfs parameters');
  return checked({ kind: 'amLfs', a, b } as AmLfsFunction, 'amLfs parameters');
}

/** Names and values. */
export function checkRowFunction(rowFunction: RowFunction | 'none', argument: string): RowFunction | 'none' {
  if (rowFunction === 'none') return rowFunction;
  checkObject(rowFunction, argument);
  checkOneOf(rowFunction.kind, ['focal', 'searchSoftmax', 'amLfs'], `${argument}.kind`);
  return checked(rowFunction, argument);
}

function checked<F extends RowFunction>(rowFunction: F, argument: string): F {
  const data: RowFunction = rowFunction;
  const range = { magnitude: largestFactor };
  switch (data.kind) {
    case 'focal':
      checkOptions(data, { kind: true, gamma: true }, argument);
      checkScheduled(data.gamma, `${argument}.gamma`, { ...range, least: 0 });
      break;
    case 'searchSoftmax':
      checkOptions(data, { kind: true, a: true, exponent: true }, argument);
      checkNumbers(data.a, `${argument}.a`);
      for (const [j, a] of data.a.entries())
        if (a > 0) throw mustBe('ERR_OPTION', `${argument}.a[${j}]`, 'a finite number <= 0', String(a));
      checkScheduled(data.exponent, `${argument}.exponent`, range);
      break;
    case 'amLfs':
      checkOptions(data, { kind: true, a: true, b: true }, argument);
      checkNumbers(data.a, `${argument}.a`);
      checkNumbers(data.b, `${argument}.b`, data.a.length);
      checkLines(data, argument);
      break;
  }
  return rowFunction;
}

function checkNumbers(values: unknown, argument: string, length?: number): void {
  const expectation = `an array of ${length ?? 'at least one'} number${length === 1 || length === undefined ? '' : 's'}`;
  if (!Array.isArray(values)) throw mustBe('ERR_TYPE', argument, expectation, show(values));
  if (values.length === 0 || (length !== undefined && values.length !== length))
    throw mustBe('ERR_OPTION', argument, expectation, show(values));
  for (const [j, value] of values.entries())
    checkNumber(value, `${argument}[${j}]`, { magnitude: largestFactor });
}

/** What rounding leaves above 0. */
const smallestLine = 1e-9;

/** The logarithm is of a line that is above 0, but at p = 0, where -log p is infinite too. */
function checkLines({ a, b }: AmLfsFunction, argument: string): void {
  const bins = a.length;
  for (let j = 0; j < bins; j++) {
    const [low, high] = [j, j + 1].map((edge) => ((a[j] as number) * edge) / bins + (b[j] as number));
    if (high! > smallestLine && (low! > smallestLine || (j === 0 && low === 0))) continue;
    throw mustBe(
      'ERR_OPTION',
      `${argument}, bin ${j}: a p + b`,
      j === 0 ? '0 at p = 0, or above' : 'above 0',
      `${low} to ${high}`,
    );
  }
}

/** As native code reads it, without schedules. */
export function nativeRowFunction(
  rowFunction: RowFunction | 'none',
  scale: number,
): { readonly rowFunction?: NativeRowFunction } {
  if (rowFunction === 'none') return {};
  switch (rowFunction.kind) {
    case 'focal':
      return { rowFunction: { kind: 'focal', values: Float64Array.of(rowFunction.gamma as number) } };
    case 'searchSoftmax': {
      const factor = Math.exp((rowFunction.exponent as number) * scale);
      const values = Float64Array.from(rowFunction.a, (a) => (a === 0 ? 0 : a * factor));
      for (const [j, value] of values.entries())
        checkNumber(value, `rowFunction.a[${j}] exp(exponent scale)`, { magnitude: 1e300 });
      return { rowFunction: { kind: 'search', values } };
    }
    case 'amLfs':
      return {
        rowFunction: { kind: 'piecewise', values: Float64Array.of(...rowFunction.a, ...rowFunction.b) },
      };
  }
}
