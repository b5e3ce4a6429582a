/** The bias of losses that give each logit a binary cross-entropy of its own: a number that training learns. */

import type { LossMemory } from './loss_memory.js';
import type { NativeRows } from './native.js';
import type { LearnedRows } from './target_rows.js';
import { checkNumber, largestFactor } from './validate.js';

/** A bias as it is given; left out, it follows from the other parameters. */
export function checkBias(value: unknown, argument: string): void {
  if (value !== undefined) checkNumber(value, argument, { magnitude: largestFactor, code: 'ERR_MARGIN' });
}

/** Plain gradient descent, or what it is to be made with later. */
export function learnBias(
  { biasGradient, dLoss, update }: LearnedRows,
  { bias, biasGradient: accumulated = 0 }: LossMemory,
): LossMemory {
  const gradient = gradientOf(biasGradient as Float64Array, dLoss);
  if (update.kind === 'accumulate') return { biasGradient: accumulated + gradient };
  if (update.kind !== 'update') return {};
  return { bias: (bias as number) - update.learningRate * gradient };
}

/** One update with what has been accumulated, which is then gone. */
export function applyBiasGradient({ biasGradient, ...memory }: LossMemory, learningRate: number): LossMemory {
  if (memory.bias === undefined || biasGradient === undefined) return memory;
  return { ...memory, bias: memory.bias - learningRate * biasGradient };
}

/** The gradient of a call's bias. */
export interface BiasGradient {
  /** Only with {@link sphereface2} and {@link uniface}: of the loss by the bias. */
  readonly dBias?: number;
}

/** Of a call without a head, whose rows have been through phase 3. */
export function biasGradient({ biasGradient: rows }: NativeRows, dLoss: number | Float32Array): BiasGradient {
  return rows ? { dBias: gradientOf(rows, dLoss) } : {};
}

function gradientOf(rows: Float64Array, dLoss: number | Float32Array): number {
  if (typeof dLoss === 'number') return dLoss * rows.reduce((sum, value) => sum + value, 0);
  return rows.reduce((sum, value, i) => sum + value * (dLoss[i] as number), 0);
}
