/** This package on the cpu engine. */

import { valueAndGradSync } from 'marginfc';
import { type Contestant, makeGradients, makeOutputs, type ReusedOutputs } from '../cpu/contestants.js';
import type { Precision } from '../cpu/results.js';
import type { Runner, Task } from '../serve.js';

export interface CpuJob {
  readonly precision: Precision;
  readonly workspace: 'keep' | 'recompute';
  readonly outputs: 'reused' | 'fresh';
}

/** New outputs of a sample are at most this together: the pool lends no more than twice as much. */
const mostFreshBytes = 2 ** 29;

export function marginfcCpu({ problem, size: { B, D, C }, formula }: Task, job: CpuJob): Runner {
  const { precision, workspace, outputs } = job;
  // The first call makes the arrays that the others reuse, and its memory is what is measured.
  let reused: ReusedOutputs | undefined;
  let made: Contestant | undefined;
  const contestant = () => {
    made ??= makeGradients(
      problem,
      formula,
      { operation: 'loss + dX + dW', ...job },
      reused ?? makeOutputs(problem, formula, { precision, workspace }),
    );
    return made;
  };
  return {
    call: () => contestant().call(),
    outcome: () => {
      const first = valueAndGradSync(problem, { ...formula, precision, workspace });
      const { rowLoss, dFeatures, dWeights } = first;
      if (outputs === 'reused') reused = { dFeatures, dWeights };
      return { rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * D, (j + 1) * D) };
    },
    ...(outputs === 'fresh' && {
      prepare: () => contestant().prepare?.(),
      mostCalls: Math.max(1, Math.floor(mostFreshBytes / (4 * D * (B + C)))),
    }),
  };
}
