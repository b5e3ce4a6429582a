/**
 * Values that change over training: plain data, so that checkpoints keep them, evaluated at the step count of a
 * `MarginHead`. A plain number is the constant one.
 */

import {
  checkInteger,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  mustBe,
  type NumberRange,
  show,
} from './validate.js';

/** From one value to another along a straight line. Made by {@link linear}. */
export interface LinearSchedule {
  readonly kind: 'linear';
  readonly from: number;
  readonly to: number;
  /** Updates it takes. */
  readonly steps: number;
  /** Update at which it leaves `from`. */
  readonly start: number;
}

/** From one value to another along half a cosine. Made by {@link cosine}. */
export interface CosineSchedule {
  readonly kind: 'cosine';
  readonly from: number;
  readonly to: number;
  /** Updates it takes. */
  readonly steps: number;
  /** Update at which it leaves `from`. */
  readonly start: number;
}

/** One value after the other. Made by {@link piecewise}. */
export interface PiecewiseSchedule {
  readonly kind: 'piecewise';
  /** Each from its step on; steps ascend from 0. */
  readonly pieces: readonly (readonly [step: number, value: number | LinearSchedule | CosineSchedule])[];
}

/** A value for each number of updates made; plain data, told apart by `kind`. */
export type Schedule = LinearSchedule | CosineSchedule | PiecewiseSchedule;

/** What {@link linear} and {@link cosine} take. */
export interface Ramp {
  /** Until `start`. */
  readonly from: number;
  /** From `start + steps` on. */
  readonly to: number;
  /** An integer >= 1. */
  readonly steps: number;
  /** An integer >= 0. Default 0. */
  readonly start?: number | undefined;
}

const rampNames = { from: true, to: true, steps: true, start: true } as const;
const mostSteps = Number.MAX_SAFE_INTEGER;

/**
 * `from` until step `start`, `to` from step `start + steps` on, and between them with t = step - start
 *
 *     from + (to - from) t / steps
 *
 * @throws MarginFcError ERR_TYPE, or ERR_OPTION for a value that is not finite, or steps that are no such integer.
 * @example
 * ```ts
 * import { arcface, linear, MarginHead } from 'marginfc';
 *
 * // The margin grows over the first 10,000 updates.
 * const margin = arcface({ m: linear({ from: 0, to: 0.5, steps: 10000 }) });
 * const head = await MarginHead.create({ dim: 128, classes: 1000, margin });
 * ```
 */
export function linear(ramp: Ramp): LinearSchedule {
  const { from, to, steps, start = 0 } = checkRamp(ramp);
  return checkSchedule({ kind: 'linear', from, to, steps, start }, 'schedule');
}

/**
 * `from` until step `start`, `to` from step `start + steps` on, and between them with t = step - start
 *
 *     to + (from - to) (1 + cos(pi t / steps)) / 2
 *
 * Source: Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts.
 *
 * @throws MarginFcError as {@link linear}.
 */
export function cosine(ramp: Ramp): CosineSchedule {
  const { from, to, steps, start = 0 } = checkRamp(ramp);
  return checkSchedule({ kind: 'cosine', from, to, steps, start }, 'schedule');
}

/**
 * Each value from its step on. Values may be ramps, which count from the head's first step, not their own.
 *
 * @param pieces Pairs of step and value; steps are integers that ascend from 0.
 * @throws MarginFcError as {@link linear}.
 * @example
 * ```ts
 * import { cosine, linear, piecewise, sgd } from 'marginfc';
 *
 * // Warm-up, then half a cosine.
 * const learningRate = piecewise([
 *   [0, linear({ from: 0, to: 0.1, steps: 1000 })],
 *   [1000, cosine({ from: 0.1, to: 1e-4, steps: 99000, start: 1000 })],
 * ]);
 * const optimizer = sgd({ learningRate, momentum: 0.9 });
 * ```
 */
export function piecewise(pieces: PiecewiseSchedule['pieces']): PiecewiseSchedule {
  return checkSchedule({ kind: 'piecewise', pieces }, 'schedule');
}

