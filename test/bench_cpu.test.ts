/** `npm run bench:cpu`: what it keeps and drops, what it compares results with, and a whole run on a tiny size. */

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadBetween, parseProcessorList, parseStat } from '../bench/cpu/load.js';
import { errors, reference } from '../bench/cpu/reference.js';
import { contestName, contestsOf, precisions, type Report } from '../bench/cpu/results.js';
import { disturbance, figures, judge, type Repetition, spread } from '../bench/cpu/samples.js';
import { targetOf, targets } from '../bench/cpu/targets.js';
import { formulaNamed, lossText } from '../bench/formula.js';
import { parseSize } from '../bench/size.js';
import { namedLosses, valueAndGradSync } from '../src/index.js';
import { withNorms } from './loss_cases.js';
import { makeProblem } from './problems.js';
import { reference as fullReference, type ReferenceMargin, type ReferenceRowFunction } from './reference.js';
import { problemOf, shape } from './sub_center_problems.js';

const root = join(import.meta.dirname, '..');

type Changes = Partial<Omit<Repetition, 'load'>> & { readonly load?: Partial<Repetition['load']> };

/** A second on two threads, both busy all the time, between peaks of 200 GFLOP/s. */
function repetition(changes: Changes = {}): Repetition {
  const load = { elapsed: 1, own: 2, others: 0, stolen: 0, ...changes.load };
  return { seconds: 1, processorSeconds: load.own, peaks: [200e9, 200e9], ...changes, load };
}

describe('a repetition', () => {
  const cases: [string, Changes, ReturnType<typeof disturbance> | 'kept'][] = [
    ['undisturbed', {}, 'kept'],
    ['beside little work of other processes', { load: { others: 0.09 } }, 'kept'],
    ['beside more work of other processes', { load: { others: 0.13 } }, 'others'],
    ['with little time stolen', { load: { stolen: 0.03 } }, 'kept'],
    ['with more time stolen', { load: { stolen: 0.12 } }, 'stolen'],
    ['with nearly the usual processor time', { load: { own: 1.92 } }, 'kept'],
    ['with clearly less processor time', { load: { own: 1.88 } }, 'waited'],
    ['between peaks that agree', { peaks: [200e9, 194e9] }, 'kept'],
    ['before a smaller peak', { peaks: [200e9, 190e9] }, 'peak'],
    ['before a larger peak', { peaks: [190e9, 200e9] }, 'peak'],
  ];
  test.each(cases)('%s', (_, changes, judgement) => {
    expect(disturbance(repetition(changes), 2, 1) ?? 'kept').toBe(judgement);
  });

  test('that is short forgives what the ticks of the kernel may have added', () => {
    const load = { elapsed: 0.02, own: 0.04, others: 0.02, stolen: 0.01 };
    expect(disturbance(repetition({ load }), 2, 1)).toBe(undefined);
  });
});

describe('the repetitions of a row', () => {
  test('are parted, and those dropped counted by reason', () => {
    const good = [repetition(), repetition({ load: { own: 1.95 } })];
    const bad = [
      repetition({ load: { others: 1 } }),
      repetition({ load: { others: 0.5, own: 1.5 } }),
      repetition({ load: { own: 1.5 } }),
      repetition({ peaks: [200e9, 100e9] }),
    ];
    const { kept, dropped } = judge([...bad, ...good], 2);
    expect(kept).toEqual(good);
    expect(dropped).toEqual({ others: 2, stolen: 0, waited: 1, peak: 1 });
  });

  test('are not dropped for threads that always idle', () => {
    const idle = [1, 1.01, 0.99].map((own) => repetition({ load: { own } }));
    expect(judge(idle, 2).kept).toEqual(idle);
  });

  test('are not dropped for one that had more processor time than all others', () => {
    const same = [1.8, 1.8, 1.81].map((own) => repetition({ load: { own } }));
    expect(judge([repetition({ load: { own: 2 } }), ...same], 2).kept).toHaveLength(4);
  });

  test('compare their processor time with undisturbed ones only', () => {
    // A garbage collection beside other processes' work: more than the others, but not what is usual.
    const odd = repetition({ load: { own: 2, others: 1 } });
    const usual = [repetition({ load: { own: 1.2 } }), repetition({ load: { own: 1.2 } })];
    expect(judge([odd, ...usual], 2).kept).toEqual(usual);
  });
});

