/** docs/adding-a-loss.md, followed: its rule computes the formula that its test row has, with the derivatives of that. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import type { BatchRows, BatchRule, Resolution, Targets } from '../src/target_rows.js';

const root = join(import.meta.dirname, '..');
const page = readFileSync(join(root, 'docs', 'adding-a-loss.md'), 'utf8');
const blocks = Array.from(page.matchAll(/^ *```ts\n(.*?)^ *```/gms), ([, block]) => block as string);

/** Imports a program in TypeScript that has its place in src/. */
async function imported(source: string): Promise<Record<string, unknown>> {
  const { default: ts } = await import('typescript');
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 },
  });
  const built = pathToFileURL(join(root, 'dist')).href;
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-walk-'));
  try {
    const file = join(folder, 'walk.mjs');
    writeFileSync(file, outputText.replaceAll(`'./`, `'${built}/`));
    return await import(/* @vite-ignore */ pathToFileURL(file).href);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the page has a rule that is the formula of its test, with that formula's derivatives", async () => {
  const [source, row] = blocks;
  const { normMargin, normMarginRule } = await imported(source as string);
  const { formula } = (await imported(caseOf(row as string))).example as {
    formula: (cosine: number, norm: number) => number;
  };
  const margin = (normMargin as () => { kind: string })();
  const rule = normMarginRule as BatchRule<{ readonly kind: string }>;
  const cosine = Float64Array.of(-0.9, 0, 0.3, 0.99);
  const featureNorm = Float64Array.of(0.1, 1, 20, 300);
  const rows: BatchRows = {
    cosine,
    featureNorm,
    labels: Int32Array.of(0, 2, -1, 1),
    scale: 64,
    onOverflow: 'none',
    seed: 0,
    step: 0,
    trainedClasses: 9,
    memory: {},
    training: true,
  };
  const { target, dTarget, dFeatureNorm } = rule.resolve(margin, rows) as Targets;
  for (const i of [0, 1, 3]) {
    const [c, norm] = [cosine[i]!, featureNorm[i]!];
    expect(target[i]).toBeCloseTo(formula(c, norm), 12);
    expect(dTarget[i]).toBeCloseTo((formula(c + 1e-6, norm) - formula(c - 1e-6, norm)) / 2e-6, 6);
    expect(dFeatureNorm?.[i]).toBeCloseTo((formula(c, norm + 1e-6) - formula(c, norm - 1e-6)) / 2e-6, 6);
  }
  expect([target[2], dTarget[2], dFeatureNorm?.[2]]).toEqual([0, 0, 0]);
});

test('its rule with other negatives gives the formula and its thresholds', async () => {
  const { pushMarginRule } = await imported(blocks[2] as string);
  const rule = pushMarginRule as BatchRule<{ readonly kind: 'pushMargin' }>;
  const rows = { cosine: Float64Array.of(0.9, 0.2, 0), labels: Int32Array.of(3, 0, -1) } as BatchRows;
  const { target, transform } = rule.resolve({ kind: 'pushMargin' }, rows) as Targets & Resolution;
  expect([...target]).toEqual([expect.closeTo(0.55), expect.closeTo(-0.15), 0]);
  expect([...(transform?.threshold ?? [])]).toEqual([expect.closeTo(0.55), expect.closeTo(-0.15), Infinity]);
  expect(transform).toMatchObject({
    below: { value: [0, 1, 0] },
    above: { value: [0.1, 1, 0], slope: [1, 0] },
  });
});

/** The row of the table, without what only the table knows. */
function caseOf(row: string): string {
  return `export const example = ${row.trim().replace(/,$/, '').replace('normMargin()', 'undefined')};`;
}
