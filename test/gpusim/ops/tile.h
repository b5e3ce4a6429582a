// Products of small tiles in float32, for mma: D[rows][8] += A[rows][depth] * B[depth][8], each element one chain of fused
// multiply-adds over the depth. Tensor cores align, truncate and add in another order.
#pragma once

#include <cmath>

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace gpusim {

#if defined(__FMA__)
/// Rows of D stay in registers, which the compiler does not see by itself.
template <int rows, int depth>
inline void multiply_tile(const float (&a)[rows][depth], const float (&b)[depth][8], float (&d)[rows][8]) {
  __m256 sums[rows];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) sums[i] = _mm256_loadu_ps(d[i]);
  for (int k = 0; k < depth; k++) {
    const __m256 row = _mm256_loadu_ps(b[k]);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) sums[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[i][k]), row, sums[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++) _mm256_storeu_ps(d[i], sums[i]);
}
#else
template <int rows, int depth>
inline void multiply_tile(const float (&a)[rows][depth], const float (&b)[depth][8], float (&d)[rows][8]) {
  for (int k = 0; k < depth; k++)
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < 8; j++) d[i][j] = std::fma(a[i][k], b[k][j], d[i][j]);
}
#endif

}  // namespace gpusim