describe('figures', () => {
  const options = { operations: 100e9, threads: 2, bestPeak: 250e9, enough: 3 };

  test('are the medians of the repetitions kept, each against the peaks around it', () => {
    const kept = [
      repetition({ seconds: 1, peaks: [200e9, 200e9] }),
      repetition({ seconds: 1.25, peaks: [160e9, 160e9] }),
      repetition({ seconds: 2, peaks: [99e9, 101e9] }),
    ];
    const got = figures([...kept, repetition({ seconds: 9, load: { others: 1 } })], options);
    expect(got).toMatchObject({ samples: 3, disturbed: false, dropped: { others: 1 } });
    expect(got.milliseconds).toEqual({ median: 1250, low: 1125, high: 1625 });
    expect(got.gigaflops.median).toBeCloseTo(80, 10);
    expect(got.percentOfPeak).toEqual({ median: 50, low: 50, high: 50 });
  });

  test('are of all repetitions and the best peak of the process where too few are undisturbed', () => {
    const got = figures(
      [repetition(), repetition(), repetition({ seconds: 2, peaks: [100e9, 50e9] })],
      options,
    );
    expect(got).toMatchObject({ samples: 3, disturbed: true, dropped: { peak: 1 } });
    expect(got.percentOfPeak).toEqual({ median: 40, low: 30, high: 40 });
  });

  test('are not disturbed where there was no time for enough repetitions', () => {
    expect(figures([repetition()], options)).toMatchObject({ samples: 1, disturbed: false });
    expect(figures([repetition({ load: { others: 1 } })], options).disturbed).toBe(true);
  });

  test('by processor time do not see that a thread waited', () => {
    const waiting = Array.from({ length: 3 }, () => repetition({ seconds: 4, processorSeconds: 2 }));
    const got = figures(waiting, options);
    expect(got.percentOfPeak.median).toBeCloseTo(12.5, 10);
    expect(got.percentByProcessorTime.median).toBeCloseTo(50, 10);
  });

  test('of one value have no spread', () => {
    expect(spread([3])).toEqual({ median: 3, low: 3, high: 3 });
    expect(spread([4, 1, 3, 2])).toEqual({ median: 2.5, low: 1.75, high: 3.25 });
  });
});

describe('the load', () => {
  const stat = [
    'cpu  30 0 0 900 0 0 0 0 0 0',
    'cpu0 100 10 50 700 5 2 3 40 6 0',
    'cpu1 1000 0 0 0 0 0 0 0 0 0',
    'cpu10 10 0 0 0 0 0 0 1 0 0',
    'intr 5',
  ].join('\n');

  test('is that of the processors the process may use', () => {
    expect(parseProcessorList('0-2,10\n')).toEqual(new Set([0, 1, 2, 10]));
    expect(parseStat(stat, new Set([0, 10]))).toEqual({
      busy: expect.closeTo(1.75, 10),
      stolen: expect.closeTo(0.41, 10),
    });
  });

  test('of others is what is busy beyond this process, and never negative', () => {
    const start = { clock: 10, own: 5, busy: 100, stolen: 1 };
    expect(loadBetween(start, { clock: 11, own: 6, busy: 101.5, stolen: 1 })).toEqual({
      elapsed: 1,
      own: 1,
      others: 0.5,
      stolen: 0,
    });
    expect(loadBetween(start, { clock: 11, own: 6, busy: 100.9, stolen: 1 }).others).toBe(0);
  });
});

/** Those that the tests' reference has a formula of. */
function hasReference(margin: { readonly kind: string }): margin is ReferenceMargin {
  return ['softmax', 'cosface', 'arcface', 'combined', 'x2softmax'].includes(margin.kind);
}

test('a loss is named with its parameters', () => {
  expect(lossText('arcface')).toBe('ArcFace, m 0.5, s 64');
  expect(lossText('openSphereFace')).toBe(
    'openSphereFace, sphereface, m 1.5, lambda 0, straightThrough, s 30',
  );
});

