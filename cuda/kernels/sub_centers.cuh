// Classes of several rows (Deng et al., Sub-center ArcFace, ECCV 2020), whose cosine is the largest of their rows'. Their rows
// lie in the slots of sub_center_slots.h, so that a thread of a tile kernel has whole classes.
#pragma once

#include "cuda/kernels/features.cuh"
#include "cuda/kernels/tile.cuh"

namespace marginfc {

// Of a thread's 16 columns value(n) of a row, all but each class's largest, of equal ones the first, to -infinity; and those
// of slots that no class has. A NaN stays, for whoever looks for one.
template <class Value>
__device__ __forceinline__ void keep_largest(const SubCenterColumns& p, const Value& value) {
  // Those that exceed all before them in their class; of these the last.
  float before = -INFINITY, behind = INFINITY;
#pragma unroll
  for (int n = 0; n < kThreadSlots; n++) {
    float& s = value(n);
    before = fminf(before, p.first[n]);
    const bool beaten = s <= before;
    before = fmaxf(before, s);
    if (beaten) s = -INFINITY;
  }
#pragma unroll
  for (int n = kThreadSlots - 1; n >= 0; n--) {
    float& s = value(n);
    behind = fminf(behind, p.last[n]);
    const bool beaten = s <= behind;
    behind = fmaxf(behind, s);
    if (beaten) s = -INFINITY;
  }
}

// To -infinity: the rows of class `own` of the thread's, and of those that come after the first `left`.
template <class Value>
__device__ __forceinline__ void mask_classes(const SubCenterColumns& p, int32_t own, int32_t left, const Value& value) {
  const int32_t first = own * p.centers, end = left * p.centers;
#pragma unroll
  for (int n = 0; n < kThreadSlots; n++)
    if (static_cast<uint32_t>(n - first) < static_cast<uint32_t>(p.centers) || n >= end) value(n) = -INFINITY;
}

// Of a row of the batch in a tile whose first slot this is, and a thread's 16 columns value(n) of its group `group`: to
// -infinity its own class, `label`, and all but the largest row of the others.
template <class Value>
__device__ __forceinline__ void keep_negatives(const SubCenterColumns& p, int32_t slot, int group, int32_t label,
                                               const Value& value) {
  const int32_t first = ((slot / kGroupSlots + group) * kGroupThreads + (threadIdx.x & 3)) * p.classes_of_thread;
  const int32_t own = label - first, left = p.classes - first;
  // Most threads have neither.
  if (static_cast<uint32_t>(own) < static_cast<uint32_t>(p.classes_of_thread) || left < p.classes_of_thread)
    mask_classes(p, own, left, value);
  keep_largest(p, value);
}

// Of value[i][..][2 * h] and [2 * h + 1].
template <class Shape>
__device__ __forceinline__ void keep_negatives(TileSums<Shape>& sums, int i, int h, const int32_t* labels, int32_t slot,
                                               const SubCenterColumns& p) {
  keep_negatives(p, slot, TileSums<Shape>::warp_column() / kGroupSlots, __ldg(labels + TileSums<Shape>::row(i, h)),
                 [&](int n) -> float& { return sums.value[i][n / 2][2 * h + n % 2]; });
}

// The rows of the operand by slot, of classes in their order or of those that are listed. Slots of no class are left alone.
//
//   reads   classes [count] int32
//   writes  index [slots] int32
//   launch  ceil(count / 256) blocks of 256 threads, a thread a class
extern "C" __global__ void __launch_bounds__(kRowThreads)
    list_sub_centers(const __grid_constant__ ListSubCentersParameters p) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (place >= p.count) return;
  const int32_t first = static_cast<int32_t>(p.classes ? p.classes[place] : place) * p.slots.centers;
  for (int32_t k = 0; k < p.slots.centers; k++) p.index[p.slots.slot(place, k)] = first + k;
}

// As targets, of the row of the class with the largest cosine, of equal ones the first.
//
//   reads   the rows x_i, and the K rows of its class, once; the largest twice more
//   writes  cosine, sine, weight_norm [B], own_rows [B, D], center [B]
//   launch  ceil(B / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads)
    targets_sub_centers(const __grid_constant__ SubCenterTargetsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.of.rows || p.of.labels[i] < 0) return;
  const float* x = p.of.features + static_cast<int64_t>(i) * p.of.dim;
  const int32_t label = p.of.index ? p.of.index[p.of.labels[i]] : p.of.labels[i];
  const int64_t first = static_cast<int64_t>(label) * p.centers;
  int32_t best = 0;
  with_columns(aligned_rows(p.of.features, p.of.dim) && aligned_rows(p.of.weights, p.of.storage, p.of.dim), p.of.dim,
               [&](auto columns) {
                 double largest = -INFINITY;
                 for (int32_t k = 0; k < p.centers; k++) {
                   const StoredRow w = stored_row(p.of.weights, p.of.storage, first + k, p.of.dim);
                   double squares = 0, product = 0;
#pragma unroll 1
                   for (int32_t start = 0; start < p.of.dim; start += kColumns) {
                     const Four<float> a = columns.load(x, start), b = columns.load(w, start);
#pragma unroll
                     for (int e = 0; e < kPerLane; e++) {
                       squares += static_cast<double>(b.v[e]) * b.v[e];
                       product += static_cast<double>(a.v[e]) * b.v[e];
                     }
                   }
                   const double along = warp_sum(product) / floored(sqrt(warp_sum(squares)));
                   if (!(along > largest)) continue;
                   largest = along;
                   best = k;
                 }
               });
  if (warp_lane() == 0) p.center[i] = best;
  target_of(p.of, i, first + best);
}

// Flags of classes as flags of all their rows; with `gradient` also set where one of a class's rows has one that is not 0.
//
//   reads   flags [classes] bytes, gradient [classes, K, D] float32
//   writes  row_flags [classes, K] bytes
//   launch  any number of blocks of 8 warps, a warp a class in a strided loop
extern "C" __global__ void __launch_bounds__(kRowThreads)
    flag_sub_centers(const __grid_constant__ FlagSubCentersParameters p) {
  const int64_t size = static_cast<int64_t>(p.centers) * p.dim, warps = static_cast<int64_t>(gridDim.x) * kRowWarps;
  for (int64_t c = warp_row(); c < p.classes; c += warps) {
    bool flagged = p.flags[c];
    for (int64_t d = warp_lane(); p.gradient && !flagged && d < size; d += kWarp)
      flagged = p.gradient[c * size + d] != 0;
    flagged = __any_sync(kWholeWarp, flagged);
    for (int32_t k = warp_lane(); k < p.centers; k += kWarp) p.row_flags[c * p.centers + k] = flagged;
  }
}

// The largest cosine of each class's rows, for nearest.
//
//   reads   cosines [rows, stride] float32, from the caches
//   writes  largest [rows, stride] float32
//   launch  rows x ceil(classes / 256) blocks of 256 threads, a thread a class
extern "C" __global__ void __launch_bounds__(kRowThreads)
    largest_sub_centers(const __grid_constant__ LargestSubCentersParameters p) {
  const int64_t place = static_cast<int64_t>(blockIdx.y) * kRowThreads + threadIdx.x;
  if (place >= p.classes) return;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.stride;
  float largest = -INFINITY;
  for (int32_t k = 0; k < p.slots.centers; k++) largest = fmaxf(largest, p.cosines[row + p.slots.slot(place, k)]);
  p.largest[row + place] = largest;
}

}  // namespace marginfc
