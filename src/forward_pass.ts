/** What {@link forward} returns: the loss, and the means to get its gradients later. */

import { type MarginGradient, marginGradient } from './adaptiveface.js';
import { backwardPass, type Forwarded, type Plan, type RowResults } from './evaluation.js';
import {
  type GradientArrays,
  type GradientChoice,
  type GradientOutputs,
  gradientArrays,
  gradientRequest,
  type HostOutputs,
  type Shape,
} from './gradients.js';
import { type BiasGradient, biasGradient } from './learned_bias.js';
import type { NativeMode } from './native.js';
import type { EngineName, Precision } from './options.js';
import { CallQueue } from './queue.js';
import type { RingRadius } from './term_state.js';
import type { TermValues } from './terms.js';
import { runAsync, runSync, type Twin } from './twin.js';
import { checkOptions, checkSignal, mustBe } from './validate.js';

/** Loss, row results, and what computed them. */
export interface LossResult extends RowResults {
  /**
   * With `terms` what the rows' losses become plus these. With reduction `none`: `sum_i dLoss_i rowLoss_i`, or NaN where there is no
   * dLoss ({@link forward}).
   */
  readonly loss: number;
  readonly engine: EngineName;
  readonly precision: Precision;
  readonly workspace: 'keep' | 'recompute';
  /** Only with `terms`: their values, without their weights. */
  readonly terms?: TermValues;
  /** Only with a {@link ringLoss}. */
  readonly ring?: RingRadius;
}

/** Options of {@link ForwardPass.backward}. */
export interface BackwardOptions<
  G extends GradientChoice = GradientChoice,
  O extends GradientOutputs = HostOutputs,
> {
  /** Default `both`. */
  readonly gradients?: G | undefined;
  /** Arrays to write gradients to, instead of new ones. */
  readonly out?: O | undefined;
  /** Ends the call early with ERR_ABORTED; the forward pass stays usable. */
  readonly signal?: AbortSignal | undefined;
}

const backwardNames = { gradients: true, out: true, signal: true } as const;

/** Result of {@link forward}. Holds on to the inputs until it is disposed. */
export class ForwardPass implements LossResult {
  readonly loss: number;
  readonly rowLoss: Float32Array;
  readonly logSumExp: Float32Array;
  readonly targetCosine: Float32Array;
  readonly engine: EngineName;
  readonly precision: Precision;
  readonly workspace: 'keep' | 'recompute';
  readonly terms?: TermValues;
  readonly ring?: RingRadius;
  readonly #queue = new CallQueue('forward pass');
  readonly #forwarded: Forwarded;
  readonly #plan: Plan;
  readonly #shape: Shape;
  #disposed = false;

  /** @internal */
  constructor(
    forwarded: Forwarded,
    {
      plan,
      shape,
      engine,
      precision,
    }: Pick<LossResult, 'engine' | 'precision'> & {
      readonly plan: Plan;
      readonly shape: Shape;
    },
  ) {
    const { rows, result } = forwarded;
    this.loss = result.loss;
    this.rowLoss = rows.rowLoss;
    this.logSumExp = rows.logSumExp;
    this.targetCosine = rows.targetCosine;
    this.engine = engine;
    this.precision = precision;
    this.workspace = result.workspace;
    if (result.terms) this.terms = result.terms;
    if (result.ring) this.ring = result.ring;
    this.#forwarded = forwarded;
    this.#plan = plan;
    this.#shape = shape;
  }

  /**
   * The gradients, off the calling thread; may be called again with another `dLoss`. Rereads the inputs.
   *
   * @param dLoss What multiplies the gradients: with reduction `mean` or `sum` a number, default 1; with `none`
   * a Float32Array [B].
   *
   * Rejects with MarginFcError: ERR_DISPOSED, ERR_TYPE, ERR_SHAPE, ERR_OPTION, ERR_DETACHED, ERR_OUT_OF_MEMORY,
   * ERR_ABORTED.
   */
  async backward<G extends GradientChoice = 'both', O extends GradientOutputs = HostOutputs>(
    dLoss?: number | Float32Array,
    options?: BackwardOptions<G, O>,
  ): Promise<GradientArrays<G, O> & MarginGradient & BiasGradient> {
    const backward = this.#backward(dLoss, options);
    return this.#queue.run(() => runAsync(backward.twin('async')), backward.signal);
  }

  /** {@link backward}, blocking. Also throws ERR_BUSY while a `backward` is pending. */
  backwardSync<G extends GradientChoice = 'both', O extends GradientOutputs = HostOutputs>(
    dLoss?: number | Float32Array,
    options?: BackwardOptions<G, O>,
  ): GradientArrays<G, O> & MarginGradient & BiasGradient {
    const backward = this.#backward(dLoss, options);
    return this.#queue.runSync(() => runSync(backward.twin('sync')), 'backwardSync');
  }

  /** Lets go of the inputs and the workspace once the calls made so far have ended. May be called again. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#queue.whenIdle(() => this.#forwarded.evaluation.dispose());
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #backward<G extends GradientChoice, O extends GradientOutputs>(
    dLoss: number | Float32Array | undefined,
    options: BackwardOptions<G, O> | undefined,
  ): {
    signal: AbortSignal | undefined;
    twin: (mode: NativeMode) => Twin<GradientArrays<G, O> & MarginGradient & BiasGradient>;
  } {
    if (this.#disposed) throw mustBe('ERR_DISPOSED', 'forward pass', 'open', 'one that has been disposed');
    const checked = checkOptions(options, backwardNames);
    const signal = checkSignal(checked.signal);
    const request = gradientRequest(this.#shape, dLoss, checked);
    const [forwarded, plan] = [this.#forwarded, this.#plan];
    return {
      signal,
      *twin(mode) {
        const gradients = yield* backwardPass(mode, forwarded, signal, request);
        return {
          ...gradientArrays<G, O>(gradients),
          ...marginGradient(plan, forwarded.rows, gradients.dLoss),
          ...biasGradient(forwarded.rows, gradients.dLoss),
        };
      },
    };
  }
}
