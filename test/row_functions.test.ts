/** Losses that are a function of the probability of a row's own class: against their formulas in float64, on every engine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  adaface,
  amLfs,
  arcface,
  cosface,
  focal,
  forward,
  linear,
  MarginHead,
  type RowFunction,
  searchSoftmax,
  softmax,
  valueAndGrad,
  valueAndGradSync,
} from '../src/index.js';
import { closeEngines, evaluate, findEngines } from './engines.js';
import { expectFailure } from './failures.js';
import { findSoftwareGpus } from './gpus.js';
import { clustered, size, spread } from './loss_cases.js';
import { expectWithinLimits, float32Limits, halfLimits } from './metrics.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';
import { type ReferenceOptions, type ReferenceRowFunction, reference, rowValue } from './reference.js';

const bins = [-0.5, -0.1, -2, 0, -0.3, -1, -0.2, -4, -0.01, -0.6];
const cases = [
  ['focal', focal()],
  ['focal, gamma below 1', focal({ gamma: 0.5 })],
  ['searchSoftmax', searchSoftmax({ a: -100 })],
  ['searchSoftmax, local', searchSoftmax({ a: bins })],
  ['searchSoftmax, local as released', searchSoftmax({ a: bins, exponent: 0.5 })],
  ['amLfs', amLfs({ a: [1.3, 0.7, 0.9], b: [0, 0.1, -0.1] })],
  ['amLfs, falling', amLfs({ a: [2, -0.5], b: [0.1, 1] })],
] as const satisfies readonly (readonly [string, RowFunction])[];
const plain = (rowFunction: RowFunction) => rowFunction as ReferenceRowFunction;

const software = await findSoftwareGpus();
const engines = [...(await findEngines()), ...software.slice(0, 1)].filter(
  ({ missing }) => missing === undefined,
);
afterAll(closeEngines);

const base = {
  margin: { kind: 'arcface', m: 0.3 },
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
} as const satisfies ReferenceOptions;
/** Rows of every probability: none of arcs of 64 is near 1/2. */
const soft = { ...base, scale: 4, margin: { kind: 'softmax' } } as const;

