/** Training of a head on {@link makeDraws}'s batches, in one process or in several that share its classes. */

import { arcface, MarginHead, type MarginHeadOptions, sgd } from 'marginfc';
import { makeDraws, type Population } from './draws.js';

export interface Settings extends Population {
  /** Rows of a step, of all processes together. */
  readonly rows: number;
  readonly steps: number;
  /** Of all processes together. */
  readonly shards: number;
  readonly learningRate: number;
}

/** One step: the loss and the share of rows whose own class was the nearest, without margin, before its update. */
export interface Step {
  readonly step: number;
  readonly loss: number;
  readonly accuracy: number;
  /** Of `head.step` alone. */
  readonly seconds: number;
}

export async function train(
  { rows, steps, shards, learningRate, ...population }: Settings,
  group: MarginHeadOptions['group'],
  report: (step: Step) => void,
): Promise<Step[]> {
  const { dim, classes, seed } = population;
  const { rank, size } = group ?? { rank: 0, size: 1 };
  const draw = makeDraws(population);
  const head = await MarginHead.create({
    ...{ dim, classes, seed, group },
    shards: shards / size,
    margin: arcface(),
    optimizer: sgd({ learningRate }),
  });
  const history: Step[] = [];
  try {
    for (let step = 1; step <= steps; step++) {
      // Every process draws the whole batch and feeds its own part.
      const { features, labels } = draw(rows);
      const [first, last] = [rank, rank + 1].map((part) => Math.floor((rows * part) / size)) as [
        number,
        number,
      ];
      const start = performance.now();
      const { loss, accuracy } = await head.step({
        features: features.subarray(first * dim, last * dim),
        labels: labels.subarray(first, last),
      });
      history.push({ step, loss, accuracy, seconds: (performance.now() - start) / 1000 });
      report(history.at(-1) as Step);
    }
  } finally {
    head.dispose();
  }
  return history;
}
