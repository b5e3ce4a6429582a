/**
 * Checks of arguments. Every message of the package about an argument is made by `mustBe`: it names the
 * argument, what was expected and what came. Native code checks again only what would read or write out of
 * bounds.
 */

import { types } from 'node:util';
import { MarginFcError, type MarginFcErrorCode } from './errors.js';
import type { GroupArray } from './group.js';

/** Class ids and rows are int32 in native code. */
export const maxCount = 2 ** 31 - 1;

/**
 * Largest scale, margin parameter and factor of a gradient: beyond any use, and small enough that no loss or
 * gradient of finite rows leaves float32.
 */
export const largestFactor = 1e6;

/** Of a group's call, seconds. */
export const longestTimeout = 1e7;

/** An error that says `argument must be expectation, received received`. */
export function mustBe(
  code: MarginFcErrorCode,
  argument: string,
  expectation: string,
  received: string,
  options?: ErrorOptions,
): MarginFcError {
  return new MarginFcError(code, `${argument} must be ${expectation}, received ${received}`, options);
}

/** A value in as many words as a message needs. */
export function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 40 ? `${value.slice(0, 40)}…` : value}'`;
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value !== 'object' || value === null) return String(value);
  const type = Object.prototype.toString.call(value).slice(8, -1);
  if (Array.isArray(value) || types.isTypedArray(value)) return `${type}(${value.length})`;
  if (type !== 'Object') return type;
  const keys = Object.keys(value);
  return keys.length === 0 ? '{}' : `{ ${keys.slice(0, 5).join(', ')}${keys.length > 5 ? ', …' : ''} }`;
}

/** Choices as people read them: `'a', 'b' or 'c'`. */
function listed(choices: readonly string[]): string {
  const shown = choices.map(show);
  const last = shown.pop() ?? 'nothing';
  return shown.length === 0 ? last : `${shown.join(', ')} or ${last}`;
}

/**
 * `options` as an object that has no other names than `known`: a misspelt name would otherwise be a default
 * that nobody chose. Undefined stands for no options.
 */
export function checkOptions<T extends object>(
  options: T | undefined,
  known: Readonly<Record<keyof T & string, true>>,
  argument = 'options',
): Partial<T> {
  if (options === undefined) return {};
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw mustBe('ERR_TYPE', argument, 'an object', show(options));
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(known, name))
      throw mustBe(
        'ERR_OPTION',
        `a name in ${argument}`,
        `one of ${Object.keys(known).join(', ')}`,
        show(name),
      );
  }
  return options;
}

export function checkObject(value: unknown, argument: string): void {
  if (typeof value !== 'object' || value === null)
    throw mustBe('ERR_TYPE', argument, 'an object', show(value));
}

export function checkOneOf<T extends string>(value: unknown, choices: readonly T[], argument: string): T {
  for (const choice of choices) if (value === choice) return choice;
  const code = typeof value === 'string' ? 'ERR_OPTION' : 'ERR_TYPE';
  throw mustBe(code, argument, listed(choices), show(value));
}

export function checkBoolean(value: unknown, argument: string): boolean {
  if (typeof value !== 'boolean') throw mustBe('ERR_TYPE', argument, 'a boolean', show(value));
  return value;
}

/** Numbers that an argument may have, and the code for others. */
export interface NumberRange {
  readonly least?: number;
  readonly exclusive?: boolean;
  readonly below?: number;
  readonly magnitude?: number;
  readonly code?: MarginFcErrorCode;
}

function expectedOf({
  least = Number.NEGATIVE_INFINITY,
  exclusive = false,
  below = Number.POSITIVE_INFINITY,
}: NumberRange): string {
  const bounds = [];
  if (least > Number.NEGATIVE_INFINITY) bounds.push(exclusive ? `> ${least}` : `>= ${least}`);
  if (below < Number.POSITIVE_INFINITY) bounds.push(`< ${below}`);
  return ['a finite number', ...(bounds.length > 0 ? [bounds.join(' and ')] : [])].join(' ');
}

/** A finite number, `least` <= value (`least` < value if `exclusive`), value < `below` and |value| <= `magnitude`. */
export function checkNumber(value: unknown, argument: string, range: NumberRange = {}): number {
  const {
    least = Number.NEGATIVE_INFINITY,
    exclusive = false,
    below = Number.POSITIVE_INFINITY,
    magnitude = Number.POSITIVE_INFINITY,
    code = 'ERR_OPTION',
  } = range;
  if (typeof value !== 'number') throw mustBe('ERR_TYPE', argument, expectedOf(range), show(value));
  const fits = Number.isFinite(value) && (exclusive ? value > least : value >= least) && value < below;
  if (!fits) throw mustBe(code, argument, expectedOf(range), show(value));
  if (Math.abs(value) > magnitude)
    throw mustBe(code, argument, `at most ${magnitude} in magnitude`, show(value));
  return value;
}

export function checkInteger(
  value: unknown,
  argument: string,
  { least, most, code = 'ERR_OPTION' }: { least: number; most: number; code?: MarginFcErrorCode },
): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most)
    return value as number;
  const expectation = `an integer in [${least}, ${most}]`;
  throw mustBe(typeof value === 'number' ? code : 'ERR_TYPE', argument, expectation, show(value));
}

/** `dim` or `classes`: an integer from 1 that native code can count. */
export function checkCount(value: unknown, argument: string): number {
  return checkInteger(value, argument, { least: 1, most: maxCount, code: 'ERR_SHAPE' });
}

