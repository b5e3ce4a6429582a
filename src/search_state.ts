/** What a loss search has done so far, and the distribution that it draws from: plain data and pure functions. */

import { candidateNormal } from './counter_random.js';
import { type CosFaceMargin, cosface } from './margins.js';
import { logOfOnePlus } from './random_softmax.js';
import { checkSeed } from './sampling.js';
import {
  checkInteger,
  checkNumber,
  checkObject,
  checkOneOf,
  checkOptions,
  largestFactor,
  mustBe,
  show,
} from './validate.js';

/** How candidates are drawn, and how the mean learns. */
export interface LossSearchSettings {
  /**
   * What |x|, x ~ N(mean, sigma^2), stands for. `factor`: the modulating factor of Search-Softmax, a = -|x| exp(exponent scale);
   * `margin`: the cosine margin that the factor is equal to, m = ln(1 - a) / scale = |x|. Default `factor`.
   */
  readonly variable: 'factor' | 'margin';
  /** Factor s on the cosines of the head that is trained. Default 64. */
  readonly scale: number;
  /** >= 0; looked at with `variable: 'factor'`. Default 1/3, as of {@link randomSoftmax}. */
  readonly exponent: number;
  /** Candidates of an iteration, in [1, 65536]. Default 8. */
  readonly candidates: number;
  /** Standard deviation of x, > 0. Default 0.2, with `variable: 'margin'` 0.1. */
  readonly sigma: number;
  /**
   * Of the mean, >= 0. Default sigma^2 / 2, with which an iteration moves the mean by at most about half of sigma.
   */
  readonly learningRate: number;
  /** The draws follow from it and the iteration. In [0, 2^32). Default 0. */
  readonly seed: number;
}

/** Settings as options. */
export type GivenSettings = { readonly [K in keyof LossSearchSettings]?: LossSearchSettings[K] | undefined };

/** One candidate of an iteration, once it has been tried. */
export interface LossSearchTrial {
  /** |x| */
  readonly value: number;
  /** The cosine margin that it is, at the search's scale. */
  readonly m: number;
  /** Null where the candidate failed. */
  readonly reward: number | null;
  /** Why it failed. */
  readonly failure?: string;
}

/** What an iteration has found. */
export interface LossSearchIteration {
  /** Of x. */
  readonly mean: number;
  readonly trials: readonly LossSearchTrial[];
  /** The index of the candidate that was kept. */
  readonly best: number;
}

/** Where a search is: plain data that JSON keeps as it is. */
export interface LossSearchState {
  readonly settings: LossSearchSettings;
  /** Of x, for the next iteration; > 0. */
  readonly mean: number;
  readonly history: readonly LossSearchIteration[];
}

/** A loss to train with: one value of the factor. */
export interface LossCandidate {
  /** From 0. */
  readonly iteration: number;
  /** Among the iteration's candidates, from 0. */
  readonly index: number;
  /** |x| */
  readonly value: number;
  /** The modulating factor, <= 0. */
  readonly a: number;
  /** The cosine margin that the factor is equal to, ln(1 - a) / scale. */
  readonly m: number;
  /** Loss and gradients of p_m = p / (a p + 1 - a): `cosface({ m })`. */
  readonly margin: CosFaceMargin;
}

export const settingNames = {
  variable: true,
  scale: true,
  exponent: true,
  candidates: true,
  sigma: true,
  learningRate: true,
  seed: true,
} as const satisfies Record<keyof LossSearchSettings, true>;

const positive = { least: 0, exclusive: true, magnitude: largestFactor } as const;
const firstMean = { factor: 1, margin: 0.2 } as const;
const firstSigma = { factor: 0.2, margin: 0.1 } as const;

/** Settings with their defaults. */
function checkSettings(given: GivenSettings): LossSearchSettings {
  const { variable = 'factor', scale = 64, exponent = 1 / 3, candidates = 8, seed = 0 } = given;
  checkOneOf(variable, ['factor', 'margin'], 'variable');
  checkNumber(scale, 'scale', positive);
  checkNumber(exponent, 'exponent', { least: 0, magnitude: largestFactor });
  checkInteger(candidates, 'candidates', { least: 1, most: 65536 });
  const sigma = checkNumber(given.sigma ?? firstSigma[variable], 'sigma', positive);
  const learningRate = checkNumber(given.learningRate ?? sigma ** 2 / 2, 'learningRate', { least: 0 });
  checkSeed(seed, 'seed');
  return { variable, scale, exponent, candidates, sigma, learningRate, seed };
}

/**
 * Before the first iteration. A mean of 0 would stay there: the distribution of |x| is the same for both signs of it, so that the
 * gradient is 0.
 */
export function newState(given: GivenSettings, mean: number | undefined): LossSearchState {
  const settings = checkSettings(given);
  return { settings, mean: checkNumber(mean ?? firstMean[settings.variable], 'mean', positive), history: [] };
}