describe.each(cases)('%s', (_, rowFunction) => {
  test.each(engines)('on engine $name: loss and gradients are those of the formula', async (engine) => {
    for (const [problem, options] of [
      [spread, base],
      [clustered, { ...base, gradient: 'straightThrough' }],
      [clustered, { ...soft, reduction: 'sum' }],
      [makeProblem(size, 'parallel', 'ignored', 3), { ...base, scale: 20 }],
      [makeProblem(size, 'opposite', 'random', 4), { ...base, scale: 100 }],
    ] as const) {
      const all = { ...options, rowFunction: plain(rowFunction) };
      const execution = {
        shards: 3,
        threads: 2,
        workspace: 'auto',
        call: 'valueAndGrad',
        arrays: 'whole',
        precision: 'float32',
      } as const;
      const { result } = await evaluate(engine, problem, all, execution);
      expectWithinLimits(result, reference(problem, all), float32Limits(options.scale));
    }
  });

  test('bfloat16 operands are within their limits', async () => {
    const phi = plain(rowFunction);
    const options = { ...base, rowFunction: phi };
    const out = valueAndGradSync(clustered, { ...options, rowFunction, precision: 'bfloat16' });
    const limits = halfLimits('bfloat16');
    // The focal gradient goes with (1 - p)^(gamma + 1), and its relative error with gamma + 1 times that of 1 - p.
    const powers = phi.kind === 'focal' ? 1 + phi.gamma : 1;
    const gradient = powers * limits.gradient;
    expectWithinLimits(out, reference(clustered, options), { ...limits, gradient });
  });

  test('gradients are difference quotients of the loss', () => {
    const small = makeProblem({ rows: 4, dim: 3, classes: 5 }, 'spread', 'random', 5);
    const options = { ...base, scale: 4, rowFunction: plain(rowFunction) };
    const { dFeatures, dWeights } = valueAndGradSync(small, { ...options, rowFunction });
    for (const [name, gradient] of [
      ['features', dFeatures],
      ['weights', dWeights],
    ] as const) {
      const far = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const lossAt = (at: number, by: number) => {
        const moved = Float64Array.from(small[name]);
        moved[at]! += by;
        return reference({ ...small, [name]: moved }, options).loss;
      };
      for (const [at, value] of gradient.entries()) {
        const quotient = (lossAt(at, 1e-6) - lossAt(at, -1e-6)) / 2e-6;
        expect(Math.abs(value - quotient)).toBeLessThan(1e-4 * far);
      }
    }
  });

  test('with weights, per row, in two calls and with a margin over the batch', async () => {
    const rowWeights = Float32Array.from({ length: size.rows }, (_, i) => (i % 5) / 2);
    const dLoss = rowWeights.map((weight) => 1 - weight);
    const options = { ...soft, rowFunction: plain(rowFunction) };
    const given = { ...soft, margin: softmax(), rowFunction };
    const limits = float32Limits(64);
    const weighted = valueAndGradSync(spread, { ...given, rowWeights });
    expectWithinLimits(weighted, reference(spread, { ...options, rowWeights }), limits);
    using pass = await forward(spread, { ...given, reduction: 'none' });
    const { loss: __, ...gradients } = { ...pass, ...(await pass.backward(dLoss)) };
    const each = reference(spread, { ...options, reduction: 'none', dLoss });
    expectWithinLimits({ ...gradients, rowLoss: pass.rowLoss }, each, limits);

    const out = valueAndGradSync(clustered, { margin: adaface(), rowFunction });
    const bare = valueAndGradSync(clustered, { margin: adaface() });
    expect([...out.rowLoss]).toEqual(
      Array.from(bare.rowLoss, (loss) => expect.closeTo(rowValue(plain(rowFunction), loss, 64).value, 3)),
    );
  });

  test('steps of a head over processes are those of one, and a checkpoint has it', async () => {
    const { dim, classes } = size;
    const options = { dim, classes, init: spread.weights, scale: 8, rowFunction };
    const alone = await MarginHead.create({ ...options, shards: 3 });
    const heads = await Promise.all(processGroup(2).map((group) => MarginHead.create({ ...options, group })));
    for (const { features, labels } of [spread, clustered]) {
      const one = await alone.step({ features, labels });
      const outs = await Promise.all(
        heads.map((head, rank) => {
          const [start, end] = rank === 0 ? [0, 20] : [20, size.rows];
          return head.step({
            features: features.slice(start * dim, end * dim),
            labels: labels.slice(start, end),
          });
        }),
      );
      for (const { loss } of outs) expect(loss).toBeCloseTo(one.loss, 4);
    }
    const own = alone.weights();
    const apart = heads
      .flatMap((head) => [...head.weights()])
      .reduce((most, value, i) => Math.max(most, Math.abs(value - own[i]!)), 0);
    expect(apart).toBeLessThan(1e-5);
    const folder = await mkdtemp(join(tmpdir(), 'marginfc-row-function-'));
    try {
      await Promise.all(heads.map((head) => head.save(folder)));
      using loaded = await MarginHead.load(folder);
      expect(loaded.rowFunction).toEqual(rowFunction);
      const { loss } = await alone.evaluate(spread);
      expect((await loaded.evaluate(spread)).loss).toBeCloseTo(loss, 4);
      const off = await loaded.evaluate(spread, { rowFunction: 'none' });
      expect(Math.abs(off.loss - loss)).toBeGreaterThan(1e-4);
    } finally {
      await rm(folder, { recursive: true });
      for (const head of [alone, ...heads]) head.dispose();
    }
  });
});

