/** A classification head that owns its class weights and trains them. */

import type { AdaCosScale } from './adacos.js';
import { batchPrepared } from './batch_margins.js';
import {
  type AddClassesOptions,
  addClassesCall,
  type RemoveClassesOptions,
  removeClassesCall,
} from './class_changes.js';
import type { ClassRange } from './class_ranges.js';
import type { GradientClip } from './clipping.js';
import { publicError } from './errors.js';
import { forwardPass } from './evaluation.js';
import type { HostOutputs } from './gradients.js';
import { callTogether } from './group_call.js';
import { arrayWidth, readClasses } from './head_arrays.js';
import {
  type AccumulateOptions,
  type ApplyOptions,
  accumulateCall,
  applyCall,
  type EvaluateOptions,
  evaluateCall,
  evaluateNames,
  type HeadBatch,
  type HeadCall,
  type NearestOptions,
  nearestCall,
  planEvaluationOn,
  type SaveOptions,
  type StepOptions,
  saveCall,
  stepCall,
} from './head_calls.js';
import { createHead, type MadeHead } from './head_create.js';
import { HeadForwardPass } from './head_forward_pass.js';
import { type LoadOptions, loadHead } from './head_load.js';
import type { MarginHeadOptions, WeightStorage } from './head_options.js';
import { type HeadSnapshot, restoreCall, type SnapshotOptions, snapshotCall } from './head_snapshot.js';
import {
  assertOpen,
  type FeatureGradientOutput,
  type HeadResult,
  type HeadState,
  headArrays,
  headResult,
  type StepResult,
} from './head_state.js';
import { headView } from './head_view.js';
import type { NormStatistics } from './loss_memory.js';
import type { Margin } from './margins.js';
import { addon } from './native.js';
import type { Nearest } from './nearest.js';
import type { Optimizer } from './optimizers.js';
import { type GradientMode, lossAt, type OverflowPolicy } from './options.js';
import { CallQueue } from './queue.js';
import type { RowFunction } from './row_functions.js';
import type { SampledUpdate } from './sampling.js';
import type { Schedule } from './schedule.js';
import type { LossTerm } from './terms.js';
import { runAsync, runSync } from './twin.js';
import { checkInteger, checkOptions, checkSignal, mustBe } from './validate.js';

/**
 * Class weights W [classes, dim], or [classes, subCenters, dim], with their optimiser, split into shards. Calls on one head happen one after
 * the other in the order they are made; a call that changes weights does so wholly or not at all, also when it
 * fails or is aborted. Sync calls block, and throw ERR_BUSY while others are pending.
 *
 * Margin parameters, scale and learning rate may be schedules ({@link linear}, {@link cosine}, {@link piecewise}) over
 * `stepCount`: a call uses the values after as many updates as there have been when its turn comes, so `evaluate` uses those of
 * the next step. The first step uses the values at 0; {@link valueAt} says what they are.
 *
 * Every call rejects (its Sync twin throws) with MarginFcError: ERR_TYPE, ERR_SHAPE, ERR_DETACHED,
 * ERR_LABEL_RANGE, ERR_OPTION or ERR_MARGIN for arguments, ERR_NOT_FINITE, ERR_OUT_OF_MEMORY, ERR_ABORTED,
 * ERR_DISPOSED.
 *
 * @example
 * ```ts
 * import { arcface, MarginHead, sgd } from 'marginfc';
 *
 * const head = await MarginHead.create({
 *   dim: 128,
 *   classes: 1000,
 *   margin: arcface(),
 *   optimizer: sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4 }),
 * });
 * const features = new Float32Array(2 * 128).fill(0.1);
 * const { loss, dFeatures } = await head.step({ features, labels: Int32Array.of(3, 14) }, { learningRate: 0.05 });
 * head.dispose();
 * ```
 */
export class MarginHead {
  readonly #state: HeadState;

  private constructor({ native, settings, memory, centers }: MadeHead) {
    const queue = new CallQueue('head');
    this.#state = { native, settings, queue, memory, centers, reshaping: 0, restores: 0, disposed: false };
  }

