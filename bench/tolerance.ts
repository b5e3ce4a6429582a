/**
 * What gradientTolerance brings on a trained head: `npm run bench:tolerance [-- options]`.
 *
 * A head is trained with ArcFace on rows around a fixed centre for each class, as embeddings of a trained network lie
 * around those of their identities. Then loss + dX + dW of further batches is timed for several tolerances in turns, on
 * the untrained head too, and the change of dW is compared with its bound (docs/numerics.md).
 */

import { parseArgs } from 'node:util';
import { arcface, MarginHead, releaseMemory, sgd, valueAndGradSync } from 'marginfc';
import { spread as spreadOf } from './cpu/samples.js';
import { table } from './cpu/table.js';
import { normals } from './random.js';

const usage = `npm run bench:tolerance -- [options]

  --rows B        rows of a batch (default 128)
  --dim D         length of an embedding (default 512)
  --classes C     (default 20000)
  --epochs N      passes over the classes to train for (default 12)
  --spread X      mean length of what is added to a centre of length 1 (default 0.7)
  --samples N     timed calls of each row of the table (default 15)
  --help`;

const tolerances = [0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1];
const scale = 64;
const margin = arcface({ m: 0.5 });

type Options = Record<'rows' | 'dim' | 'classes' | 'epochs' | 'spread' | 'samples', number>;

function readOptions(): Options | undefined {
  const text = (fallback: string) => ({ type: 'string', default: fallback }) as const;
  const { values } = parseArgs({
    options: {
      rows: text('128'),
      dim: text('512'),
      classes: text('20000'),
      epochs: text('12'),
      spread: text('0.7'),
      samples: text('15'),
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const { help: _, ...numbers } = values;
  const options = Object.fromEntries(
    Object.entries(numbers).map(([name, value]) => [name, Number(value)]),
  ) as Options;
  for (const [name, value] of Object.entries(options))
    if (!(value > 0 && (name === 'spread' || Number.isInteger(value))))
      throw new Error(`--${name} must be a positive number, received ${numbers[name as keyof Options]}`);
  return options;
}

/** Batches of rows around the centres of classes that come round one after the other. */
function makeBatches({ rows, dim, classes, spread }: Options) {
  const normal = normals();
  const centres = Float32Array.from({ length: classes * dim }, () => normal() / Math.sqrt(dim));
  let next = 0;
  return () => {
    const labels = Int32Array.from({ length: rows }, () => {
      next = (next + 7919) % classes;
      return next;
    });
    const features = new Float32Array(rows * dim);
    for (const [i, label] of labels.entries())
      for (let d = 0; d < dim; d++)
        features[i * dim + d] = (centres[label * dim + d] as number) + (spread * normal()) / Math.sqrt(dim);
    return { features, labels };
  };
}

type Batch = ReturnType<ReturnType<typeof makeBatches>>;

function measure(name: string, weights: Float32Array, batches: readonly Batch[], { dim, samples }: Options) {
  const outputs = tolerances.map(() => ({
    dFeatures: new Float32Array(batches[0]!.features.length).fill(1),
    dWeights: new Float32Array(weights.length).fill(1),
  }));
  const call = (batch: Batch, t: number) =>
    valueAndGradSync(
      { ...batch, weights, dim },
      { margin, scale, out: outputs[t], ...(t > 0 && { gradientTolerance: tolerances[t] }) },
    );
  const milliseconds = tolerances.map((): number[] => []);
  for (let n = 0; n < samples; n++)
    for (let t = 0; t < tolerances.length; t++) {
      const start = performance.now();
      call(batches[n % batches.length]!, t);
      milliseconds[t]!.push(performance.now() - start);
    }
  const whole = spreadOf(milliseconds[0]!).median;
  const exact = call(batches[0]!, 0).dWeights;
  return tolerances.map((tolerance, t) => {
    const { skippedMass = 0, dWeights } = call(batches[0]!, t);
    const { left, change } = compare(dWeights, exact, weights, dim);
    const time = spreadOf(milliseconds[t]!).median;
    return [
      name,
      String(tolerance),
      time.toFixed(2),
      (whole / time).toFixed(2),
      `${((100 * left * dim) / weights.length).toFixed(1)} %`,
      skippedMass.toExponential(1),
      change.toExponential(1),
      (scale * tolerance).toExponential(1),
    ];
  });
}

/** Classes whose gradient was left out, and the sum over classes of |w_j| |change of dw_j|. */
function compare(got: Float32Array, exact: Float32Array, weights: Float32Array, dim: number) {
  let left = 0;
  let change = 0;
  for (let start = 0; start < weights.length; start += dim) {
    let norm = 0;
    let apart = 0;
    let size = 0;
    for (let d = start; d < start + dim; d++) {
      norm += (weights[d] as number) ** 2;
      apart += ((got[d] as number) - (exact[d] as number)) ** 2;
      size += (got[d] as number) ** 2;
    }
    if (size === 0) left++;
    change += Math.sqrt(norm * apart);
  }
  return { left, change };
}

async function main(options: Options): Promise<void> {
  const { rows, dim, classes, epochs } = options;
  const nextBatch = makeBatches(options);
  const head = await MarginHead.create({
    dim,
    classes,
    margin,
    scale,
    seed: 1,
    optimizer: sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4 }),
  });
  const untrained = head.weights();
  const steps = Math.ceil((epochs * classes) / rows);
  let last = { loss: NaN, accuracy: NaN };
  for (let step = 0; step < steps; step++) {
    // The usual drop near the end.
    last = await head.step(nextBatch(), { learningRate: step < 0.8 * steps ? 0.1 : 0.01 });
    if (process.stderr.isTTY && step % 20 === 0)
      process.stderr.write(`\r  training, step ${step} of ${steps}, loss ${last.loss.toFixed(2)} \x1b[K`);
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  const trained = head.weights();
  head.dispose();
  releaseMemory();
  console.log(
    `${rows} rows, ${dim} dimensions, ${classes} classes, ArcFace; trained for ${steps} steps: loss ${last.loss.toFixed(3)}, ` +
      `accuracy ${(100 * last.accuracy).toFixed(1)} %\n`,
  );
  const batches = Array.from({ length: 5 }, nextBatch);
  const lines = [
    ...measure('untrained', untrained, batches, options),
    ...measure('trained', trained, batches, options),
  ];
  const heading = ['head', 'tolerance', 'ms', 'speed-up', 'left out', 'skippedMass', 'change', 'bound'];
  for (const line of table(heading, lines, new Set(['head']))) console.log(line);
  console.log(
    '\n  ms: median of loss + dX + dW; left out: classes without a gradient; change: sum of |w| |change of dw|; bound: scale x tolerance.',
  );
}

try {
  const options = readOptions();
  if (options) await main(options);
  else console.log(usage);
} catch (error) {
  console.error(`${(error as Error).message}\n\n${usage}`);
  process.exitCode = 2;
}
