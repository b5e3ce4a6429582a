/** The example of a loss search, on a few made-up images. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { script } from '../bench/report/style.js';
import type { Figures, SearchResults } from '../examples/loss_search/experiment.js';
import { rows, verdicts } from '../examples/loss_search/report.js';
import { makeFaces } from './faces.js';

const root = join(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'marginfc-search-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('a run', () => {
  const faces = makeFaces(join(scratch, 'eight'), 8, 5);
  beforeAll(() => {
    execFileSync('npm', ['run', '--silent', 'build:programs'], { cwd: root, stdio: 'inherit' });
  });

  function search(...options: string[]) {
    const program = join(root, 'build', 'examples', 'loss_search', 'main.js');
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, '--data', faces, ...options], {
      cwd: scratch,
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  }

  const small = ['--seeds', '2', '--iterations', '3', '--candidates', '2', '--epochs', '1', '--dim', '4'];

  test('prints what it finds, and writes a page and the states of its searches, the same again', () => {
    const { status, stdout, stderr } = search(...small, '--margins', '0,0.35', '--out', 'one');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const found = /^ {2}seed [12], iteration [123]: margin \d\.\d+, validation [\d.]+ %$/gm;
    expect(stdout.match(found)).toHaveLength(6);
    for (const name of ['searched', 'no margin', 'CosFace 0.35', 'best by validation'])
      expect(stdout).toMatch(new RegExp(`^ {2}${name} +[\\d.]+ ± [\\d.]+ `, 'm'));
    expect(stdout).toContain('4 trained on, 2 for validation, 2 for testing');
    expect(stdout).toMatch(/By 95 % intervals the search is /);
    const page = readFileSync(join(scratch, 'one', 'report.html'), 'utf8');
    expect(page.match(/<figure/g)).toHaveLength(4);
    expect(stdout + page.replace(script, '')).not.toMatch(/NaN|undefined|Infinity/);
    const state = readFileSync(join(scratch, 'one', 'seed-2.json'), 'utf8');
    expect(JSON.parse(state).history).toHaveLength(3);

    const again = search(...small, '--margins', '0,0.35', '--out', 'two');
    const figures = (text: string) => text.replace(/\n\d+ s\..*/, '');
    expect(figures(again.stdout)).toBe(figures(stdout));
    expect(readFileSync(join(scratch, 'two', 'seed-2.json'), 'utf8')).toBe(state);
  });

  test.each([
    [['--margins', '0.1,big'], 2, /--margins must be numbers in \[0, 2\], received 'big'/],
    [['--candidates', '0'], 2, /--candidates must be an integer in \[1, 1000\], received '0'/],
    [['--data', 'nowhere'], 1, /nowhere/],
  ])('ends with a message for %s', (options, code, message) => {
    const { status, stderr } = search(...options);
    expect(status).toBe(code);
    expect(stderr).toMatch(message);
  });
});

describe('the report', () => {
  const figures = (name: string, accuracy: number[]): Figures => ({
    ...{ name, accuracy, validation: accuracy, trueAcceptRate: accuracy },
  });
  const results = {
    searched: figures('searched', [0.9, 0.92, 0.88, 0.9]),
    byHand: [
      figures('much worse', [0.7, 0.71, 0.69, 0.7]),
      figures('a little worse', [0.91, 0.89, 0.87, 0.9]),
      figures('better', [0.95, 0.96, 0.94, 0.95]),
    ],
  } as unknown as SearchResults;

  test('compares within seeds, and claims a difference only where the interval is on one side', () => {
    expect(rows(results).map((row) => row.slice(4))).toEqual([
      ['–', '–'],
      ['+20.0 ± 0.8', '+18.7 to +21.3'],
      ['+0.8 ± 1.7', '−2.0 to +3.5'],
      ['−5.0 ± 0.8', '−6.3 to −3.7'],
    ]);
    expect(verdicts(results)).toEqual([
      'By 95 % intervals the search is better than much worse.',
      'By 95 % intervals the search is worse than better.',
      'By 95 % intervals the search is not to be told from a little worse.',
    ]);
  });
});
