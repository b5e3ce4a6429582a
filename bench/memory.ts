/**
 * How much memory a call takes beyond its inputs and outputs: `npm run bench:memory [-- B,D,C ...]`.
 *
 * Each row is a child process that fills its inputs and outputs, resets the kernel's record of its peak
 * resident memory, makes one call and reads the record again. Figures, not a test: they depend on the system's
 * allocator and page size.
 */

import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { arcface, forwardSync, valueAndGradSync } from 'marginfc';
import { childJob, reply, runInChild } from './child.js';
import { parseSize, type Size } from './size.js';

const calls = ['loss', 'loss + dX + dW'] as const;
const workspaces = ['recompute', 'keep'] as const;

interface Job {
  readonly size: Size;
  readonly call: (typeof calls)[number];
  readonly workspace: (typeof workspaces)[number];
}

/** A field of /proc/self/status, in bytes. */
function memoryField(name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(fs.readFileSync('/proc/self/status', 'utf8'));
  if (line?.[1] === undefined) throw new Error(`/proc/self/status has no ${name}`);
  return Number(line[1]) * 1024;
}

function filled(length: number): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = Math.random() - 0.5;
  return values;
}

function measure({ size: { B, D, C }, call, workspace }: Job): number {
  // A small call first: code, threads and pools are not the call's own memory.
  const warm = { features: filled(64), weights: filled(64), labels: new Int32Array(4), dim: 16 };
  valueAndGradSync(warm, { workspace });

  const inputs = { features: filled(B * D), weights: filled(C * D), labels: new Int32Array(B), dim: D };
  for (let i = 0; i < B; i++) inputs.labels[i] = Math.floor(Math.random() * C);
  const out = { dFeatures: new Float32Array(B * D).fill(1), dWeights: new Float32Array(C * D).fill(1) };
  const options = { margin: arcface(), workspace };
  fs.writeFileSync('/proc/self/clear_refs', '5'); // VmHWM starts again from what is resident now
  const before = memoryField('VmRSS');
  if (call === 'loss') forwardSync(inputs, options).dispose();
  else valueAndGradSync(inputs, { ...options, out });
  return memoryField('VmHWM') - before;
}

const job = childJob<Job>();
if (job) {
  reply(measure(job));
} else {
  const sizes = process.argv.length > 2 ? process.argv.slice(2) : ['128,512,100000', '512,512,100000'];
  console.log('Peak memory beyond inputs and outputs, MiB\n');
  console.log(`${'B,D,C'.padEnd(18)}${'call'.padEnd(18)}${'workspace'.padEnd(12)}${'MiB'.padStart(8)}`);
  for (const text of sizes)
    for (const call of calls)
      for (const workspace of workspaces) {
        const task: Job = { size: parseSize(text), call, workspace };
        const bytes = await runInChild<number>(fileURLToPath(import.meta.url), task);
        const mib = (bytes / 2 ** 20).toFixed(1).padStart(8);
        console.log(`${text.padEnd(18)}${call.padEnd(18)}${workspace.padEnd(12)}${mib}`);
      }
}
