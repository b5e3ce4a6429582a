/** The gradients a call returns: which, where they are written, and what multiplies them. */

import { addon, type NativeGradients } from './native.js';
import type { Reduction } from './options.js';
import {
  checkApart,
  checkFloats,
  checkNumber,
  checkOneOf,
  checkOptions,
  checkValues,
  largestFactor,
  mustBe,
  show,
} from './validate.js';

/** Which gradients are wanted. */
export type GradientChoice = 'both' | 'features' | 'weights';

/** Arrays to write gradients to, instead of new ones. Their contents are unspecified after an error. */
export interface GradientOutputs {
  /** [B, dim] */
  readonly dFeatures?: Float32Array | undefined;
  /** [C, dim] */
  readonly dWeights?: Float32Array | undefined;
}

/** The gradients asked for; undefined the other one. */
export interface GradientArrays<G extends GradientChoice> {
  /** [B, dim] */
  readonly dFeatures: G extends 'weights' ? undefined : Float32Array;
  /** [C, dim] */
  readonly dWeights: G extends 'features' ? undefined : Float32Array;
}

/** What gradient arrays are checked against. */
export interface Shape {
  readonly features: Float32Array | Uint16Array;
  readonly weights: Float32Array | Uint16Array;
  readonly rows: number;
  readonly reduction: Reduction;
}

/** Checks what is asked of phases 4 and 5; the returned function gets the memory when work begins. */
export function gradientRequest(
  { features, weights, rows, reduction }: Shape,
  dLoss: number | Float32Array | undefined,
  {
    gradients = 'both',
    out: outputs,
  }: { readonly gradients?: GradientChoice | undefined; readonly out?: GradientOutputs | undefined },
): () => NativeGradients {
  const choice = checkOneOf(gradients, ['both', 'features', 'weights'], 'gradients');
  const outer = checkOuterGradient(dLoss, rows, reduction);
  const out = checkOptions(outputs, { dFeatures: true, dWeights: true }, 'out');
  for (const [name, unwanted] of [
    ['dFeatures', 'weights'],
    ['dWeights', 'features'],
  ] as const) {
    if (out[name] !== undefined && choice === unwanted)
      throw mustBe('ERR_OPTION', `out.${name}`, `left out with gradients '${choice}'`, show(out[name]));
  }
  const inputs = { features, weights };
  if (out.dFeatures !== undefined) {
    checkFloats(out.dFeatures, 'out.dFeatures', features.length, 'as features');
    checkApart(out.dFeatures, 'out.dFeatures', inputs);
  }
  if (out.dWeights !== undefined) {
    checkFloats(out.dWeights, 'out.dWeights', weights.length, 'as weights');
    checkApart(out.dWeights, 'out.dWeights', { ...inputs, 'out.dFeatures': out.dFeatures });
  }
  return () => ({
    dLoss: outer,
    ...(choice === 'weights' ? {} : { dFeatures: out.dFeatures ?? addon().allocate(features.length) }),
    weightGradient:
      choice === 'features'
        ? { kind: 'none' }
        : { kind: 'write', dWeights: out.dWeights ?? addon().allocate(weights.length) },
  });
}

function checkOuterGradient(
  dLoss: number | Float32Array | undefined,
  rows: number,
  reduction: Reduction,
): number | Float32Array {
  if (reduction !== 'none')
    return checkNumber(dLoss === undefined ? 1 : dLoss, 'dLoss', { magnitude: largestFactor });
  return checkValues(checkFloats(dLoss, 'dLoss', rows, 'rows of the batch'), 'dLoss', 'ERR_OPTION');
}

/** The arrays of a request after the work is done. */
export function gradientArrays<G extends GradientChoice>(gradients: NativeGradients): GradientArrays<G> {
  const { dFeatures, weightGradient } = gradients;
  const dWeights = weightGradient.kind === 'write' ? weightGradient.dWeights : undefined;
  // What G says is what gradientRequest was asked for.
  return { dFeatures, dWeights } as GradientArrays<G>;
}
