/**
 * The inter-loss of a batch: an evaluation of its own, whose rows are the weights of the classes that the batch has and whose row losses
 * are the sums of their angles to all other classes.
 */

import { agree, attempt, attemptTwin } from './agreement.js';
import type { Plan } from './evaluation.js';
import type { ProcessGroup } from './group.js';
import {
  addon,
  type NativeEvaluation,
  type NativeHead,
  type NativeMode,
  type NativeProblem,
} from './native.js';
import { newRows, newStatistics } from './row_arrays.js';
import { type LossTerm, termOf } from './terms.js';
import { settled, type Twin } from './twin.js';
import { mustBe, show } from './validate.js';

/** The term without its weight, and what the gradient of the weights has of it. */
export interface InterResult {
  readonly inter: number;
  /** [own classes, dim], where it was asked for. */
  readonly addedWeights?: Float32Array;
}

/** Gradients with what the term adds to them. */
export function withAdded<G extends object>(
  gradients: G,
  { addedWeights }: InterResult,
): G & Pick<InterResult, 'addedWeights'> {
  return addedWeights ? { ...gradients, addedWeights } : gradients;
}

/** The rows of a batch's classes are read where they are. */
export function checkInterWeights(
  terms: readonly LossTerm[],
  weights: Exclude<NativeProblem['weights'], NativeHead>,
): void {
  if (termOf(terms, 'inter') && !ArrayBuffer.isView(weights))
    throw mustBe(
      'ERR_OPTION',
      'weights',
      "in the host's memory with an interLoss, for which the rows of the batch's classes are read there",
      show(weights),
    );
}

/** Of each class of a batch, what the reduction multiplies its rows with. */
function classShares({ problem: { labels, rowWeights, reduction } }: Plan): Map<number, number> {
  const shares = new Map<number, number>();
  let total = 0;
  for (const [i, label] of labels.entries()) {
    if (label === -1) continue;
    const weight = rowWeights?.[i] ?? 1;
    total += weight;
    shares.set(label, (shares.get(label) ?? 0) + weight);
  }
  if (reduction === 'mean')
    for (const [label, weight] of shares) shares.set(label, total > 0 ? weight / total : 0);
  return shares;
}

/**
 * `plan` is of the rows of all processes of `group`. `factor`: what multiplies the gradient besides the term's weight; undefined: none is
 * wanted.
 */
export function* interPass(
  mode: NativeMode,
  plan: Plan,
  cancel: Int32Array,
  factor: number | undefined,
  group?: ProcessGroup,
): Twin<InterResult> {
  const term = termOf(plan.terms.terms, 'inter');
  if (!term) return { inter: 0 };
  const { range, classes } = plan.terms.remembered();
  const shares = classShares(plan);
  if (shares.size === 0 || classes === 1) return { inter: 0 };
  const { dim } = plan.problem;
  const labels = Int32Array.from(shares.keys()).sort();
  const each = 1 / (Math.PI * (classes - 1));
  const slopes = Float64Array.from(labels, (label) => -each * (shares.get(label) as number));
  const count = { rows: labels.length, hardest: false, learners: [], margin: plan.margin };
  let evaluation: NativeEvaluation | undefined;
  try {
    const made = yield* agree(
      group,
      attempt(() => {
        const features = centersOf(plan, labels);
        return {
          features,
          rows: newRows(count),
          gradients:
            factor === undefined
              ? undefined
              : {
                  dLoss: Float32Array.from(slopes, (slope) => slope * term.weight * factor),
                  dFeatures: addon().allocate(labels.length * dim),
                  weightGradient: {
                    kind: 'write' as const,
                    dWeights: addon().allocate((range.end - range.start) * dim),
                  },
                },
        };
      }),
    );
    const { features, rows, gradients } = made;
    if (group) yield* settled(group.allReduce(features as Float32Array, 'sum'));
    const problem = problemOf(plan, features, labels);
    evaluation = yield* agree(
      group,
      attempt(() => new (addon().Evaluation)(problem, cancel)),
    );
    if (group) {
      const statistics = newStatistics({ ...count, problem });
      yield* agree(group, yield* attemptTwin(settled(evaluation.negatives('async', statistics, gradients))));
      const sums = statistics.logNegatives.map(Math.exp);
      yield* settled(group.allReduce(sums, 'sum'));
      statistics.logNegatives.set(sums.map(Math.log));
      yield* agree(
        group,
        yield* attemptTwin(settled(evaluation.epilogue('async', noMargin, rows, statistics))),
      );
      if (gradients) {
        yield* agree(group, yield* attemptTwin(settled(evaluation.reserve('async', gradients))));
        yield* agree(group, yield* attemptTwin(settled(evaluation.finish('async', gradients))));
        yield* settled(group.allReduce(gradients.dFeatures, 'sum'));
      }
    } else if (gradients) {
      yield* settled(evaluation.valueAndGrad(mode, noMargin, rows, gradients));
    } else {
      yield* settled(evaluation.forward(mode, noMargin, rows));
    }
    const inter = rows.rowLoss.reduce((sum, angles, u) => sum + (slopes[u] as number) * angles, 0);
    if (!gradients) return { inter };
    const { dFeatures, weightGradient } = gradients;
    const { dWeights } = weightGradient;
    // A class of the batch is a row and a class.
    for (const [u, label] of labels.entries()) {
      if (label < range.start || label >= range.end) continue;
      const to = (label - range.start) * dim;
      for (let d = 0; d < dim; d++) dWeights[to + d]! += dFeatures[u * dim + d] as number;
    }
    return { inter, addedWeights: dWeights };
  } finally {
    evaluation?.dispose();
  }
}

const noMargin = { kind: 'softmax', parameters: [] } as const;

/** The weights of these classes, [labels.length, dim], as they are stored; 0 for those of other processes. */
function centersOf(
  { problem: { weights, dim }, terms }: Plan,
  labels: Int32Array,
): Float32Array | Uint16Array {
  const { range } = terms.remembered();
  if (ArrayBuffer.isView(weights)) {
    const rows = weights instanceof Uint16Array ? Uint16Array : Float32Array;
    const centers = new rows(labels.length * dim);
    for (const [u, label] of labels.entries())
      centers.set(weights.subarray(label * dim, (label + 1) * dim), u * dim);
    return centers;
  }
  const centers = new Float32Array(labels.length * dim);
  if ('read' in weights)
    for (const [u, label] of labels.entries())
      if (label >= range.start && label < range.end)
        weights.read('weights', label, label + 1, centers.subarray(u * dim, (u + 1) * dim));
  return centers;
}

function problemOf(
  { problem }: Plan,
  features: Float32Array | Uint16Array,
  labels: Int32Array,
): NativeProblem {
  const { rowWeights: _, rowFunction: __, ...rest } = problem;
  return {
    ...rest,
    features,
    featuresType: features instanceof Uint16Array ? problem.weightsType : 'float32',
    labels,
    angles: true,
    scale: Math.LN2,
    precision: 'float32',
    reduction: 'none',
    workspace: 'recompute',
    gradientTolerance: 0,
    labelSmoothing: 0,
    diagnostics: false,
    topFive: false,
    transforms: false,
    sampled: false,
    // Those of the loss itself are looked at.
    checkFinite: false,
  };
}