/** A Float32Array of any realm whose memory stays where it is. */
export function checkFloat32Array(value: unknown, argument: string): Float32Array {
  if (!types.isFloat32Array(value)) throw mustBe('ERR_TYPE', argument, 'a Float32Array', show(value));
  checkFixedMemory(value, argument);
  return value;
}

/** A Uint16Array of any realm whose memory stays where it is. */
export function checkUint16Array(value: unknown, argument: string): Uint16Array {
  if (!types.isUint16Array(value)) throw mustBe('ERR_TYPE', argument, 'a Uint16Array', show(value));
  checkFixedMemory(value, argument);
  return value;
}

/** An Int32Array of any realm whose memory stays where it is. */
export function checkInt32Array(value: unknown, argument: string): Int32Array {
  if (!types.isInt32Array(value)) throw mustBe('ERR_TYPE', argument, 'an Int32Array', show(value));
  checkFixedMemory(value, argument);
  return value;
}

/** An array of one of the types that processes exchange, of any realm, whose memory stays where it is. */
export function checkGroupArray(value: unknown, argument: string): GroupArray {
  const fits =
    types.isFloat32Array(value) ||
    types.isFloat64Array(value) ||
    types.isInt32Array(value) ||
    types.isUint8Array(value);
  if (!fits)
    throw mustBe('ERR_TYPE', argument, 'a Float32Array, Float64Array, Int32Array or Uint8Array', show(value));
  checkFixedMemory(value, argument);
  return value;
}

/** A Float32Array of exactly `length`; `meaning` says where the length comes from, such as `rows * dim`. */
export function checkFloats(value: unknown, argument: string, length: number, meaning: string): Float32Array {
  const array = checkFloat32Array(value, argument);
  if (array.length !== length)
    throw mustBe('ERR_SHAPE', `${argument}.length`, `${length} (${meaning})`, String(array.length));
  return array;
}

/** Native code holds pointers into the array while other JavaScript runs. */
function checkFixedMemory(array: GroupArray | Uint16Array, argument: string): void {
  const { buffer } = array;
  if ('resizable' in buffer ? buffer.resizable : 'growable' in buffer && buffer.growable) {
    const kind = types.isSharedArrayBuffer(buffer) ? 'growable SharedArrayBuffer' : 'resizable ArrayBuffer';
    throw mustBe('ERR_DETACHED', argument, 'backed by memory of fixed size', `one on a ${kind}`);
  }
  if (array.length === 0 && isDetached(buffer))
    throw mustBe('ERR_DETACHED', argument, 'backed by attached memory', 'one whose ArrayBuffer is detached');
}

/** Node 20 has no `ArrayBuffer.prototype.detached`; a view of a detached buffer cannot be made anywhere. */
function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

/** Every value at least `least` and of a magnitude up to `largestFactor`; the error names the first that is not. */
export function checkValues(
  array: Float32Array,
  argument: string,
  code: MarginFcErrorCode,
  least = Number.NEGATIVE_INFINITY,
): Float32Array {
  for (let i = 0; i < array.length; i++) {
    const value = array[i] as number;
    if (!(Math.abs(value) <= largestFactor && value >= least))
      checkNumber(value, `${argument}[${i}]`, { least, magnitude: largestFactor, code });
  }
  return array;
}

/** Every label -1 or a class id; the error names the first that is not. */
export function checkLabels(labels: Int32Array, classes: number): Int32Array {
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as number;
    if (label < -1 || label >= classes)
      throw mustBe('ERR_LABEL_RANGE', `labels[${i}]`, `in [-1, ${classes - 1}]`, String(label));
  }
  return labels;
}

/** Memory that a call works on: of a typed array, or of a GPU. */
interface Memory {
  readonly array: ArrayBufferView | { readonly devicePtr: bigint; readonly length: number };
  /** Of a GPU's memory; a typed array knows its own. */
  readonly type?: 'float32' | 'bfloat16' | 'float16';
}

/** An output must not lie on an input or on another output: both are in use at once. */
export function checkApart(
  output: Memory,
  argument: string,
  others: Readonly<Record<string, Memory | undefined>>,
): void {
  const ours = extent(output);
  for (const name in others) {
    const other = others[name];
    if (!other) continue;
    const theirs = extent(other);
    if (ours.space === theirs.space && ours.start < theirs.end && theirs.start < ours.end)
      throw mustBe('ERR_OPTION', argument, `apart from ${name} in memory`, 'an overlapping array');
  }
}

function extent({ array, type }: Memory): { space: unknown; start: number | bigint; end: number | bigint } {
  if (ArrayBuffer.isView(array)) {
    const { buffer, byteOffset, byteLength } = array;
    return { space: buffer, start: byteOffset, end: byteOffset + byteLength };
  }
  const bytes = BigInt(array.length) * (type === 'bfloat16' || type === 'float16' ? 2n : 4n);
  return { space: 'device', start: array.devicePtr, end: array.devicePtr + bytes };
}

/** An AbortSignal, also of another realm or a polyfill. */
export function checkSignal(value: unknown): AbortSignal | undefined {
  if (value === undefined) return undefined;
  const fits =
    typeof value === 'object' &&
    value !== null &&
    typeof Reflect.get(value, 'aborted') === 'boolean' &&
    typeof Reflect.get(value, 'addEventListener') === 'function';
  if (!fits) throw mustBe('ERR_TYPE', 'signal', 'an AbortSignal', show(value));
  return value as AbortSignal;
}
