/** The benchmark's plots. */

import * as Plot from '@observablehq/plot';
import type { PhaseRow, ResultRow, Results } from '../results.js';
import { sizeName } from '../size.js';
import { axes, draw, type Figure, ownColours, peerColours, size } from './draw.js';
import { type Point, type Series, seriesOf, sweep } from './series.js';

export function figures(results: Results): Figure[] {
  return [...lines(results.rows), ...roofline(results)];
}

function lines(rows: readonly ResultRow[]): Figure[] {
  const along = sweep(rows);
  if (!along) return [];
  const where = `B ${along.B}, D ${along.D}`;
  const times = seriesOf(rows, along, ({ medianMs, intervalMs }) =>
    medianMs === null
      ? undefined
      : { value: medianMs, ...(intervalMs && { low: intervalMs[0], high: intervalMs[1] }) },
  );
  const colours = coloursOf(times);
  const memory = seriesOf(rows, along, ({ extraBytes }) =>
    extraBytes === null ? undefined : { value: Math.max(extraBytes / 2 ** 20, 0.5) },
  );
  const base = new Map(
    rows
      .filter(
        ({ contestant, size: { B, D }, medianMs }) =>
          contestant === 'tfjs wasm' && medianMs !== null && B === along.B && D === along.D,
      )
      .map((row) => [row.size.C, row.medianMs as number]),
  );
  const speedUp = seriesOf(rows, along, ({ medianMs, size: { C } }) => {
    const naive = base.get(C);
    return medianMs === null || naive === undefined ? undefined : { value: naive / medianMs };
  });
  const figure = (
    id: string,
    title: string,
    caption: string,
    series: readonly Series[],
    label: string,
  ): Figure[] =>
    series.length === 0
      ? []
      : [
          {
            id,
            title,
            caption,
            svg: linePlot(series, colours, label, `${title}: ${caption}`),
            legend: series.map(({ name, own }) => ({
              name,
              colour: colours.get(name) ?? 'gray',
              dashed: !own,
            })),
          },
        ];
  return [
    ...figure(
      'time',
      'Time over classes',
      `${where}; loss and both gradients, median and 95 % interval`,
      times,
      'milliseconds',
    ),
    ...figure(
      'memory',
      'Memory over classes',
      `${where}; most beyond inputs and gradients, 0.5 MiB or less drawn as that`,
      memory,
      'MiB',
    ),
    ...figure(
      'speed-up',
      'Speed-up over naive tfjs',
      `${where}; times as fast as tfjs on its wasm backend`,
      speedUp,
      'times',
    ),
  ];
}

function coloursOf(series: readonly Series[]): Map<string, string> {
  let [own, peer] = [0, 0];
  return new Map(
    series.map(({ name, own: isOwn }) => [
      name,
      isOwn
        ? (ownColours[own++ % ownColours.length] as string)
        : (peerColours[peer++ % peerColours.length] as string),
    ]),
  );
}

function linePlot(
  series: readonly Series[],
  colours: ReadonlyMap<string, string>,
  label: string,
  description: string,
): string {
  const ticks = [...new Set(series.flatMap(({ points }) => points.map(({ C }) => C)))].sort((a, b) => a - b);
  const values = series.flatMap(({ points }) => points.map(({ value }) => value));
  const marks = series.flatMap(({ name, own, points }) => {
    const stroke = colours.get(name) ?? 'gray';
    const style = { x: 'C', y: 'value', stroke, strokeWidth: own ? 2.5 : 1.8 };
    return [
      Plot.link(
        points.filter(({ low }) => low !== undefined),
        { x: 'C', y1: 'low', y2: 'high', stroke, strokeWidth: 5, strokeOpacity: 0.35 },
      ),
      Plot.line(points, { ...style, ...(!own && { strokeDasharray: '5 3' }) }),
      Plot.dot(points, {
        x: 'C',
        y: 'value',
        fill: stroke,
        r: 3.5,
        title: ({ C, value }: Point) => `${name}, C ${C}: ${value.toPrecision(3)} ${label}`,
      }),
    ];
  });
  return draw(
    {
      ...size,
      x: { type: 'log', inset: 12 },
      y: { type: 'log', inset: 8 },
      marks: [...axes('classes', ticks, label, logTicks(values)), ...marks],
    },
    description,
  );
}