  /**
   * A head with its first weights.
   *
   * Rejects with MarginFcError: ERR_TYPE, ERR_SHAPE, ERR_OPTION, ERR_MARGIN, ERR_DETACHED for options,
   * ERR_ENGINE_UNAVAILABLE, ERR_PRECISION_UNSUPPORTED, ERR_OUT_OF_MEMORY, ERR_NATIVE_LOAD; or with what an `init`
   * function throws.
   */
  static async create(options: MarginHeadOptions): Promise<MarginHead> {
    return new MarginHead(await runAsync(createHead(options)));
  }

  /**
   * A head as {@link save} left it: weights, optimiser state, accumulated gradient and step count, bit for bit, whatever the
   * shards and devices now and then.
   *
   * Rejects as {@link create}, with ERR_ABORTED, or with ERR_CHECKPOINT, naming the file, for a checkpoint that is missing,
   * incomplete, damaged or of something else.
   */
  static async load(folder: string | URL, options?: LoadOptions): Promise<MarginHead> {
    return new MarginHead(await runAsync(loadHead(folder, options)));
  }

  /** Length of an embedding, D. */
  get dim(): number {
    return this.#state.settings.dim;
  }

  /** Number of classes, C. */
  get classes(): number {
    return this.#state.settings.classes;
  }

  /** Rows of each class, K. */
  get subCenters(): number {
    return this.#state.settings.subCenters;
  }

  /** The classes of this process, start .. end-1: all of them without a group. */
  get range(): ClassRange {
    return this.#state.settings.range;
  }

  /** The margin of calls that give none. */
  get margin(): Margin {
    return this.#state.settings.loss.margin;
  }

  /** The scale of calls that give none. */
  get scale(): number | Schedule | AdaCosScale {
    return this.#state.settings.loss.scale;
  }

