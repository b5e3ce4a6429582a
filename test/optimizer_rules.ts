/** The optimisers' rules in float64, as torch.optim.SGD and torch.optim.AdamW have them. */
import type { Optimizer } from '../src/index.js';

/** Parameters with their optimiser state. */
export interface Trained {
  readonly weights: Float64Array;
  readonly first: Float64Array;
  readonly second: Float64Array;
  step: number;
}

export function untrained(weights: ArrayLike<number>): Trained {
  const { length } = weights;
  return {
    weights: Float64Array.from(weights),
    first: new Float64Array(length),
    second: new Float64Array(length),
    step: 0,
  };
}

/** One update. `moves`: whether entry i takes part in it; the others keep weights and state. */
export function update(
  state: Trained,
  gradient: ArrayLike<number>,
  optimizer: Optimizer,
  learningRate: number,
  moves: (i: number) => boolean = () => true,
): void {
  state.step += 1;
  const { weights, first, second, step } = state;
  const { weightDecay } = optimizer;
  for (let i = 0; i < weights.length; i++) {
    if (!moves(i)) continue;
    const raw = gradient[i]!;
    const weight = weights[i]!;
    if (optimizer.kind === 'sgd') {
      const { momentum, nesterov } = optimizer;
      const g = raw + weightDecay * weight;
      // PyTorch has no momentum buffer before the first step, which makes the gradient itself the buffer.
      first[i] = step === 1 ? g : momentum * first[i]! + g;
      const direction = momentum === 0 ? g : nesterov ? g + momentum * first[i]! : first[i]!;
      weights[i] = weight - learningRate * direction;
    } else {
      const { beta1, beta2, epsilon } = optimizer;
      const decayed = weight * (1 - learningRate * weightDecay);
      first[i] = beta1 * first[i]! + (1 - beta1) * raw;
      second[i] = beta2 * second[i]! + (1 - beta2) * raw ** 2;
      const mean = first[i]! / (1 - beta1 ** step);
      const deviation = Math.sqrt(second[i]! / (1 - beta2 ** step));
      weights[i] = decayed - (learningRate * mean) / (deviation + epsilon);
    }
  }
}
