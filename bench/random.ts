/** Independent numbers in (0, 1), the same in every run. Xorshift32: quick, and good enough for rows that point anywhere. */
export function uniforms(): () => number {
  let state = 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers from those, by Marsaglia's polar method. */
export function normals(): () => number {
  const uniform = uniforms();
  return () => {
    for (;;) {
      const x = 2 * uniform() - 1;
      const square = x * x + (2 * uniform() - 1) ** 2;
      if (square > 0 && square < 1) return x * Math.sqrt((-2 * Math.log(square)) / square);
    }
  };
}
