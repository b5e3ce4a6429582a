/** The gradients a call returns: which, where they are written, and what multiplies them. */

import { checkDeviceArray, type DeviceArray, isDeviceArray } from './device_array.js';
import { addon, type NativeGradients } from './native.js';
import type { DeviceName, Reduction } from './options.js';
import type { CheckedRows } from './rows.js';
import {
  checkApart,
  checkFloat32Array,
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

/**
 * Arrays to write gradients to, instead of new ones; a {@link DeviceArray} of float32 only where all devices are GPUs. Their
 * contents are unspecified after an error.
 */
export interface GradientOutputs {
  /** [B, dim] */
  readonly dFeatures?: Float32Array | DeviceArray | undefined;
  /** As weights. */
  readonly dWeights?: Float32Array | DeviceArray | undefined;
}

/** {@link GradientOutputs} of the host. */
export interface HostOutputs {
  readonly dFeatures?: Float32Array | undefined;
  readonly dWeights?: Float32Array | undefined;
}

/** What a result is in: what the outputs name, else a new Float32Array. */
export type OutputArray<O, Name extends keyof GradientOutputs> =
  | Float32Array
  | (O extends { readonly [name in Name]?: infer T } ? Extract<T, DeviceArray> : never);

/** The gradients asked for, a Float32Array where `out` named none; undefined the other one. */
export interface GradientArrays<G extends GradientChoice, O extends GradientOutputs = HostOutputs> {
  /** [B, dim] */
  readonly dFeatures: G extends 'weights' ? undefined : OutputArray<O, 'dFeatures'>;
  /** As weights. */
  readonly dWeights: G extends 'features' ? undefined : OutputArray<O, 'dWeights'>;
}

/** What gradient arrays are checked against. */
export interface Shape {
  readonly features: CheckedRows;
  readonly weights: CheckedRows;
  readonly rows: number;
  readonly reduction: Reduction;
  readonly devices: readonly DeviceName[];
}

/** An array for a gradient, as long as what it is the gradient of and apart from all `others`. */
export function checkOutput<T extends Float32Array | DeviceArray>(
  output: T,
  argument: string,
  devices: readonly DeviceName[],
  { array: { length } }: CheckedRows,
  meaning: string,
  others: Readonly<Record<string, CheckedRows | undefined>>,
): T {
  const given = isDeviceArray(output)
    ? checkDeviceArray(output, argument, devices, ['float32'])
    : ({ array: checkFloat32Array(output, argument), type: 'float32' } as const);
  if (given.array.length !== length)
    throw mustBe('ERR_SHAPE', `${argument}.length`, `${length} (${meaning})`, show(given.array.length));
  checkApart(given, argument, others);
  return output;
}

/** Checks what is asked of phases 4 and 5; the returned function gets the memory when work begins. */
export function gradientRequest(
  { features, weights, rows, reduction, devices }: Shape,
  dLoss: number | Float32Array | undefined,
  {
    gradients = 'both',
    out: outputs,
  }: {
    readonly gradients?: GradientChoice | undefined;
    readonly out?: GradientOutputs | undefined;
  },
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
  if (out.dFeatures !== undefined)
    checkOutput(out.dFeatures, 'out.dFeatures', devices, features, 'as features', inputs);
  if (out.dWeights !== undefined) {
    const { dFeatures } = out;
    const first = dFeatures && ({ array: dFeatures, type: 'float32' } as const);
    const others = { features, weights, 'out.dFeatures': first };
    checkOutput(out.dWeights, 'out.dWeights', devices, weights, 'as weights', others);
  }
  return () => {
    const weightGradient: NativeGradients['weightGradient'] =
      choice === 'features'
        ? { kind: 'none' }
        : { kind: 'write', dWeights: out.dWeights ?? addon().allocate(weights.array.length) };
    if (choice === 'weights') return { dLoss: outer, weightGradient };
    const dFeatures = out.dFeatures ?? addon().allocate(features.array.length);
    return { dLoss: outer, dFeatures, weightGradient };
  };
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
export function gradientArrays<G extends GradientChoice, O extends GradientOutputs>(
  gradients: NativeGradients,
): GradientArrays<G, O> {
  const { dFeatures, weightGradient } = gradients;
  const dWeights = weightGradient.kind === 'write' ? weightGradient.dWeights : undefined;
  // What G and O say is what gradientRequest was asked for.
  return { dFeatures, dWeights } as GradientArrays<G, O>;
}
