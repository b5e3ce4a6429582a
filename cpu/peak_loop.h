// The multiply-adds of the products with nothing around them, to measure what this machine can do at most (cpu/peak.h).
// Included by cpu/kernels.cc only, inside its anonymous namespace, so that each table has its own.

// Keeps the compiler from computing once what is the same for all sums.
MARGINFC_INLINE void forget(Vector& x) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(x));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(x));
#else
  asm volatile("" : "+m"(x));
#endif
}

#if defined(__AMX_BF16__)
int64_t multiply_adds(int64_t rounds, float* sums) {
  const TileRegisters registers;
  zero_tiles();
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; i++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float stored[kPanel][kPanel];
  store_tiles<true>(stored[0], kPanel);
  for (int l = 0; l < kLanes; l++) sums[l] = stored[0][l];
  return rounds * 4 * kTile * kTile * 2 * kTile * 2;
}
#else
// As many independent sums as a tile has, so that no instruction waits for the one before.
int64_t multiply_adds(int64_t rounds, float* sums) {
  Vector x = splat(1.0f), b = x, total{};
  Vector acc[kHeight][2] = {};
  forget(b);
  for (int64_t i = 0; i < rounds; i++)
#pragma GCC unroll 16
    for (int h = 0; h < kHeight; h++) {
      forget(x);
      multiply_add(x, b, acc[h][0]);
      forget(x);
      multiply_add(x, b, acc[h][1]);
    }
#pragma GCC unroll 16
  for (int h = 0; h < kHeight; h++) total += acc[h][0] + acc[h][1];
  store(sums, total);
  return rounds * kHeight * 2 * kLanes * (kPairs ? 2 : 1) * 2;
}
#endif
