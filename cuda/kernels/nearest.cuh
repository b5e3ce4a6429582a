// The nearest classes of each row: a chunk's cosines merged into the best k.
#pragma once

#include "cuda/kernels/select.cuh"

namespace marginfc {

// Greater for the larger cosine and, of equal ones, for the smaller class. 0 and -0 are equal.
__device__ inline uint64_t candidate_key(float cosine, int32_t index) {
  const uint32_t bits = __float_as_uint(cosine + 0.0f);
  const uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

// The candidates of a row: what earlier chunks left, then this chunk's classes; below `floor` none can be among the
// best.
struct Candidates {
  const int32_t* best_class;
  const float* best_cosine;
  const float* cosines;
  int32_t found, classes, first_class;
  uint64_t floor;

  template <typename Body>
  __device__ void for_each(const Body& body) const {
    for (int32_t n = static_cast<int32_t>(threadIdx.x); n < found; n += kSelectThreads)
      body(candidate_key(best_cosine[n], best_class[n]), best_cosine[n], best_class[n]);
    for (int32_t n = static_cast<int32_t>(threadIdx.x); n < classes; n += kSelectThreads) {
      const uint64_t key = candidate_key(cosines[n], first_class + n);
      if (key >= floor) body(key, cosines[n], first_class + n);
    }
  }
};

// Sorts `count` pairs, best first: bitonic merges whose first step mirrors, so that every exchange puts the better one
// first and entries behind the last need not be there.
__device__ inline void sort_best_first(float* cosines, int32_t* classes, int32_t count) {
  const auto exchange = [&](int32_t i, int32_t j) {
    if (j >= count || candidate_key(cosines[i], classes[i]) > candidate_key(cosines[j], classes[j])) return;
    const float cosine = cosines[i];
    const int32_t index = classes[i];
    cosines[i] = cosines[j];
    classes[i] = classes[j];
    cosines[j] = cosine;
    classes[j] = index;
  };
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int log = 0; 1 << log < count; log++) {
    // Runs of 2^log are sorted; two of them become one of twice the length.
    for (int32_t pair = thread; pair >> log << (log + 1) < count; pair += kSelectThreads) {
      const int32_t start = pair >> log << (log + 1), offset = pair & ((1 << log) - 1);
      exchange(start + offset, start + (2 << log) - 1 - offset);
    }
    __syncthreads();  // the next step exchanges what other threads left
    for (int step = log - 1; step >= 0; step--) {
      for (int32_t pair = thread; pair >> step << (step + 1) < count; pair += kSelectThreads) {
        const int32_t i = (pair >> step << (step + 1)) + (pair & ((1 << step) - 1));
        exchange(i, i + (1 << step));
      }
      __syncthreads();  // as above
    }
  }
}

// The min(k, found + classes) largest of a row's earlier best and a chunk's cosines, best first, ties to the smaller
// class: a radix select finds the smallest that belongs to them, then they are gathered and sorted. Where the earlier
// best are k already, what is below the last of them is passed over, and two passes over the chunk do.
//
//   reads   cosines [rows, classes] float32 two to seven times (from the caches after the first), best_* once more
//   writes  next_class, next_cosine [rows, k], which are sorted in place
//   launch  a block of 256 threads a row: any k and any number of classes fit it, and 8 KB of counts
// Deterministic: counts are integers, the order of gathering is undone by sorting keys of which no two are alike.
extern "C" __global__ void __launch_bounds__(kSelectThreads)
    select_nearest(const __grid_constant__ SelectNearestParameters p) {
  __shared__ SelectShared shared;
  const int64_t row = blockIdx.x, best = row * p.k;
  float* next_cosine = p.next_cosine + best;
  int32_t* next_class = p.next_class + best;
  Candidates candidates{
      p.best_class + best, p.best_cosine + best, p.cosines + row * p.stride, p.found, p.classes, p.first_class, 0};
  const int32_t there = p.found + p.classes, count = min(there, p.k);
  if (p.found == p.k) candidates.floor = candidate_key(candidates.best_cosine[p.k - 1], candidates.best_class[p.k - 1]);
  const uint64_t threshold = count < there ? threshold_of(shared, candidates, static_cast<uint32_t>(count)) : 0;

  if (threadIdx.x == 0) shared.taken = 0;
  __syncthreads();  // no place is taken before the first
  candidates.for_each([&](uint64_t key, float cosine, int32_t index) {
    if (key < threshold) return;
    const uint32_t place = atomicAdd(&shared.taken, 1u);  // two threads must not take one place
    next_cosine[place] = cosine;
    next_class[place] = index;
  });
  __syncthreads();  // all are there before they are sorted
  sort_best_first(next_cosine, next_class, count);
  if (!p.last) return;
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < count; n += kSelectThreads)
    next_cosine[n] = fminf(fmaxf(next_cosine[n] * p.unscale, -1.0f), 1.0f);
}

}  // namespace marginfc
