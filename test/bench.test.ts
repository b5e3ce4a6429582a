/** `npm run bench`: its statistics, verdicts, file format and words; and a whole run at a tiny size. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { compare, judge } from '../bench/compare.js';
import { bytesText, msText, statusText, timesText } from '../bench/format.js';
import { gaps, reached } from '../bench/goals.js';
import { readCommand } from '../bench/options.js';
import { readmePart, referenceResults, withPart } from '../bench/readme.js';
import { formatVersion, problemOf, type ResultRow, type Results, readResults } from '../bench/results.js';
import { median, medianInterval, quantile, ratioInterval } from '../bench/statistics.js';
import { workOf } from '../bench/work.js';
import { madeUpMachine } from './bench_machine.js';

const root = new URL('../', import.meta.url);
const scratch = mkdtempSync(join(tmpdir(), 'marginfc-bench-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** Around a median, by so much. */
function around(middle: number, spread: number, count = 9): number[] {
  return Array.from({ length: count }, (_, i) => middle * (1 + spread * ((i / (count - 1)) * 2 - 1)));
}

function row(changes: Partial<ResultRow> = {}): ResultRow {
  const samplesMs = changes.samplesMs ?? around(10, 0.01);
  const measured = (changes.status ?? 'measured') === 'measured';
  return {
    contestant: 'marginfc cpu',
    operation: 'loss + dX + dW',
    precision: 'float32',
    workspace: 'keep',
    outputs: 'reused',
    threads: 2,
    allocator: 'default',
    gradient: 'exact',
    size: { B: 128, D: 512, C: 100000 },
    status: 'measured',
    checked: measured,
    error: measured ? 1e-6 : null,
    errors: null,
    medianMs: measured ? median(samplesMs) : null,
    intervalMs: measured ? medianInterval(samplesMs) : null,
    quartilesMs: null,
    dropped: { others: 0, stolen: 0, waited: 0, peak: 0 },
    disturbed: false,
    peakBytes: measured ? 2 ** 28 : null,
    extraBytes: measured ? 2 ** 20 : null,
    extrapolatedMs: null,
    ...changes,
    samplesMs: measured ? samplesMs : [],
  };
}

function results(rows: readonly ResultRow[], machine: Partial<Results['machine']> = {}): Results {
  return {
    format: formatVersion,
    machine: { ...madeUpMachine, ...machine },
    command: 'npx marginfc bench',
    settings: { quick: false, samples: 9, sampleSeconds: 0.1, seconds: 60, elapsedSeconds: 60 },
    versions: {},
    peaks: null,
    rows,
    phases: [],
  };
}

describe('statistics', () => {
  test('the median is the middle of sorted values, whatever their order', () => {
    expect(median([5, 1, 3])).toBe(3);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(quantile([1, 2, 3, 4], 0.25)).toBe(1.75);
    expect(median([])).toBeNaN();
  });

  test('the interval of a median holds it, and is the same every time', () => {
    const values = [9, 10, 10, 11, 12, 15, 30];
    const [low, high] = medianInterval(values);
    expect(low).toBeLessThanOrEqual(median(values));
    expect(high).toBeGreaterThanOrEqual(median(values));
    expect(low).toBeGreaterThanOrEqual(9);
    expect(high).toBeLessThan(30);
    expect(medianInterval(values)).toEqual([low, high]);
  });

  test('the interval is wider where values are spread, and a point where they are equal', () => {
    const width = (values: number[]) => {
      const [low, high] = medianInterval(values);
      return high - low;
    };
    expect(width(around(10, 0.2))).toBeGreaterThan(5 * width(around(10, 0.02)));
    expect(medianInterval([7, 7, 7])).toEqual([7, 7]);
    expect(ratioInterval([2, 2, 2], [3, 3, 3])).toEqual([1.5, 1.5]);
  });
});

