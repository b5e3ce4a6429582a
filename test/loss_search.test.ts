/** Reward-guided loss search: its losses, its draws, what its mean learns, and what a search does on one process and on several. */

import { describe, expect, test } from 'vitest';
import { normalOf } from '../src/counter_random.js';
import {
  type LossSearchOptions,
  type LossSearchState,
  lossSearch,
  MarginFcError,
  MarginHead,
  randomSoftmax,
  sgd,
  valueAndGradSync,
} from '../src/index.js';
import { candidateOf, drawCandidates, newState, score } from '../src/search_state.js';
import { expectFailure } from './failures.js';
import { makeProblem } from './problems.js';
import { processGroup } from './process_group.js';
import { reference } from './reference.js';

/** A trainer whose weights are the margins it was trained with. */
const trace = {
  start: [] as readonly number[],
  train: ({ m }: { m: number }, start: readonly number[]) => [...start, m],
};
const towards =
  (wanted: number) =>
  (trained: readonly number[]): number =>
    -((trained.at(-1)! - wanted) ** 2);

describe('a candidate', () => {
  const problem = makeProblem({ rows: 9, dim: 8, classes: 13 }, 'spread', 'random', 1);
  const options = { scale: 16, gradient: 'exact', onOverflow: 'none' } as const;
  const softmax = { ...options, margin: { kind: 'softmax' } } as const;
  const none = reference(problem, { ...softmax, reduction: 'mean' });
  const p = none.rowLoss.map((loss) => Math.exp(-loss));

  test.each([
    ['factor', 0.7],
    ['factor', 1e-3],
    ['margin', 0.35],
    ['margin', 0],
  ] as const)('is the loss of p / (a p + 1 - a): %s %s', (variable, value) => {
    const { settings } = newState({ variable, scale: 16 }, undefined);
    const { a, m, margin } = candidateOf(settings, 0, 0, value);
    expect(a).toBeCloseTo(variable === 'factor' ? -value * Math.exp(16 / 3) : 1 - Math.exp(16 * value), 9);
    expect(m).toBeCloseTo(Math.log(1 - a) / 16, 12);

    const computed = valueAndGradSync(problem, { ...options, margin });
    // The gradient of -ln(p / (a p + 1 - a)) is that of -ln p, times this.
    const factor = p.map((own) => (1 - a) / (1 - a + a * own) / p.length);
    const dLoss = Float32Array.from(factor);
    const { dFeatures, dWeights } = reference(problem, { ...softmax, reduction: 'none', dLoss });
    for (const [i, own] of p.entries())
      expect(computed.rowLoss[i]).toBeCloseTo(-Math.log(own / (a * own + 1 - a)), 4);
    const largest = (values: Float64Array) => Math.max(...values.map(Math.abs));
    for (const [found, expected] of [
      [computed.dFeatures, dFeatures],
      [computed.dWeights, dWeights],
    ] as const)
      for (const [i, value] of expected.entries())
        expect(Math.abs(found[i]! - value)).toBeLessThan(1e-4 * largest(expected));

    const { rowLoss } = valueAndGradSync(problem, { ...options, margin: randomSoftmax({ a }) });
    for (const [i, loss] of rowLoss.entries()) expect(computed.rowLoss[i]).toBeCloseTo(loss, 4);
  });
});

