/** Separate passes in C++ with this package's own products: what fusion alone buys (cpu/unfused.h). */

import { addon } from '../cpu/addon.js';
import type { Runner, Task } from '../serve.js';

export function unfused({ problem, size: { B, D, C }, scale, m }: Task): Runner {
  let out: { rowLoss: Float32Array; dFeatures: Float32Array; dWeights: Float32Array } | undefined;
  const call = () => {
    out ??= {
      rowLoss: new Float32Array(B),
      dFeatures: new Float32Array(B * D),
      dWeights: new Float32Array(C * D),
    };
    addon().unfused({ ...problem, scale, m, ...out });
    return out;
  };
  return {
    call,
    outcome: () => {
      const { rowLoss, dFeatures, dWeights } = call();
      return { rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * D, (j + 1) * D) };
    },
  };
}
