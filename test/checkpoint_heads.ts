/** Heads for the tests of checkpoints and of classes that come and go, and all that such a call could get wrong in one. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import {
  adamw,
  type HeadBatch,
  MarginHead,
  type MarginHeadOptions,
  type Optimizer,
  sgd,
} from '../src/index.js';
import { makeProblem } from './problems.js';
import { seeded } from './random.js';

export const optimizers = {
  sgd: sgd({ learningRate: 0.1, weightDecay: 5e-4 }),
  'sgd with momentum': sgd({ learningRate: 0.1, momentum: 0.9, weightDecay: 5e-4, nesterov: true }),
  adamw: adamw({ learningRate: 1e-3 }),
} satisfies Record<string, Optimizer>;

const open: MarginHead[] = [];
const folders: string[] = [];
afterAll(() => {
  for (const head of open) head.dispose();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'marginfc-checkpoint-'));
  folders.push(folder);
  return folder;
}

/** The shards of a checkpoint, in the order of their classes. */
export function shardsOf(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.safetensors'))
    .sort();
}

/** A head that is disposed of after the tests. */
export function kept(head: MarginHead): MarginHead {
  open.push(head);
  return head;
}

export const size = { rows: 12, dim: 17, classes: 53 };

export function batchOf(seed: number, { rows, dim, classes } = size) {
  const { features, labels } = makeProblem({ rows, dim, classes }, 'spread', 'ignored', seed);
  return { features, labels } satisfies HeadBatch;
}

/** A head after a few steps, so that no part of its state is 0; with half a step accumulated if asked. */
export async function trainedHead(
  options: Partial<MarginHeadOptions> = {},
  { accumulated = false, steps = 2 } = {},
): Promise<MarginHead> {
  const { dim, classes } = size;
  const head = kept(
    await MarginHead.create({ dim, classes, init: { std: 1, seed: 3 }, precision: 'float32', ...options }),
  );
  for (let seed = 1; seed <= steps; seed++)
    await head.step(batchOf(seed, { ...size, classes: head.classes }));
  if (accumulated) await head.accumulate(batchOf(9, { ...size, classes: head.classes }));
  return head;
}

/** All that a head keeps of its classes, by the names of a checkpoint's tensors, [classes, dim] each. */
export async function stateOf(head: MarginHead): Promise<Record<string, Float32Array>> {
  const folder = newFolder();
  await head.save(folder);
  const parts: Record<string, number[]> = {};
  for (const name of shardsOf(folder)) {
    const contents = readFileSync(join(folder, name));
    const start = 8 + Number(contents.readBigUInt64LE());
    const { __metadata__: _, ...tensors } = JSON.parse(contents.toString('utf8', 8, start));
    for (const [tensor, { data_offsets: offsets }] of Object.entries<{ data_offsets: number[] }>(tensors)) {
      const bytes = new Uint8Array(contents.subarray(start + offsets[0]!, start + offsets[1]!));
      parts[tensor] = [...(parts[tensor] ?? []), ...new Float32Array(bytes.buffer)];
    }
  }
  return Object.fromEntries(Object.entries(parts).map(([name, values]) => [name, Float32Array.from(values)]));
}

/**
 * What a head would do next, bit for bit: its weights now, its accumulated gradient by applying it, and its optimiser state by what
 * steps make of the weights. Changes the head.
 */
export async function futureOf(head: MarginHead): Promise<object> {
  const { dim, classes } = head;
  const now = { classes, steps: head.stepCount, weights: head.weights() };
  const applied = await head.apply({ learningRate: 0.5 });
  const afterwards = head.weights();
  const random = seeded(4);
  const outs = [];
  for (let step = 0; step < 2; step++) {
    const features = Float32Array.from({ length: 5 * dim }, () => random.normal());
    const labels = Int32Array.from({ length: 5 }, () => random.below(classes));
    const { loss, dFeatures, rowLoss } = await head.step({ features, labels });
    outs.push({ loss, dFeatures, rowLoss });
  }
  return { ...now, applied, afterwards, outs, later: head.weights() };
}
