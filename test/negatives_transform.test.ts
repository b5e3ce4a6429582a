/** Losses that change negatives too, and inter-class filtering: on every engine, and what else they must leave right. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  arcface,
  cosface,
  curricularface,
  type LossOptions,
  MarginHead,
  mvSoftmax,
  npcface,
  sgd,
  softmax,
  valueAndGradSync,
} from '../src/index.js';
import type { Execution } from './cases.js';
import { closeEngines, type Engine, evaluate } from './engines.js';
import { expectFailure } from './failures.js';
import { findEveryKindOfEngine } from './gpus.js';
import {
  type Case,
  cases,
  clustered,
  expected,
  optionsOf,
  referenceOptions,
  rowsOf,
  size,
  spread,
} from './loss_cases.js';
import { expectWithinLimits, float32Limits, halfLimits, type Limits } from './metrics.js';
import { makeProblem, type Problem } from './problems.js';
import { processGroup } from './process_group.js';
import { seeded } from './random.js';
import { reference } from './reference.js';

const engines = await findEveryKindOfEngine();
afterAll(closeEngines);

const transformed = cases.filter(({ negative }) => negative);
const { dim, classes } = size;

const executions = (
  [
    { shards: 1, threads: 2, workspace: 'keep', call: 'valueAndGrad', arrays: 'whole' },
    { shards: 3, threads: 1, workspace: 'recompute', call: 'valueAndGradSync', arrays: 'inside' },
    { shards: 2, threads: 2, workspace: 'keep', call: 'forward and backward', arrays: 'inside' },
    { shards: 7, threads: 2, workspace: 'recompute', call: 'forward and backward', arrays: 'whole' },
  ] as const
).map((execution): Execution => ({ ...execution, precision: 'float32' }));

/** Cosines are multiples of 1/8 that no threshold is near, so that 16-bit operands leave each negative on its side. */
function coarse(seed: number): Problem {
  const random = seeded(seed);
  const rows = (count: number, length: number) =>
    Float32Array.from(
      Array.from({ length: count }, () => {
        const row = new Array<number>(dim).fill(0);
        for (let left = length; left > 0; ) {
          const d = random.below(dim);
          if (row[d] !== 0) continue;
          row[d] = (random.below(2) === 0 ? 1 : -1) / Math.sqrt(length);
          left--;
        }
        return row;
      }).flat(),
    );
  const [features, weights] = [rows(size.rows, 4), rows(classes, 16)];
  const product = (i: number, j: number) =>
    features.subarray(i * dim, (i + 1) * dim).reduce((sum, x, d) => sum + x * weights[j * dim + d]!, 0);
  const labels = Int32Array.from({ length: size.rows }, (_, i) => {
    if (i % 5 === 2) return -1;
    // At 0 margins that are for positive cosines have no derivative.
    for (;;) {
      const label = random.below(classes);
      if (product(i, label) !== 0) return label;
    }
  });
  return { features, weights, labels, dim };
}

async function expectOn(
  engine: Engine,
  tested: Case,
  problem: Problem,
  scale: number,
  execution: Execution,
  limits: Limits,
) {
  for (const gradient of ['exact', 'straightThrough'] as const) {
    const options = referenceOptions(tested, rowsOf(problem, scale), gradient);
    const { result } = await evaluate(engine, problem, options, execution, optionsOf(tested));
    expectWithinLimits(result, reference(problem, options), limits);
  }
}

describe.each(engines)('engine $name', (engine) => {
  test.each(transformed)('$name', async (tested) => {
    const problems = [
      spread,
      clustered,
      makeProblem({ rows: 131, dim: 9, classes: 31 }, 'spread', 'random', 4),
    ];
    for (const [i, problem] of problems.entries())
      await expectOn(engine, tested, problem, 64, executions[i]!, float32Limits(3 * 64));
    // Sums of exponentials that leave float32 with any offset but the rows' own.
    const opposite = makeProblem(size, 'opposite', 'ignored', 5);
    await expectOn(engine, tested, opposite, 90, executions[3]!, float32Limits(3 * 90));
  });

  test.each(transformed)('$name with 16-bit operands', async (tested) => {
    const halves = (['bfloat16', 'float16'] as const).filter((type) => engine.precisions.includes(type));
    for (const i of [0, 1, 2]) {
      const precision = halves[i % halves.length]!;
      const execution = { ...executions[i]!, precision };
      const limits = halfLimits(precision, { scale: 3 * 32 });
      // Of a binary reduction a part of the loss.
      const binary = { ...limits, logSumExp: limits.loss };
      await expectOn(engine, tested, coarse(i), 32, execution, tested.binary ? binary : limits);
    }
  });
});

