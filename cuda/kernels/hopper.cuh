// The main loop of the Hopper kernels (compute capability 9.0, wgmma): tiles of left . right^T in a line that share their
// left operand, one after the other.
//
// Three warpgroups, a block a multiprocessor. One thread of the last copies: TMA brings boxes of 64 x 64 into a ring of
// stages, 64 of the inner dimension deep, and fills in zeros behind an operand's last column. The two others, the
// consumers, multiply, with 128 sums a thread:
//
//   Share::turns   alternate tiles of 128 x 128, two m64n128k16 a step of 16, in turns (ping-pong): while one has the
//                  tensor cores, the other works on the sums of the tile before
//   Share::halves  64 rows each of tiles of 128 x 256, one m64n256k16 a step of 16: 48 bytes of operands a product of
//                  16 x 8 x 16 instead of 64, where the left operand does not stay; nothing hides the end of a tile
//
//   shared memory   turns, inner dimension <= 512: the left tile, 16 KiB for each 64 of it, copied once, with the first
//                   tile; then 4 stages of 16 KiB for the right operand
//                   turns, else: 6 stages of 32 KiB for both; halves: 4 stages of 48 KiB
//   registers       producer 40, consumers 232 a thread (setmaxnreg); 168 to begin with
//
// A stage has two mbarriers: `full` counts the bytes of its copies, `empty` the warps that multiply it. Consumers that take
// turns skip each other's stages, so a parity alone would not tell which turn of the ring it is of: a consumer starts a
// tile only when the other has waited for the last stage of the tile before, which is when it gives up its turn.
//
// Operands lie in stages as boxes do: rows of 128 bytes, 16-byte chunk ^ (row & 7). `Along::inner`: rows are the tile's,
// 8 of them 1024 bytes; `Along::outer`: rows run along the inner dimension, and 64 of the tile's rows lie in each box.
#pragma once

#include "cuda/hopper_parameters.h"
#include "cuda/kernels/tile.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace marginfc {

constexpr int kHopperPiece = kTileSide * kHopperDepth * 2;  // bytes of an operand of a stage
constexpr int kHopperBox = kBoxSide * kBoxSide * 2;
constexpr int kResidentSteps = kHopperStays / kHopperDepth;
constexpr int kResidentStages = 4, kStreamedStages = 6, kHalvesStages = 4;
constexpr int kHopperThreads = 3 * 128;
constexpr int kHopperRing = (kResidentSteps + kResidentStages) * kHopperPiece;
static_assert(kHopperRing == kStreamedStages * 2 * kHopperPiece && kHopperRing == kHalvesStages * 3 * kHopperPiece,
              "the same memory each way");
constexpr int kHopperBytes = kHopperRing + 2 * kStreamedStages * 8;

enum class Share { turns, halves };

// Sums of a consumer: two m64n128 one above the other, or one m64n256.
template <Share kShare = Share::turns>
struct HopperSums {
  static constexpr int kParts = kShare == Share::turns ? 2 : 1,
                       kColumns = kShare == Share::turns ? kTileSide : kWideTile;
  float value[kParts][kColumns / 2];

  // Row of value[i][4 * j + 2 * h] and [4 * j + 2 * h + 1], counted from the tile's first.
  static __device__ __forceinline__ int row(int i, int h) {
    const int part = kShare == Share::turns ? i : threadIdx.x >> 7;
    return part * 64 + (threadIdx.x >> 5 & 3) * 16 + h * 8 + ((threadIdx.x & 31) >> 2);
  }
  // Column of value[..][4 * j] and [4 * j + 2]; the next one is in [4 * j + 1] and [4 * j + 3].
  static __device__ __forceinline__ int column(int j) { return j * 8 + (threadIdx.x & 3) * 2; }
};

__device__ __forceinline__ void init_barrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void await_barrier(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  } while (!done);
}

// The consumers' turns at the tensor cores, named barriers of both: one waits, the other only says so.
__device__ __forceinline__ void await_turn(int consumer) {
  asm volatile("bar.sync %0, 256;" ::"r"(consumer + 1) : "memory");
}
__device__ __forceinline__ void give_turn(int consumer) {
  asm volatile("bar.arrive %0, 256;" ::"r"(consumer + 1) : "memory");
}

