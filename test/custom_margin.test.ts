/** Margins written in JavaScript: what the callback is told, and what happens to what it answers. */

import { expect, test } from 'vitest';
import { customMargin, forward, forwardSync, valueAndGrad, valueAndGradSync } from '../src/index.js';
import { expectFailure, failureOf } from './failures.js';
import { expectWithinLimits, float32Limits } from './metrics.js';
import { makeProblem } from './problems.js';
import { reference } from './reference.js';

const batch = makeProblem({ rows: 31, dim: 33, classes: 131 }, 'spread', 'ignored', 1);

test('a callback is asked once for each row that counts, in order, with what it needs', async () => {
  const asked: object[] = [];
  const margin = customMargin((row) => {
    asked.push(row);
    return { target: row.cosine - 0.35, dTarget: 1 };
  });
  const out = await valueAndGrad(batch, { margin });
  const expected = reference(batch, {
    margin: { kind: 'cosface', m: 0.35 },
    scale: 64,
    gradient: 'exact',
    onOverflow: 'none',
    reduction: 'mean',
  });
  expectWithinLimits(out, expected, float32Limits(64));
  const counted = [...batch.labels.entries()].filter(([, label]) => label !== -1);
  expect(asked).toEqual(
    counted.map(([row, label]) => ({
      row,
      label,
      cosine: expect.closeTo(expected.targetCosine[row]!, 14),
      featureNorm: expect.closeTo(expected.featureNorm[row]!, 12),
    })),
  );
});

const rowTwo = (answer: () => unknown) =>
  customMargin(({ row }) => (row === 2 ? answer() : { target: 0, dTarget: 1 }) as { target: 0; dTarget: 1 });
const cause = new Error('no margin today');

test.each<[string, () => unknown, RegExp]>([
  [
    'throws',
    () => {
      throw cause;
    },
    /^customMargin callback, row 2: result must be \{ target.*\}, received the exception: no margin today$/,
  ],
  [
    'returns nothing',
    () => undefined,
    /^customMargin callback, row 2: result must be \{ target, dTarget, dFeatureNorm\? \}, received undefined$/,
  ],
  ['returns a number', () => 0.5, /^customMargin callback, row 2: result must be .*received 0\.5$/],
  [
    'returns a promise',
    () => Promise.resolve({ target: 0, dTarget: 0 }),
    /^customMargin callback, row 2: target must be a finite number, received undefined$/,
  ],
  [
    'returns NaN',
    () => ({ target: Number.NaN, dTarget: 0 }),
    /^customMargin callback, row 2: target must be a finite number, received NaN$/,
  ],
  [
    'forgets dTarget',
    () => ({ target: 0 }),
    /^customMargin callback, row 2: dTarget must be a finite number, received undefined$/,
  ],
  [
    'returns a string for dFeatureNorm',
    () => ({ target: 0, dTarget: 0, dFeatureNorm: '1' }),
    /^customMargin callback, row 2: dFeatureNorm must be a finite number, received '1'$/,
  ],
])('a callback that %s is an error that names the row', async (_, answer, message) => {
  const margin = rowTwo(answer);
  for (const call of [valueAndGrad, valueAndGradSync, forward, forwardSync]) {
    await expectFailure(() => call(batch, { margin }), 'ERR_MARGIN', message);
  }
});

test('what the callback threw is the cause of the error', async () => {
  const error = await failureOf(() =>
    valueAndGrad(batch, {
      margin: rowTwo(() => {
        throw cause;
      }),
    }),
  );
  expect(error.cause).toBe(cause);
});

test('straightThrough takes dF/dc as 1, whatever the callback says', () => {
  const make = (dTarget: number) => customMargin(({ cosine }) => ({ target: cosine - 0.1, dTarget }));
  const gradient = 'straightThrough';
  const out = valueAndGradSync(batch, { margin: make(7), gradient });
  expect(out).toEqual(valueAndGradSync(batch, { margin: make(1), gradient }));
});
