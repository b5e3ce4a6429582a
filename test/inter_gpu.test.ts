/**
 * The inter-loss on GPUs, against its formula in float64 whatever the precision of the loss: its value, its gradient and what heads make
 * of it, on software devices of each compute capability; on several devices and processes as head_gpu.test.ts.
 */
import { afterAll, describe, expect, test } from 'vitest';
import {
  adamw,
  type DeviceName,
  interLoss,
  MarginHead,
  type MarginHeadOptions,
  type Optimizer,
  type Precision,
  sgd,
  valueAndGrad,
} from '../src/index.js';
import { closeEngines, type HeadStep, runHead } from './engines.js';
import { assignToEach, findGpus, findSoftwareGpus, gpusOfThisProcess } from './gpus.js';
import { expectWithinLimits, float32Limits, gradientError } from './metrics.js';
import { untrained, update } from './optimizer_rules.js';
import { makeProblem, type Problem, rowsBetween } from './problems.js';
import { processGroup } from './process_group.js';
import { arcfaceMean, reference } from './reference.js';

// Tiles of classes and of rows of which the last is not whole.
const size = { rows: 150, dim: 33, classes: 300 };
const { rows, dim, classes } = size;
const problem = makeProblem(size, 'spread', 'ignored', 19);
const { features, labels } = problem;
const batch = { features, labels };
const limits = float32Limits(64);

/** Minus the mean angle, and its gradient for weights; without the term's weight. */
function inter({ weights, labels, dim }: Problem) {
  const rowOf = (j: number) => Array.from(weights.subarray(j * dim, (j + 1) * dim));
  const count = weights.length / dim;
  const norms = Array.from({ length: count }, (_, j) => Math.hypot(...rowOf(j)));
  const units = norms.map((norm, j) => rowOf(j).map((value) => value / norm));
  const counted = labels.filter((label) => label !== -1);
  const gradient = new Float64Array(weights.length);
  let value = 0;
  for (const y of new Set(counted)) {
    const share = counted.filter((label) => label === y).length / counted.length / (Math.PI * (count - 1));
    const own = units[y]!;
    for (const [j, other] of units.entries()) {
      if (j === y) continue;
      const product = other.reduce((sum, value, d) => sum + value * own[d]!, 0);
      const cosine = Math.max(-1, Math.min(1, product));
      value -= share * Math.acos(cosine);
      const slope = share / Math.max(1e-3, Math.sqrt(1 - cosine * cosine));
      for (let d = 0; d < dim; d++) {
        gradient[y * dim + d]! += (slope * (other[d]! - cosine * own[d]!)) / norms[y]!;
        gradient[j * dim + d]! += (slope * (own[d]! - cosine * other[d]!)) / norms[j]!;
      }
    }
  }
  return { value, gradient, norms };
}

/** Of arcface and the term. */
function wanted(weight: number, given: Problem = problem) {
  const { value, gradient } = inter(given);
  const plain = reference(given, arcfaceMean);
  return {
    ...plain,
    loss: plain.loss + weight * value,
    lossMagnitude: Math.max(plain.lossMagnitude, Math.abs(weight * value)),
    dWeights: plain.dWeights.map((own, e) => own + weight * gradient[e]!),
  };
}

afterAll(closeEngines);
const [software, machine] = [await findSoftwareGpus(), await findGpus()];

describe('a head', () => {
  const rowsOf = (gradient: Float64Array) =>
    Array.from({ length: classes }, (_, j) => Math.hypot(...gradient.subarray(j * dim, (j + 1) * dim)));
  const clips = {
    perClass: (gradient: Float64Array, limit: number) => {
      const norms = rowsOf(gradient);
      return gradient.map((value, e) => value * Math.min(1, limit / norms[Math.floor(e / dim)]!));
    },
    global: (gradient: Float64Array, limit: number) =>
      gradient.map((value) => (value * limit) / Math.hypot(...gradient)),
  };
  interface Tested {
    readonly precision: Precision;
    /** So large in 16 bits that what these leave of the loss's own gradient is nothing beside the term's. */
    readonly weight: number;
    readonly optimizer: Optimizer;
    readonly call: HeadStep['call'];
    readonly clip?: keyof typeof clips;
    readonly shards: number;
  }
  const momentum = sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 0.01 });
  const adam = adamw({ learningRate: 0.1, epsilon: 1e-2 });
  const table: Tested[] = [
    { precision: 'float32', weight: 50, optimizer: momentum, call: 'step', shards: 1 },
    { precision: 'float32', weight: 50, optimizer: adam, call: 'step', shards: 3 },
    { precision: 'float32', weight: 50, optimizer: momentum, call: 'accumulate', shards: 2 },
    { precision: 'float32', weight: 50, optimizer: momentum, call: 'step', clip: 'perClass', shards: 2 },
    { precision: 'float32', weight: 50, optimizer: adam, call: 'step', clip: 'global', shards: 1 },
    { precision: 'float16', weight: 1e6, optimizer: momentum, call: 'step', shards: 2 },
  ];
  const onGpus = assignToEach(table, software, machine, ['float32']);

  test.each(onGpus.map(({ engine, entry }) => [engine.name, JSON.stringify(entry), engine, entry] as const))(
    'on engine %s: %s',
    async (_, __, engine, { weight, call, clip, ...options }) => {
      const { optimizer, precision } = options;
      const expected = wanted(weight);
      const longest = rowsOf(expected.dWeights).sort((a, b) => a - b)[classes / 2]!;
      const limit = clip === 'global' ? 10 * longest : longest;
      const head: MarginHeadOptions = {
        ...options,
        dim,
        classes,
        init: problem.weights,
        terms: [interLoss({ weight })],
        clipWeightGradient: clip && (clip === 'global' ? { global: limit } : { perClass: limit }),
      };
      const out = await runHead(engine, head, [{ call, batch }]);
      const { loss, dFeatures, terms } = out.results[0]!;
      expect(Math.abs(terms!.inter! / inter(problem).value - 1)).toBeLessThan(1e-6);
      if (precision === 'float32') expectWithinLimits({ loss, dFeatures }, expected, limits);
      const state = untrained(problem.weights);
      const gradient = clip ? clips[clip](expected.dWeights, limit) : expected.dWeights;
      update(state, gradient, optimizer, 0.1);
      const moved = state.weights.map((value, e) => value - problem.weights[e]!);
      const got = Float64Array.from(out.weights, (value, e) => value - problem.weights[e]!);
      expect(gradientError(got, moved, new Float64Array(classes).fill(1))).toBeLessThan(limits.gradient);
    },
  );
});

