// The main loop that every product shares: a block's tile of left . right^T, 128 x 128 but for the update of weights,
// summed over steps of 32 along the inner dimension.
//
// A stage of shared memory holds 32 of the inner dimension of each operand, twice with two float16 halves. Operands whose
// rows run along it (`Along::inner`) lie there as rows of 64 bytes, others (`Along::outer`: rows across it, as long as the
// tile's side) as 32 rows and are transposed by ldmatrix. 16-byte chunks are permuted inside a row so that neither
// cp.async nor ldmatrix meets a bank twice:
//
//   rows of 64 bytes    chunk ^ (row >> 1 & 3), with permuted columns chunk ^ ((row >> 1 ^ row >> 3) & 3)
//   rows of 128 and up  chunk ^ (row & 7)
//
// `kPermuted` deals out the right operand's rows so that a thread ends up with eight neighbouring columns instead of
// pairs eight apart, which lets 16-bit results leave as stores of 16 bytes; column() says which.
//
// A warp makes 64 x 64, or 32 x 64 with two halves, where a second set of sums takes the running one
// every 64 elements: tensor cores truncate when they add, and a short chain loses little (docs/numerics.md). One step:
// fragments of its second half are loaded, its first half is multiplied, then the wait, the one barrier, and the copy
// into the stage that everybody has just left; meanwhile the second half is multiplied. 4 stages where two blocks of
// 64 KiB fit a multiprocessor, 3 where it has 100 KiB, 2 on sm_75, whose copies go through registers.
#pragma once

#include "cuda/kernels/instructions.cuh"
#include "cuda/parameters.h"

namespace marginfc {

// Two float16 halves a number: left . right = high high + high low + low high.
struct Split : Float16 {};

template <class T>
struct Halves {
  static constexpr int count = 1;
};
template <>
struct Halves<Split> {
  static constexpr int count = 2;
};

#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
constexpr int kStages = 3;
#elif __CUDA_ARCH__ >= 800
constexpr int kStages = 4;
#else
constexpr int kStages = 2;
#endif

template <class T, int kTileRows = kTileSide, int kTileColumns = kTileSide, int kWarpRows = 64 / Halves<T>::count,
          int kStageCount = kStages>
struct TileShape {
  using Type = T;
  static constexpr int halves = Halves<T>::count;
  static constexpr int rows = kTileRows, columns = kTileColumns;
  static constexpr int warp_rows = kWarpRows, warps_across = kTileColumns / 64;  // a warp has 64 columns
  static constexpr int threads = 32 * (kTileRows / kWarpRows) * warps_across;
  static constexpr int blocks_per_processor = threads == 128 ? 2 : 1;
  static constexpr int left_bytes = kTileRows * kStageDepth * 2, right_bytes = kTileColumns * kStageDepth * 2;
  static constexpr int stages = kStageCount;
  static constexpr int stage_bytes = halves * (left_bytes + right_bytes);
  static constexpr int bytes = stages * stage_bytes;
};

enum class Along { inner, outer };

// One operand's way from global memory into the stages and from there into fragments.
// `kSide` is the tile's along this operand.
template <class Shape, int kSide, Along kAlong, bool kPermuted>
class OperandPath {
  static constexpr int kHalfBytes = kSide * kStageDepth * 2;              // of one half, in a stage
  static constexpr int kChunks = kAlong == Along::inner ? 4 : kSide / 8;  // of 16 bytes, in a row of a stage
  static constexpr int kRowBytes = 16 * kChunks;
  static constexpr int kRows = kAlong == Along::inner ? kSide : kStageDepth;
  static constexpr int kRowsPerPass = Shape::threads / kChunks;
  static constexpr int kPasses = (kRows + kRowsPerPass - 1) / kRowsPerPass;
  static constexpr bool kAllCopy = kRows >= kRowsPerPass;  // else some threads have nothing to copy
  static constexpr int kAddresses = kAlong == Along::inner ? 1 : 4;

