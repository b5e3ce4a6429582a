/**
 * What a trainer without dependencies has: loops over typed arrays, written once and not tuned. Sums in float64, as numbers
 * are in JavaScript.
 */

import type { Runner, Task } from '../serve.js';

export function plain({ problem, size: { B, D, C }, scale, m }: Task): Runner {
  const { features, weights, labels } = problem;

  const normalised = (rows: Float32Array): { unit: Float32Array; norm: Float32Array } => {
    const unit = new Float32Array(rows.length);
    const norm = new Float32Array(rows.length / D);
    for (let i = 0; i < norm.length; i++) {
      let square = 0;
      for (let d = 0; d < D; d++) square += rows[i * D + d]! * rows[i * D + d]!;
      const length = Math.max(Math.sqrt(square), 1e-12);
      norm[i] = length;
      for (let d = 0; d < D; d++) unit[i * D + d] = rows[i * D + d]! / length;
    }
    return { unit, norm };
  };

  // (g - (g . u) u) / |x|, in place
  const project = (gradient: Float32Array, unit: Float32Array, norm: Float32Array) => {
    for (let i = 0; i < norm.length; i++) {
      let along = 0;
      for (let d = 0; d < D; d++) along += gradient[i * D + d]! * unit[i * D + d]!;
      for (let d = 0; d < D; d++)
        gradient[i * D + d] = (gradient[i * D + d]! - along * unit[i * D + d]!) / norm[i]!;
    }
  };

  const call = () => {
    const x = normalised(features);
    const w = normalised(weights);
    const logits = new Float32Array(B * C);
    for (let i = 0; i < B; i++)
      for (let j = 0; j < C; j++) {
        let cosine = 0;
        for (let d = 0; d < D; d++) cosine += x.unit[i * D + d]! * w.unit[j * D + d]!;
        logits[i * C + j] = scale * cosine;
      }
    const rowLoss = new Float32Array(B);
    const dFeatures = new Float32Array(B * D);
    const dWeights = new Float32Array(C * D);
    for (let i = 0; i < B; i++) {
      const own = i * C + labels[i]!;
      const theta = Math.acos(Math.min(1, Math.max(-1, logits[own]! / scale)));
      const target = scale * Math.cos(theta + m);
      logits[own] = target;
      let largest = Number.NEGATIVE_INFINITY;
      for (let j = 0; j < C; j++) largest = Math.max(largest, logits[i * C + j]!);
      let sum = 0;
      for (let j = 0; j < C; j++) sum += logits[i * C + j] = Math.exp(logits[i * C + j]! - largest);
      rowLoss[i] = largest + Math.log(sum) - target;
      const factor = scale / B;
      for (let j = 0; j < C; j++) {
        let gradient = (logits[i * C + j]! / sum) * factor;
        if (i * C + j === own)
          gradient = (gradient - factor) * (Math.sin(theta + m) / Math.max(Math.sin(theta), 1e-6));
        for (let d = 0; d < D; d++) {
          dFeatures[i * D + d] = dFeatures[i * D + d]! + gradient * w.unit[j * D + d]!;
          dWeights[j * D + d] = dWeights[j * D + d]! + gradient * x.unit[i * D + d]!;
        }
      }
    }
    project(dFeatures, x.unit, x.norm);
    project(dWeights, w.unit, w.norm);
    return { rowLoss, dFeatures, dWeights };
  };

  return {
    call,
    outcome: () => {
      const { rowLoss, dFeatures, dWeights } = call();
      return { rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * D, (j + 1) * D) };
    },
  };
}