describe('identities', () => {
  test.each<[string, LossOptions, LossOptions]>([
    ['mvSoftmax with t = 0 is cosface', { margin: mvSoftmax({ t: 0 }) }, { margin: cosface() }],
    [
      'mvSoftmax of arcface with t = 0 is arcface',
      { margin: mvSoftmax({ target: 'arcface', m: 0.5, t: 0 }), onOverflow: 'easy' },
      { margin: arcface(), onOverflow: 'easy' },
    ],
    [
      'npcface that changes nothing is arcface',
      { margin: npcface({ m0: 0.5, m1: 0, t: 1, a: 0 }), onOverflow: 'fallback' },
      { margin: arcface(), onOverflow: 'fallback' },
    ],
    ['a filter that no negative meets is none', { filterThreshold: 0.99 }, {}],
    ['a threshold of 0 is none', { filterThreshold: 0 }, {}],
  ])('%s', (_, given, same) => {
    const [out, wanted] = [valueAndGradSync(spread, given), valueAndGradSync(spread, same)];
    expect(out.loss).toBeCloseTo(wanted.loss, 5);
    for (const name of ['rowLoss', 'logSumExp', 'dFeatures', 'dWeights'] as const) {
      const largest = wanted[name].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const apart = out[name].reduce(
        (most, value, i) => Math.max(most, Math.abs(value - wanted[name][i]!)),
        0,
      );
      expect(apart).toBeLessThan(1e-5 * largest);
    }
  });
});

test.each(transformed)('$name: accuracy and angles are those of the cosines', async (tested) => {
  const head = await MarginHead.create({ dim, classes, init: spread.weights, shards: 2 });
  const wanted = { accuracyTop5: true, histograms: 32 };
  for (const problem of [spread, clustered])
    for (const scale of [64, 100]) {
      const plain = await head.evaluate(problem, { ...wanted, margin: softmax(), scale });
      const out = await head.evaluate(problem, { ...wanted, ...optionsOf(tested), scale });
      const { accuracy, accuracyTop5, angles, targetCosine } = plain;
      expect(out).toMatchObject({ accuracy, accuracyTop5, angles, targetCosine });
    }
  head.dispose();
});

test.each(transformed)('$name: a tolerance leaves out no more than it says', (tested) => {
  const gradientTolerance = 0.02;
  const options = { ...optionsOf(tested), scale: 32 };
  const batch = makeProblem({ rows: 5, dim: 8, classes: 700 }, 'spread', 'random', 6);
  for (const shards of [1, 3]) {
    const exact = valueAndGradSync(batch, { ...options, shards });
    const out = valueAndGradSync(batch, { ...options, shards, gradientTolerance });
    expect(out.dFeatures).toEqual(exact.dFeatures);
    expect(out.skippedMass).toBeLessThanOrEqual(gradientTolerance);
    let moved = 0;
    for (let j = 0; j < 700; j++) {
      const of = (values: Float32Array) => values.subarray(8 * j, 8 * j + 8);
      const change = of(exact.dWeights).map((value, d) => value - of(out.dWeights)[d]!);
      moved += Math.hypot(...of(batch.weights)) * Math.hypot(...change);
    }
    expect(moved).toBeLessThanOrEqual(32 * gradientTolerance);
  }
});

test.each(transformed)('$name: a sampled step is that of the classes it looks at', async (tested) => {
  // Without a gradient too, classes that take part decay.
  const optimizer = sgd({ learningRate: 1e-3, weightDecay: 0.1 });
  const init = spread.weights;
  const options = {
    dim,
    classes,
    init,
    optimizer,
    sampleRate: 0.5,
    seed: 3,
    shards: 2,
    ...optionsOf(tested),
  };
  const head = await MarginHead.create(options);
  const { rowLoss, dFeatures, sampledClasses } = await head.step(clustered);
  const after = head.weights();
  head.dispose();
  const row = (values: Float32Array, j: number) => values.subarray(j * dim, (j + 1) * dim);
  const drawn = Array.from({ length: classes }, (_, j) => j).filter((j) =>
    row(after, j).some((value, d) => value !== row(init, j)[d]),
  );
  expect(drawn.length).toBe(sampledClasses);
  const batch = {
    ...clustered,
    weights: Float32Array.from(drawn.flatMap((j) => [...row(init, j)])),
    labels: clustered.labels.map((label) => (label === -1 ? -1 : drawn.indexOf(label))),
  };
  expectWithinLimits({ rowLoss, dFeatures }, expected(batch, tested), float32Limits(3 * 64));
});

