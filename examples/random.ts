/** Seeded randomness, so that a seed gives the same split, network and figures every time. */

/** Numbers in [0, 1). */
export type Random = () => number;

/** The mulberry32 generator. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** An integer in [0, count). */
export function below(random: Random, count: number): number {
  return Math.floor(random() * count);
}

/** A copy in random order (Fisher and Yates). */
export function shuffled<T>(values: readonly T[], random: Random): T[] {
  const result = [...values];
  for (let last = result.length - 1; last > 0; last--) {
    const other = below(random, last + 1);
    [result[last], result[other]] = [result[other] as T, result[last] as T];
  }
  return result;
}

/** Normal deviates of mean 0 and deviation 1, by Marsaglia's polar method. */
export function normals(random: Random): Random {
  let other: number | undefined;
  return () => {
    if (other !== undefined) {
      const value = other;
      other = undefined;
      return value;
    }
    for (;;) {
      const [x, y] = [2 * random() - 1, 2 * random() - 1];
      const square = x * x + y * y;
      if (square >= 1 || square === 0) continue;
      const factor = Math.sqrt((-2 * Math.log(square)) / square);
      other = y * factor;
      return x * factor;
    }
  };
}
