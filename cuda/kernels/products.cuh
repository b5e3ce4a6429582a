// Phase 4, the two other products of a chunk, from P in the L2 cache:
//
//   dX  out[z] = P W      over the classes of split z, [rows, D]; add_products adds the splits in order
//   dW  out    = P^T V    over all rows of the batch, [classes, D]; V holds the weighted unit features
//
// W and V are read with their rows across the inner dimension, P by rows or by columns: ldmatrix transposes, nothing is
// stored transposed. Reads 16-bit operands once per tile of the other side, writes float32 in whole sectors. Grid (tiles
// of D, tiles of rows or classes, splits). No atomics.
#pragma once

#include "cuda/kernels/tile.cuh"

namespace marginfc {

template <class T, Along kLeft>
__device__ __forceinline__ void product(const ProductParameters& p) {
  using Sums = TileSums<TileShape<T>>;
  extern __shared__ __align__(1024) uint8_t stages[];
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kTileSide, column0 = blockIdx.x * kTileSide;
  const int64_t step0 = static_cast<int64_t>(blockIdx.z) * p.steps_per_split, inner0 = step0 * kStageDepth;
  const int steps = min(static_cast<int64_t>(p.steps_per_split), p.steps - step0);
  const uint16_t* left = p.left.values +
                         (kLeft == Along::inner ? row0 * p.left.stride + inner0 : inner0 * p.left.stride + row0);

  TileLoop<TileShape<T>, kLeft, Along::outer, false> loop(left, p.left.low, p.left.stride,
                                                          p.right.values + inner0 * p.right.stride + column0,
                                                          p.right.low, p.right.stride, steps, 1, stages);
  Sums sums;
  loop.run(sums);

  float* out = p.out + blockIdx.z * p.split_stride + row0 * p.width + column0;
  sums.for_pairs([&](int row, int column, float2 pair) {
    __stcg(reinterpret_cast<float2*>(out + static_cast<int64_t>(row) * p.width + column), pair);
  });
}

}  // namespace marginfc
