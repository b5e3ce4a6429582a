// Sums of unit rows, which label smoothing needs of the classes and of the batch.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace marginfc {

// Sum over rows of factor_i row_i / |row_i|, a part for each block.
//
//   reads   rows [count, D] of 4 or 2 bytes, twice (the second time from the caches), factor [count] float64
//   writes  partials [blocks, D] float64
//   launch  blocks of 256 threads, at most as many as there are groups of kUnitRows rows, which they take in a strided loop:
//           a warp measures rows, then a thread adds up columns; a few blocks a multiprocessor, so that there are few parts
// Each sum has one writer and a fixed order.
extern "C" __global__ void __launch_bounds__(kRowThreads)
    sum_unit_rows(const __grid_constant__ SumUnitRowsParameters p) {
  __shared__ double factor[kUnitRows];
  const bool neighbours = aligned_rows(p.rows, p.storage, p.dim);
  double* partial = p.partials + static_cast<int64_t>(blockIdx.x) * p.dim;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kUnitRows;
  for (int64_t first = start; first < p.count; first += static_cast<int64_t>(gridDim.x) * kUnitRows) {
    const auto rows = static_cast<int32_t>(min(p.count - first, static_cast<int64_t>(kUnitRows)));
    with_columns(neighbours, p.dim, [&](auto columns) {
      for (int32_t r = threadIdx.x / kWarp; r < rows; r += kRowWarps) {
        const double norm = sqrt(exact_squares(columns, stored_row(p.rows, p.storage, first + r, p.dim)));
        if (columns.lane == 0) factor[r] = (p.factor ? p.factor[first + r] : 1.0) * inverse_of(norm);
      }
    });
    __syncthreads();  // the rows' factors are there
    for (auto d = static_cast<int32_t>(threadIdx.x); d < p.dim; d += kRowThreads) {
      double sum = 0;
      for (int32_t r = 0; r < rows; r++)
        sum += factor[r] * stored_element(stored_row(p.rows, p.storage, first + r, p.dim), d);
      partial[d] = first == start ? sum : partial[d] + sum;
    }
    __syncthreads();  // the factors have been used, before the next ones
  }
}

// The parts of sum_unit_rows, in their order.
//
//   reads   partials [count, D] float64
//   writes  sum [D] float64 (and scaled [width] float32)
//   launch  ceil(width / 256) blocks of 256 threads, a thread a column
extern "C" __global__ void __launch_bounds__(kRowThreads)
    add_unit_sums(const __grid_constant__ AddUnitSumsParameters p) {
  const auto d = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  double sum = 0;
  if (d < p.dim) {
#pragma unroll 8
    for (int32_t n = 0; n < p.count; n++) sum += p.partials[static_cast<int64_t>(n) * p.dim + d];
    p.sum[d] = sum;
  }
  if (p.scaled && d < p.width) p.scaled[d] = static_cast<float>(sum * p.scale);
}

// xh_i . class_sum: the sum of a row's cosines to all classes.
//
//   reads   features [B, D] float32, class_sum [D] float64 (from the caches)
//   writes  sum [B] float64
//   launch  ceil(B / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads) cosine_sums(const __grid_constant__ CosineSumsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.rows) return;
  const float* x = p.features + static_cast<int64_t>(i) * p.dim;
  with_columns(aligned_rows(p.features, p.dim), p.dim, [&](auto columns) {
    double product = 0;
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) {
      const Four<float> a = columns.load(x, start);
      const Four<double> all = columns.load(p.class_sum, start);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) product += all.v[e] * a.v[e];
    }
    product = warp_sum(product);
    if (columns.lane == 0) p.sum[i] = product / floored(p.norm[i]);
  });
}

}  // namespace marginfc
