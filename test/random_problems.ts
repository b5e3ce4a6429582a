/** Random problems for fast-check, the engine of this process, and what it means that two results agree. */
import fc from 'fast-check';
import * as marginfc from '../src/index.js';
import { everything } from './gpus.js';
import { expectWithinLimits, float32Limits, type Measured } from './metrics.js';
import { arrangementNames, labelingNames, makeProblem, type Problem } from './problems.js';
import { type ReferenceMargin, type ReferenceOptions, type ReferenceResult, reference } from './reference.js';

/**
 * How often a property is tried. The default run repeats the same problems; `npm run test:matrix` takes new
 * and more ones, and a failure prints the seed that repeats it.
 */
export const runs: fc.Parameters<unknown> = everything ? { numRuns: 500 } : { numRuns: 40, seed: 20 };

export interface Given {
  readonly problem: Problem;
  readonly options: ReferenceOptions;
}

export const parameter = (low: number, high: number) => fc.double({ min: low, max: high, noNaN: true });
export const margin: fc.Arbitrary<ReferenceMargin> = fc.oneof(
  fc.record({ kind: fc.constant('arcface' as const), m: parameter(-0.2, 1.2) }),
  fc.record({ kind: fc.constant('cosface' as const), m: parameter(-0.2, 0.8) }),
  fc.record({
    kind: fc.constant('x2softmax' as const),
    a: parameter(-1.2, -0.2),
    h: parameter(-0.2, 0.2),
    k: parameter(0.2, 1),
  }),
  fc.record({
    kind: fc.constant('combined' as const),
    m1: parameter(0.7, 1.5),
    m2: parameter(0, 0.6),
    m3: parameter(0, 0.4),
  }),
  fc.record({ kind: fc.constant('softmax' as const) }),
);

export const given: fc.Arbitrary<Given> = fc
  .record({
    size: fc.record({
      rows: fc.integer({ min: 1, max: 70 }),
      // Also what fills vectors of every width.
      dim: fc.oneof(
        { weight: 3, arbitrary: fc.integer({ min: 2, max: 130 }) },
        { weight: 1, arbitrary: fc.constantFrom(32, 64, 96, 128) },
      ),
      classes: fc.integer({ min: 1, max: 300 }),
    }),
    arrangement: fc.constantFrom(...arrangementNames),
    labeling: fc.constantFrom(...labelingNames),
    seed: fc.nat(),
    margin,
    scale: fc.constantFrom(1, 30, 64, 100),
    gradient: fc.constantFrom('exact' as const, 'straightThrough' as const),
    policy: fc.constantFrom('none' as const, 'fallback' as const, 'easy' as const),
    reduction: fc.constantFrom('mean' as const, 'sum' as const),
  })
  .map(({ size, arrangement, labeling, seed, policy, ...rest }) => {
    const takesPolicy = rest.margin.kind === 'arcface' || rest.margin.kind === 'combined';
    const options: ReferenceOptions = { ...rest, onOverflow: takesPolicy ? policy : 'none' };
    return {
      problem: makeProblem(size, arrangement, labeling, seed),
      options,
      // A failure prints how the problem is made instead of its numbers.
      [fc.toStringMethod]: () => JSON.stringify({ size, arrangement, labeling, seed, ...options }),
    };
  });

/** Values and both gradients on the default engine of this process. */
export function compute(
  { problem, options }: Given,
  how: { shards?: number; workspace?: 'keep' | 'recompute'; precision?: marginfc.Precision } = {},
) {
  return marginfc.valueAndGradSync(problem, callOptions(options, how));
}

export function callOptions({ margin, ...options }: ReferenceOptions, how: object = {}) {
  const own = margin.kind === 'custom' ? marginfc.customMargin(margin.callback) : margin;
  return { ...options, ...how, margin: own } as marginfc.ValueAndGradOptions<'both'>;
}

/** Two computations of one thing agree as well as each must agree with the reference. */
export function expectSame(
  got: Measured,
  other: ReturnType<typeof compute>,
  { problem, options }: Given,
): void {
  const exact = reference(problem, options);
  const base: ReferenceResult = {
    ...exact,
    loss: other.loss,
    rowLoss: Float64Array.from(other.rowLoss),
    logSumExp: Float64Array.from(other.logSumExp),
    targetCosine: Float64Array.from(other.targetCosine),
    dFeatures: Float64Array.from(other.dFeatures),
    dWeights: Float64Array.from(other.dWeights),
  };
  expectWithinLimits(got, base, float32Limits(options.scale));
}

function bits(...arrays: Float32Array[]): string[] {
  return arrays.map((array) =>
    Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64'),
  );
}

export const bitsOf = (result: {
  rowLoss: Float32Array;
  logSumExp: Float32Array;
  dFeatures?: Float32Array | undefined;
  dWeights?: Float32Array | undefined;
}) => bits(result.rowLoss, result.logSumExp, result.dFeatures!, result.dWeights!);

export const plainOptions: ReferenceOptions = {
  margin: { kind: 'softmax' },
  scale: 1,
  gradient: 'exact',
  onOverflow: 'none',
  reduction: 'mean',
};