describe('compare', () => {
  test.each([
    ['FASTER', around(10, 0.01), around(9, 0.01)],
    ['SLOWER', around(10, 0.01), around(11, 0.01)],
    ['SAME', around(10, 0.005), around(10.02, 0.005)],
    ['UNSURE', around(10, 0.3), around(10.5, 0.3)],
    ['UNSURE', around(10, 0.01, 4), around(5, 0.01)],
    ['UNSURE', around(10, 0.01), around(5, 0.01, 4)],
  ] as const)('says %s', (verdict, before, after) => {
    expect(judge(before, after).verdict).toBe(verdict);
  });

  test('says why it is unsure', () => {
    expect(judge([1, 1, 1, 1], [2, 2, 2, 2, 2]).reason).toBe('fewer than 5 samples');
    expect(judge(around(10, 0.3), around(10.5, 0.3)).reason).toBe('the interval is too wide');
    const disturbed = results([row({ disturbed: true })]);
    const { compared } = compare(disturbed, results([row({ samplesMs: around(5, 0.01) })]));
    expect(compared).toMatchObject([{ verdict: 'UNSURE', reason: 'other processes disturbed it' }]);
  });

  test('matches rows by all their settings and the size, and names those without a match', () => {
    const other = row({ workspace: 'recompute' });
    const found = compare(
      results([row(), other, row({ status: 'failed' })]),
      results([row({ samplesMs: around(20, 0.01) }), row({ size: { B: 1, D: 2, C: 3 } })]),
    );
    expect(found.compared).toMatchObject([{ verdict: 'SLOWER', name: 'marginfc cpu, float32, keep' }]);
    expect(found.onlyBefore).toEqual(['marginfc cpu, float32, recompute at 128,512,100000']);
    expect(found.onlyAfter).toEqual(['marginfc cpu, float32, keep at 1,2,3']);
  });

  test('warns where the losses differ, which were arcface in older files', () => {
    const of = (loss: string) => ({ ...results([row()]), settings: { ...results([]).settings, loss } });
    expect(compare(results([row()]), of('arcface')).warnings).toEqual([]);
    expect(compare(results([row()]), of('magface')).warnings).toEqual(['loss differs: arcface and magface']);
  });

  test('warns where the machines differ', () => {
    const { warnings } = compare(results([row()]), results([row()], { threads: 8 }));
    expect(warnings).toEqual(['threads differs: 2 and 8']);
  });
});

describe('a file of results', () => {
  test('is what a run writes', () => {
    expect(problemOf(results([row(), row({ status: 'wrong', reason: 'off' })]))).toBe(undefined);
  });

  test.each([
    ['no object', [], 'not an object'],
    ['another format', { ...results([]), format: 99 }, 'format must be 1, received 99'],
    ['no rows', { ...results([]), rows: 3 }, 'rows must be an array'],
    [
      'a size without C',
      results([row({ size: { B: 1, D: 2 } as never })]),
      'rows[0].size must be { B, D, C }',
    ],
    ['an unknown status', results([row({ status: 'fine' as never })]), 'rows[0].status must be one of'],
    ['a time of 0', results([row({ samplesMs: [0] })]), 'rows[0].samplesMs must be an array of times'],
    [
      'a time that was never checked',
      results([row({ checked: false })]),
      'rows[0].a measured row must be checked',
    ],
    [
      'a time of a contestant that was wrong',
      results([{ ...row({ status: 'wrong' }), medianMs: 3 }]),
      'rows[0].a row that is wrong must have no samples',
    ],
  ])('with %s is refused', (_, value, problem) => {
    expect(problemOf(value)).toContain(problem);
  });

  test('is refused with its name', () => {
    const file = join(scratch, 'broken.json');
    writeFileSync(file, '{');
    expect(() => readResults(file)).toThrow(`${file}: `);
  });
});

describe('the words', () => {
  test('have three digits that count', () => {
    expect([0.01234, 0.5, 1.234, 12.34, 123.4, 12345.6].map(msText)).toEqual([
      '0.012',
      '0.50',
      '1.23',
      '12.3',
      '123',
      '12 346',
    ]);
    expect([1.234, 12.34, 1234.5].map(timesText)).toEqual(['1.23', '12.3', '1 235']);
    expect([null, 2 ** 19, 2 ** 30].map(bytesText)).toEqual(['-', '0.5 MiB', '1 024 MiB']);
  });

  test('call what was extrapolated so', () => {
    const text = statusText(
      row({
        status: 'would take longer',
        reason: 'than 5 s',
        extrapolatedMs: 48000,
        extrapolatedFrom: { B: 1, D: 2, C: 3 },
      }),
    );
    expect(text).toBe('would take longer: than 5 s; extrapolated from 1,2,3: about 48 000 ms');
  });
});