describe('draws', () => {
  const state = newState({ variable: 'margin', candidates: 65536, sigma: 0.3, seed: 7 }, 0.2);
  const values = drawCandidates(state).map(({ value }) => value);

  test('are those of |N(mean, sigma^2)|', () => {
    const square = 0.2 ** 2 + 0.3 ** 2;
    // sigma sqrt(2 / pi) exp(-mean^2 / (2 sigma^2)) + mean erf(mean / (sigma sqrt(2))), erf by its series.
    const erf = (x: number) => {
      let sum = 0;
      for (let n = 0, term = x; n < 30; n++, term *= -(x * x) / n) sum += term / (2 * n + 1);
      return (2 / Math.sqrt(Math.PI)) * sum;
    };
    const folded =
      0.3 * Math.sqrt(2 / Math.PI) * Math.exp(-(0.2 ** 2) / (2 * 0.3 ** 2)) +
      0.2 * erf(0.2 / (0.3 * Math.SQRT2));
    const average = (of: (value: number) => number) =>
      values.reduce((sum, value) => sum + of(value) / values.length, 0);
    const fiveErrors = 5 * Math.sqrt((square - folded ** 2) / values.length);
    expect(Math.abs(average((value) => value) - folded)).toBeLessThan(fiveErrors);
    expect(Math.abs(average((value) => value ** 2) / square - 1)).toBeLessThan(
      5 * Math.sqrt(2 / values.length),
    );
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
  });

  test('have a score that is the derivative of their log density', () => {
    const density = (y: number, mean: number, sigma: number) =>
      Math.log(
        Math.exp(-((y - mean) ** 2) / (2 * sigma ** 2)) + Math.exp(-((y + mean) ** 2) / (2 * sigma ** 2)),
      );
    for (const [y, mean, sigma] of [
      [0, 0.2, 0.3],
      [0.1, 0.2, 0.3],
      [0.7, 0.2, 0.3],
      [1.1, 1, 0.2],
    ] as const) {
      const slope = (density(y, mean + 1e-6, sigma) - density(y, mean - 1e-6, sigma)) / 2e-6;
      expect(score(y, mean, sigma)).toBeCloseTo(slope, 6);
    }
  });

  test('differ by seed, iteration and index, and from those of margins', () => {
    const first = (seed: number, iterations: number) => {
      const { settings, mean } = newState({ seed, candidates: 2, sigma: 1 }, 10);
      const history = Array.from({ length: iterations }, () => ({ mean, trials: [], best: 0 }));
      return drawCandidates({ settings, mean, history }).map(({ value }) => value);
    };
    const drawn = [...first(0, 0), ...first(0, 1), ...first(1, 0)];
    const ofMargins = [0, 1].flatMap((seed) =>
      [0, 1].flatMap((step) => [0, 1].map((row) => 10 + normalOf(seed, step, row))),
    );
    expect(new Set([...drawn, ...ofMargins]).size).toBe(6 + 8);
    expect(first(0, 1)).toEqual(drawn.slice(2, 4));
  });
});

describe('the mean', () => {
  test('moves along the gradient of the expected reward', async () => {
    const [mean, sigma, n] = [0.2, 0.3, 65536];
    const { state } = await lossSearch({
      ...trace,
      ...{ variable: 'margin', mean, sigma, candidates: n, learningRate: 1, iterations: 1 },
      reward: (trained) => trained.at(-1)! ** 2,
    });
    // Of E[y^2] = mean^2 + sigma^2 over the deviation of y^2.
    const gradient = (2 * mean) / Math.sqrt(2 * sigma ** 4 + 4 * mean ** 2 * sigma ** 2);
    // Each term is about the size of its score, 1 / sigma.
    expect(Math.abs(state.mean - mean - gradient)).toBeLessThan((5 * 2) / sigma / Math.sqrt(n));
  });

  test.each([
    ['margin', 0.05, 0.35, 0.35],
    ['margin', 0.9, 0.35, 0.35],
    ['factor', 0.02, 1 / 3, 1],
  ] as const)('finds what is rewarded: %s from %s', async (variable, mean, wanted, value) => {
    const sigma = value / 5;
    const { state, best } = await lossSearch({
      ...trace,
      ...{ variable, mean, sigma, iterations: 60 },
      reward: towards(wanted),
    });
    expect(Math.abs(state.mean - value)).toBeLessThan(1.5 * sigma);
    expect(Math.abs(best.m - wanted)).toBeLessThan(0.05);
  });

  test('stays where all rewards are alike, or the learning rate is 0', async () => {
    const options = { ...trace, iterations: 3, mean: 0.7 } as const;
    expect((await lossSearch({ ...options, reward: () => 0.9 })).state.mean).toBe(0.7);
    expect((await lossSearch({ ...options, learningRate: 0, reward: towards(0.1) })).state.mean).toBe(0.7);
  });
});

