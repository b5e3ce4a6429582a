/**
 * A margin that is searched for, beside margins set by hand. Of every seed a quarter of the classes rewards candidates, another
 * quarter judges what all have come to, and no image of either is trained on. All start from one network.
 */

import { cosface, type LossSearchState, lossSearch } from 'marginfc';
import { type LabelledImages, searchSplit } from '../demo/data.js';
import { makeRecipe, mostPairs } from '../demo/experiment.js';
import { drawPairs, unitRows, type Verification, verify } from '../demo/metrics.js';
import { createTrainer, type Recipe, type Trainer } from '../demo/train.js';
import { type Random, seeded } from '../random.js';

export interface Settings {
  readonly seeds: number;
  readonly iterations: number;
  readonly candidates: number;
  /** Of an iteration. Undefined: as many as make about 240 steps in all iterations. */
  readonly epochs: number | undefined;
  readonly dim: number;
  /** CosFace's m, each trained for as many epochs as the search's result. */
  readonly margins: readonly number[];
}

/** One way to train, over all seeds: a value for each. */
export interface Figures {
  readonly name: string;
  /** Accuracy of verification in [0, 1], on classes that a search or a choice has seen. */
  readonly validation: number[];
  /** The same on classes that nothing has seen, and the share of same pairs accepted where 1 % of the others are. */
  readonly accuracy: number[];
  readonly trueAcceptRate: number[];
}

export interface SearchResults {
  readonly recipe: Recipe;
  readonly searched: Figures;
  /** One for each margin, and last whichever of them is best on the validation classes. */
  readonly byHand: readonly Figures[];
  /** Of each seed. */
  readonly states: readonly LossSearchState[];
  readonly classes: { readonly train: number; readonly validation: number; readonly test: number };
}

/** Told what has been found. */
export type Report = (line: string) => void;

export async function compareWithSearch(
  data: LabelledImages,
  settings: Settings,
  report: Report,
): Promise<SearchResults> {
  const { iterations, candidates, dim, margins } = settings;
  const recipes: Recipe[] = [];
  const states: LossSearchState[] = [];
  const searched = newFigures('searched');
  const byHand = margins.map((m) => newFigures(m === 0 ? 'no margin' : `CosFace ${m}`));
  const chosen = newFigures('best by validation');
  const classes = { train: 0, validation: 0, test: 0 };

  for (let seed = 1; seed <= settings.seeds; seed++) {
    const random = seeded(seed);
    const split = searchSplit(data, random);
    const whole = makeRecipe(split, dim, undefined);
    const epochs = settings.epochs ?? Math.max(1, Math.round(whole.epochs / iterations));
    const recipe = { ...whole, epochs: epochs * iterations };
    recipes.push(recipe);
    const [validate, test] = [verifier(data, split.validation, random), verifier(data, split.test, random)];
    classes.train = split.classOf.size;
    classes.validation = countClasses(data, split.validation);
    classes.test = countClasses(data, split.test);
    const trainer = await createTrainer(data, split, recipe, seed);
    const judge = (figures: Figures) => record(figures, validate(trainer), test(trainer));
    const start = await trainer.snapshot();

    const { trained, state } = await lossSearch({
      ...{ variable: 'margin', scale: recipe.scale, candidates, iterations, seed, start },
      async train({ margin }, from) {
        await trainer.restore(from);
        await trainer.fit({ margin }, epochs, () => {});
        return trainer.snapshot();
      },
      // The trainer is as `train` has left it.
      reward: () => validate(trainer).accuracy,
      onIteration: ({ best, reward, state: { history } }) =>
        report(
          `seed ${seed}, iteration ${history.length}: margin ${best.m.toFixed(3)}, ` +
            `validation ${(100 * reward).toFixed(1)} %`,
        ),
    });
    states.push(state);
    await trainer.restore(trained);
    judge(searched);

    for (const [i, m] of margins.entries()) {
      await trainer.restore(start);
      await trainer.fit({ margin: cosface({ m }) }, recipe.epochs, () => {});
      judge(byHand[i] as Figures);
    }
    const best = byHand.reduce((a, b) => (last(b.validation) > last(a.validation) ? b : a));
    for (const part of ['validation', 'accuracy', 'trueAcceptRate'] as const)
      chosen[part].push(last(best[part]));
    report(
      `seed ${seed}, test: searched ${percent(last(searched.accuracy))}, ` +
        byHand.map(({ name, accuracy }) => `${name} ${percent(last(accuracy))}`).join(', '),
    );
    trainer.dispose();
  }
  return { recipe: recipes[0] as Recipe, searched, byHand: [...byHand, chosen], states, classes };
}

function newFigures(name: string): Figures {
  return { name, validation: [], accuracy: [], trueAcceptRate: [] };
}

function record(figures: Figures, validation: Verification, test: Verification): void {
  figures.validation.push(validation.accuracy);
  figures.accuracy.push(test.accuracy);
  figures.trueAcceptRate.push(test.trueAcceptRate);
}

/** Verification of pairs of some images, the same pairs each time. */
function verifier(
  { labels }: LabelledImages,
  images: readonly number[],
  random: Random,
): (trainer: Trainer) => Verification {
  const pairs = drawPairs(
    images.map((image) => labels[image] as number),
    mostPairs,
    random,
  );
  return ({ embed, dim }) => verify(unitRows(embed(images), dim), dim, pairs);
}

function countClasses({ labels }: LabelledImages, images: readonly number[]): number {
  return new Set(images.map((image) => labels[image])).size;
}

function last(values: readonly number[]): number {
  return values.at(-1) ?? Number.NaN;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
