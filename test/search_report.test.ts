/** `marginfc plot`: the page of a loss search. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseHTML } from 'linkedom';
import { afterAll, expect, test } from 'vitest';
import { script } from '../bench/report/style.js';
import { type LossSearchState, lossSearch } from '../src/index.js';

const root = join(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'marginfc-plot-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function plot(...args: string[]) {
  const command = [join(root, 'dist', 'cli.js'), 'plot', ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { encoding: 'utf8', cwd: scratch });
  return { status, stdout, stderr };
}

function written(name: string, contents: unknown): string {
  writeFileSync(join(scratch, name), JSON.stringify(contents));
  return name;
}

/** Every fifth candidate fails. */
async function searched(variable: 'margin' | 'factor'): Promise<LossSearchState> {
  const { state } = await lossSearch({
    ...{ variable, start: 0, candidates: 5, iterations: 7, seed: 1 },
    train: ({ m }) => m,
    reward: (m, { index }) => (index === 3 ? Number.NaN : 1 - (m - 0.3) ** 2),
  });
  return state;
}

test.each(['margin', 'factor'] as const)(
  'a search by %s is drawn with all its candidates, on a page that needs nothing else',
  async (variable) => {
    const state = await searched(variable);
    const file = written(`${variable} <b>.json`, state);
    const done = { status: 0, stdout: 'written: page.html\n', stderr: '' };
    expect(plot(file, '--html', 'page.html')).toEqual(done);
    const page = readFileSync(join(scratch, 'page.html'), 'utf8');
    const { document } = parseHTML(page);
    const figures = [...document.querySelectorAll('figure')];
    expect(figures.map(({ id }) => id)).toEqual(['rewards', 'margins']);
    // Of an iteration's five candidates four are rewarded; the fifth has a margin only.
    const dots = figures.map((figure) => figure.querySelectorAll('[aria-label=dot] > *').length);
    expect(dots).toEqual([7 * 4, 7 * 5]);
    expect(document.querySelectorAll('tbody tr')).toHaveLength(7);
    const [first] = state.history;
    const kept = first?.trials[first.best]?.m.toFixed(3);
    expect(document.querySelector('tbody tr')?.textContent).toContain(kept);
    expect(page.replace(script, '')).not.toMatch(
      /\b(src|href)="(?!#)|url\(|@import|NaN|undefined|Infinity|<b>/,
    );
  },
);

const notBegun = {
  settings: {
    ...{ variable: 'margin', scale: 64, exponent: 0, candidates: 1 },
    ...{ sigma: 1, learningRate: 0, seed: 0 },
  },
  ...{ mean: 1, history: [] },
};

test.each([
  ['no file', ['none.json'], /none.json: /],
  ['no name', [], /plot takes one file, received 0/],
  ['another file', [written('other.json', { rows: [] })], /other.json must hold .* loss search: .*'rows'/],
  ['a search that has not begun', [written('new.json', notBegun)], /new.json has no iteration yet/],
])('%s is refused', (_, args, message) => {
  expect(plot(...args)).toMatchObject({ status: 2, stderr: expect.stringMatching(message) });
});
