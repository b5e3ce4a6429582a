/**
 * The loss as people write it in TensorFlow.js today: normalise, matMul, acos, the margin by oneHot, logSoftmax, and tf.grads for
 * the rest.
 */

import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Missing, type Runner, type Task } from '../serve.js';

export type TfjsBackend = 'cpu' | 'wasm' | 'node' | 'webgpu';
type Tfjs = typeof import('@tensorflow/tfjs-core');
type Tensor2D = import('@tensorflow/tfjs-core').Tensor2D;

const packages = {
  cpu: { registers: '@tensorflow/tfjs-backend-cpu', backend: 'cpu' },
  wasm: { registers: '@tensorflow/tfjs-backend-wasm', backend: 'wasm' },
  node: { registers: '@tensorflow/tfjs-node', backend: 'tensorflow' },
  webgpu: { registers: '@tensorflow/tfjs-backend-webgpu', backend: 'webgpu' },
} as const satisfies Record<TfjsBackend, unknown>;

/** A module that the package does not depend on: as seen from here, or from the folder the command was typed in. */
async function optional<Module>(name: string): Promise<Module> {
  const requires = [import.meta.url, pathToFileURL(join(process.cwd(), 'x')).href].map(createRequire);
  for (const require of requires) {
    let file: string;
    try {
      file = require.resolve(name);
    } catch {
      continue;
    }
    try {
      // Required, not imported: so all packages of tfjs get the same copy of its core.
      return require(file) as Module;
    } catch (error) {
      throw new Missing(`${name} cannot be loaded: ${(error as Error).message.split('\n')[0]}`);
    }
  }
  throw new Missing(`${name} is not installed`);
}

export async function tfjs(task: Task, backend: TfjsBackend): Promise<Runner> {
  const { registers, backend: name } = packages[backend];
  const tf = await optional<Tfjs>('@tensorflow/tfjs-core');
  // tfjs-core has no gradients on Node: layers brings those of all kernels, as @tensorflow/tfjs does.
  await optional('@tensorflow/tfjs-layers').catch(() => optional('@tensorflow/tfjs'));
  const { navigator } = globalThis as { navigator?: object };
  if (backend === 'webgpu' && !(navigator && 'gpu' in navigator))
    throw new Missing('this version of Node has no WebGPU');
  await optional(registers);
  if (!(await tf.setBackend(name))) throw new Missing(`the backend ${name} cannot be started`);
  await tf.ready();
  return { version: tf.version_core, ...naive(tf, task) };
}

function naive(tf: Tfjs, { problem, size: { B, D, C }, scale, m }: Task): Pick<Runner, 'call' | 'outcome'> {
  const features = tf.tensor2d(problem.features, [B, D]);
  const weights = tf.tensor2d(problem.weights, [C, D]);
  const labels = tf.tensor1d(problem.labels, 'int32');

  const unit = (rows: Tensor2D) => tf.div<Tensor2D>(rows, tf.norm(rows, 'euclidean', 1, true));
  const rowLosses = (x: Tensor2D, w: Tensor2D) => {
    const cosines = tf.clipByValue(tf.matMul(unit(x), unit(w), false, true), -1 + 1e-6, 1 - 1e-6);
    // Cast, because the wasm backend's oneHot writes int32 into its float32 result.
    const own = tf.cast(tf.oneHot(labels, C), 'float32');
    const target = tf.cos(tf.add(tf.acos(cosines), m));
    const mixed = tf.add(tf.mul(cosines, tf.sub(1, own)), tf.mul(target, own));
    return tf.neg(tf.sum(tf.mul(own, tf.logSoftmax(tf.mul(mixed, scale))), 1));
  };
  const gradients = tf.grads((x, w) => tf.mean(rowLosses(x as Tensor2D, w as Tensor2D)));
  const call = async () => {
    const [dX, dW] = tf.tidy(() => gradients([features, weights]));
    if (!dX || !dW) throw new Error('no gradients');
    const results = { dFeatures: await dX.data(), dWeights: await dW.data() };
    tf.dispose([dX, dW]);
    return results;
  };
  return {
    call,
    outcome: async () => {
      const { dFeatures, dWeights } = await call();
      const losses = tf.tidy(() => rowLosses(features, weights));
      const rowLoss = await losses.data();
      losses.dispose();
      return { rowLoss, dFeatures, dWeights: (j) => dWeights.subarray(j * D, (j + 1) * D) };
    },
  };
}
