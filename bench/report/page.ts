/** Reports as pages: one HTML file that needs nothing else, no network and no JavaScript. */

import type { Figure } from './draw.js';
import { script, style } from './style.js';

export interface Column<Row> {
  readonly title: string;
  /** Flush left. */
  readonly text?: boolean;
  readonly wrap?: boolean;
  readonly cell: (row: Row) => string;
  /** What it is sorted by; '' goes last. */
  readonly value?: (row: Row) => number | null;
  readonly className?: (row: Row) => string;
}

/** `parts` are HTML; empty ones are left out. */
export function page(title: string, parts: readonly string[]): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${text(title)}</title>
<style>${style}</style>
</head>
<body>
${parts.filter((part) => part !== '').join('\n')}
<script>${script}</script>
</body>
</html>
`;
}

export function text(value: string | number): string {
  return String(value).replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

export function section(title: string, content: string): string {
  return content === '' ? '' : `<section>\n<h2>${text(title)}</h2>\n${content}\n</section>`;
}

/** Headings sort it. */
export function table<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  rowClass: (row: Row) => string = () => '',
): string {
  const classes = (...names: (string | undefined | false)[]) => {
    const given = names.filter((name) => name);
    return given.length > 0 ? ` class="${given.join(' ')}"` : '';
  };
  const head = columns.map(
    ({ title, text: flush }) => `<th scope="col"${classes(flush && 'text')}>${text(title)}</th>`,
  );
  const body = rows.map((row) => {
    const cells = columns.map(({ cell, value, text: flush, wrap, className }) => {
      const key = value === undefined ? '' : ` data-value="${value(row) ?? ''}"`;
      return `<td${classes(flush && 'text', wrap && 'wrap', className?.(row))}${key}>${text(cell(row))}</td>`;
    });
    return `<tr${classes(rowClass(row))}>${cells.join('')}</tr>`;
  });
  return `<div class="scroll"><table class="sortable">
<thead><tr>${head.join('')}</tr></thead>
<tbody>
${body.join('\n')}
</tbody></table></div>`;
}

export function dateText(date: string): string {
  return date.replace(/T(\d\d:\d\d).*$/, ' $1 UTC');
}

export function plots(all: readonly Figure[]): string {
  return all.length === 0 ? '' : `<div class="plots">\n${all.map(figure).join('\n')}\n</div>`;
}

function figure({ id, title, caption, svg, legend: entries }: Figure): string {
  const items = entries.map(({ name, colour, dashed }) => {
    const line = `<line x1="0" y1="5" x2="26" y2="5" stroke="${colour}" stroke-width="3"${dashed ? ' stroke-dasharray="5 3"' : ''}/>`;
    return `<li><svg viewBox="0 0 26 10" aria-hidden="true">${line}</svg>${text(name)}</li>`;
  });
  return `<figure id="${id}">
<h3>${text(title)}</h3>
<figcaption>${text(caption)}</figcaption>
<ul class="legend">${items.join('')}</ul>
<div class="plot">${svg}</div>
</figure>`;
}