test.each([
  ['focal with gamma 0', focal({ gamma: 0 }), softmax(), softmax()],
  ['amLfs of the line p', amLfs({ a: [1, 1, 1], b: [0, 0, 0] }), arcface(), arcface()],
  ...[-0.5, -10, -42900].map((a) => {
    const name = `searchSoftmax with a = ${a} for all p, and cosface with m = ln(1 - a) / s,`;
    return [name, searchSoftmax({ a }), softmax(), cosface({ m: Math.log(1 - a) / 64 })] as const;
  }),
  [
    'searchSoftmax with an exponent, and cosface',
    searchSoftmax({ a: [-1, -1], exponent: 1 / 3 }),
    softmax(),
    cosface({ m: Math.log(1 + Math.exp(64 / 3)) / 64 }),
  ],
] as const)('%s are the same in loss and gradients', (_, rowFunction, margin, same) => {
  for (const problem of [spread, clustered]) {
    const out = valueAndGradSync(problem, { margin, rowFunction });
    const wanted = valueAndGradSync(problem, { margin: same });
    expect(out.loss).toBeCloseTo(wanted.loss, 5);
    for (const name of ['rowLoss', 'dFeatures', 'dWeights'] as const) {
      const largest = wanted[name].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const apart = out[name].reduce(
        (most, value, i) => Math.max(most, Math.abs(value - wanted[name][i]!)),
        0,
      );
      expect(apart).toBeLessThan(1e-6 * largest);
    }
  }
});

test('gamma may follow a schedule over the steps of a head', async () => {
  const { dim, classes } = size;
  const rowFunction = focal({ gamma: linear({ from: 0, to: 2, steps: 2 }) });
  const head = await MarginHead.create({ dim, classes, rowFunction, init: spread.weights, scale: 4 });
  for (const gamma of [0, 1, 2, 2]) {
    const batch = { ...clustered, weights: head.weights() };
    const { loss } = valueAndGradSync(batch, { rowFunction: focal({ gamma }), scale: 4 });
    expect((await head.step(clustered)).loss).toBeCloseTo(loss, 4);
  }
  head.dispose();
});

test.each<[string, () => unknown, string, RegExp]>([
  [
    'a negative gamma',
    () => focal({ gamma: -1 }),
    'ERR_OPTION',
    /^focal parameters\.gamma must be a finite number >= 0, received -1$/,
  ],
  [
    'a positive a',
    () => searchSoftmax({ a: [-1, 0.5] }),
    'ERR_OPTION',
    /^searchSoftmax parameters\.a\[1\] must be a finite number <= 0, received 0\.5$/,
  ],
  [
    'no a',
    () => searchSoftmax({ a: [] }),
    'ERR_OPTION',
    /^searchSoftmax parameters\.a must be an array of at least one number, received Array\(0\)$/,
  ],
  [
    'an a that leaves float64',
    () => valueAndGrad(spread, { rowFunction: searchSoftmax({ a: -1, exponent: 20 }) }),
    'ERR_OPTION',
    /^rowFunction\.a\[0\] exp\(exponent scale\) must be a finite number, received -Infinity$/,
  ],
  [
    'more slopes than intercepts',
    () => amLfs({ a: [1, 1], b: [0] }),
    'ERR_OPTION',
    /^amLfs parameters\.b must be an array of 2 numbers, received Array\(1\)$/,
  ],
  [
    'a line that crosses 0',
    () => amLfs({ a: [1, 1], b: [0, -0.75] }),
    'ERR_OPTION',
    /^amLfs parameters, bin 1: a p \+ b must be above 0, received -0\.25 to 0\.25$/,
  ],
  [
    'a line below 0 at p = 0',
    () => amLfs({ a: [2], b: [-0.1] }),
    'ERR_OPTION',
    /^amLfs parameters, bin 0: a p \+ b must be 0 at p = 0, or above, received -0\.1 to 1\.9$/,
  ],
  [
    'a kind that there is not',
    () => valueAndGrad(spread, { rowFunction: { kind: 'poly' } as never }),
    'ERR_OPTION',
    /^rowFunction\.kind must be 'focal', 'searchSoftmax' or 'amLfs', received 'poly'$/,
  ],
  [
    'label smoothing beside it',
    () => valueAndGrad(spread, { rowFunction: focal(), labelSmoothing: 0.1 }),
    'ERR_OPTION',
    /^rowFunction must be 'none' with labelSmoothing 0\.1, received focal$/,
  ],
  [
    'a schedule without a head',
    () => valueAndGrad(spread, { rowFunction: focal({ gamma: linear({ from: 0, to: 2, steps: 2 }) }) }),
    'ERR_OPTION',
    /^rowFunction\.gamma must be without a schedule, .* received a linear one$/,
  ],
])('%s is an error', (_, call, code, message) => expectFailure(call, code, message));
