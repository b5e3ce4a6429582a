/** Arrays whose collectives are known from plain arithmetic: small integers, so that sums are exact in every type. */

/** @typedef {Float32Array | Float64Array | Int32Array | Uint8Array} GroupArray */
/** @typedef {typeof Float32Array | typeof Float64Array | typeof Int32Array | typeof Uint8Array} GroupArrayType */

/** @type {readonly GroupArrayType[]} */
export const types = [Float32Array, Float64Array, Int32Array, Uint8Array];

/** Element `i` of what rank `rank` brings. @param {number} rank @param {number} i */
export const elementOf = (rank, i) => (7 * rank + (i % 11) + (i >> 10)) % 50;

/**
 * What rank `rank` brings.
 * @param {GroupArrayType} Type
 * @param {number} length
 * @param {number} rank
 */
export function brought(Type, length, rank) {
  const array = new Type(length);
  for (let i = 0; i < length; i++) array[i] = elementOf(rank, i);
  return array;
}

/**
 * What all ranks bring, reduced element by element.
 * @param {GroupArrayType} Type
 * @param {number} length
 * @param {number} size
 * @param {'sum' | 'max'} operation
 */
export function reduced(Type, length, size, operation) {
  const array = new Type(length);
  for (let i = 0; i < length; i++) {
    let value = 0;
    for (let rank = 0; rank < size; rank++)
      value = operation === 'sum' ? value + elementOf(rank, i) : Math.max(value, elementOf(rank, i));
    array[i] = value;
  }
  return array;
}

/**
 * Lengths of the parts of `size` ranks. A round of the transport is 32 MiB of all ranks.
 * @type {Record<string, (size: number) => number[]>}
 */
export const partitions = {
  equal: (size) => Array(size).fill(5),
  uneven: (size) => Array.from({ length: size }, (_, rank) => 3 * rank + 1),
  'empty but for one': (size) => Array.from({ length: size }, (_, rank) => (rank === size - 1 ? 4 : 0)),
  empty: (size) => Array(size).fill(0),
  long: (size) => Array.from({ length: size }, (_, rank) => 70_001 + 1009 * rank),
};

/** In several rounds, the shorter parts ending before the longest. @param {number} size */
export const severalRounds = (size) => Array.from({ length: size }, (_, rank) => (rank % 2 ? 1 : 4_500_001));