describe('the reference', () => {
  const size = shape(20, 9, 50);
  const problem = makeProblem(size, 'clustered', 'random', 7);
  const full = fullReference(problem, {
    margin: { kind: 'arcface', m: 0.5 },
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
    reduction: 'mean',
  });
  const parameters = formulaNamed('arcface', 50);
  const right = {
    logSumExp: Float32Array.from(full.logSumExp),
    rowLoss: Float32Array.from(full.rowLoss),
    dFeatures: Float32Array.from(full.dFeatures),
    dWeights: (j: number) => full.dWeights.subarray(j * 9, (j + 1) * 9),
  };

  test.each([
    ['whole', undefined, 20, 50],
    ['sampled', 0, 8, 9],
  ])('is that of the tests, %s', (_, most, rows, leastClasses) => {
    const expected = reference(problem, parameters, full.logSumExp, most);
    expect(expected.rows).toHaveLength(rows);
    expect(expected.classRows.length).toBeGreaterThanOrEqual(leastClasses);
    const found = errors(right, expected);
    expect(found.loss).toBeLessThan(1e-7);
    expect(found.gradient).toBeLessThan(1e-6);
  });

  const timed = namedLosses.filter(({ options }) => !options.terms).map(({ name }) => name);
  test.each(timed)('is what the engine computes: %s', (name) => {
    const { margin, ...formula } = formulaNamed(name, 50);
    const long = withNorms(problemOf(size, formula.subCenters, 'clustered', 7, 'random'));
    const { dim } = long;
    const { logSumExp, rowLoss, dFeatures, dWeights } = valueAndGradSync(long, { margin, ...formula });
    const expected = reference(long, { margin, ...formula }, new Float64Array(20));
    const gradients = (values: Float32Array | Float64Array) => (j: number) =>
      values.subarray(j * dim, (j + 1) * dim);
    const found = errors({ logSumExp, rowLoss, dFeatures, dWeights: gradients(dWeights) }, expected);
    expect(found.loss).toBeLessThan(4e-6);
    expect(found.gradient).toBeLessThan(6.1e-5);
    if (!hasReference(margin)) return;
    const { rowFunction, ...others } = formula;
    const written = fullReference(long, {
      ...{ margin, ...others, reduction: 'mean' },
      ...(rowFunction !== 'none' && { rowFunction: rowFunction as ReferenceRowFunction }),
    });
    const same = errors(
      {
        logSumExp: Float32Array.from(written.logSumExp),
        rowLoss: Float32Array.from(written.rowLoss),
        dFeatures: Float32Array.from(written.dFeatures),
        dWeights: gradients(written.dWeights),
      },
      expected,
    );
    expect(same.loss).toBeLessThan(1e-7);
    expect(same.gradient).toBeLessThan(1e-6);
  });

  test('finds what is wrong, NaN included', () => {
    const expected = reference(problem, parameters, full.logSumExp);
    const nan = { ...right, rowLoss: Float32Array.from(full.rowLoss).fill(NaN, 3, 4) };
    expect(errors(nan, expected).loss).toBeNaN();
    const doubled = { ...right, dWeights: (j: number) => right.dWeights(j).map((value) => 2 * value) };
    expect(errors(doubled, expected).gradient).toBeCloseTo(1, 6);
    const missing = { logSumExp: right.logSumExp, rowLoss: right.rowLoss };
    expect(errors(missing, expected)).toEqual({ loss: expect.any(Number) });
  });
});

test('every target is that of a row of the table', () => {
  const names = contestsOf(precisions).map(contestName);
  for (const target of targets) expect(names).toContain(contestName(target));
  const step = targets.find(({ operation }) => operation === 'step')!;
  expect(targetOf(step, parseSize('1024,512,100000'))).toEqual({ least: 85, goal: 90 });
  expect(targetOf(step, parseSize('77,200,33333'))).toBe(undefined);
  const bfloat16 = targets.find(({ precision }) => precision === 'bfloat16')!;
  const size = parseSize('512,512,100000');
  expect(targetOf(bfloat16, size, 'avx512bf16')).toEqual({ least: 87, goal: 91 });
  expect(targetOf(bfloat16, size, 'amx')).toBe(undefined);
});

test.each(['8,16', '8,16,0', '8,16,x', '8,16,100,2', '8.5,16,100'])('%j is not a size', (text) => {
  expect(() => parseSize(text)).toThrow(`a size is B,D,C, received ${text}`);
});

