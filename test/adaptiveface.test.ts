/** AdaptiveFace: the gradient of margins, how a head moves and keeps them, and with which classes they go. */

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  adamw,
  adaptiveFace,
  arcface,
  focal,
  forward,
  MarginHead,
  sgd,
  type ValueAndGradOptions,
  valueAndGradSync,
} from '../src/index.js';
import { expectFailure } from './failures.js';
import { clustered, size, spread } from './loss_cases.js';
import { makeProblem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { type ReferenceOptions, reference } from './reference.js';

const { dim, classes } = size;
const optimizer = sgd({ learningRate: 0.5, momentum: 0.9 });
const margin = adaptiveFace({ lambda: 30 });
const options = { dim, classes, init: spread.weights, margin, optimizer };
const clip = (value: number) => Math.min(Math.max(value, 0), 1);
const furthest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

/** Of the margins, by the functional call. */
function gradientOf(head: MarginHead, margins: Float64Array, { features, labels }: typeof spread) {
  const m = { perClass: Float32Array.from(margins) };
  return valueAndGradSync(
    { features, labels, dim, weights: head.weights() },
    { margin: adaptiveFace({ m }), gradients: 'features' },
  ).dMargins!;
}

describe('dMargins', () => {
  const small = makeProblem({ rows: 9, dim: 3, classes: 5 }, 'spread', 'ignored', 5);
  const first = Float64Array.of(0.1, 0.5, 0.3, 0, 0.9);
  const m = { perClass: Float32Array.from(first) };
  const rowWeights = Float32Array.from({ length: 9 }, (_, i) => (i % 3) / 2);
  const base = { scale: 4, gradient: 'exact', onOverflow: 'none' } as const;

  test.each<[string, ValueAndGradOptions & Partial<ReferenceOptions>]>([
    ['of the mean', { reduction: 'mean' }],
    ['of a weighted sum, times dLoss', { reduction: 'sum', rowWeights, dLoss: 3 }],
    ['of each row', { reduction: 'none', dLoss: rowWeights }],
    ['of a function of the probability', { reduction: 'mean', rowFunction: focal() as never }],
  ])('%s is the difference quotient', async (_, given) => {
    const lossAt = (c: number, by: number) =>
      reference(small, {
        ...base,
        ...given,
        reduction: given.reduction!,
        margin: {
          kind: 'custom',
          callback: ({ cosine, label }) => ({
            target: cosine - first[label]! - (label === c ? by : 0),
            dTarget: 1,
          }),
        },
      } as ReferenceOptions).loss;
    const factor = typeof given.dLoss === 'number' ? given.dLoss : 1;
    const call = { ...base, ...given, margin: adaptiveFace({ m }) } as ValueAndGradOptions;
    const { dMargins } = valueAndGradSync(small, call);
    for (const [c, value] of dMargins!.entries())
      expect(value).toBeCloseTo((factor * (lossAt(c, 1e-5) - lossAt(c, -1e-5))) / 2e-5, 4);
    const { dLoss, ...forwarded } = call;
    using pass = await forward(small, forwarded as never);
    expect((await pass.backward(dLoss)).dMargins).toEqual(dMargins);
  });

  test('are of this margin alone', () => {
    expect(valueAndGradSync(small, { margin: arcface() })).not.toHaveProperty('dMargins');
  });
});

describe('margins of a head', () => {
  test('are drawn from their range, by seed and class', async () => {
    const [head, other] = [
      await MarginHead.create({ ...options, seed: 1, shards: 2 }),
      await MarginHead.create({ ...options, seed: 2 }),
    ];
    const margins = head.classMargins!;
    expect(margins.length).toBe(classes);
    expect(margins.every((value) => value > 0.3 && value < 0.4)).toBe(true);
    expect(new Set(margins).size).toBe(classes);
    expect(other.classMargins).not.toEqual(margins);
    await head.evaluate(spread);
    expect(head.classMargins).toEqual(margins);
    for (const used of [head, other]) used.dispose();
  });

  test.each([1, 3])('descend along their gradient, on %i processes alike', async (ranks) => {
    const heads = await Promise.all(
      processGroup(ranks).map((group) => MarginHead.create({ ...options, group })),
    );
    const alone = await MarginHead.create({ ...options, shards: 3 });
    const bounds = ranks === 1 ? [0, size.rows] : [0, 9, 9, size.rows];
    let margins = alone.classMargins!;
    for (const problem of [spread, clustered, spread]) {
      const gradient = gradientOf(alone, margins, problem);
      margins = margins.map((value, c) => clip(value - 0.5 * (gradient[c]! - 30 / classes)));
      await alone.step(problem);
      expect(furthest(alone.classMargins!, margins)).toBeLessThan(1e-5);
      await Promise.all(
        heads.map((head, rank) => head.step(rowsBetween(problem, bounds[rank]!, bounds[rank + 1]!))),
      );
      for (const head of heads) expect(head.classMargins).toEqual(heads[0]!.classMargins);
      expect(furthest(heads[0]!.classMargins!, margins)).toBeLessThan(1e-4);
    }
    // Some were cut off at either end, others not.
    expect(margins).toContain(0);
    expect(margins.some((value) => value > 0 && value < 1)).toBe(true);
    for (const head of [...heads, alone]) head.dispose();
  });

  test('move with what changes the head, and with nothing else', async () => {
    const head = await MarginHead.create({ ...options, optimizer: adamw({ learningRate: 0.01 }) });
    const first = head.classMargins!;
    await head.evaluate(spread);
    await head.step(spread, { learningRate: 0 });
    await head.step(spread, { margin: arcface() });
    await expectFailure(() => head.step(spread, { signal: AbortSignal.abort() }), 'ERR_ABORTED', /./);
    await head.accumulate(spread, { gradientScale: 0.5 });
    await head.accumulate(clustered, { gradientScale: 0.5 });
    expect(await head.apply({ learningRate: 0 })).toBe(false);
    expect(head.classMargins).toEqual(first);
    const gradients = [spread, clustered].map((problem) => gradientOf(head, first, problem));
    const mean = first.map((_, c) => (gradients[0]![c]! + gradients[1]![c]!) / 2 - 30 / classes);
    await head.apply({ learningRate: 0.02 });
    const second = first.map((value, c) => clip(value - 0.02 * mean[c]!));
    expect(furthest(head.classMargins!, second)).toBeLessThan(1e-6);
    // Used up.
    await head.accumulate(spread, { margin: arcface() });
    await head.apply();
    expect(furthest(head.classMargins!, second)).toBeLessThan(1e-6);

    using pass = head.forwardSync(clustered);
    const gradient = gradientOf(head, second, clustered);
    pass.backwardSync({ learningRate: 0 });
    pass.backwardSync({ learningRate: 0.1, dLoss: 2 });
    const third = second.map((value, c) => clip(value - 0.2 * (gradient[c]! - 30 / classes)));
    expect(furthest(head.classMargins!, third)).toBeLessThan(1e-5);
    head.dispose();
  });

  test('are in checkpoints with what has been accumulated, for any shards and processes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-margins-'));
    const heads = await Promise.all(processGroup(2).map((group) => MarginHead.create({ ...options, group })));
    const parts = [
      { features: spread.features.slice(0, 9 * dim), labels: spread.labels.slice(0, 9) },
      { features: spread.features.slice(9 * dim), labels: spread.labels.slice(9) },
    ];
    const onAll = (call: 'step' | 'accumulate') =>
      Promise.all(heads.map((head, rank) => head[call](parts[rank]!)));
    await onAll('step');
    await onAll('accumulate');
    try {
      for (let save = 0; save < 2; save++) await Promise.all(heads.map((head) => head.save(folder)));
      const arrays = (await readdir(folder)).filter((name) => name.endsWith('-classes.safetensors'));
      expect(arrays.length).toBe(1);
      const loaded = await MarginHead.load(folder, { shards: 3, seed: 99 });
      const regrouped = await Promise.all(processGroup(3).map((group) => MarginHead.load(folder, { group })));
      expect(loaded.margin).toEqual(margin);
      for (const head of [loaded, ...regrouped]) expect(head.classMargins).toEqual(heads[0]!.classMargins);
      await Promise.all([...heads, ...regrouped, loaded].map((head) => head.apply()));
      for (const head of [loaded, ...regrouped]) expect(head.classMargins).toEqual(heads[0]!.classMargins);
      for (const head of [loaded, ...regrouped]) head.dispose();

      const path = join(folder, arrays[0]!);
      const bytes = await readFile(path);
      bytes[bytes.length - 1]! ^= 1;
      await writeFile(path, bytes);
      await expectFailure(
        () => MarginHead.load(folder),
        'ERR_CHECKPOINT',
        /-classes\.safetensors must be as it/,
      );
      await writeFile(path, bytes.subarray(0, -8));
      await expectFailure(
        () => MarginHead.load(folder),
        'ERR_CHECKPOINT',
        /-classes\.safetensors must be \d+ bytes/,
      );
      await rm(path);
      await expectFailure(
        () => MarginHead.load(folder),
        'ERR_CHECKPOINT',
        /-classes\.safetensors cannot be read/,
      );
    } finally {
      await rm(folder, { recursive: true });
      for (const head of heads) head.dispose();
    }
  });

  test('go with their classes', async () => {
    const head = await MarginHead.create(options);
    await head.step(spread);
    await head.accumulate(spread);
    const before = head.classMargins!;
    await head.addClasses(9);
    const more = head.classMargins!;
    expect(more.length).toBe(classes + 9);
    expect(more.subarray(0, classes)).toEqual(before);
    expect(more.subarray(classes).every((value) => value > 0.3 && value < 0.4)).toBe(true);
    await head.accumulate({
      ...clustered,
      labels: clustered.labels.map((label, i) => (i === 0 ? classes + 8 : label)),
    });
    const map = await head.removeClasses([0, 5, classes + 7]);
    const fewer = head.classMargins!;
    for (const [id, to] of map.entries()) if (to !== -1) expect(fewer[to]).toBe(more[id]);
    await head.apply();
    const applied = head.classMargins!;
    // The row of a new class pulled its margin down by what was accumulated.
    expect(applied[classes + 5]!).toBeLessThan(fewer[classes + 5]!);
    expect((await head.step({ ...spread, labels: spread.labels.map(() => 0) })).loss).toBeGreaterThan(0);
    head.dispose();
  });

  test.each<[string, () => unknown, string, RegExp]>([
    [
      'margins given to a head',
      () =>
        MarginHead.create({
          ...options,
          margin: adaptiveFace({ m: { perClass: new Float32Array(classes) } }),
        }),
      'ERR_OPTION',
      /^margin\.m must be left out on a MarginHead, which keeps margins, received \{ perClass \}$/,
    ],
    [
      'no margins without a head',
      () => valueAndGradSync(spread, { margin }),
      'ERR_OPTION',
      /^margin\.m must be \{ perClass \} where no MarginHead keeps margins, received undefined$/,
    ],
    [
      'too few margins',
      () => valueAndGradSync(spread, { margin: adaptiveFace({ m: { perClass: new Float32Array(3) } }) }),
      'ERR_SHAPE',
      /^margin\.m\.perClass\.length must be 131 \(classes\), received 3$/,
    ],
    [
      'an upper end below the lower one',
      () => adaptiveFace({ lower: 0.5 }),
      'ERR_MARGIN',
      /^margin\.upper must be at least lower 0\.5, received 0\.4$/,
    ],
    [
      'a margin above 1',
      () => adaptiveFace({ upper: 2 }),
      'ERR_MARGIN',
      /^margin\.upper must be a number in \[0, 1\], received 2$/,
    ],
  ])('%s is an error', (_, call, code, message) => expectFailure(call, code, message));
});
