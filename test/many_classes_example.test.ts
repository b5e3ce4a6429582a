/** The example of many classes, with fewer of them. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { rolldown } from 'rolldown';
import { afterAll, describe, expect, test } from 'vitest';
import { makeDraws } from '../examples/many_classes/draws.js';
import { run } from '../examples/many_classes/run.js';

const small = { classes: 50, dim: 8, exponent: 0.5, noise: 0.5, seed: 3 };

async function lines(...args: string[]): Promise<string[]> {
  const printed: string[] = [];
  await run(args, (line) => printed.push(...line.split('\n')));
  return printed;
}

/** As many rows for each class as in the full run. */
const reduced = ['--classes', '2000', '--dim', '64', '--rows', '256', '--steps', '64'];

describe('a run', () => {
  test('finds the nearest class of nearly every row, and prints the same figures again', async () => {
    const first = await lines(...reduced);
    const accuracy = first.join('\n').match(/accuracy of the last batch, without margin: ([\d.]+) %/)?.[1];
    expect(Number(accuracy)).toBeGreaterThan(95);
    expect(first.filter((line) => /^ +\d+ +\d+\.\d{5} +[\d.]+ % +[\d.]+$/.test(line))).toHaveLength(23);
    const withoutTimes = (printed: string[]) =>
      printed.slice(0, -1).map((line) => line.replace(/ +[\d.]+$/, ''));
    expect(withoutTimes(await lines(...reduced))).toEqual(withoutTimes(first));
  });

  test.each([
    [['--noise', 'loud'], /--noise must be a number >= 0, received 'loud'/],
    [['--steps', '0'], /--steps must be a positive integer, received '0'/],
    [['--group', 'tcp'], /--group must be mpi, received 'tcp'/],
    [['--speed', '3'], /'--speed'/],
  ])('refuses %s', async (args, message) => {
    await expect(lines(...args)).rejects.toThrow(message);
  });

  test('explains its options', async () => {
    expect(await lines('--help')).toContain('  --classes C         (default 100000)');
  });
});

const root = join(import.meta.dirname, '..');
const missing =
  spawnSync('mpirun', ['--version']).status !== 0
    ? 'mpirun is not installed'
    : existsSync(join(root, 'build', 'Release', 'marginfc_mpi.so'))
      ? undefined
      : 'the addon was built without mpicc';
if (missing !== undefined) console.log(`the example over MPI is not tested: ${missing}`);

describe.skipIf(missing !== undefined)('two processes', () => {
  const program = join(root, 'build', `many_classes_${process.pid}.mjs`);
  afterAll(() => rmSync(program, { force: true }));
  const curve = (printed: readonly string[]) =>
    printed.flatMap((line) => (/^ +\d+ +\d/.test(line) ? [line.trim().split(/ +/).map(parseFloat)] : []));

  test('have the losses of one', async () => {
    const bundle = await rolldown({
      input: join(root, 'examples', 'many_classes', 'main.ts'),
      external: ['marginfc', /^node:/],
    });
    await bundle.write({ file: program });
    const command = ['--allow-run-as-root', '--oversubscribe', '-np', '2', process.execPath, program];
    const printed = execFileSync('mpirun', [...command, '--group', 'mpi', ...reduced], {
      encoding: 'utf8',
      env: { ...process.env, MARGINFC_THREADS: '1' },
    });
    expect(printed).toContain('2 processes');
    const [together, alone] = [curve(printed.split('\n')), curve(await lines(...reduced))];
    expect(together).toHaveLength(23);
    for (const [i, [step, loss = NaN]] of together.entries()) {
      const [sameStep, expected = NaN] = alone[i] ?? [];
      expect(step).toBe(sameStep);
      // Sums in another order, and what training makes of the difference.
      expect(Math.abs(loss - expected)).toBeLessThan(1e-3 * expected);
    }
  });
});

describe('draws', () => {
  test('lie around a centre for each class', () => {
    const { features, labels } = makeDraws(small)(4000);
    const { dim } = small;
    for (let label = 0; label < 3; label++) {
      const rows = Array.from(labels.keys()).filter((row) => labels[row] === label);
      const mean = Array.from({ length: dim }, (_, d) =>
        rows.reduce((sum, row) => sum + features[row * dim + d]! / rows.length, 0),
      );
      const square = (row: number) =>
        mean.reduce((sum, centre, d) => sum + (features[row * dim + d]! - centre) ** 2, 0);
      const spread = rows.reduce((sum, row) => sum + square(row), 0) / (rows.length - 1);
      // A mean of chi-square variables: five standard errors.
      expect(Math.abs(spread / small.noise ** 2 - 1)).toBeLessThan(5 * Math.sqrt(2 / (dim * rows.length)));
    }
  });

  test('have the frequencies of the law', () => {
    const rows = 100_000;
    const { labels } = makeDraws({ ...small, dim: 1 })(rows);
    const counts = new Array<number>(small.classes).fill(0);
    for (const label of labels) counts[label]!++;
    counts.sort((a, b) => b - a);
    const law = counts.map((_, rank) => (rank + 1) ** -small.exponent);
    const total = law.reduce((sum, value) => sum + value);
    // Sorting moves neighbours by about their standard error.
    for (const [rank, count] of counts.entries()) {
      const expected = (rows * law[rank]!) / total;
      expect(Math.abs(count - expected)).toBeLessThan(6 * Math.sqrt(expected));
    }
  });
});
