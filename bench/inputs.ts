/** The file that all contestants read, what they answer with, and the memory both take. */

import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { errors, type Problem, type Reference } from './cpu/reference.js';
import type { Size } from './size.js';

export function inputBytes({ B, D, C }: Size): number {
  return 4 * D * (B + C);
}

/** What new processes may take without others being swapped out or ended, less some for the system. */
export function availableMemory(): number {
  const text = readFileSync('/proc/meminfo', 'utf8');
  const kib = Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? Number.NaN);
  return 0.85 * kib * 1024;
}

export function writeProblem(file: string, { features, weights, labels }: Problem): void {
  const to = openSync(file, 'w');
  for (const array of [features, weights, labels]) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let at = 0; at < bytes.length; )
      at += writeSync(to, bytes, at, Math.min(bytes.length - at, 2 ** 30));
  }
  closeSync(to);
}

/** The largest errors of what a contestant wrote: see protocol.ts. */
export function compareOutput(
  file: string,
  rows: readonly number[],
  classRows: readonly number[],
  expected: Reference,
): { loss: number; gradient: number } {
  const dim = expected.rows[0]?.dFeatures.length ?? 0;
  const bytes = readFileSync(file);
  const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  // As if only these rows and classes were: the reference's numbers of them stay.
  const place = new Map(classRows.map((row, index) => [row, index]));
  const gradients = rows.length + rows.length * dim;
  const renumbered = {
    rows: expected.rows.map((row, index) => ({ ...row, row: index })),
    classRows: expected.classRows,
  };
  const found = errors(
    {
      rowLoss: values.subarray(0, rows.length),
      dFeatures: values.subarray(rows.length, gradients),
      dWeights: (row) => {
        const start = gradients + (place.get(row) ?? Number.NaN) * dim;
        return values.subarray(start, start + dim);
      },
    },
    renumbered,
  );
  return { loss: found.loss, gradient: found.gradient ?? Number.NaN };
}