const gpus = gpusOfThisProcess();
const first = gpus[0] as DeviceName;

describe.skipIf(gpus.length === 0)('in this process', () => {
  test.each([
    [first, 1],
    ['cuda', 3],
  ] as const)('loss and gradients are the formula on %s with %i shards', async (engine, shards) => {
    const terms = [interLoss({ weight: 5 })];
    const out = await valueAndGrad(problem, { terms, engine, shards, precision: 'float32' });
    expect(Math.abs(out.terms!.inter! / inter(problem).value - 1)).toBeLessThan(1e-6);
    expectWithinLimits(out, wanted(5), limits);
  });

  test('rows on each other and opposite to each other have angles of 0 and pi', async () => {
    const weights = problem.weights.slice();
    const own = [...new Set(labels)].filter((label) => label !== -1);
    for (const [n, y] of own.entries())
      for (let d = 0; d < dim; d++)
        weights[((y + 7) % classes) * dim + d] = (n % 2 ? 1 : -2) * weights[y * dim + d]!;
    const given = { ...problem, weights };
    const terms = [interLoss({ weight: 1e4 })];
    const out = await valueAndGrad(given, { terms, engine: first, precision: 'float32' });
    // Each of those angles is off by what it is of a cosine that is a float32 number.
    expect(Math.abs(out.terms!.inter! - inter(given).value)).toBeLessThan(1e-3 / (Math.PI * (classes - 1)));
    expectWithinLimits(out, wanted(1e4, given), limits);
  });

  /** Devices of each process. */
  const places: [string, DeviceName[][], number][] = [
    ['on two GPUs', [gpus.slice(0, 2)], 3],
    ['on the cpu and a GPU', [['cpu', first]], 2],
    ['of two processes on GPUs', [[first], [gpus.at(-1)!]], 1],
    ['of two processes, one on the cpu', [['cpu'], [first]], 1],
  ];
  test.each(places)('steps of a head %s are those of one on the cpu', async (_, processes, shards) => {
    const options = {
      dim,
      classes,
      init: problem.weights,
      terms: [interLoss({ weight: 50 })],
      optimizer: adamw({ learningRate: 0.1, epsilon: 1e-2 }),
      clipWeightGradient: { global: 0.5 },
      precision: 'float32',
    } as const;
    const alone = await MarginHead.create(options);
    const heads = await Promise.all(
      processGroup(processes.length).map((group, rank) =>
        MarginHead.create({
          ...options,
          shards,
          devices: processes[rank]!,
          ...(processes.length > 1 && { group }),
        }),
      ),
    );
    for (let n = 0; n < 2; n++) {
      const one = await alone.step(batch);
      const bounds = heads.length === 1 ? [0, rows] : [0, 100, rows];
      const outs = await Promise.all(
        heads.map((head, rank) => head.step(rowsBetween(problem, bounds[rank]!, bounds[rank + 1]!))),
      );
      for (const { loss, terms } of outs) {
        expect(loss).toBeCloseTo(one.loss, 4);
        expect(Math.abs(terms!.inter! / one.terms!.inter! - 1)).toBeLessThan(1e-6);
      }
    }
    const got = heads.flatMap((head) => [...head.weights()]);
    const moved = alone.weights().map((value, e) => value - problem.weights[e]!);
    expect(
      gradientError(
        got.map((value, e) => value - problem.weights[e]!),
        moved,
        new Float64Array(classes).fill(1),
      ),
    ).toBeLessThan(limits.gradient);
    for (const head of [...heads, alone]) head.dispose();
  });
});
