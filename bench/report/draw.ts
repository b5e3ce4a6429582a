/** What plots share: SVG text made on the spot by Observable Plot, on a document that is not a browser's. */

import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

/** Legible on white and on near-black; marginfc's are the warm ones. */
export const ownColours = ['#e4572e', '#b5179e', '#f2a104', '#e07a9b', '#c1440e', '#ff8a5c'];
export const peerColours = [
  '#3f88c5',
  '#2a9d8f',
  '#7e6bc4',
  '#6b9e23',
  '#8d99ae',
  '#0fb5d4',
  '#4059ad',
  '#b08968',
  '#43a047',
];

export interface Figure {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly svg: string;
  readonly legend: readonly { readonly name: string; readonly colour: string; readonly dashed: boolean }[];
}

export const size = {
  width: 620,
  height: 400,
  marginLeft: 52,
  marginRight: 18,
  marginBottom: 44,
  marginTop: 26,
} as const;

/** With every tick named: Plot itself leaves out most that are no powers of ten. */
export function axes(
  x: string,
  xTicks: readonly number[],
  y: string,
  yTicks: readonly number[],
): Plot.Markish[] {
  return [
    Plot.gridX(xTicks),
    Plot.gridY(yTicks),
    Plot.axisX(xTicks, { label: x, text: shortCount }),
    Plot.axisY(yTicks, { label: y, text: shortCount }),
  ];
}

function shortCount(value: number): string {
  if (value >= 1e6) return `${value / 1e6}M`;
  return value >= 1e3 ? `${value / 1e3}k` : String(Number(value.toPrecision(3)));
}

/** `description`: for those who cannot see it. */
export function draw(options: Plot.PlotOptions, description: string): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const element = Plot.plot({
    ...options,
    document: document as unknown as NonNullable<Plot.PlotOptions['document']>,
    style: { background: 'none', color: 'currentColor', fontSize: '12px' },
    ariaLabel: description,
  });
  element.setAttribute('role', 'img');
  return element.outerHTML;
}
