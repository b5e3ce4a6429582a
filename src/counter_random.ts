/**
 * Random numbers that are a function of seed, step and row alone, so that a draw is the same whatever the shards, processes and
 * devices, and after a checkpoint is loaded. As engine/random.h: Philox 4x32-10 (Salmon et al., SC 2011), normal deviates by Box
 * and Muller. Counters of margins have bit 62 of their high half set, which no draw of native code has alone; a search, which is no
 * head, has a key of its own.
 */

const multipliers = [0xd2511f53, 0xcd9e8d57] as const;
const weyl = [0x9e3779b9, 0xbb67ae85] as const;

type Words = readonly [number, number, number, number];

/** Four random words for a key of two words and a counter of four, low words first. */
export function philox([low, high]: readonly [number, number], counter: Words): Words {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = [low, high];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(multipliers[0], c0);
    const high1 = multiplyHigh(multipliers[1], c2);
    const low0 = Math.imul(multipliers[0], c0) >>> 0;
    const low1 = Math.imul(multipliers[1], c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + weyl[0]) >>> 0;
    k1 = (k1 + weyl[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The upper 32 bits of a product of 64: halves of 16 bits keep every sum below 2^32. */
function multiplyHigh(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (other >>> 16);
}

/** A normal deviate of mean 0 and deviation 1 for a margin. `seed` and `row` are below 2^32, `step` below 2^53. */
export function normalOf(seed: number, step: number, row: number): number {
  return normal([seed, 0], [row, 0, step >>> 0, 0x40000000 + Math.floor(step / 2 ** 32)]);
}

/** The same for a candidate of a search. */
export function candidateNormal(seed: number, iteration: number, index: number): number {
  return normal([seed, 1], [index, 0, iteration >>> 0, Math.floor(iteration / 2 ** 32)]);
}

function normal(key: readonly [number, number], counter: Words): number {
  const [u, v] = philox(key, counter);
  return Math.sqrt(-2 * Math.log((u + 0.5) / 2 ** 32)) * Math.cos((2 * Math.PI * v) / 2 ** 32);
}

/** Numbers in (0, 1), of which the n-th depends on seed and n alone. */
export function uniforms(seed: number, count: number): Float64Array {
  const values = new Float64Array(count);
  for (let n = 0; n < count; n += 4) {
    const words = philox([seed, 0], [n / 4, 1, 0, 0x40000000]);
    for (let k = 0; k < 4 && n + k < count; k++) values[n + k] = ((words[k] as number) + 0.5) / 2 ** 32;
  }
  return values;
}
