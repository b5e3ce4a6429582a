/** MarginHead over processes with a software GPU each, which NCCL's stand-in connects: the results of one process. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { MarginHead, sgd } from '../src/index.js';
import { makeBatch } from './lifecycle/problems.mjs';
import { float32Limits, gradientError } from './metrics.js';
import { torchrun } from './torchrun.js';

const program = fileURLToPath(new URL('./lifecycle/ranks.mjs', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'marginfc-nccl-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.each([1, 2])('a head over NCCL trains on %i processes as on one', async (ranks) => {
  const size = { rows: 30, dim: 24, classes: 101 };
  const batch = makeBatch(size);
  const rowNorms = Array.from({ length: size.rows }, (_, row) =>
    Math.hypot(...batch.features.slice(row * size.dim, (row + 1) * size.dim)),
  );
  const alone = await MarginHead.create({
    dim: size.dim,
    classes: size.classes,
    seed: 5,
    init: { std: 0.5 },
    optimizer: sgd({ learningRate: 0.2, momentum: 0.9 }),
  });
  const { code, stderr } = await torchrun(ranks, program, ['train', join(folder, 'checkpoint'), folder], {
    environment: { MARGINFC_TEST_GROUP: 'nccl' },
  });
  expect(code, stderr).toBe(0);
  const seen = Array.from({ length: ranks }, (_, rank) =>
    JSON.parse(readFileSync(join(folder, `${rank}.json`), 'utf8')),
  );
  for (const s of [0, 1]) {
    const expected = await alone.step(batch);
    for (const { steps } of seen) expect(steps[s].loss).toBeCloseTo(expected.loss, 4);
    const dFeatures = seen.flatMap(({ steps }) => steps[s].dFeatures);
    // Of both engines.
    expect(gradientError(dFeatures, expected.dFeatures, rowNorms)).toBeLessThan(
      2 * float32Limits(64).gradient,
    );
  }
  alone.dispose();
});
