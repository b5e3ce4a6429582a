/** AdaptiveFace: a margin for each class, which is trained with the weights. */

import { checkClassNumbers, keptByHeads } from './class_numbers.js';
import { uniforms } from './counter_random.js';
import type { Plan } from './evaluation.js';
import type { LossMemory } from './loss_memory.js';
import type { NativeRows } from './native.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { type BatchRule, checkedBy, type LearnedRows, targetsOf } from './target_rows.js';
import { checkNumber, checkOptions, largestFactor, mustBe } from './validate.js';

/** `F = cos(theta) - m_y`. Made by {@link adaptiveFace}. */
export interface AdaptiveFaceMargin {
  readonly kind: 'adaptiveFace';
  /** The margins of calls without a head, [C], cosine units. */
  readonly m?: { readonly perClass: Float32Array };
  /** Weight of the mean margin in what training seeks. */
  readonly lambda: number | Schedule;
  /** Of a head's first margins. */
  readonly lower: number;
  readonly upper: number;
}

const known = { m: true, lambda: true, lower: true, upper: true } as const;

/**
 * AdaptiveFace (AdaM-Softmax): CosFace with a margin for each class, which is learned; classes of few or like images get larger ones.
 *
 *     F = cos(theta) - m_y,   dF/dc = 1,   dLoss/dm_y = -dLoss/dF
 *
 * A head keeps the margins (`head.classMargins`): drawn from [lower, upper] at first, by its seed and the class, and moved by each
 * update with its learning rate, by plain gradient descent whatever the optimiser, without momentum and weight decay:
 *
 *     m = min(max(m - learningRate (dLoss/dm - lambda / C), 0), 1)
 *
 * -lambda mean(m) is the paper's regulariser; it is not part of the `loss` that calls return. `accumulate` adds up the gradients of
 * margins for `apply`. `clipWeightGradient` does not concern them. They are in checkpoints, go with their classes through
 * `addClasses` and `removeClasses`, and are the same on all processes, each of which has all of them. An update costs O(C)
 * on the calling thread. Calls without a head are given them as `m`, and return `dMargins`, without the regulariser. No policies of
 * `onOverflow`.
 *
 * Source: Liu et al., AdaptiveFace: Adaptive Margin and Sampling for Face Recognition, CVPR 2019. Code: JDAI-CV/FaceX-Zoo,
 * head/AdaM_Softmax.py, with scale 30, lambda 70 and first margins in [0.3, 0.4]; there margins are of the same optimiser as the
 * weights, with its momentum and weight decay.
 *
 * @param parameters `m`, only without a head; `lambda` default 70, `lower` 0.3, `upper` 0.4.
 * @throws MarginFcError ERR_OPTION for an unknown name, ERR_TYPE or ERR_MARGIN for a parameter that is of no use.
 */
export function adaptiveFace(parameters: Partial<Omit<AdaptiveFaceMargin, 'kind'>> = {}): AdaptiveFaceMargin {
  const {
    m,
    lambda = 70,
    lower = 0.3,
    upper = 0.4,
  } = checkOptions(parameters, known, 'adaptiveFace parameters');
  return checkedBy(adaptiveFaceRule, { kind: 'adaptiveFace', ...(m && { m }), lambda, lower, upper });
}

const code = 'ERR_MARGIN';

function checkPart(value: unknown, argument: string): void {
  if (checkNumber(value, argument, { least: 0, code }) > 1)
    throw mustBe(code, argument, 'a number in [0, 1]', String(value));
}

export const adaptiveFaceRule: BatchRule<AdaptiveFaceMargin> = {
  parameters: {
    m: checkClassNumbers,
    lambda: (value, argument) =>
      checkScheduled(value, argument, { least: 0, magnitude: largestFactor, code }),
    lower: checkPart,
    upper: checkPart,
  },
  together({ lower, upper }) {
    if (lower > upper) throw mustBe(code, 'margin.upper', `at least lower ${lower}`, String(upper));
  },
  overflow: [],
  ...keptByHeads('m', {
    withoutHead: 'where no MarginHead keeps margins',
    onHead: 'which keeps margins',
  }),
  *prepare({ lower, upper }, { margins }, { classes, seed }) {
    const count = margins?.length ?? 0;
    if (count === classes) return {};
    const all = uniforms(seed, classes).map((u) => lower + (upper - lower) * u);
    if (margins) all.set(margins);
    return { margins: all };
  },
  resolve({ m }, rows) {
    const margins = (m?.perClass ?? rows.memory.margins) as ArrayLike<number>;
    return targetsOf(rows, (cosine, row) => ({
      target: cosine - (margins[rows.labels[row] as number] as number),
      dTarget: 1,
    }));
  },
  learn({ lambda }, rows, { margins, marginGradient }, { classes }) {
    const { dLoss, update } = rows;
    // What the regulariser adds to every class.
    const rise = (dLoss * lambda) / classes;
    if (update.kind === 'accumulate') {
      const gradient = new Float64Array(classes);
      gradient.set(marginGradient ?? []);
      addMarginGradient(gradient, rows, dLoss);
      for (let c = 0; c < classes; c++) gradient[c]! -= rise;
      return { marginGradient: gradient };
    }
    if (update.kind !== 'update' || !margins) return {};
    addMarginGradient(margins, rows, -dLoss * update.learningRate);
    for (let c = 0; c < classes; c++)
      margins[c] = Math.min(Math.max((margins[c] as number) + update.learningRate * rise, 0), 1);
    return {};
  },
};

/** Adds the gradient of margins, times dLoss, or times one factor for each row. */
export function addMarginGradient(
  to: Float64Array | Float32Array,
  { labels, targetGradient }: Pick<LearnedRows, 'labels' | 'targetGradient'>,
  dLoss: number | Float32Array,
): void {
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as number;
    if (label === -1) continue;
    const outer = typeof dLoss === 'number' ? dLoss : (dLoss[i] as number);
    to[label]! -= outer * (targetGradient[i] as number);
  }
}

/** One update with what has been accumulated, which is then gone. */
export function applyMarginGradient(
  { margins, marginGradient, ...memory }: LossMemory,
  learningRate: number,
): LossMemory {
  if (margins && marginGradient)
    for (let c = 0; c < marginGradient.length; c++)
      margins[c] = Math.min(Math.max((margins[c] as number) - learningRate * marginGradient[c]!, 0), 1);
  return { ...memory, ...(margins && { margins }) };
}

/** The gradient of a call's margins. */
export interface MarginGradient {
  /** Only with {@link adaptiveFace}: [C], of the loss by the margins, without the regulariser. */
  readonly dMargins?: Float32Array;
}

/** Of a call without a head, whose rows have been through phase 3. */
export function marginGradient(
  { margin, classes, problem: { labels } }: Plan,
  { targetGradient }: NativeRows,
  dLoss: number | Float32Array,
): MarginGradient {
  if (margin.kind !== 'adaptiveFace' || !targetGradient) return {};
  const dMargins = new Float32Array(classes);
  addMarginGradient(dMargins, { labels, targetGradient }, dLoss);
  return { dMargins };
}
