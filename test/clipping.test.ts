/** Clipping of the weights' gradient: the update of a clipped gradient, made from the unclipped one of valueAndGrad. */
import { afterAll, describe, expect, test } from 'vitest';
import {
  adamw,
  type GradientClip,
  MarginHead,
  type MarginHeadOptions,
  sgd,
  valueAndGradSync,
  type Workspace,
} from '../src/index.js';
import {
  closeEngines,
  type Engine,
  findEngines,
  type HeadStep,
  halfInstructionSets,
  runHead,
} from './engines.js';
import { expectFailure, failureOf } from './failures.js';
import { assign, findGpus, findSomeSoftwareGpus } from './gpus.js';
import { makeProblem, type Problem } from './problems.js';

const engines = (await findEngines(halfInstructionSets)).filter(({ missing }) => missing === undefined);
afterAll(closeEngines);

const size = { rows: 64, dim: 33, classes: 131 };
const { dim, classes } = size;
const first = makeProblem(size, 'clustered', 'ignored', 1);
const second = makeProblem(size, 'spread', 'random', 2);
const { weights } = first;

const rowNorms = (matrix: ArrayLike<number>) =>
  Array.from({ length: classes }, (_, j) =>
    Math.sqrt(Array.from({ length: dim }, (_, d) => matrix[j * dim + d]! ** 2).reduce((a, b) => a + b)),
  );

/** torch.nn.utils.clip_grad_norm_ with no epsilon, of each row or of all. */
function clipped(gradient: Float64Array, clip: GradientClip): Float64Array {
  const norms = rowNorms(gradient);
  const factor = (norm: number, most: number) => Math.min(1, most / norm);
  const total = Math.hypot(...norms);
  return gradient.map((value, i) =>
    clip.global === undefined
      ? value * factor(norms[Math.floor(i / dim)]!, clip.perClass)
      : value * factor(total, clip.global),
  );
}

const gradientOf = (batch: Problem, at: Float32Array, scale = 1) =>
  Float64Array.from(valueAndGradSync({ ...batch, weights: at }).dWeights, (value) => value * scale);

/** Half of the classes, or all as a whole, are longer than these allow; and a limit that nothing reaches. */
const median = rowNorms(gradientOf(first, weights)).sort((a, b) => a - b)[(classes / 2) | 0]!;
const clips: Record<string, GradientClip> = {
  'each class': { perClass: median },
  'all classes as a whole': { global: 5 * median },
  'each class, far away': { perClass: 1e6 },
  'all classes, far away': { global: 1e6 },
};

const learningRate = 0.5;
const weightDecay = 0.05;
const optimizer = sgd({ learningRate, weightDecay, momentum: 0.9 });

function expectUpdate(got: Float32Array, gradient: Float64Array): void {
  const expected = gradient.map((g, i) => weights[i]! - learningRate * (g + weightDecay * weights[i]!));
  const error = got.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
  const moved = gradient.reduce((most, g) => Math.max(most, Math.abs(learningRate * g)), 0);
  expect(error).toBeLessThan(1e-6 + 1e-4 * moved);
}

async function expectClipped(
  engine: Engine,
  clipWeightGradient: GradientClip,
  shards: number,
  workspaces: readonly Workspace[],
): Promise<void> {
  for (const workspace of workspaces) {
    const head: MarginHeadOptions = {
      dim,
      classes,
      init: weights,
      optimizer,
      shards,
      workspace,
      clipWeightGradient,
    };
    const plain = { ...head, clipWeightGradient: undefined };
    const step: HeadStep[] = [{ call: 'step', batch: first }];
    const got = await runHead(engine, head, step);
    expectUpdate(got.weights, clipped(gradientOf(first, weights), clipWeightGradient));
    // Of the embedding nothing is clipped.
    const unclipped = await runHead(engine, plain, step);
    expect(got.results).toEqual(unclipped.results);
    const accumulated = await runHead(engine, head, [
      { call: 'accumulate', batch: first, options: { gradientScale: 3 } },
    ]);
    expectUpdate(accumulated.weights, clipped(gradientOf(first, weights, 3), clipWeightGradient));
  }
}

const cases = Object.entries(clips).flatMap(([name, clip]) =>
  [1, 2, 3, 7].map((shards) => [name, shards, clip] as const),
);

const onGpus = assign(cases, await findSomeSoftwareGpus(), await findGpus(), () => ['float32'] as const);
test.each(
  onGpus.map(({ engine, entry: [name, shards, clip] }) => [engine.name, name, shards, clip, engine] as const),
)('engine %s, %s, %i shards: step, and accumulate with apply', (_, __, shards, clip, engine) =>
  expectClipped(engine, clip, shards, ['recompute']),
);

