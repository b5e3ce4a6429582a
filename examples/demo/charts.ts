/** SVG drawings for the page. Colours are classes of the page's style sheet, so that light and dark both work. */

import type { LossFigures, Picture } from './experiment.js';
import { mean } from './metrics.js';

/** As many as the style sheet has colours. */
export const colourCount = 8;

export function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * A 2-D embedding: the test images as points by class, the class weights as rays. Distances from the middle are
 * square roots of the embeddings' norms, so that short ones can be told apart; the longest 2 % lie on the rim.
 */
export function scatter({ loss, points, labels, classNames, centres }: Picture): string {
  const norms = Float64Array.from(labels, (_, row) =>
    Math.hypot(points[2 * row] ?? 0, points[2 * row + 1] ?? 0),
  );
  const reach = norms.toSorted()[Math.floor(0.98 * (norms.length - 1))] || 1;
  const paths = classNames.map(() => '');
  for (const [row, label] of labels.entries()) {
    const norm = norms[row] || 1;
    const factor = (100 * Math.sqrt(Math.min(1, norm / reach))) / norm;
    const x = (points[2 * row] ?? 0) * factor;
    const y = -(points[2 * row + 1] ?? 0) * factor;
    paths[label] += `M${x.toFixed(1)} ${y.toFixed(1)}h0`;
  }
  const rays = classNames.map((name, label) => {
    const [x, y] = [centres[2 * label] ?? 0, centres[2 * label + 1] ?? 0];
    const length = Math.hypot(x, y) || 1;
    const [right, up] = [x / length, y / length];
    return (
      `<line class="ray c${label % colourCount}" x2="${(106 * right).toFixed(1)}" y2="${(-106 * up).toFixed(1)}"/>` +
      `<text class="name" x="${(116 * right).toFixed(1)}" y="${(-116 * up).toFixed(1)}">${escapeText(name)}</text>`
    );
  });
  return (
    `<svg viewBox="-128 -128 256 256" role="img" aria-label="2-D embedding trained with ${escapeText(loss.title)}">` +
    `<circle class="rim" r="100"/>` +
    `<g class="points"${labels.length < 200 ? ' style="stroke-width:5;stroke-opacity:.9"' : ''}>` +
    paths.map((path, label) => `<path class="c${label % colourCount}" d="${path}"/>`).join('') +
    `</g>${rays.join('')}</svg>`
  );
}

/** Neighbours differ plainly. */
const curveColours = [0, 2, 4, 6, 1, 3, 5, 7] as const;

/** Between the names at the ends of curves. */
const labelGap = 15;

/** Training loss by epoch, mean over seeds, on a logarithmic scale. */
export function lossCurves(figures: readonly LossFigures[]): string {
  const [width, left, right, top, bottom] = [640, 44, 130, 12, 34];
  const height = Math.max(260, top + bottom + labelGap * figures.length);
  const series = figures.map(({ loss, curves }) => ({
    name: loss.title,
    values: (curves[0] ?? []).map((_, epoch) => mean(curves.map((curve) => curve[epoch] as number))),
  }));
  const all = series.flatMap(({ values }) => values).filter((value) => value > 0);
  const epochs = series[0]?.values.length ?? 1;
  const [low, high] = [Math.log10(Math.min(...all)), Math.log10(Math.max(...all))];
  const x = (epoch: number) => left + ((width - left - right) * epoch) / Math.max(1, epochs - 1);
  const y = (value: number) =>
    top + ((height - top - bottom) * (high - Math.log10(value))) / Math.max(0.1, high - low);

  const ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].filter(
    (value) => Math.log10(value) >= low && Math.log10(value) <= high,
  );
  const grid = ticks.map(
    (value) =>
      `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(value).toFixed(1)}" y2="${y(value).toFixed(1)}"/>` +
      `<text class="tick" text-anchor="end" x="${left - 6}" y="${(y(value) + 4).toFixed(1)}">${value}</text>`,
  );
  const step = Math.max(1, Math.ceil(epochs / 10));
  const numbers = Array.from({ length: epochs }, (_, epoch) => epoch)
    .filter((epoch) => epoch % step === 0)
    .map(
      (epoch) =>
        `<text class="tick" text-anchor="middle" x="${x(epoch).toFixed(1)}" y="${height - bottom + 16}">${epoch + 1}</text>`,
    );
  const ends = spacedApart(
    series.map(({ values }) => y(values.at(-1) ?? 1)),
    labelGap,
  );
  const lines = series.map(({ name, values }, index) => {
    const path = values.map((value, epoch) => `${x(epoch).toFixed(1)} ${y(value).toFixed(1)}`).join('L');
    const colour = curveColours[index % curveColours.length];
    const dashed = index < curveColours.length ? '' : ' stroke-dasharray="5 3"';
    return (
      `<path class="curve c${colour}" d="M${path}"${dashed}/>` +
      `<text class="end c${colour}" x="${width - right + 8}" y="${((ends[index] ?? 0) + 4).toFixed(1)}">${escapeText(name)}</text>`
    );
  });
  return (
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Training loss by epoch">` +
    `${grid.join('')}${numbers.join('')}` +
    `<text class="tick" text-anchor="middle" x="${(left + width - right) / 2}" y="${height - 2}">epoch</text>` +
    `${lines.join('')}</svg>`
  );
}

/** Heights moved down as far as they must be to be `gap` apart, so that labels do not overlap. */
function spacedApart(heights: readonly number[], gap: number): number[] {
  const result = [...heights];
  let last = Number.NEGATIVE_INFINITY;
  for (const index of [...heights.keys()].sort((a, b) => (heights[a] ?? 0) - (heights[b] ?? 0))) {
    last = Math.max(heights[index] ?? 0, last + gap);
    result[index] = last;
  }
  return result;
}
