/** What {@link MarginHead.forwardSync} returns: for trainers that learn of the backward pass later, such as tfjs. */

import type { AngleHistograms } from './angles.js';
import { backwardPass, type Forwarded } from './evaluation.js';
import type { HostOutputs, OutputArray } from './gradients.js';
import {
  assertOpen,
  type FeatureGradientOutput,
  featureGradientOutput,
  type HeadPlan,
  type HeadResult,
  type HeadState,
  keepMemory,
  weightUpdate,
} from './head_state.js';
import { addon, type NativeHead } from './native.js';
import type { EngineName, Precision } from './options.js';
import type { CheckedRows } from './rows.js';
import { centerRate } from './term_state.js';
import type { TermValues } from './terms.js';
import { runSync } from './twin.js';
import { checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** Options of {@link HeadForwardPass.backwardSync}. */
export interface HeadBackwardOptions<O extends FeatureGradientOutput = HostOutputs> {
  /** For this update; 0 changes nothing. Default: the optimiser's. */
  readonly learningRate?: number | undefined;
  /** Multiplies both gradients. Default 1. */
  readonly dLoss?: number | undefined;
  /** An array to write dFeatures to, instead of a new one. */
  readonly out?: O | undefined;
}

const names = {
  learningRate: true,
  dLoss: true,
  out: true,
} as const satisfies Record<keyof HeadBackwardOptions, true>;

/** A batch that went forward on a head. Holds on to the features until it is disposed. */
export class HeadForwardPass implements HeadResult {
  readonly loss: number;
  readonly accuracy: number;
  readonly accuracyTop5?: number;
  readonly angles?: AngleHistograms;
  readonly terms?: TermValues;
  readonly rowLoss: Float32Array;
  readonly logSumExp: Float32Array;
  readonly targetCosine: Float32Array;
  readonly engine: EngineName;
  readonly precision: Precision;
  readonly workspace: 'keep' | 'recompute';
  readonly sampledClasses?: number;
  readonly #state: HeadState;
  readonly #forwarded: Forwarded;
  readonly #plan: HeadPlan;
  readonly #features: CheckedRows;
  /** Updates the head had made: after another one, what this pass remembers is of other weights. */
  readonly #stepCount: number;
  /** As of {@link HeadState.restores}, likewise. */
  readonly #restores: number;
  /** Another one after classes came or went. */
  readonly #native: NativeHead;
  #disposed = false;

  /** @internal */
  constructor(result: HeadResult, forwarded: Forwarded, plan: HeadPlan, state: HeadState) {
    this.loss = result.loss;
    this.accuracy = result.accuracy;
    if (result.accuracyTop5 !== undefined) this.accuracyTop5 = result.accuracyTop5;
    if (result.angles) this.angles = result.angles;
    if (result.terms) this.terms = result.terms;
    this.rowLoss = result.rowLoss;
    this.logSumExp = result.logSumExp;
    this.targetCosine = result.targetCosine;
    this.engine = result.engine;
    this.precision = result.precision;
    this.workspace = result.workspace;
    if (result.sampledClasses !== undefined) this.sampledClasses = result.sampledClasses;
    this.#state = state;
    this.#forwarded = forwarded;
    this.#plan = plan;
    const { features, featuresType } = plan.problem;
    this.#features = { array: features, type: featuresType };
    this.#native = state.native;
    this.#stepCount = state.native.stepCount;
    this.#restores = state.restores;
  }

  /**
   * The gradient of the features, and one optimiser update of the head's weights. With `learningRate: 0` it may
   * be called again; an update uses the pass up.
   *
   * @returns dFeatures [B, dim].
   * @throws MarginFcError ERR_BUSY while asynchronous calls on the head are pending; ERR_DISPOSED if the pass or
   * the head has been disposed, or the head's weights have changed since the pass; ERR_TYPE, ERR_SHAPE,
   * ERR_OPTION, ERR_OUT_OF_MEMORY. After an error the head is as it was.
   */
  backwardSync<O extends FeatureGradientOutput = HostOutputs>(
    options?: HeadBackwardOptions<O>,
  ): OutputArray<O, 'dFeatures'> {
    assertOpen(this.#state);
    if (this.#disposed) throw mustBe('ERR_DISPOSED', 'forward pass', 'open', 'one that has been disposed');
    const { learningRate, dLoss = 1, out } = checkOptions(options, names);
    const weightGradient = weightUpdate(learningRate, this.#state);
    checkNumber(dLoss, 'dLoss', { magnitude: largestFactor });
    const output = featureGradientOutput(out, this.#state.settings, this.#features);
    return this.#state.queue.runSync(() => {
      if (this.#state.native !== this.#native)
        throw mustBe('ERR_DISPOSED', 'forward pass', `of the head's present classes`, 'one of other classes');
      if (this.#state.restores !== this.#restores)
        throw mustBe(
          'ERR_DISPOSED',
          'forward pass',
          `of the head's present weights`,
          'one from before a restore',
        );
      const updates = this.#state.native.stepCount - this.#stepCount;
      if (updates > 0)
        throw mustBe(
          'ERR_DISPOSED',
          'forward pass',
          `of the head's present weights`,
          `one ${updates} updates old`,
        );
      const dFeatures = output ?? addon().allocate(this.#features.array.length);
      const update = weightGradient.now();
      const wanted = { dLoss, dFeatures, weightGradient: update, ...centerRate(this.#plan.terms) };
      runSync(backwardPass('sync', this.#forwarded, undefined, () => wanted));
      keepMemory(this.#state, this.#plan, this.#forwarded, update, dLoss);
      return dFeatures as OutputArray<O, 'dFeatures'>;
    }, 'backwardSync');
  }

  /** Lets go of the features and the workspace. May be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#forwarded.evaluation.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
