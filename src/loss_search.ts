/**
 * Reward-guided loss search (Search-Softmax): candidates of one loss's parameter are trained from the same start, the best one's
 * weights are kept, and the distribution they are drawn from learns from their rewards. It knows no trainer: what is trained, and
 * how that is rewarded, are callbacks.
 */

import { deserialize, serialize } from 'node:v8';
import { throwIfAborted } from './abort.js';
import { agree, checkGroup, exchangeJson, type Outcome, sameCall } from './agreement.js';
import { MarginFcError } from './errors.js';
import type { ProcessGroup } from './group.js';
import {
  advanced,
  candidateOf,
  drawCandidates,
  type GivenSettings,
  type LossCandidate,
  type LossSearchIteration,
  type LossSearchState,
  type LossSearchTrial,
  newState,
  resumed,
  settingNames,
} from './search_state.js';
import { runAsync } from './twin.js';
import { checkInteger, checkObject, checkOptions, checkSignal, mustBe, show } from './validate.js';

/** Options of {@link lossSearch}. `S` is whatever a trainer goes on from: weights and optimiser state. */
export interface LossSearchOptions<S> extends GivenSettings {
  /** What the first candidates are trained from; where a search is resumed, what was trained before. */
  readonly start: S;
  /**
   * Trains one candidate from `start`, with `candidate.margin`, and returns what came of it. It must leave `start` as it is, since
   * all candidates of an iteration get the same; and show all of them the same rows, or rewards differ by chance.
   */
  readonly train: (candidate: LossCandidate, start: S) => S | Promise<S>;
  /** How good a trained candidate is, on data it was not trained on; more is better. */
  readonly reward: (trained: S, candidate: LossCandidate) => number | Promise<number>;
  /** Iterations in all, those of `state` among them. */
  readonly iterations: number;
  /** Of x for the first iteration, > 0. Default 1, with `variable: 'margin'` 0.2. */
  readonly mean?: number | undefined;
  /** Goes on where a search was, to the same numbers: with its settings, and no others. */
  readonly state?: LossSearchState | undefined;
  /**
   * Processes that share the candidates: process r trains those whose index is r modulo the group's size. Each must start from the
   * same `start`, and all end with the same result; `S` must be what `structuredClone` copies. Default: this process alone.
   */
  readonly group?: ProcessGroup | undefined;
  /** Called, and waited for, after each iteration: the place to save `trained` and, as JSON, `state`. */
  readonly onIteration?: ((result: LossSearchResult<S>) => void | Promise<void>) | undefined;
  /** Ends the search with ERR_ABORTED between two candidates; give it to the trainer as well. */
  readonly signal?: AbortSignal | undefined;
}

/** What a search has come to. */
export interface LossSearchResult<S> {
  /** Of the last iteration's best candidate. */
  readonly trained: S;
  /** That candidate. */
  readonly best: LossCandidate;
  readonly reward: number;
  readonly state: LossSearchState;
}

const optionNames = {
  ...settingNames,
  start: true,
  train: true,
  reward: true,
  iterations: true,
  mean: true,
  state: true,
  group: true,
  onIteration: true,
  signal: true,
} as const satisfies Record<keyof LossSearchOptions<unknown>, true>;

/**
 * Searches for a margin while it trains. With p the probability of a row's class without a margin, every loss of the search is
 * -log p_m of
 *
 *     p_m = p / (a p + 1 - a),   a <= 0
 *
 * which is CosFace with the margin m = ln(1 - a) / scale. In each iteration `candidates` values of a are drawn, `train` trains each
 * of them for a while from the same start, `reward` judges them, the best one's weights are the start of the next iteration, and
 * the mean of the distribution moves by REINFORCE:
 *
 *     x_i ~ N(mean, sigma^2),   a_i = -|x_i| exp(exponent scale), or such that m_i = |x_i|
 *     mean <- mean + learningRate / n sum_i R_i d ln f(|x_i|) / d mean
 *
 * f is the density of |x|, R the rewards brought to mean 0 and deviation 1. Draws follow from `seed`, iteration and index alone.
 *
 * A candidate fails if its reward is NaN or infinite, or `train` or `reward` throws ERR_NOT_FINITE: training ran away. It is in the
 * history with a reward of null, is never kept and has no part in the mean. Anything else that is thrown ends the search, with what
 * was thrown; `onIteration` has seen what there was before.
 *
 * Source: Wang et al., Loss Function Search for Face Recognition, arXiv 2007.06542, equation 8 and what follows it. The released code differs:
 * its mean passes through a relu at 0, whose derivative there is 0, so that it never moves; and its score is that of x at -|x|.
 *
 * @returns When all iterations are done.
 * @throws MarginFcError ERR_OPTION or ERR_TYPE for options; ERR_NOT_FINITE if all candidates of an iteration fail; ERR_ABORTED; with
 *   a group ERR_GROUP on all processes where one of them fails.
 * @example
 * ```ts
 * import { lossSearch, MarginHead, sgd } from 'marginfc';
 *
 * const [dim, classes, rows] = [8, 20, 64];
 * const optimizer = sgd({ learningRate: 0.5, momentum: 0.9 });
 * const head = await MarginHead.create({ dim, classes, optimizer, scale: 16 });
 * const batch = (shift: number) => ({
 *   features: Float32Array.from({ length: rows * dim }, (_, i) => Math.sin((Math.floor(i / dim) % classes) * (i % dim) + shift)),
 *   labels: Int32Array.from({ length: rows }, (_, row) => row % classes),
 * });
 * const [training, validation] = [batch(0), batch(0.1)] as const;
 *
 * const { best, state } = await lossSearch({
 *   start: await head.snapshot(),
 *   async train({ margin }, start) {
 *     await head.restore(start);
 *     for (let step = 0; step < 10; step++) await head.step(training, { margin });
 *     return head.snapshot();
 *   },
 *   async reward(trained) {
 *     await head.restore(trained);
 *     return (await head.evaluate(validation)).accuracy;
 *   },
 *   iterations: 3,
 *   scale: 16,
 *   variable: 'margin',
 * });
 * console.log(best.m, JSON.stringify(state));
 * ```
 */