describe('the program', () => {
  // Compiled apart from build/bench, which others may be writing at this moment.
  const built = join(root, 'build', 'bench_test');
  const scratch = mkdtempSync(join(tmpdir(), 'marginfc-bench-'));
  afterAll(() => rmSync(scratch, { recursive: true }));

  beforeAll(() => {
    mkdirSync(built, { recursive: true });
    const config = {
      extends: join(root, 'tsconfig.programs.json'),
      compilerOptions: { rootDir: root, outDir: built },
      include: [join(root, 'bench')],
    };
    writeFileSync(join(built, 'tsconfig.json'), JSON.stringify(config));
    const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    execFileSync(process.execPath, [compiler, '--project', built], { stdio: 'inherit' });
  });

  function bench(...options: string[]) {
    const program = join(built, 'bench', 'cpu', 'main.js');
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...options], {
      encoding: 'utf8',
      cwd: scratch,
    });
    return { status, stdout, stderr };
  }

  test('checks another loss, and knows no other names', () => {
    const options = ['--quick', '--sizes', '8,16,100', '--precision', 'float32', '--only', 'reused'];
    const { status, stdout, stderr } = bench(...options, '--loss', 'adaface', '--json', 'adaface.json');
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('AdaFace, m 0.4');
    const { loss, runs }: Report = JSON.parse(readFileSync(join(scratch, 'adaface.json'), 'utf8'));
    expect(loss).toBe('adaface');
    expect(runs[0]?.rows.map(({ operation }) => operation)).toEqual([
      'loss + dX + dW',
      'loss + dX + dW',
      'step',
      'AdamW step',
    ]);
    expect(bench('--loss', 'adafice')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/one of softmax/),
    });
  });

  test('measures a tiny size, prints it and writes it as JSON', () => {
    const { status, stdout, stderr } = bench(
      '--quick',
      '--sizes',
      '8,16,100',
      '--precision',
      'float32',
      '--targets',
      '--json',
      'out.json',
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { machine, loss, settings, runs }: Report = JSON.parse(
      readFileSync(join(scratch, 'out.json'), 'utf8'),
    );

    const text = expect.stringMatching(/./);
    const positive = expect.toSatisfy((value: unknown) => typeof value === 'number' && value > 0);
    const atLeast0 = expect.toSatisfy((value: unknown) => typeof value === 'number' && value >= 0);
    const quartiles = { median: positive, low: positive, high: positive };
    expect(machine).toEqual({
      processor: text,
      cores: positive,
      caches: text,
      memoryBytes: positive,
      hugePages: text,
      system: text,
      node: process.version,
      compiler: text,
      version: text,
      commit: text,
      date: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      loadAverage: atLeast0,
    });
    expect(loss).toBe('arcface');
    expect(settings).toEqual({ warmUpSeconds: 0.02, samples: 3, sampleSeconds: 0.02, seconds: 5 });
    expect(runs).toHaveLength(1);
    const { rows, ...run } = runs[0]!;
    expect(run).toEqual({
      size: { B: 8, D: 16, C: 100 },
      instructionSet: text,
      threads: positive,
      peaks: {
        float32: positive,
        ...('bfloat16' in run.peaks && { bfloat16: positive }),
        read: positive,
        copy: positive,
      },
      checked: { rows: 8, classes: 100 },
    });
    expect(rows).toEqual(
      contestsOf(['float32']).map((contest) => ({
        ...contest,
        operations: (contest.operation === 'loss' ? 2 : 6) * 8 * 16 * 100,
        callsPerSample: positive,
        check: {
          loss: atLeast0,
          lossLimit: positive,
          ...(contest.operation !== 'loss' && { gradient: positive, gradientLimit: positive }),
        },
        milliseconds: quartiles,
        gigaflops: quartiles,
        percentOfPeak: quartiles,
        percentByProcessorTime: quartiles,
        samples: positive,
        dropped: { others: atLeast0, stolen: atLeast0, waited: atLeast0, peak: atLeast0 },
        disturbed: expect.any(Boolean),
      })),
    );

    const lines = stdout.split('\n');
    for (const { operation, workspace } of rows)
      expect(lines.some((line) => line.includes(operation) && line.includes(workspace))).toBe(true);
    expect(stdout).toContain('B,D,C = 8,16,100');
    expect(stdout).toContain('measured | target (goal)');
  });

  test('runs the instruction sets and numbers of threads it is asked for', () => {
    const { status, stdout, stderr } = bench(
      ...[
        '--quick',
        '--sizes',
        '3,5,7',
        '--isa',
        'baseline,sse9',
        '--threads',
        '1',
        '--only',
        'loss float32',
      ],
    );
    expect(status).toBe(1);
    expect(stdout).toContain('B,D,C = 3,5,7   baseline, 1 thread\n');
    expect(stderr).toMatch(/^B,D,C = 3,5,7: .*MARGINFC_ISA/m);
  });

  test.each([
    ['an unknown option', ['--fast'], '--fast'],
    ['a wrong size', ['--sizes', '1,2'], 'a size is B,D,C'],
    ['a wrong number of threads', ['--threads', '2,x'], '--threads must be a list of positive integers'],
    ['an unknown precision', ['--precision', 'float8'], '--precision must be a list of float32'],
  ])('with %s says so, prints the usage and exits with 2', (_, options, reason) => {
    const { status, stdout, stderr } = bench(...options);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(reason);
    expect(stderr).toContain('npm run bench:cpu -- [options]');
  });
});
