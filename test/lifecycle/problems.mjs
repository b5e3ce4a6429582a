/**
 * What the programs of the life-cycle tests compute: batches that are made in milliseconds, because each process and
 * worker here lives for a moment only.
 */
import { createHash } from 'node:crypto';

/** @import { Problem } from '../problems.js' */

/**
 * @param {{ rows: number, dim: number, classes: number }} size
 * @param {{ shared?: boolean }} [memory] shared: in SharedArrayBuffers
 * @returns {Problem}
 */
export function makeBatch({ rows, dim, classes }, { shared = false } = {}) {
  const bytes = (/** @type {number} */ length) =>
    shared ? new SharedArrayBuffer(4 * length) : new ArrayBuffer(4 * length);
  const floats = (/** @type {number} */ length, /** @type {number} */ seed) => {
    const array = new Float32Array(bytes(length));
    for (let i = 0; i < length; i++) array[i] = Math.imul(i + seed, 0x9e3779b1) / 2 ** 31;
    return array;
  };
  const labels = new Int32Array(bytes(rows));
  for (let i = 0; i < rows; i++) labels[i] = (i * 7919) % classes;
  return { features: floats(rows * dim, 1), weights: floats(classes * dim, 2), labels, dim };
}

/** Done at once. */
export const small = { rows: 31, dim: 33, classes: 1009 };
/** Enough work that a program finds a call in the middle: some 10^10 multiplications, with 20 MB of weights. */
export const large = { rows: 128, dim: 128, classes: 40_000 };

/**
 * Equal for equal bits of every number and array in `result`.
 * @param {object} result
 */
export function digest(result) {
  const hash = createHash('sha256');
  for (const [name, value] of Object.entries(result)) {
    if (ArrayBuffer.isView(value))
      hash.update(name).update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
    else if (typeof value === 'number') hash.update(`${name} ${value}`);
  }
  return hash.digest('hex').slice(0, 16);
}
