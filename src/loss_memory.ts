/** What a loss remembers between the steps of a head: kept in checkpoints, and the same on all processes of a group. */

import { checkInteger, checkNumber, checkOptions } from './validate.js';

/** Running statistics of features' norms. */
export interface NormStatistics {
  readonly mean: number;
  readonly deviation: number;
}

/** Only what a loss of the head has needed is there. */
export interface LossMemory {
  /** Of AdaFace. */
  readonly norms?: NormStatistics;
  /** Of CurricularFace: t. */
  readonly curriculum?: number;
  /** Of AdaCos: what the last training batch makes of the scale. */
  readonly scale?: number;
  /** Of SphereFace2 and UniFace: what is added to every logit. */
  readonly bias?: number;
  /** Of the bias, what `accumulate` has added up. */
  readonly biasGradient?: number;
  /** Of a ring loss, R. */
  readonly radius?: number;
  /** Of AdaptiveFace, [C]; shorter by classes that are new. Updates write to it. */
  readonly margins?: Float64Array;
  /** Of the margins, what `accumulate` has added up; as long. */
  readonly marginGradient?: Float64Array;
  /** Of Dyn-ArcFace, [C]: angles between each class and the one nearest to it, when the head had made so many updates. */
  readonly neighbourAngles?: Float64Array;
  readonly neighbourStep?: number;
}

/** The arrays with a number for each class, as checkpoints name them. */
export const classArrays = {
  margins: 'class_margin',
  marginGradient: 'class_margin_gradient',
  neighbourAngles: 'class_neighbour_angle',
} as const satisfies Partial<Record<keyof LossMemory, string>>;

export type ClassArrays = Pick<LossMemory, keyof typeof classArrays>;

/** The others, which are JSON. */
export function memoryNumbers({
  margins: _,
  marginGradient: __,
  neighbourAngles: ___,
  ...numbers
}: LossMemory): LossMemory {
  return numbers;
}

/** The memory of the classes that stay: those with a new id in `map`, which is not -1. */
export function memoryOfClasses(
  { margins, marginGradient, neighbourAngles: _, ...memory }: LossMemory,
  map: Int32Array,
): LossMemory {
  const staying = (values: Float64Array) => values.filter((_, id) => map[id] !== -1);
  return {
    ...memory,
    ...(margins && { margins: staying(margins) }),
    ...(marginGradient && { marginGradient: staying(marginGradient) }),
  };
}

/** One call's view of it. */
export interface MemoryTrack {
  /** What it is when the call's turn comes. */
  readonly before: () => LossMemory;
  /** Whether the batch may change it: not that of an `evaluate`. */
  readonly training: boolean;
  /** What the batch makes of parts of it, before its loss is known. */
  after?: LossMemory;
}

/** Of a call without a head, which forgets. */
export function noMemory(): MemoryTrack {
  return { before: () => ({}), training: true };
}

/** What a checkpoint says. */
export function checkMemory(memory: LossMemory, argument: string): LossMemory {
  const known = {
    norms: true,
    curriculum: true,
    scale: true,
    bias: true,
    biasGradient: true,
    radius: true,
    neighbourStep: true,
  } as const;
  const { norms, curriculum, scale, bias, biasGradient, radius, neighbourStep } = checkOptions<
    Pick<LossMemory, keyof typeof known>
  >(memory, known, argument);
  if (bias !== undefined) checkNumber(bias, `${argument}.bias`);
  if (biasGradient !== undefined) checkNumber(biasGradient, `${argument}.biasGradient`);
  if (neighbourStep !== undefined)
    checkInteger(neighbourStep, `${argument}.neighbourStep`, { least: 0, most: Number.MAX_SAFE_INTEGER });
  if (norms !== undefined) {
    const { mean, deviation } = checkOptions(norms, { mean: true, deviation: true }, `${argument}.norms`);
    checkNumber(mean, `${argument}.norms.mean`, { least: 0 });
    checkNumber(deviation, `${argument}.norms.deviation`, { least: 0 });
  }
  if (curriculum !== undefined) checkNumber(curriculum, `${argument}.curriculum`, { magnitude: 1 });
  if (scale !== undefined) checkNumber(scale, `${argument}.scale`, { least: 0, exclusive: true });
  if (radius !== undefined) checkNumber(radius, `${argument}.radius`, { least: 0 });
  return memory;
}