 public:
  // `rows` is the tile's first element, `base` where the operand lies in stage 0. `first` is the tile's first row (or
  // column) that this warp multiplies.
  __device__ __forceinline__ OperandPath(const uint16_t* rows, int64_t low, int32_t stride, uint32_t base, int first,
                                         bool left)
      : low_(low), pass_(static_cast<int64_t>(kRowsPerPass) * stride) {
    const int thread = threadIdx.x, lane = thread & 31;
    const int row = thread / kChunks, chunk = thread % kChunks;
    copies_ = kAllCopy || row < kRows;
    from_ = rows + static_cast<int64_t>(row) * stride + chunk * 8;
    to_ = keep(base + place(row, chunk));
    if constexpr (kAlong == Along::inner) {
      // Matrices of a 16 x 16 fragment: left (rows, k): 0 (0, 0), 1 (8, 0), 2 (0, 8), 3 (8, 8); right: 1 and 2 change
      // places, so that a register pair is one 16 x 8 operand.
      const int r = lane & 7, q = lane >> 3;
      const int fragment_row = left         ? first + r + (q & 1) * 8
                               : !kPermuted ? first + r + (q >> 1) * 8
                                            : first + (r >> 1) * 8 + (r & 1) + (q >> 1) * 2;
      address_[0] = keep(base + place(fragment_row, left ? q >> 1 : q & 1));
    } else {
      // Rows of a stage run along k; a matrix is 8 of them and one chunk.
      const int r = lane & 7, q = lane >> 3;
      const int k = r + (left ? q >> 1 : q & 1) * 8, piece = first / 8 + (left ? q & 1 : q >> 1);
#pragma unroll
      for (int i = 0; i < kAddresses; i++) address_[i] = keep(base + place(k, piece + 2 * i));
    }
  }

  // The next `kStageDepth` along the inner dimension, `advance` elements on.
  __device__ __forceinline__ void advance(int64_t elements) { from_ += elements; }

#if __CUDA_ARCH__ >= 800
  __device__ __forceinline__ void begin_copy() {}
  __device__ __forceinline__ void end_copy(uint32_t stage) const {
    if (!kAllCopy && !copies_) return;
    const uint32_t to = to_ + stage;
    unroll<Shape::halves>([&](auto half) {
      unroll<kPasses>([&](auto i) {
        copy_async<half.value * kHalfBytes + i.value * kRowsPerPass * kRowBytes>(
            to ^ swizzle_of_pass(i.value), from_ + half.value * low_ + i.value * pass_);
      });
    });
  }
#else
  __device__ __forceinline__ void begin_copy() {
#pragma unroll
    for (int half = 0; half < Shape::halves; half++)
#pragma unroll
      for (int i = 0; i < kPasses; i++)
        held_[half][i] = *reinterpret_cast<const uint4*>(from_ + half * low_ + i * pass_);
  }
  __device__ __forceinline__ void end_copy(uint32_t stage) const {
#pragma unroll
    for (int half = 0; half < Shape::halves; half++)
#pragma unroll
      for (int i = 0; i < kPasses; i++)
        store_shared((to_ ^ swizzle_of_pass(i)) + stage + half * kHalfBytes + i * kRowsPerPass * kRowBytes,
                     held_[half][i]);
  }
#endif

  // All fragments (16 rows or columns each) of the stage's k 0-15 or 16-31.
  template <int kFragments, int kK16>
  __device__ __forceinline__ void load(uint32_t (&fragments)[Shape::halves][kFragments][4], uint32_t stage) const {
    unroll<Shape::halves>([&](auto half) {
      unroll<kFragments>([&](auto index) {
        constexpr int i = decltype(index)::value, origin = decltype(half)::value * kHalfBytes;
        uint32_t (&to)[4] = fragments[decltype(half)::value][i];
        if constexpr (kAlong == Along::inner) {
          // k16 is bit 1 of the chunk; so is bit 2 (permuted: through the swizzle) or no bit of the row.
          constexpr bool flip = kPermuted ? (kK16 ^ i) & 1 : kK16;
          constexpr int rows = kPermuted ? (i >> 1) * 32 + (i & 1) * 4 : i * 16;
          const uint32_t address = address_[0] + stage;
          load_matrices<origin + rows * kRowBytes>(to, flip ? address ^ 32 : address);
        } else {
          load_matrices_transposed<origin + kK16 * 16 * kRowBytes>(to, address_[i] + stage);
        }
      });
    });
  }

 private:
  // What a pass's rows change in the place of a chunk, beside its row: nothing where a pass has eight rows or more.
  static constexpr __device__ __forceinline__ uint32_t swizzle_of_pass(int i) {
    return kChunks >= 8 ? (i * kRowsPerPass & 7) * 16 : 0;
  }
  static __device__ __forceinline__ uint32_t place(int row, int chunk) {
    const int swizzle = kChunks >= 8 ? row & 7 : kPermuted ? ((row >> 1) ^ (row >> 3)) & 3 : (row >> 1) & 3;
    return row * kRowBytes + (chunk ^ swizzle) * 16;
  }

