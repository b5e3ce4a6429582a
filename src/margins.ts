/**
 * Margins: what is done to the one logit of a row that belongs to its own class. A margin is plain data;
 * the functions here only fill in defaults and check. theta is the angle between a row's feature and its own
 * class, c = cos(theta); the target logit is scale * F(theta), every other logit scale * cos(theta_j).
 *
 * To add a margin, touch engine/margin.h, this file and test/reference.ts; one that needs no native code, batch_margins.ts.
 */

import {
  type BatchMargin,
  batchKinds,
  batchOverflow,
  checkBatchMargin,
  isBatchMargin,
  transforms,
} from './batch_margins.js';
import type { NativeMargin, NativeParameter } from './native_loss.js';
import type { OverflowPolicy } from './options.js';
import { checkSchedule, isSchedule, type Schedule } from './schedule.js';
import {
  checkFloat32Array,
  checkFloats,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  checkValues,
  largestFactor,
  mustBe,
  show,
} from './validate.js';

/**
 * A margin's parameter: one value for all, one per row of the batch [B], or one per class [C]; on a `MarginHead` also a
 * schedule over its step count.
 */
export type MarginParameter =
  | number
  | Schedule
  | { readonly perRow: Float32Array; readonly perClass?: undefined }
  | { readonly perClass: Float32Array; readonly perRow?: undefined };

/** `F = cos(theta + m)`. Made by {@link arcface}. */
export interface ArcFaceMargin {
  readonly kind: 'arcface';
  /** Radians. */
  readonly m: MarginParameter;
}

/** `F = cos(theta) - m`. Made by {@link cosface}. */
export interface CosFaceMargin {
  readonly kind: 'cosface';
  /** Cosine units. */
  readonly m: MarginParameter;
}

/** `F = a (theta - h)^2 + k`. Made by {@link x2softmax}. */
export interface X2SoftmaxMargin {
  readonly kind: 'x2softmax';
  /** Cosine units per square radian. */
  readonly a: MarginParameter;
  /** Radians. */
  readonly h: MarginParameter;
  /** Cosine units. */
  readonly k: MarginParameter;
}

/** `F = cos(m1 theta + m2) - m3`. Made by {@link combined}. */
export interface CombinedMargin {
  readonly kind: 'combined';
  /** A factor. */
  readonly m1: MarginParameter;
  /** Radians. */
  readonly m2: MarginParameter;
  /** Cosine units. */
  readonly m3: MarginParameter;
}

/** `F = cos(theta)`. Made by {@link softmax}. */
export interface SoftmaxMargin {
  readonly kind: 'softmax';
}

/** What a {@link customMargin} callback is told about one row. */
export interface CustomMarginRow {
  /** Cosine between the row's feature and its class, in [-1, 1], without margin. */
  readonly cosine: number;
  /** Row of the batch. */
  readonly row: number;
  /** The row's class; never -1. */
  readonly label: number;
  /** Euclidean norm of the row's feature. */
  readonly featureNorm: number;
}

/** What a {@link customMargin} callback answers for one row. */
export interface CustomMarginTarget {
  /** F, in cosine units: the target logit is `scale * target`. */
  readonly target: number;
  /** dF / dcosine. */
  readonly dTarget: number;
  /** dF / d|x|, for margins that depend on the feature's norm. Default 0. */
  readonly dFeatureNorm?: number | undefined;
}

export type CustomMarginCallback = (row: CustomMarginRow) => CustomMarginTarget;

/** A margin written in JavaScript. Made by {@link customMargin}. */
export interface CustomMargin {
  readonly kind: 'custom';
  readonly callback: CustomMarginCallback;
}

export type BuiltInMargin = ArcFaceMargin | CosFaceMargin | X2SoftmaxMargin | CombinedMargin | SoftmaxMargin;

/** Any margin; plain data, told apart by `kind`. */
export type Margin = BuiltInMargin | BatchMargin | CustomMargin;

/** A margin that checkpoints keep. */
export type StoredMargin = BuiltInMargin | BatchMargin;

/** The parameters of a built-in margin, in the order of engine/margin.h. */
const parameterNames = {
  arcface: ['m'],
  cosface: ['m'],
  x2softmax: ['a', 'h', 'k'],
  combined: ['m1', 'm2', 'm3'],
  softmax: [],
} as const satisfies Record<BuiltInMargin['kind'], readonly string[]>;

