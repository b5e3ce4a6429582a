/** Options that more than one call takes: their types, defaults and checks. */

import { type AdaCosScale, adaCosScale, checkAdaCos, isAdaCos } from './adacos.js';
import { isBinary } from './batch_margins.js';
import { checkPrecision } from './engines.js';
import type { LossMemory } from './loss_memory.js';
import { arcface, changesNegatives, checkMargin, type Margin, overflowOf } from './margins.js';
import { checkRowFunction, type RowFunction } from './row_functions.js';
import { atStep, checkScheduled, isSchedule, type Schedule, valueAt } from './schedule.js';
import { checkTerms, type LossTerm, type PlainTerm, termsAt } from './terms.js';
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkOneOf,
  largestFactor,
  mustBe,
  show,
} from './validate.js';

/** `exact`: the derivative of the formula. `straightThrough`: dF/dc is taken as 1. */
export type GradientMode = 'exact' | 'straightThrough';

/** What to do where a margin pushes the angle past pi. */
export type OverflowPolicy = 'none' | 'fallback' | 'easy';

/** How row losses become one. */
export type Reduction = 'mean' | 'sum' | 'none';

/** Whether the B x C exponentials are kept between the phases or computed twice. */
export type Workspace = 'keep' | 'recompute' | 'auto';

/** What computes. `auto` is `cpu` so far; `cuda` takes all GPUs that can be used, `cuda:N` the N-th. */
export type EngineChoice = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** One thing that computes. */
export type DeviceName = 'cpu' | `cuda:${number}`;

/** What computed: a device, or several joined by `+`, such as `cuda:0+cuda:1`. */
export type EngineName = DeviceName | `${DeviceName}+${string}`;

/** Operands of the multiplications; sums are always float32 or wider. */
export type Precision = 'float32' | 'bfloat16' | 'float16';

/** The loss's formula. */
export interface LossOptions {
  /** Default `arcface()`. */
  readonly margin?: Margin | undefined;
  /**
   * Factor s on every cosine, > 0: a number, or `adacos()`; on a `MarginHead` also a schedule over its step count. Default 64.
   */
  readonly scale?: number | Schedule | AdaCosScale | undefined;
  /** Default `exact`: what papers and Paddle do; InsightFace's ArcFace is `straightThrough`. */
  readonly gradient?: GradientMode | undefined;
  /**
   * Margins arcface, combined, magface and elasticArcFace only, where m (m2 of combined) takes the angle past pi. `none`: nothing;
   * `fallback`: `c - m sin(m)` beyond `pi - m`; `easy`: the margin only where c > 0. For combined, c is
   * `cos(m1 theta)` and m3 is always subtracted. Default `none`.
   */
  readonly onOverflow?: OverflowPolicy | undefined;
  /**
   * eps in [0, 1], as of `torch.nn.CrossEntropyLoss`: the target distribution is 1 - eps on the row's own class plus eps / C on
   * each of the C classes, of the logits with their margin:
   *
   *     rowLoss_i = logSumExp_i - (1 - eps) z_iy - (eps / C) sum_j z_ij
   *
   * Costs O(C dim) a call. Default 0.
   */
  readonly labelSmoothing?: number | undefined;
  /**
   * A function phi of the probability p that a row has of its own class, with its margin: `focal`, `searchSoftmax` or
   * `amLfs`. `rowLoss` is phi(p) instead of -log p, and gradients are those of it; reductions and `rowWeights` as ever. Not
   * with `labelSmoothing`, whose loss is no function of p. Default `none`.
   */
  readonly rowFunction?: RowFunction | 'none' | undefined;
  /**
   * Companion terms, at most one of a kind: the loss is that of the margin plus the sum of `weight` times each term, and gradients are
   * those of this sum. `rowLoss` is without them. Results have `terms`, the values without their weights. Not with reduction
   * `none`. docs/losses.md has a table. Default: none.
   */
  readonly terms?: readonly LossTerm[] | undefined;
  /**
   * Inter-class filtering, for classes that are several names of one: a negative whose cosine is above this counts as if it were 0,
   * and has no gradient. InsightFace's `interclass_filtering_threshold`, 0.4 in its recipe for such data. In [0, 1); only with
   * margins that leave the negatives alone, and without label smoothing. Costs as docs/losses.md says. Default 0: none.
   */
  readonly filterThreshold?: number | undefined;
}