  /** What that is for the next call: with a schedule or {@link adacos} another number after each step. */
  get currentScale(): number {
    const { native, settings, memory } = this.#state;
    assertOpen(this.#state);
    return lossAt(settings.loss, { step: native.stepCount, memory, classes: settings.classes }).scale;
  }

  /** The gradient mode of calls that give none. */
  get gradient(): GradientMode {
    return this.#state.settings.loss.gradient;
  }

  /** The overflow policy of calls that give none. */
  get onOverflow(): OverflowPolicy {
    return this.#state.settings.loss.onOverflow;
  }

  /** The label smoothing of calls that give none. */
  get labelSmoothing(): number {
    return this.#state.settings.loss.labelSmoothing;
  }

  /** The function of the probability of calls that give none. */
  get rowFunction(): RowFunction | 'none' {
    return this.#state.settings.loss.rowFunction;
  }

  /** The companion terms of calls that give none. */
  get terms(): readonly LossTerm[] {
    return this.#state.settings.loss.terms;
  }

  /** The filter threshold of calls that give none. */
  get filterThreshold(): number {
    return this.#state.settings.loss.filterThreshold;
  }

  get optimizer(): Optimizer {
    return this.#state.settings.optimizer;
  }

  get clipWeightGradient(): GradientClip | undefined {
    return this.#state.settings.clipWeightGradient;
  }

  /** Ranges the classes of this process are split into. */
  get shards(): number {
    return this.#state.settings.compute.shards;
  }

  /** What the weights are stored in. */
  get storage(): WeightStorage {
    return this.#state.settings.storage;
  }

  /** The part of the classes that is drawn for a step. */
  get sampleRate(): number {
    return this.#state.settings.sampling.sampleRate;
  }

  /** What updates do to the other classes. */
  get sampledUpdate(): SampledUpdate {
    return this.#state.settings.sampling.sampledUpdate;
  }

  /** Running statistics of the features' norms, where a margin has needed them ({@link adaface}). */
  get normStatistics(): NormStatistics | undefined {
    return this.#state.memory.norms;
  }

  /** t, the running mean of target cosines, where a margin has needed it ({@link curricularface}). */
  get curriculum(): number | undefined {
    return this.#state.memory.curriculum;
  }

  /** What is added to every logit, where a margin has needed it ({@link sphereface2}, {@link uniface}): learned. */
  get bias(): number | undefined {
    return this.#state.memory.bias;
  }

  /**
   * A copy of the margins of the classes, [C] in the order of ids, of all processes, where the head's margin is {@link adaptiveFace}
   * or a call's has been.
   */
  get classMargins(): Float64Array | undefined {
    assertOpen(this.#state);
    const { memory, settings } = this.#state;
    const { margin } = settings.loss;
    const now =
      margin.kind === 'adaptiveFace'
        ? batchPrepared(margin, memory, headView('sync', this.#state))
        : undefined;
    return (now && runSync(now).margins) ?? memory.margins?.slice();
  }

  /** R of a {@link ringLoss}: what the last update has made of it; undefined before there is one. */
  get ringRadius(): number | undefined {
    return this.#state.memory.radius;
  }

  /** Updates made so far. Throws ERR_DISPOSED after `dispose`. */
  get stepCount(): number {
    assertOpen(this.#state);
    return this.#state.native.stepCount;
  }

  /** Loss, the gradient of the features, and one optimiser update of the weights. */
  async step<O extends FeatureGradientOutput = HostOutputs>(
    batch: HeadBatch,
    options?: StepOptions<O>,
  ): Promise<StepResult<O>> {
    return this.#run('step', () => stepCall(this.#state, batch, options), options);
  }

  /** {@link step}, blocking. */
  stepSync<O extends FeatureGradientOutput = HostOutputs>(
    batch: HeadBatch,
    options?: StepOptions<O>,
  ): StepResult<O> {
    return this.#runSync(() => stepCall(this.#state, batch, options), 'stepSync');
  }

  /**
   * As {@link step}, but the weights' gradient is added to a sum that {@link apply} uses up. n micro-batches of
   * equally many counted rows with `gradientScale: 1 / n`, then `apply`, make the same update as one step on all
   * their rows.
   */
  async accumulate<O extends FeatureGradientOutput = HostOutputs>(
    batch: HeadBatch,
    options?: AccumulateOptions<O>,
  ): Promise<StepResult<O>> {
    return this.#run('accumulate', () => accumulateCall(this.#state, batch, options), options);
  }

  /** {@link accumulate}, blocking. */
  accumulateSync<O extends FeatureGradientOutput = HostOutputs>(
    batch: HeadBatch,
    options?: AccumulateOptions<O>,
  ): StepResult<O> {
    return this.#runSync(() => accumulateCall(this.#state, batch, options), 'accumulateSync');
  }

  /**
   * One optimiser update with the accumulated gradient, which is zero again afterwards. With `learningRate: 0`
   * nothing changes, not even the accumulated gradient.
   *
   * @returns Whether there was an update: false also if nothing had been accumulated.
   */
  async apply(options?: ApplyOptions): Promise<boolean> {
    return this.#run('apply', () => applyCall(this.#state, options), options);
  }

  /** {@link apply}, blocking. */
  applySync(options?: ApplyOptions): boolean {
    return this.#runSync(() => applyCall(this.#state, options), 'applySync');
  }

  /** Loss and accuracy; changes nothing. */
  async evaluate(batch: HeadBatch, options?: EvaluateOptions): Promise<HeadResult> {
    return this.#run('evaluate', () => evaluateCall(this.#state, batch, options), options);
  }

  /** {@link evaluate}, blocking. */
  evaluateSync(batch: HeadBatch, options?: EvaluateOptions): HeadResult {
    return this.#runSync(() => evaluateCall(this.#state, batch, options), 'evaluateSync');
  }

  /**
   * The loss now, and the gradient and the update later by `backwardSync` of the result, which should be
   * disposed of. For trainers that ask for the two apart.
   */
  forwardSync(batch: HeadBatch, options?: EvaluateOptions): HeadForwardPass {
    assertOpen(this.#state);
    this.#assertAlone('forwardSync');
    const { planNow, signal } = planEvaluationOn(
      this.#state,
      batch,
      checkOptions(options, evaluateNames),
      true,
    );
    return this.#state.queue.runSync(() => {
      const plan = runSync(planNow('sync'));
      const forwarded = runSync(forwardPass('sync', plan, signal));
      const result = headResult(plan, forwarded, this.#state.settings);
      return new HeadForwardPass(result, forwarded, plan, this.#state);
    }, 'forwardSync');
  }

  /**
   * The `k` classes with the largest cosine for each row, without margin and without B x C memory.
   *
   * @param features [B, dim], borrowed.
   * @param k In [1, classes].
   */
  async nearest(features: Float32Array, k: number, options?: NearestOptions): Promise<Nearest> {
    return this.#run('nearest', () => nearestCall(this.#state, features, k, options), options);
  }

  /** {@link nearest}, blocking. */
  nearestSync(features: Float32Array, k: number, options?: NearestOptions): Nearest {
    return this.#runSync(() => nearestCall(this.#state, features, k, options), 'nearestSync');
  }

  /**
   * A copy of the weights of classes start .. end-1 of this process, [end - start, dim], or [end - start, subCenters, dim], in
   * float32 whatever they are stored in. Blocking, and ERR_BUSY as a Sync call.
   *
   * @param start In {@link range}. Default its start.
   * @param end From `start` to the range's end. Default that end.
   */
  weights(start = this.range.start, end = this.range.end): Float32Array {
    return this.#read('weights', start, end);
  }

  /**
   * A copy of the centres of a {@link centerLoss}, as {@link weights} but one a class: 0 for classes that no batch has had.
   *
   * @param start In {@link range}. Default its start.
   * @param end From `start` to the range's end. Default that end.
   */
  centers(start = this.range.start, end = this.range.end): Float32Array {
    return this.#read('centers', start, end);
  }

  #read(array: 'weights' | 'centers', start: number, end: number): Float32Array {
    assertOpen(this.#state);
    checkInteger(start, 'start', { least: this.range.start, most: this.range.end });
    checkInteger(end, 'end', { least: start, most: this.range.end });
    return this.#state.queue.runSync(() => {
      try {
        const width = arrayWidth(this.#state.settings, array);
        const values = addon().allocate((end - start) * width);
        if (end > start) readClasses(headArrays(this.#state), array, start, end, values);
        return values;
      } catch (error) {
        throw publicError(error);
      }
    }, array);
  }

  /**
   * Adds classes, whose optimiser state is 0, and splits all of them over the shards again; the others keep ids, weights and
   * state. Calls made before it still see the classes of then, and those made afterwards the new ones. Needs memory for the
   * head of before and after at once. The ids are those of the head: `classes`, `classes + 1`, ...
   *
   * @param added How many, or their weights [n, dim], or [n, subCenters, dim], borrowed.
   * @returns [n], the ids of the new classes.
   */
  async addClasses(added: number | Float32Array, options?: AddClassesOptions): Promise<Int32Array> {
    return this.#reshape('addClasses', () => addClassesCall(this.#state, added, options), options);
  }

  /** {@link addClasses}, blocking. */
  addClassesSync(added: number | Float32Array, options?: AddClassesOptions): Int32Array {
    return this.#runSync(() => addClassesCall(this.#state, added, options), 'addClassesSync');
  }

  /**
   * Removes classes. Those that stay keep their order, weights and optimiser state, get ids without gaps, and are split over the
   * shards again; `perClass` parameters of the head's margin go along. Memory and other calls as with {@link addClasses}.
   *
   * @param ids Different ids, not of all classes.
   * @returns [classes before], the new id of each class, -1 for those that have gone.
   */
  async removeClasses(ids: Iterable<number>, options?: RemoveClassesOptions): Promise<Int32Array> {
    return this.#reshape('removeClasses', () => removeClassesCall(this.#state, ids, options), options);
  }

  /** {@link removeClasses}, blocking. */
  removeClassesSync(ids: Iterable<number>, options?: RemoveClassesOptions): Int32Array {
    return this.#runSync(() => removeClassesCall(this.#state, ids, options), 'removeClassesSync');
  }

  /**
   * Writes a checkpoint to `folder`, which is made if need be: a safetensors file for each shard that has classes, and the index
   * head.json. It takes the place of one that is there only when all of it is on the disk: a process that ends at any moment, or
   * an error, leaves the old or the new one. One head at a time may save to a folder. Files of older saves are removed.
   *
   * A margin with `perRow` or `perClass` arrays, or a callback, is not stored: {@link load} asks for it.
   *
   * Rejects as the other calls, or with ERR_CHECKPOINT if a file cannot be written; ERR_BUSY if this process is
   * saving another head to the folder.
   */
  async save(folder: string | URL, options?: SaveOptions): Promise<void> {
    return this.#run('save', () => saveCall(this.#state, folder, options), options);
  }

  /**
   * A copy of weights, optimiser state, accumulated gradient and step count, of the classes of this process: as {@link save}, in
   * memory. Costs as much memory as the head's weights and optimiser state.
   */
  async snapshot(options?: SnapshotOptions): Promise<HeadSnapshot> {
    return this.#run('snapshot', () => snapshotCall(this.#state, options), options);
  }

  /** {@link snapshot}, blocking. */
  snapshotSync(options?: SnapshotOptions): HeadSnapshot {
    return this.#runSync(() => snapshotCall(this.#state, options), 'snapshotSync');
  }

  /**
   * Goes on from a snapshot, of this head or of another one with the same `dim`, classes and kind of optimiser: the steps that
   * follow are those that followed it, bit for bit. Margin, scale and other options stay the head's own. In a group each process
   * gives the snapshot that it took of the same moment.
   *
   * @param snapshot Borrowed, not changed.
   */
  async restore(snapshot: HeadSnapshot, options?: SnapshotOptions): Promise<void> {
    return this.#run('restore', () => restoreCall(this.#state, snapshot, options), options);
  }

  /** {@link restore}, blocking. */
  restoreSync(snapshot: HeadSnapshot, options?: SnapshotOptions): void {
    this.#runSync(() => restoreCall(this.#state, snapshot, options), 'restoreSync');
  }

  /** Frees the weights once the calls made so far have ended. May be called again. */
  dispose(): void {
    if (this.#state.disposed) return;
    this.#state.disposed = true;
    this.#state.queue.whenIdle(() => this.#state.native.dispose());
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * Async, so that what a call's checks throw becomes a rejection in the methods above. While classes come or go, a call is
   * checked in its turn, against those that there are then. In a group too, and it has its turn whether its signal has fired or
   * not: the others must hear of either.
   */
  #run<T>(
    name: string,
    plan: () => HeadCall<T>,
    options: { readonly signal?: AbortSignal | undefined } | undefined,
    known = this.#state.reshaping === 0,
  ): Promise<T> {
    assertOpen(this.#state);
    const { queue, settings } = this.#state;
    const { group } = settings;
    if (group) return queue.run(() => runAsync(callTogether(group, name, plan)));
    if (!known) return queue.run(async () => runAsync(plan().twin('async')), checkSignal(options?.signal));
    const { signal, twin } = plan();
    return queue.run(() => runAsync(twin('async')), signal);
  }

  #runSync<T>(plan: () => HeadCall<T>, call: string): T {
    assertOpen(this.#state);
    this.#assertAlone(call);
    const { twin } = plan();
    return this.#state.queue.runSync(() => runSync(twin('sync')), call);
  }

  /** A blocking call cannot wait for other processes. */
  #assertAlone(call: string): void {
    if (this.#state.settings.group)
      throw mustBe(
        'ERR_OPTION',
        call,
        'its asynchronous twin where processes share the classes',
        `'${call}'`,
      );
  }

  async #reshape<T>(
    name: string,
    plan: () => HeadCall<T>,
    options: RemoveClassesOptions | undefined,
  ): Promise<T> {
    const known = this.#state.reshaping === 0;
    this.#state.reshaping++;
    try {
      return await this.#run(name, plan, options, known);
    } finally {
      this.#state.reshaping--;
    }
  }
}