describe('goals', () => {
  const wasm = { contestant: 'tfjs wasm', workspace: 'logits', outputs: 'fresh', threads: 1 } as const;
  const pytorch = (contestant: string, ms: number) =>
    row({ ...wasm, contestant, threads: 2, samplesMs: [ms], extraBytes: 2 ** 30 });

  test('are judged by measurements', () => {
    const [gap] = gaps([row(), row({ ...wasm, samplesMs: [2000] })]);
    expect(gap).toMatchObject({ goal: 150, times: 200, extrapolated: false });
    expect(gap && reached(gap)).toBe(true);
  });

  test('are not reached by an extrapolation, nor without the other', () => {
    const from = { B: 1, D: 2, C: 3 };
    const guessed = row({
      ...wasm,
      status: 'would take longer',
      extrapolatedMs: 2000,
      extrapolatedFrom: from,
    });
    const [gap] = gaps([row(), guessed]);
    expect(gap).toMatchObject({ times: 200, extrapolated: true });
    expect(gap && reached(gap)).toBe(undefined);
    const [disturbed] = gaps([row({ disturbed: true }), row({ ...wasm, samplesMs: [2000] })]);
    expect(disturbed && reached(disturbed)).toBe(undefined);
    const [missing] = gaps([row(), row({ ...wasm, status: 'not installed' })]);
    expect(missing).toMatchObject({ times: null, reason: 'not installed' });
  });

  test('compare with the fastest PyTorch; float32 with what it is in float32', () => {
    const rows = [
      row(),
      row({ precision: 'bfloat16' }),
      row({ workspace: 'recompute' }),
      pytorch('PyTorch', 60),
      pytorch('PyTorch autocast', 40),
    ];
    expect(gaps(rows)).toMatchObject([
      { of: 'time', peer: 'PyTorch', times: 6, goal: 2.8 },
      { of: 'time', peer: 'PyTorch autocast', times: 4, goal: 2.3 },
      { of: 'memory', peer: 'PyTorch', times: 1024, goal: 10 },
    ]);
  });
});

test('phases count the operations of their products', () => {
  const size = { B: 2, D: 3, C: 5 };
  const operations = (workspace: 'keep' | 'recompute') =>
    (['negatives', 'gradients'] as const).map(
      (phase) => workOf(phase, size, workspace, 'float32').operations,
    );
  expect(operations('keep')).toEqual([120, 60]);
  expect(operations('recompute')).toEqual([120, 120]);
  expect(workOf('gradients', size, 'keep', 'float32').bytes).toBe(2 * 24 + 2 * 60 + 40);
});

describe('options', () => {
  test('--quick ends within ten minutes', () => {
    const command = readCommand(['--quick']);
    expect(command.kind === 'run' && command.totalSeconds).toBeLessThanOrEqual(570);
  });

  test.each([
    [['--fast'], '--fast'],
    [['--sizes', '1,2'], 'a size is B,D,C'],
    [['--seconds', 'x'], '--seconds must be a positive number'],
    [['compare', 'a.json'], 'compare takes two files'],
    [['train'], "no command 'train'"],
    [['--loss', 'ringLoss'], 'no reference for ringLoss'],
    [['--loss', 'arcfice'], /name of a loss must be one of softmax, .*, received 'arcfice'/],
  ])('%j are refused', (args, reason) => {
    expect(() => readCommand(args)).toThrow(reason);
  });

  test('are repeated in the results as a shell takes them, but for the files', () => {
    const command = readCommand(['--json', 'a.json', '--sizes', '8,16,100;8,16,200', '--html=a.html']);
    expect(command.kind === 'run' && command.typed).toBe("npx marginfc bench --sizes '8,16,100;8,16,200'");
  });
});

