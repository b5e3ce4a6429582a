/** The calls that are timed: one for each row of the table. */

import {
  adamw,
  forwardSync,
  MarginFcError,
  MarginHead,
  releaseMemory,
  sgd,
  valueAndGradSync,
} from 'marginfc';
import { type Formula, formulaOnHead } from '../formula.js';
import { uniforms } from '../random.js';
import type { Size } from '../size.js';
import type { Measured, Problem, Reference } from './reference.js';
import type { Contest, Precision } from './results.js';

export interface ReusedOutputs {
  readonly dFeatures: Float32Array;
  readonly dWeights: Float32Array;
}

export interface Contestant extends Contest {
  /** Floating-point operations that count for a call. */
  readonly operations: number;
  /** Done before each repetition. */
  readonly prepare?: () => void;
  /** What is timed. What it returns is kept until the repetition is over if the outputs are to be fresh. */
  readonly call: () => unknown;
  /** Makes one call and returns its results, for the reference to be compared with. */
  readonly measured: (expected: Reference) => Measured;
}

/** Which of these precisions the engine can multiply in. */
export function supportedPrecisions(precisions: readonly Precision[]): Precision[] {
  const batch = {
    features: Float32Array.of(1),
    weights: Float32Array.of(1, 2),
    labels: Int32Array.of(0),
    dim: 1,
  };
  return precisions.filter((precision) => {
    try {
      forwardSync(batch, { precision }).dispose();
      return true;
    } catch (error) {
      if (error instanceof MarginFcError && error.code === 'ERR_PRECISION_UNSUPPORTED') return false;
      throw error;
    }
  });
}

/** Independent uniform values, the same for a size every time; class rows of any norm near sqrt(D / 12). */
export function makeProblem({ B, D, C }: Size, subCenters = 1): Problem {
  const next = uniforms();
  const filled = (length: number) => {
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = next() - 0.5;
    return values;
  };
  return {
    features: filled(B * D),
    weights: filled(C * subCenters * D),
    labels: Int32Array.from({ length: B }, () => Math.floor(next() * C)),
    dim: D,
  };
}

/** logSumExp [B] as the engine computes it in float32. */
export function engineLogSumExp(problem: Problem, formula: Formula): Float32Array {
  const pass = forwardSync(problem, formula);
  pass.dispose();
  return pass.logSumExp;
}

/** For the rows whose outputs are reused: a call's results, which go back to the engine in every later call. */
export function makeOutputs(
  problem: Problem,
  formula: Formula,
  options: Partial<Pick<Contest, 'precision' | 'workspace'>> = {},
): ReusedOutputs {
  const { dFeatures, dWeights } = valueAndGradSync(problem, { ...formula, ...options });
  return { dFeatures, dWeights };
}

export async function makeContestant(
  problem: Problem,
  formula: Formula,
  contest: Contest,
  out: ReusedOutputs,
): Promise<Contestant> {
  switch (contest.operation) {
    case 'loss':
      return forward(problem, formula, contest);
    case 'loss + dX + dW':
      return makeGradients(problem, formula, contest, out);
    case 'step':
    case 'AdamW step':
      return step(problem, formula, contest, out.dFeatures);
  }
}

function forward(problem: Problem, formula: Formula, contest: Contest): Contestant {
  const { precision, workspace } = contest;
  const options = { ...formula, precision, workspace };
  const call = () => {
    const pass = forwardSync(problem, options);
    pass.dispose();
    return pass;
  };
  const operations = 2 * problem.labels.length * problem.weights.length;
  return { ...contest, operations, call, measured: call };
}

export function makeGradients(
  problem: Problem,
  formula: Formula,
  contest: Contest,
  out: ReusedOutputs,
): Contestant {
  const { labels, weights, dim } = problem;
  const { precision, workspace, outputs } = contest;
  const options = { ...formula, precision, workspace };
  const reusing = { ...options, out };
  const given = outputs === 'reused' ? reusing : options;
  const call = () => valueAndGradSync(problem, given);
  const prepare = () => {
    releaseMemory();
    // The workspace is not what is to be fresh.
    valueAndGradSync(problem, reusing);
  };
  const measured = () => {
    const { logSumExp, rowLoss, dFeatures, dWeights } = call();
    return {
      logSumExp,
      rowLoss,
      dFeatures,
      dWeights: (row: number) => dWeights.subarray(row * dim, (row + 1) * dim),
    };
  };
  const operations = 6 * labels.length * weights.length;
  return { ...contest, operations, ...(outputs === 'fresh' && { prepare }), call, measured };
}

/**
 * An optimiser, and the gradient that its first update moved a weight by: `before` and `after` are the weight's values.
 * AdamW's epsilon is so large that the gradient can be told from the update; it changes no time.
 */
function optimizerOf(operation: Contest['operation']) {
  const weightDecay = 5e-4;
  // The first velocity is dW + weightDecay w.
  if (operation === 'step')
    return {
      optimizer: sgd({ momentum: 0.9, weightDecay }),
      gradient: (before: number, after: number, learningRate: number) =>
        (before - after) / learningRate - weightDecay * before,
    };
  // The first update is learningRate g / (|g| + epsilon).
  return {
    optimizer: adamw({ weightDecay, epsilon: 1 }),
    gradient: (before: number, after: number, learningRate: number) => {
      const update = (before - after) / learningRate - weightDecay * before;
      return update / (1 - Math.abs(update));
    },
  };
}

/** One step of a head: the optimiser's update in place of dW. */
async function step(
  problem: Problem,
  formula: Formula,
  contest: Contest,
  dFeatures: Float32Array,
): Promise<Contestant> {
  const { features, weights, labels, dim } = problem;
  const { precision, workspace } = contest;
  const { optimizer, gradient } = optimizerOf(contest.operation);
  const { subCenters } = formula;
  const onHead = formulaOnHead(formula);
  if (!onHead) throw new Error(`${formula.margin.kind} on a head has no reference`);
  const head = await MarginHead.create({
    ...onHead,
    dim,
    classes: weights.length / dim / subCenters,
    precision,
    workspace,
    optimizer,
    init: weights,
  });
  const take = (learningRate: number) =>
    head.stepSync({ features, labels }, { learningRate, out: { dFeatures } });
  return {
    ...contest,
    operations: 6 * labels.length * weights.length,
    // Hardly a step, so that weights and cosines stay as they are.
    call: () => take(1e-6),
    measured: (expected) => {
      const learningRate = visibleStep(expected);
      const { logSumExp, rowLoss } = take(learningRate);
      const gradientOf = (row: number) => {
        const [j, first] = [Math.floor(row / subCenters), (row % subCenters) * dim];
        return Float64Array.from(head.weights(j, j + 1).subarray(first, first + dim), (after, d) =>
          gradient(weights[row * dim + d] as number, after, learningRate),
        );
      };
      return { logSumExp, rowLoss, dFeatures, dWeights: gradientOf };
    },
  };
}

/** Moves the row of W with the largest gradient by a tenth of its norm, so that the update shows in a float32. */
function visibleStep({ classRows }: Reference): number {
  const ratios = classRows.map(({ norm, dWeights }) => Math.hypot(...dWeights) / norm);
  return 0.1 / Math.max(...ratios, Number.MIN_VALUE);
}
