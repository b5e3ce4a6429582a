// Partial FC's draw (engine/sampling.h) and the list of the classes that take part. A block takes kSamplingBlock
// consecutive ids, of which the shard's range may hold a part.
#pragma once

#include "cuda/kernels/select.cuh"
#include "cuda/kernels/weights.cuh"
#include "engine/draw.h"

namespace marginfc {

// The classes of one block of ids that lie in the shard.
struct BlockRange {
  int64_t origin;      // id of the block's first class, counted from the shard's first
  int32_t begin, end;  // of the block's ids

  __device__ BlockRange(int64_t first_class, int64_t classes)
      : origin((first_class / kSamplingBlock + blockIdx.x) * kSamplingBlock - first_class),
        begin(origin < 0 ? static_cast<int32_t>(-origin) : 0),
        end(static_cast<int32_t>(min(static_cast<int64_t>(kSamplingBlock), classes - origin))) {}

  // Calls body(owner, its class of the block) for the owners that lie here; all threads call it.
  template <typename Body>
  __device__ void for_owners(const int32_t* owner_class, int32_t owners, const Body& body) const {
    const int32_t lane = warp_lane();
    const int32_t first = count_below(owner_class, owners, static_cast<int32_t>(origin + begin), lane);
    const int32_t last = count_below(owner_class, owners, static_cast<int32_t>(origin + end), lane);
    for (int32_t o = first + static_cast<int32_t>(threadIdx.x); o < last; o += kSelectThreads)
      body(o, static_cast<int32_t>(owner_class[o] - origin));
  }
};

// Greater for the smaller number and, of equal ones, for the smaller id.
__device__ inline uint64_t draw_key(uint32_t number, int32_t id) {
  return static_cast<uint64_t>(~number) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

struct BlockDraw {
  const uint32_t* numbers;
  int32_t size;

  template <typename Body>
  __device__ void for_each(const Body& body) const {
    for (auto j = static_cast<int32_t>(threadIdx.x); j < size; j += kSelectThreads) body(draw_key(numbers[j], j));
  }
};

// Flags of the classes that are drawn or owned, and how many each block of ids has.
//
//   reads   owner_class, a few of it
//   writes  flags [classes] bytes, counts [blocks] int32
//   launch  a block of 256 threads for each block of ids that meets the range: its numbers stay in 16 KiB of shared memory
// Integers only, each value written by one thread at a time: the same whatever the order.
extern "C" __global__ void __launch_bounds__(kSelectThreads)
    draw_classes(const __grid_constant__ DrawClassesParameters p) {
  __shared__ SelectShared shared;
  __shared__ uint32_t numbers[kSamplingBlock];
  const BlockRange range(p.first_class, p.classes);
  const int64_t first = p.first_class + range.origin;
  const auto size = static_cast<int32_t>(min(static_cast<int64_t>(kSamplingBlock), p.head_classes - first));
  const int32_t drawn = size == kSamplingBlock ? p.drawn : p.drawn_last;
  for (int32_t j = 4 * static_cast<int32_t>(threadIdx.x); j < size; j += 4 * kSelectThreads) {
    const Random4 random = draw_four(p.seed, p.step, first + j);
#pragma unroll
    for (int e = 0; e < 4; e++) numbers[j + e] = random.v[e];
  }
  // The select reads the numbers behind a barrier of its own.
  const uint64_t threshold = drawn > 0 ? threshold_of(shared, BlockDraw{numbers, size}, drawn) : 0;

  uint8_t* flags = p.flags + range.origin;
  uint32_t taking_part = 0;  // of this thread's classes
  for (int32_t j = range.begin + static_cast<int32_t>(threadIdx.x); j < range.end; j += kSelectThreads) {
    const bool is_drawn = drawn > 0 && draw_key(numbers[j], j) >= threshold;
    flags[j] = is_drawn;
    taking_part += is_drawn;
  }
  __syncthreads();  // the owned are flagged on top of the drawn
  range.for_owners(p.owner_class, p.owners, [&](int32_t o, int32_t j) {
    if (o > 0 && p.owner_class[o - 1] == p.owner_class[o]) return;
    taking_part += !flags[j];
    flags[j] = 1;
  });
  const uint32_t before = sum_before(taking_part, shared.above);
  if (threadIdx.x == kSelectThreads - 1) p.counts[blockIdx.x] = static_cast<int32_t>(before + taking_part);
}

// The classes that are flagged, ascending, and where in the list each owner's class is.
//
//   reads   flags [classes] bytes, a line of them a warp at a time; counts of the blocks before; owner_class, a few of it
//   writes  index [count] int32; places [1 + owners]: count, then a place each
//   launch  as draw_classes; a warp takes consecutive classes of its block, 32 at a time
extern "C" __global__ void __launch_bounds__(kSelectThreads)
    list_classes(const __grid_constant__ ListClassesParameters p) {
  constexpr int32_t kRounds = kSamplingBlock / kSelectThreads;
  __shared__ uint32_t warps[kSelectThreads / kWarp], total;
  __shared__ int32_t places[kSamplingBlock];
  const BlockRange range(p.first_class, p.classes);
  const uint8_t* flags = p.flags + range.origin;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = warp_lane(), warp_first = thread / kWarp * kWarp * kRounds;

  uint32_t counted = 0;
  for (int32_t b = thread; b < static_cast<int32_t>(blockIdx.x); b += kSelectThreads) counted += p.counts[b];
  const uint32_t counted_before = sum_before(counted, warps);
  if (thread == kSelectThreads - 1) total = counted_before + counted;
  __syncthreads();  // the total of the blocks before is there; `warps` may be written again

  uint32_t taking_part = 0;  // bit `round` of this lane's class of that round
#pragma unroll
  for (int32_t round = 0; round < kRounds; round++) {
    const int32_t j = warp_first + round * kWarp + lane;
    if (j >= range.begin && j < range.end && flags[j]) taking_part |= 1u << round;
  }
  const uint32_t before = total + sum_before(__popc(taking_part), warps);
  auto place = static_cast<int32_t>(__shfl_sync(kWholeWarp, before, 0));  // of the warp's first class that takes part
#pragma unroll
  for (int32_t round = 0; round < kRounds; round++) {
    const bool takes_part = taking_part >> round & 1;
    const uint32_t of_warp = __ballot_sync(kWholeWarp, takes_part);
    const int32_t j = warp_first + round * kWarp + lane;
    if (takes_part) {
      places[j] = place + __popc(of_warp & ((1u << lane) - 1));
      p.index[places[j]] = static_cast<int32_t>(range.origin + j);
    }
    place += __popc(of_warp);
  }
  if (thread == kSelectThreads - 1 && blockIdx.x == gridDim.x - 1) p.places[0] = place;
  __syncthreads();  // the places are there
  range.for_owners(p.owner_class, p.owners, [&](int32_t o, int32_t j) { p.places[1 + o] = places[j]; });
}

}  // namespace marginfc