// A box from column `column`, row `row`.
__device__ __forceinline__ void copy_box(const TensorMap& map, int32_t column, int32_t row, uint32_t to,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// What was written to accumulators, or read, before; to be said before the first wgmma that uses them.
__device__ __forceinline__ void order_sums() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kGroups>
__device__ __forceinline__ void await_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

template <class T>
constexpr bool kIsBfloat16 = false;
template <>
constexpr bool kIsBfloat16<Bfloat16> = true;

#define MARGINFC_SUMS4(d, n) "+f"(d[n]), "+f"(d[n + 1]), "+f"(d[n + 2]), "+f"(d[n + 3])
#define MARGINFC_SUMS16(d, n) \
  MARGINFC_SUMS4(d, n), MARGINFC_SUMS4(d, n + 4), MARGINFC_SUMS4(d, n + 8), MARGINFC_SUMS4(d, n + 12)
#define MARGINFC_SUMS64(d, n) \
  MARGINFC_SUMS16(d, n), MARGINFC_SUMS16(d, n + 16), MARGINFC_SUMS16(d, n + 32), MARGINFC_SUMS16(d, n + 48)
// The last two operands: whether rows run along the inner dimension.
#define MARGINFC_WGMMA_N128(type)                                                        \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                       \
      " {"                                                                               \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"   \
      "}, %64, %65, p, 1, 1, %67, %68;\n}"                                               \
      : MARGINFC_SUMS64(d, 0)                                                            \
      : "l"(left), "l"(right), "r"(add), "n"(kLeft == Along::outer), "n"(kRight == Along::outer))
#define MARGINFC_WGMMA_N256(type)                                                                      \
  asm volatile(                                                                                        \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                    \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type                                     \
      " {"                                                                                             \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                         \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "               \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "               \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "               \
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "               \
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "               \
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "   \
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127" \
      "}, %128, %129, p, 1, 1, %131, %132;\n}"                                                         \
      : MARGINFC_SUMS64(d, 0), MARGINFC_SUMS64(d, 64)                                                  \
      : "l"(left), "l"(right), "r"(add), "n"(kLeft == Along::outer), "n"(kRight == Along::outer))

// d = left . right^T, + d where `add`; 64 x 128 x 16 or 64 x 256 x 16.
template <class T, Along kLeft, Along kRight>
__device__ __forceinline__ void multiply_async(float (&d)[64], uint64_t left, uint64_t right, uint32_t add) {
  if constexpr (kIsBfloat16<T>)
    MARGINFC_WGMMA_N128("bf16");
  else
    MARGINFC_WGMMA_N128("f16");
}
template <class T, Along kLeft, Along kRight>
__device__ __forceinline__ void multiply_async(float (&d)[128], uint64_t left, uint64_t right, uint32_t add) {
  if constexpr (kIsBfloat16<T>)
    MARGINFC_WGMMA_N256("bf16");
  else
    MARGINFC_WGMMA_N256("f16");
}

// `count` tiles against one left tile; left and right begin at (row, inner) of their maps, tile t's right operand t tiles
// further. `steps` of 64 along the inner dimension.
template <class T, Along kLeft, Along kRight, Share kShare = Share::turns>
class HopperTiles {
  static constexpr bool kTurns = kShare == Share::turns;
  using Sums = HopperSums<kShare>;

 public:
  struct Corner {
    int32_t row, inner;
  };