/** The state a search goes on from; settings that are given must be its own. */
export function resumed(state: LossSearchState, given: GivenSettings): LossSearchState {
  const { settings } = checkState(state);
  for (const name of Object.keys(settingNames) as (keyof LossSearchSettings)[])
    if (given[name] !== undefined && given[name] !== settings[name])
      throw mustBe('ERR_OPTION', name, `that of state, ${show(settings[name])}`, show(given[name]));
  return state;
}

/** A state that may have come from a file. */
export function checkState(state: LossSearchState): LossSearchState {
  checkObject(state, 'state');
  const { settings, mean, history } = checkOptions(
    state,
    { settings: true, mean: true, history: true },
    'state',
  );
  checkObject(settings, 'state.settings');
  checkSettings(checkOptions(settings, settingNames, 'state.settings'));
  for (const name of Object.keys(settingNames) as (keyof LossSearchSettings)[])
    if (settings?.[name] === undefined)
      throw mustBe('ERR_OPTION', `state.settings.${name}`, 'given', 'undefined');
  checkNumber(mean, 'state.mean', positive);
  if (!Array.isArray(history)) throw mustBe('ERR_TYPE', 'state.history', 'an array', show(history));
  for (const [i, iteration] of history.entries()) {
    const where = `state.history[${i}]`;
    checkObject(iteration, where);
    const { trials, best } = iteration as LossSearchIteration;
    checkNumber(iteration.mean, `${where}.mean`);
    if (!Array.isArray(trials)) throw mustBe('ERR_TYPE', `${where}.trials`, 'an array', show(trials));
    checkInteger(best, `${where}.best`, { least: 0, most: trials.length - 1 });
    for (const [index, trial] of trials.entries()) {
      checkObject(trial, `${where}.trials[${index}]`);
      checkNumber(trial.value, `${where}.trials[${index}].value`);
      checkNumber(trial.m, `${where}.trials[${index}].m`);
      if (trial.reward !== null || index === best)
        checkNumber(trial.reward, `${where}.trials[${index}].reward`);
    }
  }
  return state;
}

/** The candidate that |x| = `value` stands for. */
export function candidateOf(
  { variable, scale, exponent }: LossSearchSettings,
  iteration: number,
  index: number,
  value: number,
): LossCandidate {
  const m = variable === 'margin' ? value : logOfOnePlus(Math.log(value) + exponent * scale) / scale;
  // Without a zero that has a sign.
  const a = 0 - Math.expm1(scale * m);
  return { iteration, index, value, a, m, margin: cosface({ m }) };
}

/** The candidates of the next iteration. */
export function drawCandidates({ settings, mean, history }: LossSearchState): LossCandidate[] {
  const { candidates, sigma, seed } = settings;
  const iteration = history.length;
  return Array.from({ length: candidates }, (_, index) => {
    const x = mean + sigma * candidateNormal(seed, iteration, index);
    return candidateOf(settings, iteration, index, Math.abs(x));
  });
}

/**
 * d ln f / d mean of the density f of y = |x|, x ~ N(mean, sigma^2), which is the sum of two normal densities:
 *
 *     f(y) = (phi((y - mean) / sigma) + phi((y + mean) / sigma)) / sigma
 *     d ln f / d mean = (y tanh(mean y / sigma^2) - mean) / sigma^2
 *
 * That of x itself, (x - mean) / sigma^2, has the same expectation for each y, and more variance.
 */
export function score(value: number, mean: number, sigma: number): number {
  return (value * Math.tanh((mean * value) / sigma ** 2) - mean) / sigma ** 2;
}

/** Rewards of mean 0 and deviation 1; all 0 where they are equal. */
export function normalised(rewards: readonly number[]): number[] {
  const average = (values: readonly number[]) =>
    values.reduce((sum, value) => sum + value / values.length, 0);
  if (Math.min(...rewards) === Math.max(...rewards)) return rewards.map(() => 0);
  const middle = average(rewards);
  const deviation = Math.sqrt(average(rewards.map((reward) => (reward - middle) ** 2)));
  return rewards.map((reward) => (reward - middle) / deviation);
}

/**
 * The state after an iteration. REINFORCE: the mean climbs the estimated gradient of the expected reward, over the n candidates
 * that did not fail
 *
 *     mean + learningRate / n sum_i R_i d ln f(y_i) / d mean
 *
 * and keeps a positive sign, which the distribution does not depend on.
 */
export function advanced(state: LossSearchState, trials: readonly LossSearchTrial[]): LossSearchState {
  const { settings, mean, history } = state;
  const tried = trials.flatMap(({ value, reward }) => (reward === null ? [] : [{ value, reward }]));
  const rewards = normalised(tried.map(({ reward }) => reward));
  const gradient = tried.reduce(
    (sum, { value }, i) => sum + ((rewards[i] as number) * score(value, mean, settings.sigma)) / tried.length,
    0,
  );
  const next = Math.abs(mean + settings.learningRate * gradient);
  const highest = Math.max(...tried.map(({ reward }) => reward));
  const best = trials.findIndex(({ reward }) => reward === highest);
  return { settings, mean: next || mean, history: [...history, { mean, trials, best }] };
}
