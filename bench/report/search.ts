/** The course of a loss search: its plots, and a page with them. */

import { readFileSync } from 'node:fs';
import * as Plot from '@observablehq/plot';
import type { LossSearchState } from 'marginfc';
import { candidateOf, checkState } from '../cpu/addon.js';
import { draw, type Figure, ownColours, peerColours, size } from './draw.js';
import { page, plots, section, table, text } from './page.js';

const colours = {
  candidate: peerColours[4] as string,
  best: ownColours[0] as string,
  mean: peerColours[0] as string,
};

/** A candidate of an iteration, which counts from 1. */
interface Dot {
  readonly iteration: number;
  readonly m: number;
  readonly reward: number | null;
  readonly best: boolean;
}

function dotsOf({ history }: LossSearchState): Dot[] {
  return history.flatMap(({ trials, best }, i) =>
    trials.map(({ m, reward }, index) => ({ iteration: i + 1, m, reward, best: index === best })),
  );
}

/** The margin that x stands for. */
function marginOf({ settings }: LossSearchState, x: number): number {
  return candidateOf(settings, 0, 0, Math.abs(x)).m;
}

/** `suffix`: of the figures' ids, where a page has several searches. */
export function searchFigures(state: LossSearchState, suffix = ''): Figure[] {
  const dots = dotsOf(state);
  const rewarded = dots.filter(({ reward }) => reward !== null);
  const { sigma } = state.settings;
  // Before each iteration, and what the next would draw from.
  const means = [...state.history.map(({ mean }) => mean), state.mean].map((mean, i) => ({
    iteration: i + 1,
    mean: marginOf(state, mean),
    low: marginOf(state, Math.max(0, mean - sigma)),
    high: marginOf(state, mean + sigma),
  }));
  const entry = (name: string, colour: string, dashed = false) => ({ name, colour, dashed });
  const candidates = entry('candidates', colours.candidate, true);
  const best = entry('the best one, which is kept', colours.best);
  const captions = {
    rewards: 'of each candidate after its training; the next iteration starts from the best one',
    margins: 'cosine units; the mean is what the next iteration draws around, and its band one sigma',
  };
  return [
    {
      id: `rewards${suffix}`,
      title: 'Rewards',
      caption: captions.rewards,
      svg: panel(state, 'reward', captions.rewards, [...series(rewarded, 'reward')]),
      legend: [candidates, best],
    },
    {
      id: `margins${suffix}`,
      title: 'Margins',
      caption: captions.margins,
      svg: panel(state, 'margin', captions.margins, [
        Plot.areaY(means, { x: 'iteration', y1: 'low', y2: 'high', fill: colours.mean, fillOpacity: 0.15 }),
        Plot.line(means, { x: 'iteration', y: 'mean', stroke: colours.mean, strokeWidth: 2 }),
        ...series(dots, 'm'),
      ]),
      legend: [candidates, best, entry('mean', colours.mean)],
    },
  ];
}

/** Candidates as dots, hollow where they failed; a line through the best ones. */
function series(dots: readonly Dot[], y: 'reward' | 'm'): Plot.Markish[] {
  const title = ({ iteration, m, reward }: Dot) =>
    `iteration ${iteration}: margin ${m.toFixed(3)}, ${reward === null ? 'failed' : `reward ${short(reward)}`}`;
  const best = dots.filter((dot) => dot.best);
  const others = dots.filter((dot) => !dot.best);
  const place = { x: 'iteration', y, title } as const;
  return [
    Plot.line(best, { x: 'iteration', y, stroke: colours.best, strokeWidth: 2 }),
    Plot.dot(
      others.filter(({ reward }) => reward !== null),
      { ...place, r: 3.5, fill: colours.candidate, fillOpacity: 0.75 },
    ),
    Plot.dot(
      others.filter(({ reward }) => reward === null),
      { ...place, r: 4, stroke: colours.candidate, symbol: 'times' },
    ),
    Plot.dot(best, { ...place, r: 4.5, fill: colours.best }),
  ];
}

function panel(
  { history }: LossSearchState,
  label: string,
  description: string,
  marks: Plot.Markish[],
): string {
  const step = Math.max(1, Math.ceil(history.length / 12));
  const ticks = history.map((_, i) => i + 1).filter((iteration) => (iteration - 1) % step === 0);
  return draw(
    {
      ...size,
      height: 320,
      x: { domain: [1, history.length + (label === 'margin' ? 1 : 0)], inset: 14 },
      y: { inset: 10, nice: true },
      marks: [
        Plot.gridY(),
        Plot.axisX(ticks, { label: 'iteration', tickFormat: 'd' }),
        Plot.axisY({ label, labelArrow: 'none' }),
        ...marks,
      ],
    },
    `${label} by iteration: ${description}`,
  );
}

function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** Iterations as a table. */
export function searchTable(state: LossSearchState): string {
  const rows = state.history.map(({ mean, trials, best }, i) => {
    const rewards = trials.flatMap(({ reward }) => (reward === null ? [] : [reward]));
    const kept = trials[best];
    return {
      iteration: i + 1,
      mean: marginOf(state, mean),
      m: kept?.m ?? Number.NaN,
      best: kept?.reward ?? Number.NaN,
      average: rewards.reduce((sum, reward) => sum + reward / rewards.length, 0),
      worst: Math.min(...rewards),
      failed: trials.length - rewards.length,
    };
  });
  return table(
    [
      { title: 'iteration', cell: ({ iteration }) => String(iteration), value: ({ iteration }) => iteration },
      { title: 'margin of the mean', cell: ({ mean }) => mean.toFixed(3), value: ({ mean }) => mean },
      { title: 'margin kept', cell: ({ m }) => m.toFixed(3), value: ({ m }) => m },
      { title: 'its reward', cell: ({ best }) => short(best), value: ({ best }) => best },
      { title: 'mean reward', cell: ({ average }) => short(average), value: ({ average }) => average },
      { title: 'least reward', cell: ({ worst }) => short(worst), value: ({ worst }) => worst },
      { title: 'failed', cell: ({ failed }) => String(failed), value: ({ failed }) => failed },
    ],
    rows,
  );
}

/** Of a search whose state has at least one iteration. */
export function searchPage(name: string, state: LossSearchState): string {
  const { variable, scale, exponent, candidates, sigma, learningRate, seed } = state.settings;
  const drawn = variable === 'margin' ? 'margins m = |x|' : `factors a = -|x| exp(${short(exponent)} scale)`;
  return page(`marginfc: loss search, ${name}`, [
    `<h1>Loss search</h1>`,
    `<p class="dim">${text(name)}</p>`,
    `<p>${candidates} ${drawn} an iteration, x ~ N(mean, ${short(sigma)}²); scale ${short(scale)}, learning rate
${short(learningRate)}, seed ${seed}. The next mean stands for the margin ${marginOf(state, state.mean).toFixed(3)}.</p>`,
    section('Course', plots(searchFigures(state))),
    section('Iterations', searchTable(state)),
  ]);
}

/** The state in a file; throws with what is wrong with it. */
export function readSearch(file: string): LossSearchState {
  let state: LossSearchState;
  try {
    state = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: ${(error as Error).message}`);
  }
  try {
    checkState(state);
  } catch (error) {
    throw new Error(`${file} must hold the state of a loss search: ${(error as Error).message}`);
  }
  if (state.history.length === 0) throw new Error(`${file} has no iteration yet`);
  return state;
}