/** How it is computed. */
export interface ComputeOptions {
  /**
   * `recompute` needs little memory, `keep` B x C floats and less work; `auto` keeps while that fits
   * `workspaceBytes`. GPUs always recompute. The result says which it was. Default `auto`.
   */
  readonly workspace?: Workspace | undefined;
  /** Bytes for workspace `auto`. Default 2^30. */
  readonly workspaceBytes?: number | undefined;
  /**
   * Contiguous ranges the classes are split into, which go round the devices; the result is the same to rounding. Default:
   * one for each device.
   */
  readonly shards?: number | undefined;
  /** Whether NaN or infinity in features or weights is an error (ERR_NOT_FINITE) or goes through. Default true. */
  readonly checkFinite?: boolean | undefined;
  /**
   * Lets the weights' gradient leave out groups of classes that no row of the batch owns and whose probability is too small to
   * matter: for reduction `mean` the sum over classes of |w_j| |change of dw_j| is at most `scale * gradientTolerance`, for
   * `sum` that times the number of rows. Their rows of dWeights are 0; dFeatures and the loss stay exact. Results then have
   * `skippedMass`, the part of the tolerance's measure that was left out. In [0, 1). Default 0: nothing is left out.
   */
  readonly gradientTolerance?: number | undefined;
  /**
   * What the products multiply; sums are float32 whatever it is. On a CPU, `bfloat16` is up to 1.8 times as fast where it has
   * AVX512-BF16; elsewhere it, and everywhere `float16`, is float32 arithmetic on rounded operands. On a GPU, `float32` costs
   * three times `float16`, and `bfloat16` needs compute capability 8.0. Default `float32`; where all devices are GPUs
   * `float16`.
   */
  readonly precision?: Precision | undefined;
}

/** LossOptions with every default filled in. */
export type Loss = { readonly [K in keyof LossOptions]-?: Exclude<LossOptions[K], undefined> };

/** A Loss at one step: no schedules. */
export interface PlainLoss extends Loss {
  readonly scale: number;
  readonly terms: readonly PlainTerm[];
}

/** ComputeOptions with every default filled in. */
export type Compute = { readonly [K in keyof ComputeOptions]-?: Exclude<ComputeOptions[K], undefined> } & {
  readonly devices: readonly DeviceName[];
};

export const lossNames = {
  margin: true,
  scale: true,
  gradient: true,
  onOverflow: true,
  labelSmoothing: true,
  rowFunction: true,
  terms: true,
  filterThreshold: true,
} as const satisfies Record<keyof LossOptions, true>;

export const computeNames = {
  workspace: true,
  workspaceBytes: true,
  shards: true,
  checkFinite: true,
  precision: true,
  gradientTolerance: true,
} as const satisfies Record<keyof ComputeOptions, true>;

const defaultLoss: Loss = {
  margin: arcface(),
  scale: 64,
  gradient: 'exact',
  onOverflow: 'none',
  labelSmoothing: 0,
  rowFunction: 'none',
  terms: [],
  filterThreshold: 0,
};

export function checkLoss(options: LossOptions, defaults: Loss = defaultLoss): Loss {
  const {
    margin = defaults.margin,
    scale = defaults.scale,
    gradient = defaults.gradient,
    onOverflow = defaults.onOverflow,
    labelSmoothing = defaults.labelSmoothing,
    rowFunction = defaults.rowFunction,
    terms = defaults.terms,
    filterThreshold = defaults.filterThreshold,
  } = options;
  checkMargin(margin);
  if (isAdaCos(scale)) checkAdaCos(scale, 'scale');
  else checkScheduled(scale, 'scale', { least: 0, exclusive: true, magnitude: largestFactor });
  checkOneOf(gradient, ['exact', 'straightThrough'], 'gradient');
  checkOneOf(onOverflow, ['none', 'fallback', 'easy'], 'onOverflow');
  if (onOverflow !== 'none' && !overflowOf(margin).includes(onOverflow))
    throw mustBe('ERR_OPTION', 'onOverflow', `'none' with margin ${margin.kind}`, show(onOverflow));
  checkNumber(labelSmoothing, 'labelSmoothing', { least: 0, magnitude: 1 });
  checkRowFunction(rowFunction, 'rowFunction');
  if (rowFunction !== 'none' && labelSmoothing > 0)
    throw mustBe(
      'ERR_OPTION',
      'rowFunction',
      `'none' with labelSmoothing ${labelSmoothing}`,
      rowFunction.kind,
    );
  if (isBinary(margin)) {
    if (rowFunction !== 'none')
      throw mustBe('ERR_OPTION', 'rowFunction', `'none' with margin ${margin.kind}`, rowFunction.kind);
    if (isAdaCos(scale))
      throw mustBe('ERR_OPTION', 'scale', `a number or a schedule with margin ${margin.kind}`, scale.kind);
  }
  checkNumber(filterThreshold, 'filterThreshold', { least: 0, below: 1 });
  if (filterThreshold > 0 && changesNegatives(margin))
    throw mustBe('ERR_OPTION', 'filterThreshold', `0 with margin ${margin.kind}`, show(filterThreshold));
  checkTerms(terms);
  const loss = { margin, scale, gradient, onOverflow, labelSmoothing, rowFunction, terms, filterThreshold };
  const transform = transformOf(loss);
  if (labelSmoothing > 0 && transform)
    throw mustBe('ERR_OPTION', 'labelSmoothing', `0 with ${transform}`, show(labelSmoothing));
  return loss;
}