/** Round numbers between the least and the largest: powers of ten, where these are few with their doubles and fives. */
function logTicks(values: readonly number[]): number[] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const first = Math.floor(Math.log10(low));
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => 10 ** (first + i));
  const inside = (ticks: readonly number[]) => ticks.filter((tick) => tick >= low && tick <= high);
  const few = inside(powers).length < 3;
  return inside(few ? powers.flatMap((power) => [power, 2 * power, 5 * power]) : powers);
}

interface RoofPoint {
  readonly name: string;
  readonly intensity: number;
  readonly gigaflops: number;
  readonly symbol: (typeof symbols)[keyof typeof symbols];
  readonly colour: string;
  readonly filled: boolean;
}

const symbols = { negatives: 'circle', gradients: 'triangle', update: 'square' } as const;

function isProduct(phase: PhaseRow['phase']): phase is keyof typeof symbols {
  return phase in symbols;
}

function roofline({ peaks, phases, machine }: Results): Figure[] {
  const largest = phases.at(-1)?.size;
  if (!peaks || !largest) return [];
  const roofs = [
    { name: 'float32', peak: peaks.float32, colour: ownColours[0] as string },
    ...(peaks.bfloat16 === undefined
      ? []
      : [{ name: 'bfloat16', peak: peaks.bfloat16, colour: peerColours[0] as string }]),
  ];
  const colourOf = (precision: string) => roofs.find(({ name }) => name === precision)?.colour ?? 'gray';
  const points = phases.flatMap((row): RoofPoint[] =>
    sizeName(row.size) === sizeName(largest) && isProduct(row.phase)
      ? [
          {
            name: `${row.precision} ${row.phase}, ${row.workspace}`,
            intensity: row.operations / row.bytes,
            gigaflops: row.operations / (row.medianMs / 1e3) / 1e9,
            symbol: symbols[row.phase],
            colour: colourOf(row.precision),
            filled: row.workspace === 'keep',
          },
        ]
      : [],
  );
  if (points.length === 0) return [];
  const read = peaks.read / 1e9;
  const xs = [...points.map(({ intensity }) => intensity), ...roofs.map(({ peak }) => peak / peaks.read)];
  const [left, right] = [Math.min(...xs) / 3, Math.max(...xs) * 3];
  const dots = { x: 'intensity', y: 'gigaflops', symbol: 'symbol', r: 5.5, title: 'name' } as const;
  const marks = [
    ...roofs.map(({ peak, colour }) =>
      Plot.line(
        [left, peak / 1e9 / read, right].map((x) => ({ x, y: Math.min(peak / 1e9, x * read) })),
        { x: 'x', y: 'y', stroke: colour, strokeWidth: 2 },
      ),
    ),
    Plot.text(
      roofs.map(({ name, peak }) => ({
        x: right,
        y: peak / 1e9,
        text: `${name} peak, ${(peak / 1e9).toFixed(0)} GFLOP/s`,
      })),
      {
        ...{ x: 'x', y: 'y', text: 'text', textAnchor: 'end', dy: -9, fill: 'currentColor' },
        ...{ stroke: 'var(--page)', strokeWidth: 4 },
      },
    ),
    Plot.dot(
      points.filter(({ filled }) => filled),
      { ...dots, fill: 'colour', stroke: 'colour' },
    ),
    Plot.dot(
      points.filter(({ filled }) => !filled),
      { ...dots, stroke: 'colour', strokeWidth: 2 },
    ),
  ];
  const caption = `${sizeName(largest)}, ${machine.threads} threads. Circles: negatives with dX, triangles: gradients, squares: update in place of dW; filled: workspace keep, hollow: recompute. The lines are what multiply-adds on registers and reads of main memory (${read.toFixed(0)} GB/s) allow`;
  const rates = [
    ...points.map(({ gigaflops }) => gigaflops),
    ...roofs.map(({ peak }) => peak / 1e9),
    left * read,
  ];
  return [
    {
      id: 'roofline',
      title: 'Roofline of the phases',
      caption,
      svg: draw(
        {
          ...size,
          x: { type: 'log' },
          y: { type: 'log', insetTop: 18 },
          symbol: { type: 'identity' },
          color: { type: 'identity' },
          marks: [
            ...axes('operations per byte', logTicks([left, right]), 'GFLOP/s', logTicks(rates)),
            ...marks,
          ],
        },
        `Roofline of the phases: ${caption}`,
      ),
      legend: roofs.map(({ name, colour }) => ({ name, colour, dashed: false })),
    },
  ];
}