const small = {
  ...trace,
  reward: towards(0.3),
  variable: 'margin',
  candidates: 5,
  iterations: 4,
  seed: 3,
} as const satisfies LossSearchOptions<readonly number[]>;

describe('a search', () => {
  test('trains all candidates of an iteration from the same start, and keeps the best', async () => {
    const starts: unknown[][] = [];
    const { trained, best, reward, state } = await lossSearch({
      ...small,
      train(candidate, start) {
        starts[candidate.iteration] = [...(starts[candidate.iteration] ?? []), start];
        return trace.train(candidate, start);
      },
    });
    expect(starts.map((of) => new Set(of).size)).toEqual([1, 1, 1, 1]);
    const chosen = state.history.map(({ trials, best: index }) => trials[index]!);
    expect(trained).toEqual(chosen.map(({ m }) => m));
    for (const { trials, best: index } of state.history)
      expect(trials[index]!.reward).toBe(Math.max(...trials.map((trial) => trial.reward!)));
    expect({ m: best.m, reward, iteration: best.iteration }).toEqual({
      ...chosen.at(-1),
      value: undefined,
      iteration: 3,
    });
  });

  test('gives the same numbers again, and after any iteration with the state as JSON', async () => {
    const seen: { state: LossSearchState; trained: readonly number[] }[] = [];
    const whole = await lossSearch({ ...small, onIteration: (result) => void seen.push(result) });
    expect(seen.map(({ state }) => state.history.length)).toEqual([1, 2, 3, 4]);
    expect(await lossSearch(small)).toEqual(whole);
    for (const { state, trained } of seen) {
      const resumed = { ...small, start: trained, state: JSON.parse(JSON.stringify(state)) };
      expect(await lossSearch(resumed)).toEqual(whole);
    }
  });

  test.each([
    ['a reward of NaN', () => Number.NaN, 'its reward is NaN'],
    ['an infinite reward', () => Number.POSITIVE_INFINITY, 'its reward is Infinity'],
    [
      'numbers that ran away',
      () => {
        throw new MarginFcError('ERR_NOT_FINITE', 'features ran away');
      },
      'features ran away',
    ],
  ])('goes on without candidates that fail by %s', async (_, fail, failure) => {
    const failing = (index: number) => index % 2 === 0;
    const { state, best } = await lossSearch({
      ...small,
      reward: (trained, { index }) => (failing(index) ? fail() : towards(0.3)(trained)),
    });
    for (const { trials } of state.history)
      expect(trials.map(({ reward, failure: why }) => [reward === null, why])).toEqual(
        [0, 1, 2, 3, 4].map((index) => (failing(index) ? [true, failure] : [false, undefined])),
      );
    expect(failing(best.index)).toBe(false);
    // As if only the others had been drawn.
    const [{ trials }] = state.history as [LossSearchState['history'][0]];
    const [one, two] = [trials[1]!, trials[3]!];
    const half = (a: typeof one, b: typeof one) =>
      (Math.sign(a.reward! - b.reward!) * score(a.value, 0.2, 0.1)) / 2;
    expect(state.history[1]!.mean).toBeCloseTo(0.2 + (0.1 ** 2 / 2) * (half(one, two) + half(two, one)), 12);
  });

  test('ends where all candidates fail, and with what a callback throws', async () => {
    const none = { ...small, reward: () => Number.NaN };
    await expectFailure(() => lossSearch(none), 'ERR_NOT_FINITE', /the reward must be .*its reward is NaN/);
    const own = new Error('own');
    const fail = (): never => {
      throw own;
    };
    for (const callback of ['train', 'reward', 'onIteration'] as const)
      await expect(lossSearch({ ...small, [callback]: fail })).rejects.toBe(own);
  });

  test('ends between candidates when its signal fires', async () => {
    const controller = new AbortController();
    let trained = 0;
    const search = lossSearch({
      ...small,
      signal: controller.signal,
      train(candidate, start) {
        if (++trained === 7) controller.abort();
        return trace.train(candidate, start);
      },
    });
    await expectFailure(() => search, 'ERR_ABORTED', /aborted/);
    expect(trained).toBe(7);
  });

  test('trains heads, each candidate as a head of its own would be', async () => {
    const size = { rows: 12, dim: 8, classes: 10 };
    const { features, labels, weights } = makeProblem(size, 'spread', 'random', 2);
    const options = {
      ...size,
      init: weights,
      scale: 16,
      optimizer: sgd({ learningRate: 0.3, momentum: 0.9 }),
    };
    const { rows: _, ...headOptions } = options;
    const head = await MarginHead.create(headOptions);
    const rewards: number[] = [];
    const evaluate = async (of: MarginHead) => -(await of.evaluate({ features, labels })).loss;
    const { trained, state } = await lossSearch({
      ...{ candidates: 3, iterations: 2, scale: 16 },
      start: await head.snapshot(),
      async train({ margin }, start) {
        await head.restore(start);
        for (let step = 0; step < 3; step++) await head.step({ features, labels }, { margin });
        return head.snapshot();
      },
      async reward() {
        rewards.push(await evaluate(head));
        return rewards.at(-1)!;
      },
    });
    const alone = await MarginHead.create(headOptions);
    for (const { trials, best } of state.history)
      for (let step = 0; step < 3; step++)
        await alone.step({ features, labels }, { margin: { kind: 'cosface', m: trials[best]!.m } });
    expect(await alone.snapshot()).toEqual(trained);
    expect(Math.max(...rewards.slice(3))).toBe(await evaluate(alone));
    head.dispose();
    alone.dispose();
  });
});