describe('README.md', () => {
  const readme = readFileSync(new URL('README.md', root), 'utf8');

  test('has the reference machine’s results as npm run bench:readme writes them', () => {
    expect(withPart(readme, readmePart(referenceResults(root)))).toBe(readme);
  });

  test('says that nothing was measured before it was', () => {
    expect(readmePart(undefined)).toBe('Not measured yet.');
  });

  test('gets a table with what was not measured named', () => {
    const part = readmePart(
      results([row(), row({ contestant: 'tfjs wasm', workspace: 'logits', status: 'not installed' })]),
    );
    expect(part).toContain(
      'Measured on 2026-11-27 by `npx marginfc bench` on a made-up processor, 2 threads',
    );
    expect(part).toContain('| marginfc cpu, float32, keep | 10.0 | 1.0 MiB |');
    expect(part).toContain('| tfjs wasm | not installed | - |');
    expect(part).toContain('| >= 150 | not measured |');
  });

  test('without the comments is an error', () => {
    expect(() => withPart('# readme', 'part')).toThrow('README.md has no');
  });
});

describe('marginfc bench', () => {
  const program = fileURLToPath(new URL('dist/cli.js', root));
  function bench(...args: string[]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, 'bench', ...args], {
      encoding: 'utf8',
      cwd: scratch,
      // Peers in Python are not what is tested here.
      env: { ...process.env, MARGINFC_BENCH_PYTHON: '/nonexistent/python' },
    });
    return { status, stdout, stderr };
  }

  test('measures a tiny size: table, JSON and report', () => {
    const { status, stdout, stderr } = bench(
      ...[
        '--quick',
        '--samples',
        '2',
        '--sizes',
        '8,16,100;8,16,200',
        '--json',
        'a.json',
        '--html',
        'a.html',
      ],
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { rows, phases, peaks, machine } = readResults(join(scratch, 'a.json'));
    expect(machine.threads).toBeGreaterThan(0);
    expect(peaks?.float32).toBeGreaterThan(1e8);
    const statusOf = (name: string) => rows.find(({ contestant }) => contestant === name)?.status;
    for (const name of ['marginfc cpu', 'unfused C++', 'tfjs wasm', 'tfjs cpu', 'plain TypeScript']) {
      expect(statusOf(name), name).toBe('measured');
      expect(stdout).toContain(name);
    }
    expect(statusOf('PyTorch')).not.toBe('measured');
    for (const found of rows.filter((each) => each.status === 'measured')) {
      expect(found.checked).toBe(true);
      expect(found.errors?.loss).toBeLessThanOrEqual(found.errors?.lossLimit as number);
      expect(found.errors?.gradient).toBeLessThanOrEqual(found.errors?.gradientLimit as number);
      expect(found.peakBytes).toBeGreaterThanOrEqual(0);
    }
    expect(new Set(phases.map(({ phase }) => phase)).size).toBe(6);
    expect(existsSync(join(scratch, 'a.html'))).toBe(true);

    const compared = bench('compare', 'a.json', 'a.json');
    expect(compared.stdout).toMatch(/^0 FASTER, 0 SLOWER, \d+ SAME, \d+ UNSURE$/m);
    expect(compared.status).toBe(0);
  });

  test('times another loss on its own', () => {
    const { status, stdout, stderr } = bench(
      ...['--quick', '--samples', '2', '--sizes', '8,16,100', '--loss', 'magFace'],
      ...['--json', 'm.json', '--html', 'm.html'],
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('magFace, magface, lowerNorm 10');
    const { rows, phases, settings } = readResults(join(scratch, 'm.json'));
    expect({ loss: settings.loss, phases }).toEqual({ loss: 'magFace', phases: [] });
    for (const { contestant, status: found, checked } of rows)
      expect({ contestant, found, checked }).toEqual({
        contestant: 'marginfc cpu',
        found: 'measured',
        checked: true,
      });
    expect(readFileSync(join(scratch, 'm.html'), 'utf8')).toContain('onOverflow easy');
  });

  test('says what is wrong with a file or an option', () => {
    expect(bench('compare', 'a.json', 'none.json')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('none.json: '),
    });
    expect(bench('--only', 'nobody')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("no contestant's name contains nobody"),
    });
  });
});
