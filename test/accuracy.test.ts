/** Accuracies and histograms of angles on every engine, against all cosines in float64. */
import { afterAll, describe, expect, test } from 'vitest';
import { MarginHead, type Precision } from '../src/index.js';
import { closeEngines, type Engine, findEngines, halfInstructionSets, runHead } from './engines.js';
import { expectFailure } from './failures.js';
import { assign, findGpus, findSomeSoftwareGpus } from './gpus.js';
import { makeProblem, type Problem } from './problems.js';
import { type ReferenceOptions, type ReferenceResult, reference } from './reference.js';

const engines = (await findEngines(halfInstructionSets)).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

const size = { rows: 131, dim: 33, classes: 1009 };

/** Every other row near its class, but nearer to as many others as its number says. */
function ranked(): Problem {
  const { features, weights, labels, dim } = makeProblem(size, 'spread', 'ignored', 5);
  const unit = (row: Float32Array) => {
    const norm = Math.hypot(...row);
    return row.map((value) => value / norm);
  };
  for (const [i, label] of labels.entries()) {
    if (label < 0) continue;
    const x = unit(features.subarray(i * dim, (i + 1) * dim));
    const noise = i % 2 === 0 ? 0.2 : 0;
    // Rows of even number are near their class; what else is nearer is a matter of chance.
    const own = unit(weights.subarray(label * dim, (label + 1) * dim));
    if (i % 2 === 0)
      features.set(
        own.map((value, d) => value * noise * (1 + (i % 7)) + x[d]!),
        i * dim,
      );
  }
  return { features, weights, labels, dim };
}

const problems: Record<string, Problem> = {
  'near and far': ranked(),
  'five classes': makeProblem({ rows: 31, dim: 8, classes: 5 }, 'spread', 'ignored', 1),
  'six classes': makeProblem({ rows: 131, dim: 8, classes: 6 }, 'spread', 'random', 2),
  'one class': makeProblem({ rows: 3, dim: 8, classes: 1 }, 'spread', 'random', 2),
  'no row that counts': {
    ...makeProblem({ rows: 3, dim: 8, classes: 9 }, 'spread', 'random', 2),
    labels: new Int32Array(3).fill(-1),
  },
};

