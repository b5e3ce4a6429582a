/**
 * The phases of engine/engine.h over the processes of a group, each of which has some of the classes and some of the rows. Features
 * and labels are gathered first, so that every process sees all rows; after phase 2 what its classes say of each row is added up;
 * dX is added up and scattered while the weights' gradient is used.
 */

import { watchAbort } from './abort.js';
import { agree, attempt, attemptTwin } from './agreement.js';
import { customTargets } from './custom_margin.js';
import { MarginFcError, publicError } from './errors.js';
import { interFactor, type Plan, type SkippedMass } from './evaluation.js';
import type { ProcessGroup } from './group.js';
import { gatherPlan, type Share } from './group_batch.js';
import type { HeadSettings } from './head_options.js';
import { interPass, withKept } from './inter_pass.js';
import { asksForAngles, filterOf, type Resolved, resolve } from './margin_resolution.js';
import type { CustomMargin } from './margins.js';
import { noteUse } from './memory.js';
import {
  addon,
  type NativeClip,
  type NativeEvaluation,
  type NativeForwardResult,
  type NativeGradients,
  type NativeRows,
  type NativeStatistics,
} from './native.js';
import type { NativeMargin, NativeTermValues } from './native_loss.js';
import {
  type Angles,
  hardStatistics,
  newAngles,
  newRows,
  newStatistics,
  slopeStatistics,
} from './row_arrays.js';
import { type BatchResult, type TermPlan, withNativeTerms, withTerms } from './term_state.js';
import { settled, type Twin } from './twin.js';

/** What a call wants besides the loss. */
export interface GroupGradients extends Omit<NativeGradients, 'dFeatures'> {
  /** [own rows, dim], asked for when work begins. */
  readonly dFeatures: () => Float32Array;
}

export interface GroupPassed {
  /** Of the own rows. */
  readonly rows: NativeRows;
  /** Of all rows. */
  readonly whole: { readonly labels: Int32Array; readonly rows: NativeRows };
  /** Of all rows. */
  readonly result: BatchResult;
  readonly dFeatures?: Float32Array;
  readonly skipped: SkippedMass;
}

