/** How long each phase of a call of the cpu engine takes, in percent of what the machine can do at most. */

import { engineLimits } from './contestants/contestant.js';
import { addon } from './cpu/addon.js';
import { engineLogSumExp, makeProblem, supportedPrecisions } from './cpu/contestants.js';
import { errors, type Problem, reference } from './cpu/reference.js';
import type { Peaks, Precision } from './cpu/results.js';
import { formulaNamed, usual, usualLoss } from './formula.js';
import type { PhaseName, PhaseRow } from './results.js';
import type { Size } from './size.js';
import { median } from './statistics.js';
import { workOf } from './work.js';

export interface PhasesJob {
  readonly phases: true;
  readonly sizes: readonly Size[];
  readonly precisions: readonly Precision[];
  readonly samples: number;
  /** For a size, precision and workspace. */
  readonly seconds: number;
}

export interface Phases {
  readonly peaks: Peaks;
  readonly rows: readonly PhaseRow[];
}

export function measurePhases({ sizes, precisions, samples, seconds }: PhasesJob): Phases {
  const { pairedBfloat16 } = addon().describeCpu();
  const peak = (kind: 'float32' | 'bfloat16') =>
    Math.max(...Array.from({ length: 16 }, () => addon().measurePeak(kind, 0.004)));
  const peaks: Peaks = {
    float32: peak('float32'),
    ...(pairedBfloat16 && { bfloat16: peak('bfloat16') }),
    read: addon().measurePeak('read', 0.2),
    copy: addon().measurePeak('copy', 0.2),
  };
  const rows: PhaseRow[] = [];
  for (const size of sizes) {
    const problem = makeProblem(size);
    const formula = formulaNamed(usualLoss, size.C);
    const expected = reference(problem, formula, engineLogSumExp(problem, formula));
    for (const precision of supportedPrecisions(precisions))
      for (const workspace of ['keep', 'recompute'] as const) {
        const call = makeCall(problem, size, precision, workspace);
        const found = errors(call.outcome(), expected);
        const limits = engineLimits[precision];
        if (!(found.loss <= limits.loss) || !((found.gradient ?? Number.NaN) <= limits.gradient))
          throw new Error(`${precision} ${workspace} is wrong: errors ${JSON.stringify(found)}`);
        const times: Record<PhaseName, number[]> = {
          prepare: [],
          targets: [],
          negatives: [],
          epilogue: [],
          gradients: [],
          update: [],
        };
        const end = performance.now() + seconds * 1e3;
        for (let n = 0; n < 2 || (n < samples && performance.now() < end); n++) call.time(times);
        const compute = (precision === 'bfloat16' ? peaks.bfloat16 : undefined) ?? peaks.float32;
        for (const phase of Object.keys(times) as PhaseName[]) {
          const samplesMs = times[phase];
          const medianMs = median(samplesMs);
          const { operations, bytes } = workOf(phase, size, workspace, precision);
          rows.push({
            ...{ size, precision, workspace, phase, samplesMs, medianMs, operations, bytes },
            percentOfCompute: (100 * operations) / (medianMs / 1e3) / compute,
            percentOfBandwidth: (100 * bytes) / (medianMs / 1e3) / peaks.read,
          });
        }
        call.dispose();
      }
  }
  return { peaks, rows };
}

function makeCall(
  problem: Problem,
  { B, D, C }: Size,
  precision: Precision,
  workspace: 'keep' | 'recompute',
) {
  const { Evaluation, Head } = addon();
  const head = new Head({
    dim: D,
    classes: C,
    start: 0,
    end: C,
    shards: 1,
    engines: ['cpu'],
    optimizer: {
      kind: 'sgd',
      momentum: 0.9,
      weightDecay: 5e-4,
      nesterov: false,
      storage: 'float32',
      seed: 0,
    },
    sampling: { sampleRate: 1, sampledUpdate: 'sampled', seed: 0 },
  });
  head.write('weights', 0, problem.weights);
  const margin = { kind: 'arcface', parameters: [usual.m] } as const;
  const rows = {
    rowLoss: new Float32Array(B),
    logSumExp: new Float32Array(B),
    targetCosine: new Float32Array(B),
  };
  const dFeatures = new Float32Array(B * D);
  const dWeights = new Float32Array(C * D);
  const evaluate = (update: boolean) => {
    const evaluation = new Evaluation({
      ...problem,
      featuresType: 'float32',
      weights: update ? head : problem.weights,
      weightsType: 'float32',
      gradientTolerance: 0,
      precision,
      scale: usual.scale,
      straightThrough: false,
      onOverflow: 'none',
      reduction: 'mean',
      workspace,
      workspaceBytes: 0,
      shards: 1,
      engines: ['cpu'],
      checkFinite: true,
      labelSmoothing: 0,
      diagnostics: false,
      sampled: false,
      topFive: false,
      transforms: false,
    });
    // Hardly an update, so that cosines stay as they are.
    const weightGradient = update
      ? ({ kind: 'update', learningRate: 1e-6 } as const)
      : ({ kind: 'write', dWeights } as const);
    evaluation.valueAndGrad('sync', margin, rows, { dLoss: 1, dFeatures, weightGradient });
    const seconds = evaluation.phaseSeconds();
    evaluation.dispose();
    return seconds;
  };
  evaluate(true);
  return {
    outcome: () => {
      evaluate(false);
      return { ...rows, dFeatures, dWeights: (j: number) => dWeights.subarray(j * D, (j + 1) * D) };
    },
    time: (times: Record<PhaseName, number[]>) => {
      const seconds = evaluate(false);
      for (const phase of ['prepare', 'targets', 'negatives', 'epilogue', 'gradients'] as const)
        times[phase].push(Math.max(seconds[phase] * 1e3, 1e-6));
      times.update.push(evaluate(true).gradients * 1e3);
    },
    dispose: () => head.dispose(),
  };
}