export async function lossSearch<S>(options: LossSearchOptions<S>): Promise<LossSearchResult<S>> {
  checkObject(options, 'options');
  const group = checkGroup(options.group, 'group');
  const checked = await together(group, () => checkSearch(options));
  const { iterations, onIteration } = checked;
  let { state } = checked;
  if (group) await runAsync(sameCall(group, 'lossSearch', [iterations, state], 0));
  let trained = options.start;
  while (state.history.length < iterations) {
    const own = await together(group, () => tryCandidates(checked, state, trained));
    state = advanced(state, await allTrials(group, own.trials));
    trained = await keptBy(group, state.history.at(-1)?.best ?? 0, own.trained);
    await together(group, () => onIteration?.(resultOf(state, trained)));
  }
  return resultOf(state, trained);
}

/** The value of `work`, if it succeeds on all processes. */
async function together<T>(group: ProcessGroup | undefined, work: () => T | Promise<T>): Promise<T> {
  if (!group) return work();
  let outcome: Outcome<T>;
  try {
    outcome = { value: await work() };
  } catch (error) {
    outcome = { error };
  }
  return runAsync(agree(group, outcome));
}

type CheckedSearch<S> = LossSearchOptions<S> & { readonly state: LossSearchState };

function checkSearch<S>(options: LossSearchOptions<S>): CheckedSearch<S> {
  checkOptions(options, optionNames);
  const {
    start: _,
    train,
    reward,
    iterations,
    mean,
    state,
    group: __,
    onIteration,
    signal,
    ...settings
  } = options;
  for (const [name, callback] of Object.entries({
    train,
    reward,
    ...(onIteration !== undefined && { onIteration }),
  }))
    if (typeof callback !== 'function') throw mustBe('ERR_TYPE', name, 'a function', show(callback));
  checkInteger(iterations, 'iterations', { least: 1, most: Number.MAX_SAFE_INTEGER });
  checkSignal(signal);
  return { ...options, state: state === undefined ? newState(settings, mean) : resumed(state, settings) };
}

/** What this process has tried: its part of the candidates, and what came of its best one. */
interface Own<S> {
  readonly trials: readonly { readonly index: number; readonly trial: LossSearchTrial }[];
  readonly trained?: S;
}

async function tryCandidates<S>(
  { train, reward: judge, group, signal }: CheckedSearch<S>,
  state: LossSearchState,
  start: S,
): Promise<Own<S>> {
  const { rank, size } = group ?? { rank: 0, size: 1 };
  const trials: { index: number; trial: LossSearchTrial }[] = [];
  let best: { readonly trained: S; readonly reward: number } | undefined;
  for (const candidate of drawCandidates(state)) {
    const { index, value, m } = candidate;
    if (index % size !== rank) continue;
    throwIfAborted(signal);
    let failure = '';
    try {
      const trained = await train(candidate, start);
      const reward = await judge(trained, candidate);
      if (typeof reward !== 'number')
        throw mustBe('ERR_TYPE', 'what reward returns', 'a number', show(reward));
      if (Number.isFinite(reward)) {
        trials.push({ index, trial: { value, m, reward } });
        if (!best || reward > best.reward) best = { trained, reward };
        continue;
      }
      failure = `its reward is ${reward}`;
    } catch (error) {
      if (!(error instanceof MarginFcError) || error.code !== 'ERR_NOT_FINITE') throw error;
      failure = error.message;
    }
    trials.push({ index, trial: { value, m, reward: null, failure } });
  }
  return { trials, ...(best && { trained: best.trained }) };
}

/** The trials of all processes, by index. */
async function allTrials(
  group: ProcessGroup | undefined,
  own: Own<unknown>['trials'],
): Promise<LossSearchTrial[]> {
  const all = group ? (await runAsync(exchangeJson(group, own))).flat() : own;
  const trials = all.toSorted((a, b) => a.index - b.index).map(({ trial }) => trial);
  if (trials.every(({ reward }) => reward === null))
    throw mustBe(
      'ERR_NOT_FINITE',
      'the reward',
      'a finite number for one candidate at least',
      trials[0]?.failure ?? 'none',
    );
  return trials;
}

/** What the best candidate of all processes has become. */
async function keptBy<S>(group: ProcessGroup | undefined, best: number, own: S | undefined): Promise<S> {
  if (!group) return own as S;
  const owner = best % group.size;
  const bytes = await together(group, () =>
    group.rank === owner ? new Uint8Array(serialize(own)) : new Uint8Array(0),
  );
  const length = Float64Array.of(bytes.length);
  await group.broadcast(length, owner);
  const received = group.rank === owner ? bytes : new Uint8Array(length[0] as number);
  await group.broadcast(received, owner);
  return group.rank === owner ? (own as S) : deserialize(received);
}

function resultOf<S>({ settings, history, ...rest }: LossSearchState, trained: S): LossSearchResult<S> {
  const iteration = history.length - 1;
  const { trials, best } = history[iteration] as LossSearchIteration;
  const { value, reward } = trials[best] as LossSearchTrial;
  return {
    trained,
    best: candidateOf(settings, iteration, best, value),
    reward: reward as number,
    state: { settings, history, ...rest },
  };
}
