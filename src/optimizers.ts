/**
 * Optimisers a {@link MarginHead} applies to its weights inside the last phase of a step. Plain data; the
 * rules are PyTorch's, in float32. g is the gradient of a weight, w the weight, lr the learning rate.
 */

import type { NativeOptimizerRule } from './native.js';
import { checkScheduled, type Schedule } from './schedule.js';
import { checkBoolean, checkNumber, checkObject, checkOneOf, checkOptions, mustBe } from './validate.js';

/** Stochastic gradient descent. Made by {@link sgd}. */
export interface SgdOptimizer {
  readonly kind: 'sgd';
  readonly learningRate: number | Schedule;
  readonly momentum: number;
  readonly weightDecay: number;
  readonly nesterov: boolean;
}

/** Adam with decoupled weight decay. Made by {@link adamw}. */
export interface AdamWOptimizer {
  readonly kind: 'adamw';
  readonly learningRate: number | Schedule;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** Any optimiser; plain data, told apart by `kind`. */
export type Optimizer = SgdOptimizer | AdamWOptimizer;

/** Optional parameters of an optimiser's function. */
type ParametersOf<O extends Optimizer> = { readonly [K in Exclude<keyof O, 'kind'>]?: O[K] | undefined };

const sgdNames = { learningRate: true, momentum: true, weightDecay: true, nesterov: true } as const;
const adamwNames = {
  learningRate: true,
  beta1: true,
  beta2: true,
  epsilon: true,
  weightDecay: true,
} as const;

/**
 * Stochastic gradient descent, as `torch.optim.SGD` without dampening:
 *
 *     g = g + weightDecay w
 *     b = g on the first update, afterwards momentum b + g
 *     w = w - lr b                  (nesterov: w - lr (g + momentum b))
 *
 * @param parameters `learningRate` default 1e-3 (a number, or a schedule; a step may give its own), `momentum` 0, `weightDecay` 0,
 * `nesterov` false, which needs a momentum.
 * @throws MarginFcError ERR_TYPE, or ERR_OPTION for an unknown name, a negative value or nesterov without momentum.
 */
export function sgd(parameters: ParametersOf<SgdOptimizer> = {}): SgdOptimizer {
  const {
    learningRate = 1e-3,
    momentum = 0,
    weightDecay = 0,
    nesterov = false,
  } = checkOptions(parameters, sgdNames, 'sgd parameters');
  const optimizer: SgdOptimizer = { kind: 'sgd', learningRate, momentum, weightDecay, nesterov };
  nativeOptimizer(optimizer);
  return optimizer;
}

/**
 * Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov and Hutter, arXiv 1711.05101); t counts
 * updates from 1:
 *
 *     w = w - lr weightDecay w
 *     m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
 *     w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
 *
 * @param parameters `learningRate` default 1e-3 (a number, or a schedule; a step may give its own), `beta1` 0.9, `beta2` 0.999,
 * `epsilon` 1e-8, `weightDecay` 1e-2.
 * @throws MarginFcError ERR_TYPE, or ERR_OPTION for an unknown name, a negative value or a beta outside [0, 1).
 */
export function adamw(parameters: ParametersOf<AdamWOptimizer> = {}): AdamWOptimizer {
  const {
    learningRate = 1e-3,
    beta1 = 0.9,
    beta2 = 0.999,
    epsilon = 1e-8,
    weightDecay = 1e-2,
  } = checkOptions(parameters, adamwNames, 'adamw parameters');
  const optimizer: AdamWOptimizer = { kind: 'adamw', learningRate, beta1, beta2, epsilon, weightDecay };
  nativeOptimizer(optimizer);
  return optimizer;
}

/** A call's learning rate may be 0: then nothing changes. */
export function checkLearningRate(value: unknown, argument: string): number {
  return checkNumber(value, argument, { least: 0 });
}

/** An optimiser checked, as native code reads it; the learning rate is given with each update. */
export function nativeOptimizer(optimizer: Optimizer): NativeOptimizerRule {
  checkObject(optimizer, 'optimizer');
  checkOneOf(optimizer.kind, ['sgd', 'adamw'], 'optimizer.kind');
  checkScheduled(optimizer.learningRate, 'optimizer.learningRate', { least: 0 });
  const weightDecay = checkNumber(optimizer.weightDecay, 'optimizer.weightDecay', { least: 0 });
  switch (optimizer.kind) {
    case 'sgd': {
      checkOptions<SgdOptimizer>(optimizer, { kind: true, ...sgdNames }, 'optimizer');
      const momentum = checkNumber(optimizer.momentum, 'optimizer.momentum', { least: 0 });
      const nesterov = checkBoolean(optimizer.nesterov, 'optimizer.nesterov');
      if (nesterov && momentum === 0)
        throw mustBe('ERR_OPTION', 'optimizer.momentum', '> 0 with nesterov', String(momentum));
      return { kind: 'sgd', momentum, weightDecay, nesterov };
    }
    case 'adamw': {
      checkOptions<AdamWOptimizer>(optimizer, { kind: true, ...adamwNames }, 'optimizer');
      const beta1 = checkNumber(optimizer.beta1, 'optimizer.beta1', { least: 0, below: 1 });
      const beta2 = checkNumber(optimizer.beta2, 'optimizer.beta2', { least: 0, below: 1 });
      const epsilon = checkNumber(optimizer.epsilon, 'optimizer.epsilon', { least: 0 });
      return { kind: 'adamw', beta1, beta2, epsilon, weightDecay };
    }
  }
}
