// Products of small tiles in float32, for mma and wgmma: D[rows][columns] += A[rows][depth] * B[depth][columns], each
// element one chain of fused multiply-adds over the depth. Tensor cores align, truncate and add in another order.
#pragma once

#include <cmath>

namespace gpusim {

template <int rows, int depth, int columns>
inline void multiply_tile(const float (&a)[rows][depth], const float (&b)[depth][columns], float (&d)[rows][columns]) {
  for (int k = 0; k < depth; k++)
    for (int i = 0; i < rows; i++)
#pragma GCC ivdep
      for (int j = 0; j < columns; j++) d[i][j] = std::fma(a[i][k], b[k][j], d[i][j]);
}

}  // namespace gpusim