function checkRamp(ramp: Ramp): Ramp {
  checkObject(ramp, 'schedule');
  return checkOptions<Ramp>(ramp, rampNames, 'schedule') as Ramp;
}

/** The value of a schedule, or of a constant, after `step` updates: what the update after them uses. */
export function valueAt(schedule: number | Schedule, step: number): number {
  if (typeof schedule === 'number') return schedule;
  switch (schedule.kind) {
    case 'linear': {
      const { from, to } = schedule;
      const part = partOf(schedule, step);
      // The ends are met exactly.
      return part === 1 ? to : from + (to - from) * part;
    }
    case 'cosine': {
      const { from, to } = schedule;
      return to + ((from - to) * (1 + Math.cos(Math.PI * partOf(schedule, step)))) / 2;
    }
    case 'piecewise': {
      const piece = schedule.pieces.findLast(([start]) => start <= step);
      return valueAt(piece?.[1] ?? Number.NaN, step);
    }
  }
}

/** Data after `step` updates: without schedules among its values. */
export function atStep<T extends object>(data: T, step: number): T {
  if (!Object.values(data).some(isSchedule)) return data;
  const entries = Object.entries(data).map(([name, value]) => [
    name,
    isSchedule(value) ? valueAt(value, step) : value,
  ]);
  return Object.fromEntries(entries);
}

/** How much of a ramp is behind, in [0, 1]. */
function partOf({ start, steps }: LinearSchedule | CosineSchedule, step: number): number {
  return Math.min(1, Math.max(0, (step - start) / steps));
}

/** Whether a value is meant as a schedule; checkSchedule() says whether it is one. */
export function isSchedule(value: unknown): value is Schedule {
  return typeof value === 'object' && value !== null && 'kind' in value;
}

/** A schedule whose values all lie in the range that the thing it stands for has. */
export function checkSchedule<S extends Schedule>(schedule: S, argument: string, range: NumberRange = {}): S {
  const kind = checkOneOf(schedule.kind, ['linear', 'cosine', 'piecewise'], `${argument}.kind`);
  if (kind === 'piecewise') {
    checkOptions<object>(schedule, { kind: true, pieces: true }, argument);
    checkPieces(Reflect.get(schedule, 'pieces'), `${argument}.pieces`, range);
    return schedule;
  }
  checkOptions<object>(schedule, { kind: true, ...rampNames }, argument);
  for (const name of ['from', 'to'] as const)
    checkNumber(Reflect.get(schedule, name), `${argument}.${name}`, range);
  checkInteger(Reflect.get(schedule, 'steps'), `${argument}.steps`, { least: 1, most: mostSteps });
  checkInteger(Reflect.get(schedule, 'start'), `${argument}.start`, { least: 0, most: mostSteps });
  return schedule;
}

function checkPieces(pieces: unknown, argument: string, range: NumberRange): void {
  if (!Array.isArray(pieces) || pieces.length === 0)
    throw mustBe('ERR_TYPE', argument, 'an array of pairs of step and value', show(pieces));
  let least = 0;
  for (const [i, piece] of pieces.entries()) {
    if (!Array.isArray(piece) || piece.length !== 2)
      throw mustBe('ERR_TYPE', `${argument}[${i}]`, 'a pair of step and value', show(piece));
    const [step, value]: unknown[] = piece;
    checkInteger(step, `${argument}[${i}][0]`, { least, most: i === 0 ? 0 : mostSteps });
    least = (step as number) + 1;
    if (!isSchedule(value)) {
      checkNumber(value, `${argument}[${i}][1]`, range);
      continue;
    }
    checkOneOf(value.kind, ['linear', 'cosine'], `${argument}[${i}][1].kind`);
    checkSchedule(value, `${argument}[${i}][1]`, range);
  }
}

/** A number, or a schedule of such numbers. */
export function checkScheduled(value: unknown, argument: string, range: NumberRange): number | Schedule {
  return isSchedule(value) ? checkSchedule(value, argument, range) : checkNumber(value, argument, range);
}
