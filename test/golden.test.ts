/** The golden cases on every engine, within the limits their manifest gives. */
import { afterAll, describe, expect, test } from 'vitest';
import { type Execution, executionFactors } from './cases.js';
import { closeEngines, type Engine, evaluate, findEngines } from './engines.js';
import { type GoldenCase, goldenCases } from './golden.js';
import { assignToEach, findGpus, findSoftwareGpus } from './gpus.js';
import { expectErrorsWithin, gradientError, lossError } from './metrics.js';
import { pairwise } from './pairwise.js';
import { NORM_FLOOR } from './reference.js';

const engines = await findEngines();
const softwareGpus = await findSoftwareGpus();
const gpus = await findGpus();
afterAll(closeEngines);

/** Shards and threads in full, the rest as it pairs. */
const settings: readonly Execution[] = pairwise(
  {
    place: executionFactors.shards.flatMap((shards) =>
      executionFactors.threads.map((threads) => [shards, threads]),
    ),
    workspace: executionFactors.workspace,
    call: executionFactors.call,
    arrays: executionFactors.arrays,
  },
  1,
).map(({ place, ...rest }) => ({ ...rest, shards: place[0]!, threads: place[1]! }));

function errorsOf({ problem, expected }: GoldenCase, got: Awaited<ReturnType<typeof evaluate>>['result']) {
  const counted = [...problem.labels.keys()].filter((i) => problem.labels[i]! >= 0);
  const pick = (values: ArrayLike<number>) => counted.map((i) => values[i]!);
  const norms = (matrix: Float32Array) =>
    Array.from({ length: matrix.length / problem.dim }, (_, i) =>
      Math.max(Math.hypot(...matrix.subarray(i * problem.dim, (i + 1) * problem.dim)), NORM_FLOOR),
    );
  const rowLoss = expected.logSumExp.map((lse, i) => lse - expected.targetLogit[i]!);
  return {
    loss: lossError([got.loss ?? NaN], [expected.loss]),
    logSumExp: lossError(got.logSumExp, expected.logSumExp),
    rowLoss: lossError(pick(got.rowLoss), pick(rowLoss)),
    targetCosine: Math.max(...counted.map((i) => Math.abs(got.targetCosine[i]! - expected.targetCosine[i]!))),
    dFeatures: gradientError(got.dFeatures!, expected.dFeatures, norms(problem.features)),
    dWeights: gradientError(got.dWeights!, expected.dWeights, norms(problem.weights)),
  };
}

async function expectGolden(engine: Engine, golden: GoldenCase, execution: Execution): Promise<void> {
  const { result } = await evaluate(engine, golden.problem, golden.options, execution);
  expectErrorsWithin(errorsOf(golden, result), golden.float32);
  const ignored = [...golden.problem.labels.keys()].filter((i) => golden.problem.labels[i]! < 0);
  for (const i of ignored) {
    expect([result.rowLoss[i], result.targetCosine[i]]).toEqual([0, 0]);
    const row = result.dFeatures!.subarray(i * golden.problem.dim, (i + 1) * golden.problem.dim);
    expect(row.every((value) => value === 0)).toBe(true);
  }
}

describe.each(engines.filter(({ missing }) => missing === undefined))('engine $name', (engine) => {
  describe.each(settings)(
    'shards $shards, threads $threads, $workspace, $call, $arrays arrays',
    (execution) => {
      test.each(goldenCases)('meets golden case $name', (golden) => expectGolden(engine, golden, execution));
    },
  );
});

test.each(
  assignToEach(goldenCases, softwareGpus, gpus, ['float32']).map(({ entry, engine }, k) => {
    const execution = settings[k % settings.length] as Execution;
    return [
      `${entry.name} on engine ${engine.name}, shards ${execution.shards}`,
      engine,
      entry,
      execution,
    ] as const;
  }),
)('meets golden case %s', (_, engine, golden, execution) => expectGolden(engine, golden, execution));

describe.each([...engines, ...softwareGpus].filter(({ missing }) => missing !== undefined))(
  'engine $name',
  ({ missing }) => {
    test.skip(`is missing: ${missing}`, () => {});
  },
);
