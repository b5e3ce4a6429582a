/** The demo's page: one HTML file with everything in it, no script, light or dark as the reader's system is. */

import { describeLoss } from '../../bench/formula.js';
import { escapeText, lossCurves, scatter } from './charts.js';
import type { Results, Settings } from './experiment.js';
import type { Table } from './tables.js';
import type { Recipe } from './train.js';

export function renderPage(
  results: Results,
  [figures, picture]: readonly Table[],
  facts: Readonly<Record<string, string>>,
  { seconds, settings }: { readonly seconds: number; readonly settings: Settings },
): string {
  const panels = results.pictures.map(
    (drawn) =>
      `<figure>${scatter(drawn)}<figcaption><b>${escapeText(drawn.loss.title)}</b> ` +
      `<span>spread ${drawn.spread.toFixed(1)}°, nearest centre ${drawn.nearestCentre.toFixed(0)}°</span></figcaption></figure>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>marginfc demo</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>One network, different losses</h1>
<p>The same small network, trained with each of the losses, on ${escapeText(facts.images ?? '')}.
A margin asks more of the angle between an image's embedding and its own class than of the angles to the others.</p>

<h2>In two dimensions</h2>
<p>Every point is a test image, every ray the weight of a class. Only directions count for the loss; the distance from the
middle is the square root of the embedding's norm.</p>
<div class="panels">${panels.join('\n')}</div>
${renderTable(picture)}

<h2>${escapeText(figures?.title ?? '')}</h2>
${renderTable(figures)}

<h2>Training loss</h2>
<p>Mean over seeds. Losses with a margin are larger for the same embedding, so only each curve's course can be compared.</p>
<div class="chart">${lossCurves(results.figures)}</div>

<h2>Settings</h2>
${definitions({
  ...facts,
  ...Object.fromEntries(settings.losses.map((loss) => [loss.name, describeLoss(loss)])),
  [`${results.recipe.dim}-D network`]: describe(results.recipe),
  '2-D network': describe(results.pictureRecipe),
  seeds: `1 to ${settings.seeds}`,
  time: `${seconds.toFixed(0)} s`,
})}
</main>
</body>
</html>
`;
}

function describe(recipe: Recipe): string {
  const { hidden, dim, scale, epochs, batchSize, learningRate, headLearningRate } = recipe;
  return (
    `pixels → ${[...hidden, dim].join(' → ')}, scale s = ${scale}, ${epochs} epochs of batches of ${batchSize}, ` +
    `Adam ${learningRate} for the network, SGD ${headLearningRate} with momentum 0.9 for the head`
  );
}

function renderTable(table: Table | undefined): string {
  if (table === undefined) return '';
  const heading = table.headings.map(
    (text) => `<th scope="col">${escapeText(text).replaceAll('\n', '<br>')}</th>`,
  );
  const rows = table.rows.map(
    ([name = '', ...cells]) =>
      `<tr><th scope="row">${escapeText(name)}</th>${cells.map((cell) => `<td>${escapeText(cell)}</td>`).join('')}</tr>`,
  );
  return (
    `<div class="table"><table><thead><tr>${heading.join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>` +
    `<p class="note">${table.notes.map(escapeText).join(' ')}</p>`
  );
}

function definitions(entries: Readonly<Record<string, string>>): string {
  const items = Object.entries(entries).map(
    ([name, text]) => `<dt>${escapeText(name)}</dt><dd>${escapeText(text)}</dd>`,
  );
  return `<dl>${items.join('')}</dl>`;
}

const style = `
:root {
  color-scheme: light dark;
  --page: #fff; --text: #1b1f24; --soft: #59636e; --line: #d9dee3; --panel: #f6f8fa;
  --c0: #3a66c9; --c1: #d98a00; --c2: #d6453d; --c3: #1f9a8a; --c4: #3c9a3c; --c5: #c2479a; --c6: #8450d6; --c7: #8a5a3c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --text: #e3e8ee; --soft: #97a3b0; --line: #2d3540; --panel: #171c23;
    --c0: #7ba3ff; --c1: #f2b544; --c2: #ff7f76; --c3: #55d0bd; --c4: #74ca6e; --c5: #f08cc8; --c6: #b794ff; --c7: #c99a78;
  }
}
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; }
h2 { font-size: 20px; margin: 44px 0 8px; }
p { max-width: 72ch; margin: 0 0 14px; }
.note { color: var(--soft); font-size: 14px; margin-top: 8px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 210px), 1fr)); gap: 16px; margin-bottom: 20px; }
figure { margin: 0; padding: 10px; background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { padding: 2px 4px; }
figcaption span { display: block; color: var(--soft); font-size: 14px; }
.chart { max-width: 760px; }
.chart svg { display: block; width: 100%; height: auto; }
.rim { fill: none; stroke: var(--line); }
.points { fill: none; stroke-width: 2.4; stroke-linecap: round; stroke-opacity: 0.55; }
.ray { stroke-width: 1.4; }
.name { fill: var(--text); font-size: 11px; text-anchor: middle; dominant-baseline: central; }
.grid { stroke: var(--line); }
.tick { fill: var(--soft); font-size: 12px; }
.curve { fill: none; stroke-width: 2; }
.end { font-size: 13px; stroke: none; }
${Array.from({ length: 8 }, (_, i) => `.c${i} { stroke: var(--c${i}); } .end.c${i} { fill: var(--c${i}); stroke: none; }`).join('\n')}
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 18px 7px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 500; font-size: 14px; line-height: 1.3; vertical-align: bottom; }
tbody th { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; margin: 0; font-size: 15px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; } }
`;