describe("CurricularFace's t", () => {
  const margin = curricularface({ rate: 0.3 });
  const options = { dim, classes, margin, init: spread.weights };
  const movedBy = (problem: Problem, before = 0, weights = problem.weights) => {
    const { cosine, labels } = rowsOf({ ...problem, weights }, 64);
    const counted = cosine.filter((_, i) => labels[i] !== -1);
    return 0.3 * (counted.reduce((sum, value) => sum + value, 0) / counted.length) + 0.7 * before;
  };

  test('moves with what changes the head, and with nothing else', async () => {
    const head = await MarginHead.create(options);
    expect(head.curriculum).toBeUndefined();
    await head.evaluate(spread);
    await head.step(spread, { learningRate: 0 });
    expect(head.curriculum).toBeUndefined();
    await head.step(spread, { learningRate: 1e-9 });
    const first = movedBy(spread);
    expect(head.curriculum).toBeCloseTo(first, 6);
    const weights = head.weights();
    const { loss } = await head.evaluate({ ...clustered });
    const given = valueAndGradSync(
      { ...clustered, weights },
      { margin: curricularface({ rate: 0, t: first }) },
    );
    expect(loss).toBeCloseTo(given.loss, 4);
    await head.accumulate(clustered);
    expect(head.curriculum).toBeCloseTo(movedBy(clustered, first, weights), 6);
    head.dispose();
  });

  test('is in checkpoints, and the same on all processes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-curriculum-'));
    const heads = await Promise.all(processGroup(2).map((group) => MarginHead.create({ ...options, group })));
    const { features, labels } = spread;
    await Promise.all(
      heads.map((head, rank) =>
        head.step(
          rank === 0
            ? { features: features.slice(0, 7 * dim), labels: labels.slice(0, 7) }
            : { features: features.slice(7 * dim), labels: labels.slice(7) },
        ),
      ),
    );
    const { curriculum } = heads[0]!;
    expect(curriculum).toBeCloseTo(movedBy(spread), 6);
    expect(heads[1]!.curriculum).toBe(curriculum);
    try {
      await Promise.all(heads.map((head) => head.save(folder)));
      const loaded = await MarginHead.load(folder);
      expect(loaded.curriculum).toBe(curriculum);
      expect(loaded.normStatistics).toBeUndefined();
      loaded.dispose();
    } finally {
      await rm(folder, { recursive: true });
    }
    for (const head of heads) head.dispose();
  });

  test('is left alone by a batch without labels', () => {
    const none = { ...spread, labels: spread.labels.map(() => -1) };
    expect(valueAndGradSync(none, { margin }).loss).toBe(0);
  });
});

test('a head keeps its filter threshold, in a checkpoint too', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'marginfc-filter-'));
  const head = await MarginHead.create({ dim, classes, init: spread.weights, filterThreshold: 0.1 });
  const { loss } = await head.evaluate(spread);
  expect(loss).toBeCloseTo(valueAndGradSync(spread, { filterThreshold: 0.1 }).loss, 5);
  expect((await head.evaluate(spread, { filterThreshold: 0 })).loss).toBeCloseTo(
    valueAndGradSync(spread).loss,
    5,
  );
  try {
    await head.save(folder);
    const loaded = await MarginHead.load(folder);
    expect(loaded.filterThreshold).toBe(0.1);
    expect((await loaded.evaluate(spread)).loss).toBe(loss);
    loaded.dispose();
  } finally {
    await rm(folder, { recursive: true });
  }
  head.dispose();
});

test.each<[string, LossOptions, string, RegExp]>([
  [
    'label smoothing with such a margin',
    { margin: mvSoftmax(), labelSmoothing: 0.1 },
    'ERR_OPTION',
    /^labelSmoothing must be 0 with margin mvSoftmax, received 0\.1$/,
  ],
  [
    'label smoothing with a filter',
    { filterThreshold: 0.4, labelSmoothing: 0.1 },
    'ERR_OPTION',
    /^labelSmoothing must be 0 with filterThreshold 0\.4, received 0\.1$/,
  ],
  [
    'a filter with such a margin',
    { margin: npcface(), filterThreshold: 0.4 },
    'ERR_OPTION',
    /^filterThreshold must be 0 with margin npcface, received 0\.4$/,
  ],
  [
    'a negative threshold',
    { filterThreshold: -0.1 },
    'ERR_OPTION',
    /^filterThreshold must be a finite number >= 0 and < 1, received -0\.1$/,
  ],
  [
    'a threshold of 1',
    { filterThreshold: 1 },
    'ERR_OPTION',
    /^filterThreshold must be a finite number >= 0 and < 1, received 1$/,
  ],
])('%s is an error', async (_, given, code, message) => {
  await expectFailure(() => valueAndGradSync(spread, given), code, message);
  await expectFailure(() => MarginHead.create({ dim, classes, ...given }), code, message);
});
