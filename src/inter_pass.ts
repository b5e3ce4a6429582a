/**
 * The inter-loss of a batch: an evaluation of its own, whose rows are the weights of the classes that the batch has and whose row losses
 * are the sums of their angles to all other classes.
 */

import { agree, attempt, attemptTwin } from './agreement.js';
import type { Plan } from './evaluation.js';
import type { ProcessGroup } from './group.js';
import { addon, type NativeEvaluation, type NativeMode, type NativeProblem } from './native.js';
import { newRows, newStatistics } from './row_arrays.js';
import { termOf } from './terms.js';
import { settled, type Twin } from './twin.js';

/** The term without its weight, and whether its gradient of the weights is kept where these are. */
export interface InterResult {
  readonly inter: number;
  readonly addsKept?: true;
}

/** Gradients with what the term adds to them. */
export function withKept<G extends object>(
  gradients: G,
  { addsKept }: InterResult,
): G & Pick<InterResult, 'addsKept'> {
  return addsKept ? { ...gradients, addsKept } : gradients;
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
 * `plan` is of the rows of all processes of `group`, and `classes` evaluates it. `factor`: what multiplies the gradient besides the
 * term's weight; undefined: none is wanted.
 */
export function* interPass(
  mode: NativeMode,
  plan: Plan,
  classes: NativeEvaluation,
  cancel: Int32Array,
  factor: number | undefined,
  group?: ProcessGroup,
): Twin<InterResult> {
  const term = termOf(plan.terms.terms, 'inter');
  if (!term) return { inter: 0 };
  const shares = classShares(plan);
  if (shares.size === 0 || plan.classes === 1) return { inter: 0 };
  const { dim } = plan.problem;
  const labels = Int32Array.from(shares.keys()).sort();
  const each = 1 / (Math.PI * (plan.classes - 1));
  const slopes = Float64Array.from(labels, (label) => -each * (shares.get(label) as number));
  const count = { rows: labels.length, hardest: false, learners: [], margin: plan.margin };
  let evaluation: NativeEvaluation | undefined;
  try {
    const made = yield* agree(
      group,
      attempt(() => ({
        features: new Float32Array(labels.length * dim),
        rows: newRows(count),
        gradients:
          factor === undefined
            ? undefined
            : {
                dLoss: Float32Array.from(slopes, (slope) => slope * term.weight * factor),
                dFeatures: addon().allocate(labels.length * dim),
                weightGradient: { kind: 'keep' as const },
              },
      })),
    );
    const { features, rows, gradients } = made;
    yield* agree(group, yield* attemptTwin(settled(classes.classRows(mode, labels, features))));
    if (group) yield* settled(group.allReduce(features, 'sum'));
    const problem = problemOf(plan, classes, features, labels);
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
    // A class of the batch is a row and a class.
    yield* agree(group, yield* attemptTwin(settled(evaluation.addToKept(mode, gradients.dFeatures))));
    return { inter, addsKept: true };
  } finally {
    evaluation?.dispose();
  }
}

const noMargin = { kind: 'softmax', parameters: [] } as const;

function problemOf(
  { problem }: Plan,
  classes: NativeEvaluation,
  features: Float32Array,
  labels: Int32Array,
): NativeProblem {
  const { rowWeights: _, rowFunction: __, ...rest } = problem;
  return {
    ...rest,
    features,
    featuresType: 'float32',
    labels,
    weights: classes,
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
