/** The results as tables of text, for the terminal and the page alike. */

import type { LossFigures, Results } from './experiment.js';
import { mean, standardDeviation } from './metrics.js';

export interface Table {
  readonly title: string;
  /** A heading may have two lines. */
  readonly headings: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What the numbers are. */
  readonly notes: readonly string[];
}

/** The wide embedding: mean and standard deviation over seeds. */
export function figuresTable({ figures, ...results }: Results): Table {
  const [baseline] = figures;
  const seeds = figures[0]?.spread.length ?? 0;
  return {
    title: `${results.recipe.dim}-D embedding, ${seeds === 1 ? 'one seed' : `mean ± standard deviation over ${seeds} seeds`}`,
    headings: [
      'Loss',
      'Spread within\nclasses',
      'Nearest\ncentre',
      'Verification\naccuracy',
      'TAR at\nFAR 1 %',
      `Accuracy less that\nof ${baseline?.loss.title}, points`,
    ],
    rows: figures.map((row) => [
      row.loss.title,
      summary(row.spread, '°'),
      summary(row.nearestCentre, '°'),
      summary(percent(row.accuracy), ' %'),
      summary(percent(row.trueAcceptRate), ' %'),
      row === baseline || baseline === undefined ? '–' : summary(difference(row, baseline), '', true),
    ]),
    notes: [
      `Angles: test images of the ${results.trainedClasses} classes trained on.`,
      `Verification: the ${results.heldOutClasses} classes held out, ${results.samePairs.toLocaleString('en')} pairs of one ` +
        `class and ${results.differentPairs.toLocaleString('en')} of two.`,
      'Accuracy: nine tenths of the pairs choose the threshold for the last tenth, ten times over.',
      'TAR: share of same pairs accepted where 1 % of the different ones are.',
      ...(seeds === 1
        ? []
        : [
            'Each seed holds out other classes, which moves all losses alike; the last column compares within seeds.',
          ]),
    ],
  };
}

/** The 2-D embedding: one run. */
export function pictureTable({ pictures }: Results): Table {
  return {
    title: `2-D embedding of ${pictures[0]?.classNames.length ?? 0} classes, one seed`,
    headings: ['Loss', 'Spread within\nclasses', 'Nearest\ncentre', 'Nearest centre\nis the own'],
    rows: pictures.map(({ loss, spread, nearestCentre, accuracy }) => [
      loss.title,
      `${spread.toFixed(1)}°`,
      `${nearestCentre.toFixed(1)}°`,
      `${(100 * accuracy).toFixed(1)} %`,
    ]),
    notes: ['Test images of the classes trained on.'],
  };
}

function percent(shares: readonly number[]): number[] {
  return shares.map((share) => 100 * share);
}

function difference(row: LossFigures, baseline: LossFigures): number[] {
  return row.accuracy.map((accuracy, seed) => 100 * (accuracy - (baseline.accuracy[seed] as number)));
}

function summary(values: readonly number[], unit: string, signed = false): string {
  const centre = mean(values);
  const sign = signed && centre >= 0 ? '+' : '';
  const number = `${sign}${centre.toFixed(1)}`.replace('-', '−');
  return values.length === 1
    ? `${number}${unit}`
    : `${number} ± ${standardDeviation(values).toFixed(1)}${unit}`;
}
