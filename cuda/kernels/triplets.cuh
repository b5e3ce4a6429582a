// The triplet loss of a batch, from the cosines of a block of anchors to all rows: which triplets there are, and their gradient.
#pragma once

#include "cuda/kernels/nearest.cuh"

namespace marginfc {

// The greatest key_of(n) of 0 .. count - 1, in all lanes; 0 where count is 0.
template <typename KeyOf>
__device__ inline uint64_t greatest_key(int32_t count, const KeyOf& key_of) {
  uint64_t greatest = 0;
  for (int32_t n = warp_lane(); n < count; n += kWarp) greatest = max(greatest, key_of(n));
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2)
    greatest = max(greatest, __shfl_xor_sync(kWholeWarp, greatest, apart));
  return greatest;
}

// The triplet of anchor `a` and these rows, with its cosines.
__device__ inline Triplet exact_triplet(const ChooseTripletsParameters& p, int32_t a, int32_t positive,
                                        int32_t negative) {
  const auto row_of = [&](int32_t row) { return p.features + static_cast<int64_t>(row) * p.dim; };
  double to_positive = 0, to_negative = 0;
  with_columns(aligned_rows(p.features, p.dim), p.dim, [&](auto columns) {
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) {
      const Four<float> anchor = columns.load(row_of(a), start), near = columns.load(row_of(positive), start),
                        far = columns.load(row_of(negative), start);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) {
        to_positive += static_cast<double>(anchor.v[e]) * near.v[e];
        to_negative += static_cast<double>(anchor.v[e]) * far.v[e];
      }
    }
  });
  const double norm = floored(p.norm[a]);
  return {positive, negative, warp_sum(to_positive) / norm / floored(p.norm[positive]),
          warp_sum(to_negative) / norm / floored(p.norm[negative])};
}

// An anchor's triplets. hard: the positive of the smallest cosine and the negative of the largest. semihard: every positive, with
// the negative of the largest cosine that is smaller than the positive's, or else of the smallest one. Of equal cosines the first
// row; those that are not finite are passed over.
//
//   reads   cosines [anchors, B] float32 and labels [B], once and, semihard, once more for each positive (from the caches); the rows
//           of each triplet
//   writes  triplets, 24 bytes each
//   launch  ceil(anchors / 8) blocks of 8 warps, a warp an anchor
// Deterministic: no two keys are alike.
extern "C" __global__ void __launch_bounds__(kRowThreads)
    choose_triplets(const __grid_constant__ ChooseTripletsParameters p) {
  const int32_t anchor = p.first_anchor + warp_row();
  if (warp_row() >= p.anchors || p.first[anchor] == p.first[anchor + 1]) return;
  const float* cosines = p.cosines + static_cast<int64_t>(warp_row()) * p.stride;
  const int32_t* members = p.members + p.class_start[anchor];
  const int32_t label = p.labels[anchor], size = p.class_size[anchor];
  Triplet* to = p.triplets + p.first[anchor];

  const auto key_of = [](float cosine, int32_t row, bool counts) -> uint64_t {
    return counts && isfinite(cosine) ? candidate_key(cosine, row) : 0;
  };
  const auto is_negative = [&](int32_t row) { return p.labels[row] >= 0 && p.labels[row] != label; };
  // Of the negatives whose cosine is smaller than this.
  const auto nearest_below = [&](float bound) {
    return greatest_key(
        p.rows, [&](int32_t row) { return key_of(cosines[row], row, is_negative(row) && cosines[row] < bound); });
  };
  const auto row_of = [](uint64_t key) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key)); };

  // Where none is smaller.
  const uint64_t furthest = !p.semihard ? 0 : greatest_key(p.rows, [&](int32_t row) {
    return key_of(-cosines[row], row, is_negative(row));
  });
  for (int32_t n = 0; n < (p.semihard ? size : 1); n++) {
    if (p.semihard && members[n] == anchor) continue;
    const uint64_t positive = p.semihard ? key_of(cosines[members[n]], members[n], true)
                                         : greatest_key(size, [&](int32_t m) {
                                             return key_of(-cosines[members[m]], members[m], members[m] != anchor);
                                           });
    const uint64_t nearest = nearest_below(p.semihard ? cosines[members[n]] : INFINITY);
    const uint64_t negative = nearest ? nearest : furthest;
    Triplet triplet;
    if (positive && negative) triplet = exact_triplet(p, anchor, row_of(positive), row_of(negative));
    if (warp_lane() == 0) *to = triplet;
    to++;
  }
}

// dX of the triplets; the formula is TripletGradientsParameters'.
//
//   reads   of each term 12 bytes, the norm and 128 columns of a row; most come from the caches, as rows are few and terms many
//   writes  gradient [B, D] float32
//   launch  ceil(B / 8) x ceil(D / 128) blocks of 8 warps, a warp 128 columns of a row: a row that is near to many has many terms
// Each value has one writer, and a row's terms their order.
extern "C" __global__ void __launch_bounds__(kRowThreads)
    triplet_gradients(const __grid_constant__ TripletGradientsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.rows) return;
  const auto start = static_cast<int32_t>(blockIdx.y) * kColumns;
  with_columns(aligned_rows(p.features, p.dim) && aligned_rows(p.gradient, p.dim), p.dim, [&](auto columns) {
    Four<double> sum{};
    const auto add = [&](int32_t row, double factor) {
      const double scale = factor / floored(p.norm[row]);
      const Four<float> x = columns.load(p.features + static_cast<int64_t>(row) * p.dim, start);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) sum.v[e] += scale * x.v[e];
    };
    const int64_t begin = p.start[i], end = p.start[i + 1];
#pragma unroll 4
    for (int64_t t = begin; t < end; t++) add(p.other[t], p.slope[t]);
    if (begin < end && !(p.norm[i] < kNormFloor)) add(i, p.along[i]);
    const double inverse = 1 / floored(p.norm[i]);
    Four<float> out;
#pragma unroll
    for (int e = 0; e < kPerLane; e++) out.v[e] = static_cast<float>(sum.v[e] * inverse);
    columns.store(p.gradient + static_cast<int64_t>(i) * p.dim, start, out);
  });
}

}  // namespace marginfc