/** Of all margins. */
export const kinds = [
  ...(Object.keys(parameterNames) as BuiltInMargin['kind'][]),
  ...batchKinds,
  'custom',
] as const;

/** Optional parameters of a margin's function. */
type ParametersOf<M extends BuiltInMargin> = {
  readonly [K in Exclude<keyof M, 'kind'>]?: MarginParameter | undefined;
};

/**
 * ArcFace: an additive angular margin, `F = cos(theta + m)`, exact `dF/dc = sin(theta + m) / sin(theta)`.
 *
 * Source: Deng et al., arXiv 1801.07698. Where `theta + m` passes pi the logit rises again; see `onOverflow`.
 *
 * @param parameters `m` in radians, default 0.5.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is not finite.
 */
export function arcface(parameters: ParametersOf<ArcFaceMargin> = {}): ArcFaceMargin {
  const { m = 0.5 } = checkOptions(parameters, { m: true }, 'arcface parameters');
  return checked({ kind: 'arcface', m });
}

/**
 * CosFace: an additive cosine margin, `F = cos(theta) - m`, `dF/dc = 1`.
 *
 * Source: Wang et al., arXiv 1801.09414.
 *
 * @param parameters `m` in cosine units, default 0.35 (InsightFace's recipes use 0.4).
 * @throws MarginFcError as {@link arcface}.
 */
export function cosface(parameters: ParametersOf<CosFaceMargin> = {}): CosFaceMargin {
  const { m = 0.35 } = checkOptions(parameters, { m: true }, 'cosface parameters');
  return checked({ kind: 'cosface', m });
}

/**
 * X2-Softmax: a margin that grows with the angle, `F = a (theta - h)^2 + k`, exact
 * `dF/dc = -2 a (theta - h) / sin(theta)`.
 *
 * Source: Xu et al., arXiv 2312.05281; the defaults are those of the released code.
 *
 * @param parameters `a` default -0.9, `h` in radians default 0, `k` in cosine units default 0.65.
 * @throws MarginFcError as {@link arcface}.
 */
export function x2softmax(parameters: ParametersOf<X2SoftmaxMargin> = {}): X2SoftmaxMargin {
  const known = { a: true, h: true, k: true } as const;
  const { a = -0.9, h = 0, k = 0.65 } = checkOptions(parameters, known, 'x2softmax parameters');
  return checked({ kind: 'x2softmax', a, h, k });
}

/**
 * The combined margin, `F = cos(m1 theta + m2) - m3`, exact
 * `dF/dc = m1 sin(m1 theta + m2) / sin(theta)`. SphereFace is m1, ArcFace m2, CosFace m3.
 *
 * Source: Deng et al., arXiv 1801.07698, equation 4; the defaults are ArcFace, as in Paddle's
 * `margin_cross_entropy`.
 *
 * @param parameters `m1` default 1, `m2` in radians default 0.5, `m3` in cosine units default 0.
 * @throws MarginFcError as {@link arcface}.
 */
export function combined(parameters: ParametersOf<CombinedMargin> = {}): CombinedMargin {
  const known = { m1: true, m2: true, m3: true } as const;
  const { m1 = 1, m2 = 0.5, m3 = 0 } = checkOptions(parameters, known, 'combined parameters');
  return checked({ kind: 'combined', m1, m2, m3 });
}

/**
 * No margin, `F = cos(theta)`: softmax over scaled cosines.
 *
 * Source: NormFace, Wang et al., arXiv 1704.06369.
 */
export function softmax(): SoftmaxMargin {
  return { kind: 'softmax' };
}

/**
 * A margin written in JavaScript. The callback runs on the calling thread, once for each row that is not
 * ignored, in row order, after the rows' own cosines are known and before the sum over all classes; it costs
 * nothing per class. It must not write to the arrays of the call. With `gradient: 'straightThrough'` its
 * `dTarget` is not used.
 *
 * A callback that throws, or returns something other than finite numbers, ends the call with ERR_MARGIN.
 *
 * @example
 * ```ts
 * import { customMargin } from 'marginfc';
 *
 * // CosFace
 * const margin = customMargin(({ cosine }) => ({ target: cosine - 0.35, dTarget: 1 }));
 * ```
 * @throws MarginFcError ERR_TYPE if `callback` is not a function.
 */
export function customMargin(callback: CustomMarginCallback): CustomMargin {
  return checkMargin({ kind: 'custom', callback }) as CustomMargin;
}

