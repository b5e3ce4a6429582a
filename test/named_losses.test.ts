/** Losses by name: none is forgotten, and each is what its function or preset is. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import * as api from '../src/index.js';
import { adacos, arcface, focal, lossNamed, namedLosses, presets, softmax } from '../src/index.js';
import { kinds } from '../src/margins.js';
import { termKinds } from '../src/terms.js';
import { expectFailure } from './failures.js';

const names = namedLosses.map(({ name }) => name);

test('every margin but a custom one has a name: that of the function that makes it', () => {
  const plain = kinds.filter((kind) => kind !== 'custom');
  for (const kind of plain) {
    const { options } = lossNamed(kind);
    expect(options).toEqual({ margin: expect.objectContaining({ kind }) });
    // Those whose sources name no values have no defaults.
    const make = Reflect.get(api, kind) as () => object;
    if (kind !== 'dynArcFace') expect(options.margin).toEqual(make());
  }
  expect(names.slice(0, plain.length).sort()).toEqual([...plain].sort());
});

test('functions of the probability, companion terms and scales have names', () => {
  for (const kind of ['focal', 'searchSoftmax', 'amLfs'])
    expect(lossNamed(kind).options.rowFunction).toMatchObject({ kind });
  expect(lossNamed('focal').options).toEqual({ margin: softmax(), rowFunction: focal() });
  for (const kind of termKinds) {
    const make = Reflect.get(api, `${kind}Loss`) as () => object;
    expect(lossNamed(`${kind}Loss`).options).toEqual({ margin: softmax(), terms: [make()] });
  }
  expect(lossNamed('subCenters').options).toEqual({ margin: arcface(), subCenters: 3 });
  expect(lossNamed('adacos').options).toEqual({ margin: softmax(), scale: adacos() });
});

test('every preset has a name, and no name is given twice', () => {
  for (const [name, options] of Object.entries(presets)) {
    const named = lossNamed(name).options;
    expect(named.margin).toEqual(options.margin);
    if (named.scale !== undefined) expect(named).toEqual(options);
  }
  expect(new Set(names).size).toBe(names.length);
});

test('every loss of docs/losses.md has a name', () => {
  const page = readFileSync(new URL('../docs/losses.md', import.meta.url), 'utf8');
  const documented = Array.from(page.matchAll(/^\| `(\w+)\(/gm), ([, name]) => name as string);
  expect(documented.length).toBeGreaterThan(10);
  expect(documented.filter((name) => name !== 'customMargin' && !names.includes(name))).toEqual([]);
  expect(kinds.filter((kind) => kind !== 'custom' && !documented.includes(kind))).toEqual([]);
});

test.each(['arcFace', '', 'customMargin', 'toString'])('%j is refused with all names', async (name) => {
  await expectFailure(
    () => lossNamed(name),
    'ERR_OPTION',
    /name of a loss must be one of .*softmax, .*openSphereFace/,
  );
});
