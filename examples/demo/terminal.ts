/** What the demo prints: a heading, a progress bar with a line for each finished run, and the tables. */

import { styleText } from 'node:util';
import { MultiBar, type SingleBar } from 'cli-progress';
import type { Progress } from './experiment.js';

const colours = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;

function styled(style: Parameters<typeof styleText>[0], text: string): string {
  return colours ? styleText(style, text) : text;
}

export function printHeading(title: string, facts: Readonly<Record<string, string>>): void {
  const width = Math.max(...Object.keys(facts).map((name) => name.length));
  console.log(styled('bold', title));
  for (const [name, fact] of Object.entries(facts))
    console.log(`  ${styled('dim', name.padEnd(width))}  ${fact}`);
  console.log();
}

/** A bar on a terminal; elsewhere only the lines, so that a log stays readable. */
export function reportProgress(): Progress & { stop(): void } {
  const bars = process.stdout.isTTY
    ? new MultiBar({
        format: '{bar} {percentage} %  {run}  loss {loss}  about {eta_formatted} left',
        barCompleteChar: '█',
        barIncompleteChar: '░',
        barsize: 24,
        clearOnComplete: true,
        // Ctrl-C ends the program, not only the bar.
        gracefulExit: false,
        etaBuffer: 40,
      })
    : undefined;
  let bar: SingleBar | undefined;
  const line = (text: string) => {
    bars?.log(`${text}\n`);
    // Training leaves the bar's own timer little room.
    if (bar) bars?.update();
    if (!bars) console.log(text);
  };
  return {
    start(epochs) {
      line(styled('dim', 'Training loss by epoch'));
      bar = bars?.create(epochs, 0, { run: 'loading', loss: '-' });
    },
    epoch(run, loss) {
      bar?.increment(1, { run, loss: loss.toFixed(2) });
      bars?.update();
    },
    done(run, losses) {
      line(
        `  ${run.padEnd(18)}  ${selection(losses, 8)
          .map((loss) => loss.toFixed(2).padStart(5))
          .join('  ')}`,
      );
    },
    stop() {
      bars?.stop();
    },
  };
}

/** First, last and others at equal steps between. */
function selection(values: readonly number[], most: number): number[] {
  if (values.length <= most) return [...values];
  const step = (values.length - 1) / (most - 1);
  return Array.from({ length: most }, (_, i) => values[Math.round(i * step)] as number);
}

/** The first column to the left, the others to the right; headings may have several lines. */
export function printTable(
  title: string,
  heading: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const headings = heading.map((text) => text.split('\n'));
  const lines = Math.max(...headings.map((text) => text.length));
  const columns = headings.map((text, column) =>
    Math.max(...text.map((part) => part.length), ...rows.map((row) => row[column]?.length ?? 0)),
  );
  const print = (cells: readonly string[]) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(columns[i] ?? 0) : cell.padStart(columns[i] ?? 0)))
      .join('   ');
  console.log(`\n${styled('bold', title)}`);
  for (let i = 0; i < lines; i++) {
    const parts = headings.map((text) => text[text.length - lines + i] ?? '');
    console.log(`  ${styled('dim', print(parts))}`);
  }
  for (const row of rows) console.log(`  ${print(row)}`);
}

export function printNote(text: string): void {
  console.log(styled('dim', `  ${text}`));
}