/** A margin's kind, names and values, as far as they can be checked without a batch. */
export function checkMargin(margin: Margin): Margin {
  checkObject(margin, 'margin');
  checkOneOf(margin.kind, kinds, 'margin.kind');
  if (isBatchMargin(margin)) return checkBatchMargin(margin);
  const { kind } = margin;
  const names = kind === 'custom' ? ['callback'] : parameterNames[kind];
  const known: Record<string, true> = { kind: true };
  for (const name of names) known[name] = true;
  checkOptions<object>(margin, known, 'margin');
  if (margin.kind === 'custom') {
    if (typeof margin.callback !== 'function')
      throw mustBe('ERR_TYPE', 'margin.callback', 'a function', show(margin.callback));
  } else {
    for (const name of names) {
      const parameter: unknown = Reflect.get(margin, name);
      if (isSchedule(parameter)) checkSchedule(parameter, `margin.${name}`, parameterRange);
      else checkParameter(parameter, `margin.${name}`);
    }
  }
  return margin;
}

function checked<M extends BuiltInMargin>(margin: M): M {
  checkMargin(margin);
  return margin;
}

const parameterRange = { magnitude: largestFactor, code: 'ERR_MARGIN' } as const;

function checkParameter(value: unknown, argument: string): NativeParameter {
  if (typeof value === 'number') return checkNumber(value, argument, parameterRange);
  const names = typeof value === 'object' && value !== null ? Object.keys(value) : [];
  const name = names.length === 1 ? names[0] : undefined;
  if (name !== 'perRow' && name !== 'perClass')
    throw mustBe('ERR_TYPE', argument, 'a number, { perRow } or { perClass }', show(value));
  const array = checkFloat32Array(Reflect.get(value as object, name), `${argument}.${name}`);
  return name === 'perRow' ? { perRow: array } : { perClass: array };
}

/** A margin of numbers and schedules; undefined for one with arrays or a callback. */
export function storedMargin(margin: Margin): StoredMargin | undefined {
  if (margin.kind === 'custom') return undefined;
  if (isBatchMargin(margin)) return margin;
  const plain = parameterNames[margin.kind].every((name) => {
    const parameter: unknown = Reflect.get(margin, name);
    return typeof parameter === 'number' || isSchedule(parameter);
  });
  return plain ? margin : undefined;
}

/** Overflow policies that a margin knows besides `none`. */
export function overflowOf(margin: Margin): readonly OverflowPolicy[] {
  if (isBatchMargin(margin)) return batchOverflow(margin);
  return margin.kind === 'arcface' || margin.kind === 'combined' ? ['fallback', 'easy'] : [];
}

/** Whether a margin changes the logits of other classes too. */
export function changesNegatives(margin: Margin): boolean {
  return isBatchMargin(margin) && transforms(margin);
}

/** Whether a margin has a parameter for each class. */
export function isPerClass(margin: Margin): boolean {
  if (isBatchMargin(margin)) return false;
  return Object.values(margin).some(({ perClass }) => perClass !== undefined);
}

/** A margin for the classes that stay: those with a new id in `map`, [classes before], which is not -1. */
export function marginOfClasses(margin: Margin, map: Int32Array): Margin {
  if (!isPerClass(margin)) return margin;
  const entries = Object.entries(margin).map(([name, value]) => {
    const perClass: Float32Array | undefined = value.perClass;
    return [name, perClass ? { perClass: perClass.filter((_, id) => map[id] !== -1) } : value];
  });
  return Object.fromEntries(entries);
}

/** A built-in margin without schedules as native code reads it, its arrays checked against a batch of `rows` and `classes`. */
export function nativeMargin(margin: BuiltInMargin, rows: number, classes: number): NativeMargin {
  const parameters = parameterNames[margin.kind].map((name) => {
    const argument = `margin.${name}`;
    const parameter = checkParameter(Reflect.get(margin, name), argument);
    if (typeof parameter === 'number') return parameter;
    const perRow = 'perRow' in parameter;
    const array = perRow
      ? checkFloats(parameter.perRow, `${argument}.perRow`, rows, 'rows of the batch')
      : checkFloats(parameter.perClass, `${argument}.perClass`, classes, 'classes');
    checkValues(array, `${argument}.${perRow ? 'perRow' : 'perClass'}`, 'ERR_MARGIN');
    return parameter;
  });
  return { kind: margin.kind, parameters };
}