describe('a search of several processes', () => {
  const arrays = {
    ...small,
    start: { weights: Float32Array.of(1, 2), steps: 0 },
    train: ({ m }: { m: number }, { weights, steps }: { weights: Float32Array; steps: number }) => ({
      weights: weights.map((value) => value + m),
      steps: steps + 1,
    }),
    reward: ({ weights }: { weights: Float32Array }) => weights[0]!,
  };

  test.each([1, 2, 3, 7])('is that of one: %i', async (ranks) => {
    const counts = new Array<number>(ranks).fill(0);
    const results = await Promise.all(
      processGroup(ranks).map((group) =>
        lossSearch({
          ...arrays,
          group,
          train(candidate, start) {
            counts[group.rank]!++;
            return arrays.train(candidate, start);
          },
        }),
      ),
    );
    const alone = await lossSearch(arrays);
    for (const result of results) expect(result).toEqual(alone);
    expect(counts).toEqual(
      counts.map((_, rank) => 4 * [0, 1, 2, 3, 4].filter((index) => index % ranks === rank).length),
    );
  });

  const failing: [string, object][] = [
    ['train', { train: () => Promise.reject(new Error('own')) }],
    ['reward', { reward: () => Promise.reject(new Error('own')) }],
    ['onIteration', { onIteration: () => Promise.reject(new Error('own')) }],
    ['its options', { candidates: 0 }],
    ['what it would send', { train: () => () => {}, reward: () => 1e9 }],
  ];
  test.each(failing)('fails on all of them where one fails in %s', async (_, own) => {
    const [first, second] = await Promise.allSettled(
      processGroup(2).map((group) => lossSearch({ ...arrays, group, ...(group.rank === 1 && own) })),
    );
    expect(second).toMatchObject({
      status: 'rejected',
      reason: expect.not.objectContaining({ code: 'ERR_GROUP' }),
    });
    expect(first).toMatchObject({
      reason: { code: 'ERR_GROUP', message: expect.stringMatching(/process 1 of the group failed/) },
    });
  });

  test('fails where they search for different things', async () => {
    const searches = processGroup(2).map((group) => lossSearch({ ...arrays, group, seed: group.rank }));
    for (const ended of await Promise.allSettled(searches))
      expect(ended).toMatchObject({ reason: { code: 'ERR_GROUP' } });
  });
});