/** `plan` is for the own rows. Nothing has changed on any process where it throws before the last phase. */
export function* groupPass(
  share: Share,
  plan: Plan,
  { compute, sampling, featureGradientScale }: HeadSettings,
  signal: AbortSignal | undefined,
  wanted?: GroupGradients,
): Twin<GroupPassed> {
  const { group } = share;
  const begun = attempt(() => {
    // Here, where the row is still the caller's.
    if (compute.checkFinite) checkFiniteRows(plan);
    return watchAbort(signal);
  });
  const watch = yield* agree(group, begun, ({ stop }) => stop());
  let evaluation: NativeEvaluation | undefined;
  try {
    const whole = yield* gatherPlan(share, plan);
    const made = yield* agree(
      group,
      attempt(() => ({
        evaluation: new (addon().Evaluation)(
          withNativeTerms(whole.problem, whole.terms, { start: share.start, end: share.start + share.count }),
          watch.cancel,
        ),
        gradients: wanted && {
          ...wanted,
          dFeatures: addon().allocate(share.rows * plan.problem.dim),
        },
        dFeatures: wanted?.dFeatures(),
        rows: newRows(whole),
        statistics: {
          ...newStatistics(whole),
          ...slopeStatistics(whole),
          ...(whole.problem.topFive && { targetCosine: new Float64Array(whole.rows) }),
        },
      })),
    );
    evaluation = made.evaluation;
    const { rows } = made;
    const { targetCosine } = made.statistics;
    const factor = wanted && interFactor(wanted);
    const inter = yield* interPass('async', whole, evaluation, watch.cancel, factor, group);
    const asked = made.gradients && withKept(made.gradients, inter);
    const resolved = yield* resolveMargin(share, whole, plan.problem.labels, evaluation);
    if (targetCosine) yield* shareTargets(share, evaluation, targetCosine);
    const summed = negatives(evaluation, whole, resolved, made.statistics, asked);
    const statistics = yield* agree(group, yield* attemptTwin(summed));
    yield* addUp(share, statistics, plan.problem.scale > 64 || resolved.negatives !== undefined);
    const ending = end(evaluation, resolved, rows, statistics, asked);
    const ended = yield* agree(group, yield* attemptTwin(ending));
    yield* sameRows(share, rows);
    const { own } = ended;
    let { gradients } = ended;
    if (gradients && ended.square !== undefined) {
      gradients = yield* clipTogether(share, gradients, ended.square);
      yield* agree(group, yield* attemptTwin(settled(evaluation.reserve('async', gradients))));
    }
    const classes = Float64Array.of(own.classes);
    if (plan.problem.sampled && sampling.sampleRate < 1) yield* settled(group.allReduce(classes, 'sum'));
    const terms = yield* addUpTerms(share, whole.terms, own.terms);
    const result = withTerms(
      whole.terms,
      { ...own, ...(terms && { terms }), classes: classes[0] as number },
      inter.inter,
    );
    const { labels } = whole.problem;
    const passed = { rows: ownRows(rows, share), whole: { labels, rows }, result, skipped: {} };
    if (!gradients || !made.dFeatures) return passed;

    const { dFeatures, weightGradient, ...outer } = gradients;
    const part = made.dFeatures;
    // From here on processes change their weights, and cannot fail. GPUs would make their probabilities twice.
    const apart = weightGradient.kind !== 'none' && compute.devices.every((device) => device === 'cpu');
    const first: NativeGradients = apart
      ? { ...outer, dFeatures, weightGradient: { kind: 'none' } }
      : gradients;
    let done = yield* agree(group, yield* attemptTwin(settled(evaluation.finish('async', first))));
    const scattered = group.reduceScatter(dFeatures, part);
    // Looked at below, after the weights, whatever becomes of it.
    scattered.catch(() => {});
    if (apart) done = yield* settled(evaluation.finish('async', { ...outer, weightGradient }));
    yield* settled(scattered);
    if (featureGradientScale === 'worldSize') for (let i = 0; i < part.length; i++) part[i]! *= group.size;
    const mass = Float64Array.of(done.skippedMass);
    if (compute.gradientTolerance === 0) return { ...passed, dFeatures: part };
    yield* settled(group.allReduce(mass, 'sum'));
    return { ...passed, dFeatures: part, skipped: { skippedMass: mass[0] as number } };
  } catch (error) {
    throw publicError(error, signal);
  } finally {
    evaluation?.dispose();
    watch.stop();
    noteUse();
  }
}

/** What processes learn from must not differ in its last bits. */
function* sameRows({ group }: Share, { logNegatives, targetGradient, biasGradient }: NativeRows): Twin<void> {
  for (const values of [logNegatives, targetGradient, biasGradient])
    if (values) yield* settled(group.broadcast(values, 0));
}

/** As engines check the features of a whole batch. */
function checkFiniteRows({ problem, rows }: Plan): void {
  const { features, featuresType, dim } = problem;
  const values = features as Float32Array | Uint16Array;
  // All bits of the exponent are set in NaN and infinity.
  const exponent = featuresType === 'bfloat16' ? 0x7f80 : 0x7c00;
  for (let i = 0; i < rows; i++)
    for (let d = 0; d < dim; d++) {
      const value = values[i * dim + d] as number;
      if (featuresType === 'float32' ? value - value === 0 : (value & exponent) !== exponent) continue;
      throw new MarginFcError(
        'ERR_NOT_FINITE',
        `features must be finite, row ${i} holds a NaN or infinite value`,
      );
    }
}

