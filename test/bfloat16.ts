/** bfloat16 in plain arithmetic, for tests. */

const bits = new DataView(new ArrayBuffer(4));
const bitsOf = (value: number) => {
  bits.setFloat32(0, value);
  return bits.getUint32(0);
};
/** The bfloat16 whose high half these bits have. */
const upperHalf = (word: number) => {
  bits.setUint32(0, word & 0xffff0000);
  return bits.getFloat32(0);
};

/** The nearest one, ties to even. */
export function nearestBfloat16(value: number): number {
  const word = bitsOf(value);
  return upperHalf(word + 0x7fff + ((word >>> 16) & 1));
}

/** The 16 bits of each. */
export function halves(values: Float32Array): Uint16Array {
  return Uint16Array.from(values, (value) => bitsOf(value) >>> 16);
}

/** Philox 4x32-10, Salmon et al., SC 2011, in whole numbers. */
function philox(key: number, counter: readonly number[]): number[] {
  const word = 0xffffffffn;
  let [k0, k1] = [BigInt(key) & word, BigInt(key) >> 32n];
  let [c0 = 0n, c1 = 0n, c2 = 0n, c3 = 0n] = counter.map(BigInt);
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & word, (p0 >> 32n) ^ c3 ^ k1, p0 & word];
    k0 = (k0 + 0x9e3779b9n) & word;
    k1 = (k1 + 0xbb67ae85n) & word;
  }
  return [c0, c1, c2, c3].map(Number);
}

/** docs/numerics.md's stochastic rounding of one weight. */
export function stochasticBfloat16(
  value: number,
  seed: number,
  step: number,
  index: number,
  column: number,
): number {
  const words = philox(seed, [index, step, 16 * Math.floor(column / 128) + (column % 16), 0]);
  const draw = Math.floor(column / 16) % 8;
  const random = ((words[draw >> 1] as number) >>> (draw % 2 === 0 ? 0 : 16)) & 0xffff;
  return upperHalf(bitsOf(value) + random);
}