const options: ReferenceOptions = {
  margin: { kind: 'arcface', m: 0.5 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};
const expected = new Map(
  Object.entries(problems).map(([name, problem]) => [name, reference(problem, options)]),
);

/** Angles whose bin rounding could change count in either. */
function expectHistogram(got: Int32Array, cosines: readonly number[]): void {
  const bins = got.length;
  const doubtful = 1e-5 * bins;
  const [sure, most] = [new Int32Array(bins), new Int32Array(bins)];
  for (const cosine of cosines) {
    const place = (Math.acos(cosine) / Math.PI) * bins;
    const bin = (at: number) => Math.max(0, Math.min(bins - 1, Math.floor(at)));
    const [low, high] = [bin(place - doubtful), bin(place + doubtful)];
    if (low === high) sure[low]!++;
    for (let b = low; b <= high; b++) most[b]!++;
  }
  expect(got.reduce((sum, n) => sum + n, 0)).toBe(cosines.length);
  expect(got.every((n, b) => n >= sure[b]! && n <= most[b]!)).toBe(true);
}

const counted = ({ labels }: Problem, values: Float64Array) => [...values].filter((_, i) => labels[i] !== -1);

async function expectCounts(engine: Engine, name: string, shards: number): Promise<void> {
  const problem = problems[name]!;
  const { accuracy, accuracyTop5, targetCosine, hardestCosine } = expected.get(name) as ReferenceResult;
  const { dim, weights } = problem;
  const head = { dim, classes: weights.length / dim, init: weights, shards };
  // Each on its own, at a scale with offsets and one without; row weights count no row twice.
  const rowWeights = Float32Array.from(problem.labels, (_, i) => i % 3);
  const { results } = await runHead(engine, head, [
    { call: 'step', batch: problem, options: { accuracyTop5: true, histograms: true, learningRate: 0 } },
    {
      call: 'step',
      batch: problem,
      options: { accuracyTop5: true, scale: 100, rowWeights, learningRate: 0 },
    },
    { call: 'accumulate', batch: problem, options: { histograms: 36, rowWeights } },
  ]);
  expect(results[0]).toMatchObject({ accuracy, accuracyTop5 });
  expect(results[1]).toMatchObject({ accuracy, accuracyTop5 });
  expect('angles' in results[1]!).toBe(false);
  expect('accuracyTop5' in results[2]!).toBe(false);
  for (const [result, bins] of [
    [results[0], 180],
    [results[2], 36],
  ] as const) {
    const { target, hardestNegative } = result!.angles!;
    expect([target.length, hardestNegative.length]).toEqual([bins, bins]);
    expectHistogram(target, counted(problem, targetCosine));
    expectHistogram(
      hardestNegative,
      counted(problem, hardestCosine).filter((cosine) => cosine >= -1),
    );
  }
}

async function expectNearlyCounts(engine: Engine, precision: Precision): Promise<void> {
  const problem = problems['near and far']!;
  const { dim, weights } = problem;
  const head = { dim, classes: size.classes, init: weights, shards: 2, precision };
  const { results } = await runHead(engine, head, [
    { call: 'step', batch: problem, options: { accuracyTop5: true } },
  ]);
  const { accuracyTop5 } = expected.get('near and far')!;
  expect(Math.abs(results[0]!.accuracyTop5! - accuracyTop5)).toBeLessThan(0.05);
  expect(results[0]!.accuracyTop5).toBeGreaterThanOrEqual(results[0]!.accuracy);
}

const counts = Object.keys(problems).flatMap((name) => [1, 2, 3, 7].map((shards) => [name, shards] as const));

const software = await findSomeSoftwareGpus();
const onGpus = assign(counts, software, await findGpus(), () => ['float32'] as const);
test.each(onGpus.map(({ engine, entry: [name, shards] }) => [engine.name, name, shards, engine] as const))(
  'engine %s counts %s, %i shards',
  (_, name, shards, engine) => expectCounts(engine, name, shards),
);
const halves = assign([0, 1, 2], software, await findGpus(), () => ['float16', 'bfloat16'] as const);
test.each(halves.map(({ engine, precision }) => [engine.name, precision, engine] as const))(
  'engine %s counts %s operands nearly so',
  (_, precision, engine) => expectNearlyCounts(engine, precision),
);

describe.each(engines)('engine $name', (engine) => {
  test.each(counts)('counts %s, %i shards', (name, shards) => expectCounts(engine, name, shards));

  test.each(engine.precisions)('counts %s operands nearly so', (precision) =>
    expectNearlyCounts(engine, precision),
  );
});

test('the rows of this test are of all ranks', () => {
  const { accuracy, accuracyTop5 } = expected.get('near and far')!;
  expect(accuracy).toBeGreaterThan(0.1);
  expect(accuracyTop5).toBeGreaterThan(accuracy + 0.02);
  expect(accuracyTop5).toBeLessThan(0.9);
});

test('what else a step does is the same with them', async () => {
  const problem = problems['near and far']!;
  const { dim, weights } = problem;
  const make = () => MarginHead.create({ dim, classes: size.classes, init: weights });
  const [head, other] = [await make(), await make()];
  const {
    accuracyTop5: _,
    angles,
    ...same
  } = await head.step(problem, { accuracyTop5: true, histograms: 10 });
  expect(same).toEqual(await other.step(problem));
  expect(head.weights()).toEqual(other.weights());
  const pass = head.forwardSync(problem, { accuracyTop5: true, histograms: 10 });
  const now = await head.evaluate(problem, { accuracyTop5: true, histograms: 10 });
  expect({ accuracyTop5: pass.accuracyTop5, angles: pass.angles }).toEqual({
    accuracyTop5: now.accuracyTop5,
    angles: now.angles,
  });
  expect(angles!.target).toHaveLength(10);
  pass.dispose();
  await expectFailure(
    () => head.step(problem, { histograms: 0 }),
    'ERR_OPTION',
    /^histograms must be an integer in \[1, 65536\], received 0$/,
  );
  await expectFailure(
    () => head.step(problem, { accuracyTop5: 5 as unknown as boolean }),
    'ERR_TYPE',
    /^accuracyTop5 must be a boolean, received 5$/,
  );
  for (const each of [head, other]) each.dispose();
});