/** What changes negatives, if something does, with the option's name. */
export function transformOf({ margin, filterThreshold }: Loss): string | undefined {
  if (changesNegatives(margin)) return `margin ${margin.kind}`;
  return filterThreshold > 0 ? `filterThreshold ${filterThreshold}` : undefined;
}

/** What a loss depends on besides a batch. */
export interface LossState {
  /** Updates that the head has made. */
  readonly step: number;
  readonly memory: LossMemory;
  readonly classes: number;
}

/** The loss in one state of a head. */
export function lossAt(loss: Loss, { step, memory, classes }: LossState): PlainLoss {
  const { margin, scale, rowFunction, terms } = loss;
  return {
    ...loss,
    margin: atStep(margin, step),
    scale: isAdaCos(scale) ? adaCosScale(scale, classes, memory) : valueAt(scale, step),
    rowFunction: rowFunction === 'none' ? rowFunction : atStep(rowFunction, step),
    terms: termsAt(terms, step),
  };
}

/** Whether a loss is another one in another state of its head. */
export function isScheduled({ margin, scale, rowFunction, terms }: Loss): boolean {
  const values = [margin, rowFunction, ...terms].flatMap(Object.values);
  return [...values, scale].some(isSchedule);
}

/** The loss of a call that has no steps and remembers nothing. */
export function plainLoss(loss: Loss, classes: number): PlainLoss {
  const { margin, scale, rowFunction, terms } = loss;
  const adaptive = isAdaCos(scale);
  if (adaptive && !scale.fixed)
    throw mustBe('ERR_OPTION', 'scale', 'fixed where no MarginHead remembers it', 'adacos that is not');
  if (!adaptive) refuseSchedules({ scale }, '');
  refuseSchedules(margin, 'margin.');
  if (rowFunction !== 'none') refuseSchedules(rowFunction, 'rowFunction.');
  for (const [i, term] of terms.entries()) refuseSchedules(term, `terms[${i}].`);
  return lossAt(loss, { step: 0, memory: {}, classes });
}

function refuseSchedules(parameters: object, prefix: string): void {
  for (const name in parameters) {
    const value: unknown = Reflect.get(parameters, name);
    if (isSchedule(value))
      throw mustBe(
        'ERR_OPTION',
        `${prefix}${name}`,
        'without a schedule, for which only a MarginHead has a step count',
        `a ${value.kind} one`,
      );
  }
}

export function checkCompute(options: ComputeOptions, devices: readonly DeviceName[]): Compute {
  const gpus = devices.filter((name) => name !== 'cpu').length;
  const {
    workspace = 'auto',
    workspaceBytes = 2 ** 30,
    shards = devices.length,
    checkFinite = true,
    precision = gpus === devices.length ? 'float16' : 'float32',
    gradientTolerance = 0,
  } = options;
  checkOneOf(workspace, ['keep', 'recompute', 'auto'], 'workspace');
  checkInteger(workspaceBytes, 'workspaceBytes', { least: 0, most: Number.MAX_SAFE_INTEGER });
  checkInteger(shards, 'shards', { least: 1, most: 65536 });
  checkBoolean(checkFinite, 'checkFinite');
  checkOneOf(precision, ['float32', 'bfloat16', 'float16'], 'precision');
  checkPrecision(precision, devices);
  checkNumber(gradientTolerance, 'gradientTolerance', { least: 0, below: 1 });
  return {
    workspace,
    workspaceBytes,
    shards,
    checkFinite,
    precision,
    gradientTolerance,
    devices,
  };
}