/** Phase 2. Returns the statistics that it has left. */
function* negatives(
  evaluation: NativeEvaluation,
  plan: Plan,
  { margin, negatives }: Resolved,
  statistics: NativeStatistics,
  gradients: NativeGradients | undefined,
): Twin<NativeStatistics> {
  const wanted = typeof margin === 'function' ? { ...statistics, ...hardStatistics(plan) } : statistics;
  yield* settled(evaluation.negatives('async', wanted, gradients, negatives));
  return wanted;
}

interface Ended<G> {
  readonly own: NativeForwardResult;
  readonly gradients: G | undefined;
  /** Of the own classes' gradient, where the norm of all of it is limited. */
  readonly square?: number;
}

/** Phase 3, and the memory for those after it, unless that has to wait for what other processes measure. */
function* end<G extends NativeGradients>(
  evaluation: NativeEvaluation,
  { margin }: Resolved,
  rows: NativeRows,
  statistics: NativeStatistics,
  gradients: G | undefined,
): Twin<Ended<G>> {
  const known = typeof margin === 'function' ? margin(statistics) : margin;
  const own = yield* settled(evaluation.epilogue('async', known, rows, statistics));
  if (!gradients) return { own, gradients };
  const { weightGradient } = gradients;
  if (weightGradient.kind === 'update' && weightGradient.clip && 'global' in weightGradient.clip) {
    const { square } = yield* settled(evaluation.measure('async', gradients));
    return { own, gradients, square };
  }
  yield* settled(evaluation.reserve('async', gradients));
  return { own, gradients };
}

/** The same gradients, the update of which knows the square of all processes' gradient. */
function* clipTogether<G extends NativeGradients>(share: Share, gradients: G, own: number): Twin<G> {
  const { weightGradient } = gradients;
  if (weightGradient.kind !== 'update') return gradients;
  const clip = yield* measuredTogether(share.group, weightGradient.clip, own);
  return { ...gradients, weightGradient: { ...weightGradient, clip } };
}

/** A clip of the whole gradient with the square of all processes' gradient. */
export function* measuredTogether(group: ProcessGroup, clip: NativeClip, own: number): Twin<NativeClip> {
  const square = Float64Array.of(own);
  yield* settled(group.allReduce(square, 'sum'));
  return clip && 'global' in clip ? { ...clip, square: square[0] as number } : clip;
}

/** Makes what each process's classes say what all classes say. `far`: whether logits may be beyond 64. */
function* addUp({ group, rows }: Share, statistics: NativeStatistics, far: boolean): Twin<void> {
  const { cosine, sine, logNegatives, hardest, cosineSum, above, hardSum, hardCount, slopeSum } = statistics;
  // Of logits up to 64 the sums of exponentials need no offset.
  const offset = new Float64Array(rows);
  if (far) {
    offset.set(logNegatives);
    yield* settled(group.allReduce(offset, 'max'));
  }
  const others = [cosineSum, above, hardSum, hardCount, slopeSum].filter((values) => values !== undefined);
  const sums = new Float64Array((3 + others.length) * rows);
  for (const [n, values] of others.entries()) sums.set(values, (3 + n) * rows);
  for (let i = 0; i < rows; i++) {
    sums[i] = cosine[i] as number;
    sums[rows + i] = sine[i] as number;
    const power = (logNegatives[i] as number) - (offset[i] as number);
    sums[2 * rows + i] = offset[i] === Number.NEGATIVE_INFINITY ? 0 : Math.exp(power);
  }
  yield* settled(Promise.all([group.allReduce(sums, 'sum'), group.allReduce(hardest, 'max')]));
  for (let i = 0; i < rows; i++) {
    cosine[i] = sums[i] as number;
    sine[i] = sums[rows + i] as number;
    logNegatives[i] = (offset[i] as number) + Math.log(sums[2 * rows + i] as number);
  }
  for (const [n, values] of others.entries()) values.set(sums.subarray((3 + n) * rows, (4 + n) * rows));
}