describe.each(engines)('engine $name', (engine) => {
  test.each(cases)('%s, %i shards: step, and accumulate with apply', (_, shards, clip) =>
    expectClipped(engine, clip, shards, ['keep', 'recompute']),
  );

  test('bfloat16 operands are clipped by their own gradient', async () => {
    const head = {
      dim,
      classes,
      init: weights,
      optimizer: sgd({ learningRate }),
      precision: 'bfloat16',
    } as const;
    const clip = { perClass: median / 2 };
    const got = await runHead(engine, { ...head, clipWeightGradient: clip }, [
      { call: 'step', batch: first },
    ]);
    const norms = rowNorms(got.weights.map((value, i) => (weights[i]! - value) / learningRate));
    expect(Math.max(...norms)).toBeLessThan((median / 2) * (1 + 1e-3));
  });
});

test('a limit that nothing reaches changes no bit', async () => {
  const run = async (clipWeightGradient: GradientClip | undefined) => {
    const head = await MarginHead.create({
      dim,
      classes,
      init: weights,
      optimizer: adamw(),
      clipWeightGradient,
    });
    await head.step(first);
    await head.accumulate(second);
    await head.apply();
    const after = head.weights();
    head.dispose();
    return after;
  };
  const expected = await run(undefined);
  expect(await run({ perClass: 1e6 })).toEqual(expected);
  expect(await run({ global: 1e6 })).toEqual(expected);
});

test('gradients beyond the range of float32 squares, of rows of every norm, are clipped', async () => {
  const stretched = weights.map((value, i) => value * [1, 1e-25, 1e-13, 1e8][Math.floor(i / dim) % 4]!);
  const options = { dim, classes, init: stretched, optimizer: sgd({ learningRate: 1 }), checkFinite: true };
  const head = await MarginHead.create({ ...options, clipWeightGradient: { perClass: 1e-3 } });
  await head.step(first);
  const moved = rowNorms(head.weights().map((value, i) => value - stretched[i]!));
  expect(Math.max(...moved.filter((_, j) => j % 4 < 3))).toBeLessThan(1.001e-3);
  expect(Math.max(...moved.filter((_, j) => j % 4 === 1))).toBeGreaterThan(0.999e-3);
  expect(head.weights().every(Number.isFinite)).toBe(true);
  head.dispose();
});

test.each([
  ['neither', {}, /^clipWeightGradient must be \{ perClass \} or \{ global \}, received \{\}$/],
  ['both', { perClass: 1, global: 1 }, /^clipWeightGradient must be \{ perClass \} or \{ global \}/],
  ['0', { perClass: 0 }, /^clipWeightGradient\.perClass must be a finite number > 0, received 0$/],
  ['infinity', { global: Infinity }, /^clipWeightGradient\.global must be a finite number > 0/],
  [
    'another name',
    { norm: 1 },
    /^a name in clipWeightGradient must be one of perClass, global, received 'norm'$/,
  ],
])('%s is refused', async (_, clipWeightGradient, message) => {
  const create = () =>
    MarginHead.create({ dim, classes, clipWeightGradient: clipWeightGradient as GradientClip });
  await expectFailure(create, 'ERR_OPTION', message);
});

describe('after a step that failed', () => {
  const options: MarginHeadOptions = {
    dim,
    classes,
    init: weights,
    optimizer,
    shards: 3,
    labelSmoothing: 0.1,
    clipWeightGradient: { global: median },
  };
  const withEverything = { accuracyTop5: true, histograms: true } as const;
  const failures: [string, (head: MarginHead) => Promise<unknown>][] = [
    [
      'an abort in the queue',
      async (head) => {
        const abort = new AbortController();
        const ahead = head.evaluate(first);
        const failed = failureOf(() => head.step(first, { ...withEverything, signal: abort.signal }));
        abort.abort();
        expect((await failed).code).toBe('ERR_ABORTED');
        await ahead;
      },
    ],
    [
      'an abort at work, at whatever moment it comes',
      async (head) => {
        for (const delay of [0, 1, 2, 4]) {
          const abort = new AbortController();
          const { stepCount } = head;
          const call = head.step(first, { ...withEverything, signal: abort.signal, learningRate: 0 });
          setTimeout(() => abort.abort(), delay);
          await call.catch((error) => expect(error.code).toBe('ERR_ABORTED'));
          expect(head.stepCount).toBe(stepCount);
        }
      },
    ],
    [
      'features that are not finite',
      async (head) => {
        const features = first.features.map((value, i) => (i === 40 ? Number.NaN : value));
        const failed = await failureOf(() => head.step({ ...first, features }, withEverything));
        expect(failed.code).toBe('ERR_NOT_FINITE');
      },
    ],
  ];
  test.each(failures)('%s: the next ones are as if it had never been made', async (_, fail) => {
    const [head, other] = [await MarginHead.create(options), await MarginHead.create(options)];
    for (const each of [head, other]) await each.step(second, withEverything);
    await fail(head);
    for (const batch of [first, second])
      expect(await head.step(batch, withEverything)).toEqual(await other.step(batch, withEverything));
    for (const each of [head, other]) {
      await each.accumulate(first);
      await each.apply();
    }
    expect(head.weights()).toEqual(other.weights());
    for (const each of [head, other]) each.dispose();
  });
});
