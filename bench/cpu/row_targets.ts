/**
 * F and its derivatives for the rows of a batch, in float64: what the reference puts in the place of a row's own cosine. Margins
 * that kernels compute are written out here. Those over a batch are the package's own rules, whose results are all that an engine
 * sees of them; test/losses.test.ts compares these with formulas.
 */

import type { NativeBinary, NativeTransform } from '../../dist/native_loss.js';
import type { Formula } from '../formula.js';
import { isBatchMargin, resolution } from './addon.js';

/** Of every row, in float64. */
export interface TargetRows {
  readonly cosine: Float64Array;
  /** |wh - c xh| */
  readonly sine: Float64Array;
  readonly featureNorm: Float64Array;
  readonly labels: Int32Array;
  /** Their number. */
  readonly classes: number;
  /** Of each row's negatives above its threshold; 0 without any. */
  readonly meanHardCosine: (threshold: Float64Array) => Float64Array;
}

/** [B] each, in cosine units. */
export interface RowTargets {
  readonly target: Float64Array;
  /** dF / dc */
  readonly dTarget: Float64Array;
  /** dF / d|x|; absent where it is 0. */
  readonly dFeatureNorm?: Float64Array;
  /** What negatives' cosines become; absent where they stay. */
  readonly transform?: NativeTransform;
  /** Instead of a softmax; `straightThrough`: g' is taken as 1. */
  readonly binary?: NativeBinary & { readonly straightThrough: boolean };
}

export function rowTargets(rows: TargetRows, formula: Formula): RowTargets {
  const exact = exactTargets(rows, formula);
  if (formula.gradient === 'exact') return exact;
  const { binary } = exact;
  return {
    ...exact,
    dTarget: exact.dTarget.map(() => 1),
    ...(binary && { binary: { ...binary, straightThrough: true } }),
  };
}

function exactTargets(rows: TargetRows, { margin, scale, onOverflow }: Formula): RowTargets {
  const { cosine, sine } = rows;
  if (isBatchMargin(margin)) {
    const { meanHardCosine, classes: _, ...angles } = rows;
    const state = { seed: 0, step: 0, trainedClasses: rows.classes, memory: {}, training: true };
    const found = resolution(margin, { ...angles, scale, onOverflow, ...state });
    const { transform, binary, ...targets } = found;
    const negatives = {
      ...(transform && { transform }),
      ...(binary && { binary: { ...binary, straightThrough: false } }),
    };
    if (targets.kind !== 'late') return { ...targets, ...negatives };
    const hard = meanHardCosine((transform as NativeTransform).threshold);
    return { ...targets.targets(hard), ...negatives };
  }
  const each = written(margin, onOverflow);
  const both = Array.from(cosine, (c, row) => each(c, sine[row] as number));
  return {
    target: Float64Array.from(both, ([target]) => target),
    dTarget: Float64Array.from(both, ([, derivative]) => derivative),
  };
}

/** A negative of a row: G(c), and what its gradient takes as G'(c). */
export function negativeOf(
  { transform, binary }: RowTargets,
  row: number,
  c: number,
): readonly [number, number] {
  if (binary) {
    const { power, shift, straightThrough } = binary;
    const half = (c + 1) / 2;
    return [2 * half ** power - 1 + shift, straightThrough ? 1 : power * half ** (power - 1)];
  }
  if (!transform) return [c, 1];
  const { below, above, threshold } = transform;
  const { value, slope } = c > (threshold[row] as number) ? above : below;
  const [constant, linear, square] = value as [number, number, number];
  const [first, second] = slope as [number, number];
  return [constant + (linear + square * c) * c, first + second * c];
}

/** log(1 + e^z), and its derivative. */
export function softplus(z: number): readonly [value: number, slope: number] {
  const small = Math.exp(-Math.abs(z));
  return [Math.max(z, 0) + Math.log1p(small), (z > 0 ? 1 : small) / (1 + small)];
}

/** A row's loss phi(p), and what it multiplies the gradients of -log p with: -p phi'(p). */
export interface RowLoss {
  readonly loss: number;
  readonly factor: number;
}

/** `minusLog` is -log p, `rest` 1 - p: each has digits where the other has none. */
export function rowLossOf({ rowFunction, scale }: Formula, minusLog: number, rest: number): RowLoss {
  if (rowFunction === 'none') return { loss: minusLog, factor: 1 };
  const p = Math.exp(-minusLog);
  const bin = (count: number) => Math.min(count - 1, Math.max(0, Math.ceil(p * count) - 1));
  switch (rowFunction.kind) {
    case 'focal': {
      const gamma = rowFunction.gamma as number;
      const factor = rest ** gamma + gamma * p * rest ** (gamma - 1) * minusLog;
      return { loss: rest ** gamma * minusLog, factor };
    }
    case 'searchSoftmax': {
      const { a: each, exponent } = rowFunction;
      const a = (each[bin(each.length)] as number) * Math.exp((exponent as number) * scale);
      return { loss: minusLog + Math.log1p(-a * rest), factor: (1 - a) / (1 - a * rest) };
    }
    case 'amLfs': {
      const j = bin(rowFunction.a.length);
      const [a, b] = [rowFunction.a[j] as number, rowFunction.b[j] as number];
      return { loss: -Math.log(a * p + b), factor: (a * p) / (a * p + b) };
    }
  }
}

/** F and dF/dc by cosine and sine. */
type Written = (c: number, sine: number) => readonly [target: number, derivative: number];

function written(margin: Formula['margin'], onOverflow: Formula['onOverflow']): Written {
  const parameter = (name: string) => {
    const value: unknown = Reflect.get(margin, name);
    if (typeof value === 'number') return value;
    throw new Error(`the reference has no ${name} of ${margin.kind} that is no number`);
  };
  const floored = (sine: number) => Math.max(sine, 1e-6);
  switch (margin.kind) {
    case 'softmax':
      return (c) => [c, 1];
    case 'cosface': {
      const m = parameter('m');
      return (c) => [c - m, 1];
    }
    case 'arcface': {
      const m = parameter('m');
      return (c, sine) => {
        const theta = Math.atan2(sine, c);
        if (onOverflow === 'fallback' && theta > Math.PI - m) return [c - m * Math.sin(m), 1];
        if (onOverflow === 'easy' && c <= 0) return [c, 1];
        return [Math.cos(theta + m), Math.sin(theta + m) / floored(sine)];
      };
    }
    case 'combined': {
      const [m1, m2, m3] = [parameter('m1'), parameter('m2'), parameter('m3')];
      if (onOverflow !== 'none') break;
      return (c, sine) => {
        const angle = m1 * Math.atan2(sine, c) + m2;
        return [Math.cos(angle) - m3, (m1 * Math.sin(angle)) / floored(sine)];
      };
    }
    case 'x2softmax': {
      const [a, h, k] = [parameter('a'), parameter('h'), parameter('k')];
      return (c, sine) => {
        const theta = Math.atan2(sine, c);
        return [a * (theta - h) ** 2 + k, (-2 * a * (theta - h)) / floored(sine)];
      };
    }
  }
  throw new Error(`there is no reference for ${margin.kind} with onOverflow ${onOverflow}`);
}