/** Terms as all processes see them: each has centres of its classes and anchors of its rows; the rest they have in common, to rounding. */
function* addUpTerms(
  { group }: Share,
  { terms }: TermPlan,
  values: NativeTermValues | undefined,
): Twin<NativeTermValues | undefined> {
  if (terms.length === 0 || !values) return undefined;
  const parts = Float64Array.of(values.center, values.triplet);
  const noRow = Number.isNaN(values.radius);
  const common = Float64Array.of(values.intra, values.ring, noRow ? 0 : values.radius, values.radiusGradient);
  yield* settled(Promise.all([group.allReduce(parts, 'sum'), group.allReduce(common, 'max')]));
  const [center, triplet] = parts as unknown as [number, number];
  const [intra, ring, radius, radiusGradient] = common as unknown as [number, number, number, number];
  return { intra, ring, radius: noRow ? Number.NaN : radius, radiusGradient, center, triplet };
}

/** Cosines to the rows' own classes, which negatives of all processes are compared with. */
function* shareTargets(
  { group, rows }: Share,
  evaluation: NativeEvaluation,
  cosine: Float64Array,
): Twin<void> {
  const angles = { ...newAngles(rows), cosine };
  yield* agree(group, yield* attemptTwin(settled(evaluation.targets('async', angles))));
  yield* settled(group.allReduce(cosine, 'sum'));
}

/** A margin's callback sees the own rows of each process; a batch margin sees all rows on each. */
function* resolveMargin(
  share: Share,
  plan: Plan,
  labels: Int32Array,
  evaluation: NativeEvaluation,
): Twin<Resolved> {
  const { margin } = plan;
  const { group, rows, count } = share;
  if (!asksForAngles(plan)) return resolve(plan, newAngles(0));
  const angles = newAngles(rows);
  yield* agree(group, yield* attemptTwin(settled(evaluation.targets('async', angles))));
  // Engines differ in the last bits of a norm, and what processes keep of them must not.
  yield* settled(
    Promise.all([group.allReduce(angles.cosine, 'sum'), group.allReduce(angles.featureNorm, 'max')]),
  );
  if (!('callback' in margin))
    return yield* agree(
      group,
      attempt(() => resolve(plan, angles)),
    );
  const answers = yield* agree(
    group,
    attempt(() => answersOf(margin, labels, angles, share)),
  );
  const own = new Float64Array(4 * count);
  for (let i = 0; i < count; i++)
    own.set([answers.target[i]!, answers.dTarget[i]!, answers.dFeatureNorm?.[i] ?? 0], 4 * i);
  // Whether there is a derivative by the norm at all is the same for all rows of all processes.
  if (answers.dFeatureNorm) for (let i = 0; i < count; i++) own[4 * i + 3] = 1;
  const all = new Float64Array(4 * rows);
  yield* settled(group.allGather(own, all));
  const column = (c: number) => Float64Array.from({ length: rows }, (_, i) => all[4 * i + c] as number);
  const targets: NativeMargin = {
    kind: 'custom',
    target: column(0),
    dTarget: column(1),
    ...(column(3).includes(1) ? { dFeatureNorm: column(2) } : {}),
  };
  return { margin: targets, ...filterOf(plan) };
}

function answersOf({ callback }: CustomMargin, labels: Int32Array, angles: Angles, { start, count }: Share) {
  const answers = customTargets(callback, labels, {
    cosine: angles.cosine.subarray(start, start + count),
    featureNorm: angles.featureNorm.subarray(start, start + count),
  });
  return answers as Extract<NativeMargin, { kind: 'custom' }>;
}

function ownRows({ rowLoss, logSumExp, targetCosine }: NativeRows, { start, count }: Share): NativeRows {
  const own = (values: Float32Array) => values.slice(start, start + count);
  return { rowLoss: own(rowLoss), logSumExp: own(logSumExp), targetCosine: own(targetCosine) };
}
