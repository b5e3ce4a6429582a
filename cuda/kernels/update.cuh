// dW and its sink in one: a block makes whole rows of the product P^T V, leaves them in shared memory where its stages
// were, and a warp a class projects them, moves the weights and writes the new operand: dW is never stored.
//
//   reads   P once and V once a tile of classes, 16-bit (split: 2 x 16); weights and the optimiser's state [classes, D]
//           float32 once, fetched into the L2 cache while the product is made
//   writes  weights, state, operand: 16 to 18 bytes a weight with momentum
//   launch  a block a multiprocessor, 8 warps, over tiles of classes in a strided loop. 32768 sums a block (64 classes of
//           512 floats, 128 of 256, 256 of 128): 128 registers a thread for them, and 133 KiB for the rows; half as many
//           where a multiprocessor has 100 KiB, and with two halves, whose chains need the registers
//
// Each row belongs to one block: no atomics, the same bits every time.
#pragma once

#include "cuda/kernels/tile.cuh"
#include "cuda/kernels/weights.cuh"

namespace marginfc {

#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
constexpr int kUpdateSums = 16384, kUpdateStages = 2, kUpdateWarpRows = 32;
#else
constexpr int kUpdateSums = 32768, kUpdateStages = 4, kUpdateWarpRows = 64;
#endif

template <class T, int kWidth>
struct UpdateShape : TileShape<T, kUpdateSums / kWidth, kWidth, kUpdateWarpRows, kUpdateStages> {};
template <int kWidth>
struct UpdateShape<Split, kWidth> : TileShape<Split, 16384 / kWidth, kWidth, 32, 2> {};

// Rows of the product in shared memory: 8 floats apart from a multiple of 32, so that the eight rows a warp stores at
// once meet different banks.
template <class Shape>
constexpr int kProductStride = Shape::columns + 8;
template <class Shape>
constexpr int kUpdateBytes = Shape::bytes > Shape::rows* kProductStride<Shape> * 4
                                 ? Shape::bytes
                                 : Shape::rows* kProductStride<Shape> * 4;

constexpr int kLine = 32;  // floats of a line of the L2 cache

// Has row `row` of [.., dim] brought into the L2 cache by a warp: a line a lane is enough for the widest update.
__device__ __forceinline__ void fetch_row(const float* rows, int64_t row, int32_t dim) {
  const int32_t column = warp_lane() * kLine;
  if (rows && column < dim) asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + row * dim + column));
}

template <class Shape>
__device__ __forceinline__ void update(const UpdateParameters& p) {
  using Sums = TileSums<Shape>;
  constexpr int kStride = kProductStride<Shape>;
  static_assert(Shape::columns <= kWarp * kLine, "a row has more lines than a warp has lanes to fetch them");
  // The product is stored over the stages: no copy may be under way, as the last fills of stages beyond the steps would be.
  static_assert(kTileSide / kStageDepth >= Shape::stages, "padded rows have fewer steps than there are stages");
  extern __shared__ __align__(1024) uint8_t stages[];
  auto* product = reinterpret_cast<float*>(stages);

  const FinishWeightsParameters& finish = p.finish;
  const bool neighbours = whole_fours(finish);
  for (int32_t first = blockIdx.x * Shape::rows; first < finish.classes; first += gridDim.x * Shape::rows) {
    const int32_t count = min(Shape::rows, finish.classes - first);
    for (int32_t r = threadIdx.x / kWarp; r < count; r += Shape::threads / kWarp) {
      const int64_t row = finish.index ? finish.index[first + r] : first + r;
      if (row < 0) continue;  // a slot that no class has
      fetch_row(static_cast<const float*>(finish.weights), row, finish.dim);
      fetch_row(finish.momentum, row, finish.dim);
      fetch_row(finish.variance, row, finish.dim);
      fetch_row(finish.gradient, row, finish.dim);
    }
    {
      TileLoop<Shape, Along::outer, Along::outer, false> loop(p.left.values + first, p.left.low, p.left.stride,
                                                              p.right.values, p.right.low, p.right.stride, p.steps, 1,
                                                              stages);
      Sums sums;
      loop.run(sums);
      __syncthreads();  // all warps have left the last stage
      sums.for_pairs([&](int row, int column, float2 pair) {
        *reinterpret_cast<float2*>(product + row * kStride + column) = pair;
      });
    }
    __syncthreads();  // the rows are whole
    with_columns(neighbours, finish.dim, [&](auto columns) {
      for (int32_t r = threadIdx.x / kWarp; r < count; r += Shape::threads / kWarp)
        if (!finish.index || finish.index[first + r] >= 0)
          finish_class<true, false>(finish, columns, first + r, product + r * kStride);
    });
    __syncthreads();  // all warps have read their rows, before the next tile's stages overwrite them
  }
}

}  // namespace marginfc

#define MARGINFC_UPDATE_KERNEL(T, name, width)                                        \
  extern "C" __device__ int32_t update_bytes_##name##_##width =                       \
      marginfc::kUpdateBytes<marginfc::UpdateShape<T, width>>;                        \
  extern "C" __global__ void __launch_bounds__(256, 1)                                \
      update_##name##_##width(const __grid_constant__ marginfc::UpdateParameters p) { \
    marginfc::update<marginfc::UpdateShape<T, width>>(p);                             \
  }
#define MARGINFC_UPDATE_KERNELS(T, name) \
  MARGINFC_UPDATE_KERNEL(T, name, 128)   \
  MARGINFC_UPDATE_KERNEL(T, name, 256)   \
  MARGINFC_UPDATE_KERNEL(T, name, 512)

// sm_75 has 64 KiB of shared memory.
#if __CUDA_ARCH__ >= 800
MARGINFC_UPDATE_KERNELS(marginfc::Float16, float16)
MARGINFC_UPDATE_KERNELS(marginfc::Bfloat16, bfloat16)
#if !(__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
MARGINFC_UPDATE_KERNELS(marginfc::Split, float32)
#endif
#endif
