/**
 * A contestant for test/bench_run.test.ts, on the lines of bench/protocol.ts. argv[2] is how it behaves: `right`, `wrong`,
 * `nan`, `silent`, `crashes`, `out of memory` or `missing`.
 */

import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { arcface, valueAndGradSync } from 'marginfc';

const behaviour = process.argv[2];

/** @typedef {import('../bench/protocol.ts').Request} Request */
/** @typedef {Extract<Request, { do: 'prepare' }>} Prepare */
/** @typedef {Extract<Request, { do: 'check' }>} Check */

/** @type {import('marginfc').Batch | undefined} */
let problem;

/** @param {Prepare} request */
function prepare({ input, size: { B, D, C } }) {
  if (behaviour === 'missing') return { missing: 'it is not here' };
  if (behaviour === 'out of memory') return { failed: 'cannot allocate memory', memory: true };
  const { buffer } = Uint8Array.from(readFileSync(input));
  const features = new Float32Array(buffer, 0, B * D);
  const weights = new Float32Array(buffer, 4 * B * D, C * D);
  const labels = new Int32Array(buffer, 4 * (B + C) * D, B);
  problem = { features, weights, labels, dim: D };
  return { version: 'of the test' };
}

/** @param {Check} request */
function check({ rows, classes, output }) {
  if (behaviour === 'crashes' || problem === undefined) process.exit(3);
  const { dim } = problem;
  const { rowLoss, dFeatures, dWeights } = valueAndGradSync(problem, {
    margin: arcface({ m: 0.5 }),
    scale: 64,
  });
  /** @param {Float32Array} matrix @param {readonly number[]} wanted */
  const slices = (matrix, wanted) => wanted.flatMap((i) => [...matrix.subarray(i * dim, (i + 1) * dim)]);
  const values = Float32Array.from([
    ...rows.map((row) => rowLoss[row] ?? Number.NaN),
    ...slices(dFeatures, rows),
    ...slices(dWeights, classes),
  ]);
  if (behaviour === 'wrong') values[values.length - 1] = 1;
  if (behaviour === 'nan') values[0] = Number.NaN;
  writeFileSync(output, values);
  return { seconds: 0.001, peakBytes: 1e6 };
}

const sampled = { seconds: 0.001, calls: 10, elapsed: 0.01, own: 0.01, ownInAll: 0.01 };

for await (const line of createInterface({ input: process.stdin })) {
  const request = /** @type {Request} */ (JSON.parse(line));
  if (behaviour === 'silent') continue;
  const answer =
    request.do === 'prepare' ? prepare(request) : request.do === 'check' ? check(request) : sampled;
  writeSync(3, `${JSON.stringify(answer)}\n`);
}