describe('bad options', () => {
  test.each([
    ['train', { train: 3 }, 'ERR_TYPE', /train must be a function, received 3/],
    ['reward', { reward: undefined }, 'ERR_TYPE', /reward must be a function, received undefined/],
    ['onIteration', { onIteration: {} }, 'ERR_TYPE', /onIteration must be a function/],
    ['iterations', { iterations: 0 }, 'ERR_OPTION', /iterations must be an integer in/],
    ['candidates', { candidates: 1.5 }, 'ERR_OPTION', /candidates must be an integer in \[1, 65536\]/],
    ['mean', { mean: 0 }, 'ERR_OPTION', /mean must be a finite number > 0, received 0/],
    ['sigma', { sigma: -1 }, 'ERR_OPTION', /sigma must be a finite number > 0, received -1/],
    ['scale', { scale: Number.NaN }, 'ERR_OPTION', /scale must be/],
    ['exponent', { exponent: -1 }, 'ERR_OPTION', /exponent must be/],
    ['learningRate', { learningRate: -1 }, 'ERR_OPTION', /learningRate must be/],
    ['seed', { seed: 2 ** 32 }, 'ERR_OPTION', /seed must be/],
    ['variable', { variable: 'angle' }, 'ERR_OPTION', /variable must be 'factor' or 'margin'/],
    ['group', { group: {} }, 'ERR_TYPE', /group.size/],
    ['signal', { signal: 1 }, 'ERR_TYPE', /signal must be an AbortSignal/],
    ['a name', { sgima: 1 }, 'ERR_OPTION', /received 'sgima'/],
    ['a state of nothing', { state: null }, 'ERR_TYPE', /state must be an object/],
    ['a state without settings', { state: { mean: 1, history: [] } }, 'ERR_TYPE', /state.settings/],
  ] as const)('are refused: %s', async (_, bad, code, message) => {
    await expectFailure(() => lossSearch({ ...small, ...(bad as object) }), code, message);
  });

  test.each([
    ['seed', 4, 'ERR_OPTION', /seed must be that of state, 4, received 3/, 'settings.seed'],
    ['sigma', undefined, 'ERR_OPTION', /state.settings.sigma must be given/, 'settings.sigma'],
    ['mean', 0, 'ERR_OPTION', /state.mean must be/, 'mean'],
    ['history', 'long', 'ERR_TYPE', /state.history must be an array/, 'history'],
    ['best', 5, 'ERR_OPTION', /state.history\[0\].best must be/, 'history.0.best'],
    ['reward', 'good', 'ERR_TYPE', /history\[0\].trials\[1\].reward/, 'history.0.trials.1.reward'],
    ['name', 1, 'ERR_OPTION', /received 'step'/, 'step'],
  ] as const)('a state with a bad %s is refused: %s', async (_, value, code, message, path) => {
    const { state } = await lossSearch({ ...small, iterations: 1 });
    const bad = structuredClone(state);
    const names = path.split('.');
    const last = names.pop() as string;
    const owner = names.reduce<object>((object, name) => Reflect.get(object, name), bad);
    if (value === undefined) Reflect.deleteProperty(owner, last);
    else Reflect.set(owner, last, value);
    await expectFailure(() => lossSearch({ ...small, state: bad }), code, message);
  });
});