  const uint16_t* from_;  // this thread's first chunk of the stage to copy next
  const int64_t low_;     // elements to the low half
  const int64_t pass_;    // elements between the rows this thread copies
  uint32_t to_;
  uint32_t address_[kAddresses];
  bool copies_;
#if __CUDA_ARCH__ < 800
  uint4 held_[Shape::halves][kPasses];
#endif
};

// A thread's place in the tile, and its sums.
template <class Shape>
struct TileSums {
  static constexpr int kFragments = Shape::warp_rows / 16;
  float value[kFragments][8][4];

  static __device__ __forceinline__ int warp_row() {
    return (threadIdx.x >> 5) / Shape::warps_across * Shape::warp_rows;
  }
  static __device__ __forceinline__ int warp_column() { return (threadIdx.x >> 5) % Shape::warps_across * 64; }
  // Row of value[i][..][2 * h] and [2 * h + 1], counted from the tile's first.
  static __device__ __forceinline__ int row(int i, int h) {
    return warp_row() + i * 16 + h * 8 + ((threadIdx.x & 31) >> 2);
  }
  // Column of value[..][j][0] and [2]; the next one is in [1] and [3].
  template <bool kPermuted>
  static __device__ __forceinline__ int column(int j) {
    const int quad = threadIdx.x & 3;
    return warp_column() + (kPermuted ? (j >> 2) * 32 + quad * 8 + (j & 3) * 2 : j * 8 + quad * 2);
  }

  // Calls body(row, column, pair) for each two neighbouring sums of the thread.
  template <class Body>
  __device__ __forceinline__ void for_pairs(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kFragments; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < 8; j++)
          body(row(i, h), column<false>(j), make_float2(value[i][j][2 * h], value[i][j][2 * h + 1]));
  }
};

template <class Shape, Along kLeft, Along kRight, bool kPermuted>
class TileLoop {
  using Sums = TileSums<Shape>;
  static constexpr int kFragments = Sums::kFragments;
  static constexpr int kHalves = Shape::halves;
  // Fragments are loaded while the ones before are multiplied, where registers allow.
  static constexpr bool kAhead = kHalves == 1 && Shape::stages > 2;

  struct Fragments {
    uint32_t left[kHalves][kFragments][4];
    uint32_t right[kHalves][4][4];
  };

 public:
  // `left` and `right`: the first elements of the tile's operands. `steps` along the inner dimension make a tile; then
  // `next_tile(right)` elements further lies the next tile's right operand, up to `tiles` tiles. `shared` is aligned to 128.
  __device__ __forceinline__ TileLoop(const uint16_t* left, int64_t left_low, int32_t left_stride,
                                      const uint16_t* right, int64_t right_low, int32_t right_stride, int steps,
                                      int tiles, uint8_t* shared)
      : left_(left, left_low, left_stride, shared_address(shared), Sums::warp_row(), true),
        right_(right, right_low, right_stride, shared_address(shared) + kHalves * Shape::left_bytes,
               Sums::warp_column(), false),
        left_step_(kLeft == Along::inner ? kStageDepth : static_cast<int64_t>(kStageDepth) * left_stride),
        right_step_(kRight == Along::inner ? kStageDepth : static_cast<int64_t>(kStageDepth) * right_stride),
        right_tile_(static_cast<int64_t>(Shape::columns) * right_stride),
        steps_(steps),
        tiles_(tiles) {
    // Every stage is filled, with a step once more where there are fewer: a fragment loaded ahead is always of something.
#pragma unroll
    for (int s = 0; s < Shape::stages; s++) {
      begin_copy();
      end_copy(s * Shape::stage_bytes);
      commit();
    }
    await<Shape::stages - 1>();
    __syncthreads();  // stage 0 is there for all warps
    if constexpr (kAhead) load<0>(fragments_[0], 0);
  }

  // One tile. Calls after the last one are not allowed.
  __device__ __forceinline__ void run(Sums& sums) {
    clear(sums);
    if constexpr (kAhead) {
      for (int s = 0; s < steps_; s++) {
        load<1>(fragments_[1], stage_);
        multiply(sums, fragments_[0]);
        turn();
        load<0>(fragments_[0], stage_);
        multiply(sums, fragments_[1]);
      }
    } else if constexpr (kHalves == 1) {
      for (int s = 0; s < steps_; s++) step(sums);
    } else {
      for (int s = 0; s < steps_; s += 2) {
        Sums chain;
        clear(chain);
        step(chain);
        if (s + 1 < steps_) step(chain);
#pragma unroll
        for (int i = 0; i < kFragments; i++)
#pragma unroll
          for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums.value[i][j][e] += chain.value[i][j][e];
      }
    }
  }

