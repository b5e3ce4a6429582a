/**
 * Evaluates problems for test/engines.ts in a process of its own: the instruction set and the number of
 * threads are read from the environment when the addon loads, so each combination needs a process.
 */
import process from 'node:process';
import { customMargin, forward, listEngines, MarginHead, valueAndGrad, valueAndGradSync } from 'marginfc';

/** @import { Request, Evaluated, CustomAnswer, CustomRow, HeadRun, TrainedStep } from './engines.js' */

/** NaN floats (or impossible labels) before and after an array that lies inside a larger buffer. */
const PADDING = 37;

/**
 * A copy of `values`, alone in its buffer or inside a padded one.
 * @template {Float32Array | Int32Array} T
 * @param {T} values
 * @param {boolean} inside
 * @returns {T}
 */
function place(values, inside) {
  const Array_ = /** @type {new (length: number) => T} */ (values.constructor);
  const margin = inside ? PADDING : 0;
  const buffer = new Array_(values.length + 2 * margin);
  buffer.fill(values instanceof Int32Array ? 0x7fffffff : NaN);
  buffer.set(values, margin);
  return /** @type {T} */ (buffer.subarray(margin, margin + values.length));
}

/**
 * Whether everything around a placed array is as it was.
 * @param {Float32Array} view
 */
function paddingIntact(view) {
  const all = new Float32Array(view.buffer);
  const first = view.byteOffset / 4;
  return all.every((value, i) => (i >= first && i < first + view.length) || Number.isNaN(value));
}

/** @param {Extract<Request, { kind: 'evaluate' }>} request */
async function evaluate({ problem, options, customRows, execution, engine: choice }) {
  const inside = execution.arrays === 'inside';
  const input = {
    features: place(problem.features, inside),
    weights: place(problem.weights, inside),
    labels: place(problem.labels, inside),
    dim: problem.dim,
  };
  /** @type {CustomRow[]} */
  const asked = [];
  const out = {
    dFeatures: place(new Float32Array(problem.features.length).fill(NaN), inside),
    dWeights: place(new Float32Array(problem.weights.length).fill(NaN), inside),
  };
  const { dLoss, margin, ...rest } = options;
  const common = /** @type {import('marginfc').ForwardOptions} */ ({
    ...rest,
    margin: customRows
      ? customMargin((row) => {
          asked.push({ ...row });
          return /** @type {CustomAnswer} */ (customRows[row.row]);
        })
      : margin,
    engine: choice,
    shards: execution.shards,
    workspace: execution.workspace,
    precision: execution.precision ?? 'float32',
  });
  /** @type {Evaluated['result']} */
  let result;
  if (execution.call === 'forward and backward') {
    const pass = await forward(input, common);
    const { rowLoss, logSumExp, targetCosine, workspace, engine } = pass;
    // With reduction 'none' a loss needs dLoss, which only backward has.
    const loss = options.reduction === 'none' ? undefined : pass.loss;
    const { dFeatures, dWeights } = await pass.backward(dLoss, { out });
    pass.dispose();
    result = { loss, rowLoss, logSumExp, targetCosine, workspace, engine, dFeatures, dWeights };
  } else {
    const call = execution.call === 'valueAndGrad' ? valueAndGrad : valueAndGradSync;
    const { loss, rowLoss, logSumExp, targetCosine, workspace, engine, dFeatures, dWeights } = await call(
      input,
      /** @type {import('marginfc').ValueAndGradOptions} */ ({ ...common, dLoss, out }),
    );
    result = { loss, rowLoss, logSumExp, targetCosine, workspace, engine, dFeatures, dWeights };
  }
  const same = (/** @type {Float32Array | Int32Array} */ a, /** @type {Float32Array | Int32Array} */ b) =>
    Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(
      Buffer.from(b.buffer, b.byteOffset, b.byteLength),
    );
  return {
    result,
    asked,
    inputsIntact:
      same(input.features, problem.features) &&
      same(input.weights, problem.weights) &&
      same(input.labels, problem.labels),
    paddingIntact: !inside || Object.values(out).every(paddingIntact),
  };
}

/** @param {Extract<Request, { kind: 'train' }>} request */
async function train({ options, batches, call }) {
  const head = await MarginHead.create(options);
  /** @type {TrainedStep[]} */
  const steps = [];
  for (const batch of batches) {
    const result = await head[call](batch);
    if (call === 'accumulate') await head.apply();
    steps.push({ result, weights: head.weights() });
  }
  head.dispose();
  return steps;
}

/**
 * @param {Extract<Request, { kind: 'head' }>} request
 * @returns {Promise<HeadRun>}
 */
async function runHead({ options, calls }) {
  const head = await MarginHead.create(options);
  const results = [];
  for (const { call, batch, options: given } of calls) {
    if (call === 'step') {
      results.push(await head.step(batch, given));
      continue;
    }
    results.push(await head.accumulate(batch, given));
    await head.apply();
  }
  const centers = options.terms?.some(({ kind }) => kind === 'center') && { centers: head.centers() };
  const run = { results, weights: head.weights(), ...centers };
  head.dispose();
  return run;
}

/** @param {Request} request */
function answer(request) {
  switch (request.kind) {
    case 'engines':
      return listEngines();
    case 'head':
      return runHead(request);
    case 'train':
      return train(request);
    case 'evaluate':
      return evaluate(request);
  }
}

process.on('message', async (/** @type {Request} */ request) => {
  try {
    process.send?.({ answer: await answer(request) });
  } catch (error) {
    process.send?.({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
});
