/** The loss that is timed. */

import {
  type GradientMode,
  lossNamed,
  type Margin,
  type NamedLoss,
  type OverflowPolicy,
  type RowFunction,
} from 'marginfc';
import { firstMargins } from './cpu/addon.js';
import type { Size } from './size.js';

/** A loss with all that its formula depends on: options of a call. */
export interface Formula {
  readonly margin: Margin;
  readonly scale: number;
  readonly gradient: GradientMode;
  readonly onOverflow: OverflowPolicy;
  readonly rowFunction: RowFunction | 'none';
  readonly subCenters: number;
}

/** The loss that others compute as well, by name, and its parameters as they take them. */
export const usualLoss = 'arcface';
export const usual = { scale: 64, m: 0.5 } as const;

/** By the names of lossNamed(). What a head would keep is given: its first margins, and angles of 0.9 instead of those of classes. */
export function formulaNamed(name: string, classes: number): Formula {
  const { options } = lossNamed(name);
  const {
    scale = 64,
    gradient = 'exact',
    onOverflow = 'none',
    rowFunction = 'none',
    subCenters = 1,
  } = options;
  const margin = withGiven(options.margin as Margin, classes);
  // Of AdaCos the first scale, which is that of its fixed form.
  const first = typeof scale === 'number' ? scale : Math.SQRT2 * Math.log(classes - 1);
  return { margin, scale: first, gradient, onOverflow, rowFunction, subCenters };
}

/** The name of a loss that can be timed; others have no reference. */
export function timedLoss(name: string): string {
  if (lossNamed(name).options.terms) throw new Error(`the benchmarks have no reference for ${name}`);
  return name;
}

/** What the loss's arrays take: C rows of W, of which a class may have several. */
export function storedSize({ B, D, C }: Size, loss: string): Size {
  return { B, D, C: C * (lossNamed(loss).options.subCenters ?? 1) };
}

function withGiven(margin: Margin, classes: number): Margin {
  if (margin.kind === 'adaptiveFace') return { ...margin, m: { perClass: firstMargins(margin, classes) } };
  if (margin.kind === 'dynArcFace')
    return { ...margin, angles: { perClass: new Float32Array(classes).fill(0.9) } };
  return margin;
}

/** The same on a head; undefined where that computes what is given here. */
export function formulaOnHead({ margin, ...formula }: Formula): Formula | undefined {
  if (margin.kind === 'dynArcFace') return undefined;
  if (margin.kind !== 'adaptiveFace') return { margin, ...formula };
  const { m: _, ...own } = margin;
  return { margin: own, ...formula };
}

/** A loss for people, but for its scale. */
export function describeLoss({ name, title, options }: NamedLoss): string {
  const { margin = { kind: name }, gradient = 'exact', onOverflow = 'none' } = options;
  const { rowFunction = 'none', terms = [], subCenters } = options;
  const { kind, ...parameters } = margin;
  const listed = (values: object) =>
    Object.entries(values).map(([parameter, value]) => `${parameter} ${value}`);
  return [
    title,
    ...(kind === name ? [] : [kind]),
    ...listed(parameters),
    ...[...(rowFunction === 'none' ? [] : [rowFunction]), ...terms].flatMap(listed),
    ...(subCenters === undefined ? [] : [`subCenters ${subCenters}`]),
    ...(gradient === 'exact' ? [] : [gradient]),
    ...(onOverflow === 'none' ? [] : [`onOverflow ${onOverflow}`]),
  ].join(', ');
}

/** The same with its scale, by name. */
export function lossText(name: string): string {
  const { scale = 64 } = lossNamed(name).options;
  return `${describeLoss(lossNamed(name))}, s ${typeof scale === 'number' ? scale : 'of the classes'}`;
}