 private:
  static __device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (int i = 0; i < kFragments; i++)
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums.value[i][j][e] = 0;
  }

  // Ends a group of copies, which may be empty: what is awaited is counted in groups.
  static __device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    commit_copies();
#endif
  }
  template <int kGroups>
  static __device__ __forceinline__ void await() {
#if __CUDA_ARCH__ >= 800
    await_copies<kGroups>();
#endif
  }

  // Fills a stage with the next step that is not under way yet.
  __device__ __forceinline__ void begin_copy() {
    left_.begin_copy();
    right_.begin_copy();
  }
  __device__ __forceinline__ void end_copy(uint32_t stage) {
    left_.end_copy(stage);
    right_.end_copy(stage);
    if (++copied_ == steps_) {
      copied_ = 0;
      left_.advance(left_step_ * (1 - steps_));
      right_.advance(right_step_ * (1 - steps_) + (--tiles_ > 0 ? right_tile_ : 0));
    } else {
      left_.advance(left_step_);
      right_.advance(right_step_);
    }
  }

  // From one stage to the next.
  __device__ __forceinline__ void turn() {
    const bool more = tiles_ > 0;
    if (more) begin_copy();
    await<Shape::stages - 2>();
    __syncthreads();  // the next stage is there for all warps, and all have loaded the last of this one
    if (more) end_copy(stage_);
    commit();
    stage_ = stage_ == (Shape::stages - 1) * Shape::stage_bytes ? 0 : stage_ + Shape::stage_bytes;
  }

  template <int kK16>
  __device__ __forceinline__ void load(Fragments& to, uint32_t stage) const {
    left_.template load<kFragments, kK16>(to.left, stage);
    right_.template load<4, kK16>(to.right, stage);
  }

  // Halves: low high, high low, high high.
  static __device__ __forceinline__ void multiply(Sums& sums, const Fragments& from) {
#pragma unroll
    for (int term = 0; term < 2 * kHalves - 1; term++) {
      const int left = kHalves == 2 && term == 0, right = kHalves == 2 && term == 1;
#pragma unroll
      for (int i = 0; i < kFragments; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const uint32_t* columns = &from.right[right][j / 2][j % 2 * 2];
          Shape::Type::multiply(sums.value[i][j], from.left[left][i], columns[0], columns[1], sums.value[i][j]);
        }
    }
  }

  // A step with one set of fragments, where there are no registers for two.
  __device__ __forceinline__ void step(Sums& sums) {
    load<0>(fragments_[0], stage_);
    multiply(sums, fragments_[0]);
    load<1>(fragments_[0], stage_);
    turn();
    multiply(sums, fragments_[0]);
  }

  OperandPath<Shape, Shape::rows, kLeft, false> left_;
  OperandPath<Shape, Shape::columns, kRight, kPermuted> right_;
  const int64_t left_step_, right_step_, right_tile_;
  const int steps_;
  int tiles_;           // that are still to be copied, the one under way included
  int copied_ = 0;      // steps of that tile
  uint32_t stage_ = 0;  // bytes to the stage being multiplied
  Fragments fragments_[kAhead ? 2 : 1];
};

// A block's split of the tiles of classes against its tile of rows: x stays, W streams by. Parameters are those of a kernel
// over such tiles; grid (splits, row tiles).
template <class T, bool kPermuted>
struct ClassTiles {
  template <class Parameters>
  __device__ __forceinline__ ClassTiles(const Parameters& p, uint8_t* stages)
      : first(blockIdx.x * p.tiles_per_split),
        count(min(p.tiles_per_split, (p.classes + kTileSide - 1) / kTileSide - first)),
        row0(blockIdx.y * kTileSide),
        loop(p.features.values + static_cast<int64_t>(row0) * p.features.stride, p.features.low, p.features.stride,
             p.weights.values + static_cast<int64_t>(first) * kTileSide * p.weights.stride, p.weights.low,
             p.weights.stride, p.steps, count, stages) {}

  const int first, count;  // tiles
  const int32_t row0;
  TileLoop<TileShape<T>, Along::inner, Along::inner, kPermuted> loop;
};

}  // namespace marginfc
