/**
 * Sums over ten million classes: a float32 that ran over them all would stand still on the way. Only in
 * `npm run test:matrix`: it takes 700 MB and some ten seconds.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { makeProblem } from '../bench/cpu/contestants.js';
import { errors, reference } from '../bench/cpu/reference.js';
import { formulaNamed } from '../bench/formula.js';
import { valueAndGradSync } from '../src/index.js';
import { everything } from './gpus.js';
import { float32Limits, halfLimits } from './metrics.js';

const dim = 8;
const formula = formulaNamed('arcface', 10_000_000);

describe.skipIf(!everything)('ten million classes (test:matrix)', () => {
  let problem: ReturnType<typeof makeProblem>;
  let expected: ReturnType<typeof reference>;
  beforeAll(() => {
    // Few enough rows for all of them to be compared.
    problem = makeProblem({ B: 8, D: dim, C: 10_000_000 });
    expected = reference(problem, formula, new Float32Array(8));
  }, 120_000);

  test.each([
    ['float32', float32Limits(formula.scale)],
    ['bfloat16', halfLimits('bfloat16')],
  ] as const)('stay within the limits of %s', (precision, limits) => {
    const { logSumExp, rowLoss, dFeatures, dWeights } = valueAndGradSync(problem, {
      ...formula,
      workspace: 'recompute',
      precision,
    });
    const found = errors(
      { logSumExp, rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * dim, (j + 1) * dim) },
      expected,
    );
    expect(found.loss).toBeLessThan(limits.logSumExp);
    expect(found.gradient).toBeLessThan(limits.gradient);
  });
});
