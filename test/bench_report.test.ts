/** The report of `npm run bench`: one page that needs nothing else, as a browser shows it. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseHTML } from 'linkedom';
import { afterAll, describe, expect, test } from 'vitest';
import { html } from '../bench/report/html.js';
import { script } from '../bench/report/style.js';
import type { PhaseRow, ResultRow, Results } from '../bench/results.js';
import { madeUpMachine } from './bench_machine.js';

const root = join(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'marginfc-report-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Invented figures: the page says so. */
function example(): Results {
  const own = { workspace: 'keep', outputs: 'reused', threads: 2 } as const;
  const peer = { workspace: 'logits', outputs: 'fresh', threads: 1 } as const;
  const setting = {
    operation: 'loss + dX + dW',
    precision: 'float32',
    allocator: 'default',
    gradient: 'exact',
  } as const;
  const measured = (name: string, C: number, ms: number, more: Partial<ResultRow>): ResultRow => ({
    ...setting,
    ...peer,
    contestant: name,
    size: { B: 128, D: 512, C },
    status: 'measured',
    checked: true,
    error: 1e-6,
    errors: null,
    samplesMs: [ms * 0.95, ms, ms * 1.05],
    medianMs: ms,
    intervalMs: [ms * 0.95, ms * 1.05],
    quartilesMs: [ms * 0.97, ms * 1.03],
    dropped: { others: 1, stolen: 0, waited: 0, peak: 0 },
    disturbed: false,
    peakBytes: 1e6 * ms,
    extraBytes: 5e5 * ms,
    extrapolatedMs: null,
    ...more,
  });
  const rows = [1000, 10000, 100000].flatMap((C) => [
    measured('marginfc cpu', C, C / 1000, own),
    measured('marginfc cpu', C, C / 700, { ...own, workspace: 'recompute' }),
    measured('tfjs wasm', C, C / 4, {}),
    measured('plain <TypeScript> & co', C, C / 2, {}),
    measured('tfjs node', C, 1, {
      status: 'not installed',
      reason: '@tensorflow/tfjs-node is not installed',
      checked: false,
      error: null,
      samplesMs: [],
      medianMs: null,
      intervalMs: null,
      quartilesMs: null,
      peakBytes: null,
      extraBytes: null,
    }),
  ]);
  const phases = (['negatives', 'gradients', 'update'] as const).map(
    (phase, i): PhaseRow => ({
      ...{ size: { B: 128, D: 512, C: 100000 }, precision: 'float32', workspace: 'keep', phase },
      ...{ samplesMs: [100], medianMs: 100, operations: 1e10 * (i + 1), bytes: 1e8 },
      ...{ percentOfCompute: 50, percentOfBandwidth: 10 },
    }),
  );
  return {
    format: 1,
    machine: madeUpMachine,
    command: 'npx marginfc bench',
    settings: { quick: false, samples: 3, sampleSeconds: 0.1, seconds: 60, elapsedSeconds: 60 },
    versions: { 'tfjs wasm': '4.22.0' },
    peaks: { float32: 3e11, bfloat16: 6e11, read: 2e10, copy: 2e10 },
    rows,
    phases,
  };
}

describe('the page', () => {
  const page = html(example());
  const { document } = parseHTML(page);

  test('has the machine, all results, the phases and four plots', () => {
    const text = document.body.textContent ?? '';
    for (const part of ['a made-up processor', 'avx2', 'invented figures', 'npx marginfc bench'])
      expect(text).toContain(part);
    const ids = [...document.querySelectorAll('figure')].map(({ id }) => id);
    expect(ids).toEqual(['time', 'memory', 'speed-up', 'roofline']);
    expect(document.querySelectorAll('figure .plot > svg')).toHaveLength(4);
    // One of goals, one a size, one of phases.
    expect(document.querySelectorAll('table')).toHaveLength(5);
    expect(text).toContain('Not installed: tfjs node.');
  });

  test('draws a line for each contestant through its sizes, named in the legend', () => {
    const time = document.querySelector('#time');
    const legend = [...(time?.querySelectorAll('.legend li') ?? [])].map(({ textContent }) => textContent);
    expect(legend).toEqual([
      'marginfc cpu, float32, keep',
      'marginfc cpu, float32, recompute',
      'tfjs wasm',
      'plain <TypeScript> & co',
    ]);
    expect(time?.querySelectorAll('[aria-label=dot] circle')).toHaveLength(12);
  });

  test('needs nothing from elsewhere', () => {
    expect(page).not.toMatch(/\b(src|href)="(?!#)/);
    expect(page.replace(script, '')).not.toMatch(/url\(|@import|NaN|undefined/);
  });

  test('names nothing that a reader could take for markup', () => {
    expect(page).not.toContain('<TypeScript>');
  });

  test('can be read without its script: every figure is in the text of a cell', () => {
    const cells = [...document.querySelectorAll('tbody td')].map(({ textContent }) => textContent);
    expect(cells).toContain('25 000');
    expect(document.querySelectorAll('button')).toHaveLength(0);
    expect(script).toContain("createElement('button')");
  });
});

const chromium = ['chromium', 'chromium-browser', 'google-chrome'].find(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
if (!chromium) console.log('not run: the report in a browser, as there is no chromium');

describe.skipIf(!chromium)('in a browser', () => {
  const flags = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--hide-scrollbars',
  ];
  const browse = (file: string, ...more: string[]) =>
    spawnSync(
      chromium as string,
      [...flags, `--user-data-dir=${join(scratch, 'profile')}`, ...more, `file://${file}`],
      {
        encoding: 'utf8',
        timeout: 100_000,
      },
    );

  test.each([
    ['light', 1280, 0],
    ['dark', 1280, 1],
    ['narrow', 420, 0],
  ])('is shown, %s', (name, width, dark) => {
    const folder = join(root, 'bench', 'results');
    mkdirSync(folder, { recursive: true });
    const file = join(scratch, 'report.html');
    writeFileSync(file, html(example()));
    const picture = join(folder, `report-${name}.png`);
    rmSync(picture, { force: true });
    const mode = dark
      ? ['--blink-settings=preferredColorScheme=0']
      : ['--blink-settings=preferredColorScheme=1'];
    browse(file, ...mode, `--window-size=${width},3200`, `--screenshot=${picture}`);
    // A blank page of that size is a few thousand bytes.
    expect(statSync(picture).size).toBeGreaterThan(40_000);
    expect(readFileSync(picture).subarray(1, 4).toString()).toBe('PNG');
  });

  test('its tables are sorted by a click', () => {
    const file = join(scratch, 'sorted.html');
    const click = `<script>
      const table = document.querySelectorAll('table')[1];
      const heading = [...table.querySelectorAll('th button')].find((button) => button.textContent === 'ms');
      heading.click(); heading.click();
      document.title = [...table.tBodies[0].rows].map((row) => row.cells[1].textContent).join(' > ');
    </script></body>`;
    writeFileSync(file, html(example()).replace('</body>', click));
    const { stdout } = browse(file, '--dump-dom');
    expect(stdout).toContain('<title>500 &gt; 250 &gt; 1.43 &gt; 1.00</title>');
  });
});
