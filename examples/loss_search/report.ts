/** The results as a table, in words, and as a page. */

import { page, plots, section, table, text } from '../../bench/report/page.js';
import { searchFigures, searchTable } from '../../bench/report/search.js';
import { mean, meanInterval, standardDeviation } from '../demo/metrics.js';
import type { Figures, SearchResults, Settings } from './experiment.js';

export const headings = [
  'Margin',
  'Validation\naccuracy',
  'Test\naccuracy',
  'TAR at\nFAR 1 %',
  'Searched less\nthis, points',
  '95 %\ninterval',
];

/** Means and deviations over seeds; differences are of the same seeds' test accuracies. */
export function rows({ searched, byHand }: SearchResults): string[][] {
  return [searched, ...byHand].map((figures) => {
    const { name, validation, accuracy, trueAcceptRate } = figures;
    const points = differences(searched, figures);
    return [
      name,
      summary(validation.map(percent)),
      summary(accuracy.map(percent)),
      summary(trueAcceptRate.map(percent)),
      figures === searched ? '–' : summary(points, true),
      figures === searched || points.length === 1 ? '–' : meanInterval(points).map(signed).join(' to '),
    ];
  });
}

/** What may be said of the search beside the other ways: a difference only where the interval is on one side of 0. */
export function verdicts({ searched, byHand }: SearchResults): string[] {
  const said = byHand.map((figures) => {
    const [low, high] = meanInterval(differences(searched, figures));
    const verdict = low > 0 ? 'better than' : high < 0 ? 'worse than' : 'not to be told from';
    return { name: figures.name, verdict };
  });
  return ['better than', 'worse than', 'not to be told from'].flatMap((verdict) => {
    const names = said.filter((each) => each.verdict === verdict).map(({ name }) => name);
    return names.length === 0 ? [] : [`By 95 % intervals the search is ${verdict} ${names.join(', ')}.`];
  });
}

export function notes(
  { classes, recipe }: SearchResults,
  { seeds, candidates, iterations }: Settings,
): string[] {
  return [
    `${seeds === 1 ? 'One seed' : `Mean ± standard deviation over ${seeds} seeds`}. Accuracy of verification: pairs of one class and of two, the threshold by cross-validation.`,
    `Classes: ${classes.train} trained on, ${classes.validation} for validation, ${classes.test} for testing; drawn anew for each seed, the same for all margins.`,
    `The search trains ${candidates} candidates in each of ${iterations} iterations, so ${candidates} times as many steps as each of the others (${recipe.epochs} epochs).`,
  ];
}

export function renderPage(
  results: SearchResults,
  settings: Settings,
  facts: Readonly<Record<string, string>>,
): string {
  const cells = rows(results);
  const columns = headings.map((heading, column) => ({
    title: heading.replace('\n', ' '),
    text: column === 0,
    cell: (row: readonly string[]) => row[column] ?? '',
  }));
  const list = Object.entries(facts).map(([name, fact]) => `<dt>${text(name)}</dt><dd>${text(fact)}</dd>`);
  const sentences = [...notes(results, settings), ...(settings.seeds === 1 ? [] : verdicts(results))];
  return page('marginfc: a margin searched for', [
    '<h1>A margin searched for, and margins set by hand</h1>',
    `<dl>${list.join('')}</dl>`,
    section(
      'Verification of held-out classes, %',
      `${table(columns, cells)}\n<p class="dim">${sentences.map(text).join(' ')}</p>`,
    ),
    ...results.states.map((state, i) =>
      section(
        `Seed ${i + 1}`,
        `${plots(searchFigures(state, `-${i + 1}`))}\n<details><summary>Iterations</summary>${searchTable(state)}</details>`,
      ),
    ),
  ]);
}

function differences(searched: Figures, other: Figures): number[] {
  return searched.accuracy.map((accuracy, seed) => percent(accuracy - (other.accuracy[seed] as number)));
}

function percent(share: number): number {
  return 100 * share;
}

function signed(value: number): string {
  return `${value >= 0 ? '+' : ''}${value.toFixed(1)}`.replace('-', '−');
}

function summary(values: readonly number[], withSign = false): string {
  const centre = withSign ? signed(mean(values)) : mean(values).toFixed(1);
  return values.length === 1 ? centre : `${centre} ± ${standardDeviation(values).toFixed(1)}`;
}
