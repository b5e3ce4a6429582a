// A block's selection of the largest of many candidates by a radix select over their keys, which decides without sorting.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace marginfc {

constexpr int kSelectThreads = 256;
// Candidates are ordered by keys of 64 bits, no two alike, which a radix select takes 11 bits at a time from the top.
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits, kBinsPerThread = kDigits / kSelectThreads;

struct SelectShared {
  uint32_t counts[kDigits];
  uint32_t above[kSelectThreads / kWarp];
  uint32_t digit, before, taken;
};

// Sum of `own` over the threads before this one. Needs all threads; `warps` may be written again behind another barrier.
__device__ inline uint32_t sum_before(uint32_t own, uint32_t (&warps)[kSelectThreads / kWarp]) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  uint32_t through = own;  // of this warp's threads up to this one
#pragma unroll
  for (int apart = 1; apart < kWarp; apart *= 2) {
    const uint32_t other = __shfl_up_sync(kWholeWarp, through, apart);
    if (lane >= apart) through += other;
  }
  if (lane == kWarp - 1) warps[warp] = through;
  __syncthreads();  // the warps' totals are read below
  for (int w = 0; w < warp; w++) through += warps[w];
  return through - own;
}

// Finds the digit whose bin holds the wanted-th largest candidate, and how many candidates are in the bins above it.
// Needs all threads; results in shared.digit and shared.before, and in shared.counts.
__device__ inline void find_digit(SelectShared& shared, uint32_t wanted) {
  // Bins from the top: thread t has bins kDigits - 1 - kBinsPerThread * t downwards.
  const int top = kDigits - 1 - kBinsPerThread * static_cast<int>(threadIdx.x);
  uint32_t own = 0;
#pragma unroll
  for (int b = 0; b < kBinsPerThread; b++) own += shared.counts[top - b];
  uint32_t before = sum_before(own, shared.above);
  if (before < wanted && wanted <= before + own) {  // of one thread only
    int bin = top;
    while (before + shared.counts[bin] < wanted) before += shared.counts[bin--];
    shared.digit = static_cast<uint32_t>(bin);
    shared.before = before;
  }
  __syncthreads();  // the digit is read by all; `above` may be written again
}

// The smallest key among the `wanted` largest candidates, or a bound between it and the next smaller candidate.
template <typename Candidates>
__device__ inline uint64_t threshold_of(SelectShared& shared, const Candidates& candidates, uint32_t wanted) {
  uint64_t prefix = 0, decided = 0;
  for (int shift = 64 - kDigitBits;; shift = shift > kDigitBits ? shift - kDigitBits : 0) {
    for (int b = static_cast<int>(threadIdx.x); b < kDigits; b += kSelectThreads) shared.counts[b] = 0;
    __syncthreads();  // no count comes before the zeros, nor before what the caller wrote for its candidates
    candidates.for_each([&](uint64_t key, auto...) {
      // Integer counts: the same in any order.
      if ((key & decided) == prefix) atomicAdd(&shared.counts[key >> shift & (kDigits - 1)], 1u);
    });
    __syncthreads();  // all are counted
    find_digit(shared, wanted);
    // The last digit overlaps the one before it: its upper bits are decided already.
    prefix |= static_cast<uint64_t>(shared.digit) << shift;
    decided |= static_cast<uint64_t>(kDigits - 1) << shift;
    wanted -= shared.before;
    const bool exact = shared.counts[shared.digit] == wanted;
    __syncthreads();  // the counts are read before they are zeroed again
    if (exact || shift == 0) return prefix;
  }
}

}  // namespace marginfc