  // All threads of the block.
  __device__ __forceinline__ HopperTiles(const TensorMap& left, Corner left_from, const TensorMap& right,
                                         Corner right_from, int steps, int count, uint8_t* shared)
      : left_(left),
        right_(right),
        left_from_(left_from),
        right_from_(right_from),
        steps_(steps),
        count_(count),
        base_(shared_address(shared)),
        resident_(kTurns && steps <= kResidentSteps) {
    if (threadIdx.x == 0) {
      if (base_ % 1024 != 0) __trap();  // boxes would be swizzled differently
#pragma unroll
      for (int s = 0; s < kStreamedStages; s++) {
        init_barrier(full(s), 1);
        init_barrier(empty(s), kTurns ? 4 : 8);
      }
      // The barriers are there for TMA too.
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();  // the barriers are there for all
  }

  static __device__ __forceinline__ int consumer() { return threadIdx.x / 128; }
  // The tiles of this consumer: the first, and how far the next is.
  static __device__ __forceinline__ int first() { return kTurns ? consumer() : 0; }
  static constexpr int kNext = kTurns ? 2 : 1;

  // The last warpgroup's part; false for the others, which run().
  __device__ __forceinline__ bool produce() const {
    if (consumer() < 2) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
      return false;
    }
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x % 128 != 0) return true;
    int stage = 0;
    uint32_t parity = 1;  // of stages that nobody has used
    for (int t = 0; t < count_; t++)
      for (int s = 0; s < steps_; s++) {
        const bool both = !resident_ || t == 0;
        constexpr int kRightBytes = Sums::kColumns * kHopperDepth * 2;
        await_barrier(empty(stage), parity);
        arrive_expecting(full(stage), both ? kHopperPiece + kRightBytes : kRightBytes);
        if (both)
          copy<kLeft, kTileSide>(left_, left_from_.row, left_from_.inner + s * kHopperDepth, left_piece(s, stage),
                                 full(stage));
        copy<kRight, Sums::kColumns>(right_, right_from_.row + t * Sums::kColumns, right_from_.inner + s * kHopperDepth,
                                     right_piece(stage), full(stage));
        if (++stage == stages()) {
          stage = 0;
          parity ^= 1;
        }
      }
    return true;
  }

  // Tile t of a consumer's own, which it calls in order.
  __device__ __forceinline__ void run(Sums& sums, int t) const {
    const int before = t * steps_;
    int stage = before % stages();
    uint32_t parity = before / stages() & 1;
    if (kTurns && t > 0) await_turn(consumer());
    int last = 0;
    for (int s = 0; s < steps_; s++) {
      await_barrier(full(stage), parity);
      const uint64_t left = descriptor<kLeft>(left_piece(s, stage) + (kTurns ? 0 : consumer() * kHopperBox)),
                     right = descriptor<kRight>(right_piece(stage));
      order_sums();
#pragma unroll
      for (int k16 = 0; k16 < kHopperDepth / 16; k16++)
#pragma unroll
        for (int i = 0; i < Sums::kParts; i++)
          multiply_async<T, kLeft, kRight>(sums.value[i], left + kStep<kLeft> * k16 + kHopperBox / 16 * i,
                                           right + kStep<kRight> * k16, s + k16);
      commit_products();
      await_products<1>();
      if (s > 0) leave(last);
      last = stage;
      if (++stage == stages()) {
        stage = 0;
        parity ^= 1;
      }
    }
    if (kTurns && t + 1 < count_) give_turn(consumer() ^ 1);
    await_products<0>();
    leave(last);
  }

 private:
  __device__ __forceinline__ int stages() const {
    return !kTurns ? kHalvesStages : resident_ ? kResidentStages : kStreamedStages;
  }
  __device__ __forceinline__ uint32_t full(int stage) const { return base_ + kHopperRing + 8 * stage; }
  __device__ __forceinline__ uint32_t empty(int stage) const { return full(stage) + 8 * kStreamedStages; }
  __device__ __forceinline__ uint32_t left_piece(int s, int stage) const {
    return base_ + (resident_ ? s : (kTurns ? 2 : 3) * stage) * kHopperPiece;
  }
  __device__ __forceinline__ uint32_t right_piece(int stage) const {
    return base_ + (resident_ ? kResidentSteps + stage : (kTurns ? 2 : 3) * stage + 1) * kHopperPiece;
  }

  // This consumer has multiplied all of a stage: each of its warps says so.
  __device__ __forceinline__ void leave(int stage) const {
    if ((threadIdx.x & 31) == 0) arrive(empty(stage));
  }

  // `kRows` of the tile by 64 of the inner dimension, in boxes.
  template <Along kAlong, int kRows>
  static __device__ __forceinline__ void copy(const TensorMap& map, int32_t row, int32_t inner, uint32_t to,
                                              uint32_t barrier) {
#pragma unroll
    for (int box = 0; box < kRows / kBoxSide; box++) {
      const int32_t at = row + box * kBoxSide;
      copy_box(map, kAlong == Along::inner ? inner : at, kAlong == Along::inner ? at : inner, to + box * kHopperBox,
               barrier);
    }
  }

  // A wgmma matrix descriptor: address, bytes between boxes of 64 rows (Along::outer), 1024 bytes between groups of 8
  // rows of a box, all in units of 16; swizzled rows of 128 bytes.
  template <Along kAlong>
  static __device__ __forceinline__ uint64_t descriptor(uint32_t piece) {
    constexpr uint64_t kConstant = uint64_t{1} << 62 | uint64_t{1024 / 16} << 32 |
                                   uint64_t{kAlong == Along::outer ? kHopperBox / 16 : 1} << 16;
    return kConstant | piece >> 4;
  }
  // From 16 of the inner dimension to the next, in the same units.
  template <Along kAlong>
  static constexpr int kStep = kAlong == Along::inner ? 32 / 16 : 2048 / 16;

  const TensorMap &left_, &right_;
  const Corner left_from_, right_from_;
  const int steps_, count_;
  const uint32_t base_;
  const bool resident_;
};

}  // namespace marginfc

#endif
