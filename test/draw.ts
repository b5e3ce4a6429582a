/** Partial FC's draw as engine/sampling.h defines it, written out plainly. */

const blockSize = 4096;

/** Philox 4x32-10 (Salmon et al., SC 2011): four words from a counter of 128 bits and a key of 64. */
export function philox(key: bigint, counter: bigint): [number, number, number, number] {
  const word = (value: bigint, index: number) => (value >> BigInt(32 * index)) & 0xffffffffn;
  let [k0, k1] = [word(key, 0), word(key, 1)];
  let [c0, c1, c2, c3] = [word(counter, 0), word(counter, 1), word(counter, 2), word(counter, 3)];
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [word(p1, 1) ^ c1 ^ k0, word(p1, 0), word(p0, 1) ^ c3 ^ k1, word(p0, 0)];
    [k0, k1] = [word(k0 + 0x9e3779b9n, 0), word(k1 + 0xbb67ae85n, 0)];
  }
  return [Number(c0), Number(c1), Number(c2), Number(c3)];
}

export interface Draw {
  readonly classes: number;
  readonly sampleRate: number;
  readonly seed: number;
  /** Updates made before. */
  readonly step: number;
}

/** The classes that are drawn, ascending. */
export function drawn({ classes, sampleRate, seed, step }: Draw): number[] {
  const u = Array.from({ length: Math.ceil(classes / 4) }, (_, four) =>
    philox(BigInt(seed), BigInt(four) | (BigInt(step) << 64n) | (1n << 127n)),
  ).flat();
  const ids: number[] = [];
  for (let first = 0; first < classes; first += blockSize) {
    const size = Math.min(blockSize, classes - first);
    const block = Array.from({ length: size }, (_, j) => first + j);
    block.sort((a, b) => u[a]! - u[b]! || a - b);
    ids.push(...block.slice(0, Math.round(sampleRate * size)));
  }
  return ids.sort((a, b) => a - b);
}

/** The classes that take part in a step: drawn, or owned by a row. */
export function takingPart(draw: Draw, labels: Int32Array): number[] {
  const ids = new Set([...drawn(draw), ...labels.filter((label) => label >= 0)]);
  return [...ids].sort((a, b) => a - b);
}
