// Rows of a few classes among many. A warp a row, whole lines at a time; each element has one writer.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace marginfc {

//   reads   rows of `index`, of 4 or 2 bytes an element
//   writes  out [count, D] float32
//   launch  ceil(count / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads)
    gather_class_rows(const __grid_constant__ GatherClassRowsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.count) return;
  const StoredRow row = stored_row(p.rows, p.storage, p.index ? p.index[i] : i, p.dim);
  float* out = p.out + static_cast<int64_t>(i) * p.dim;
  with_columns(aligned_rows(p.rows, p.storage, p.dim) && aligned_rows(p.out, p.dim), p.dim, [&](auto columns) {
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) columns.store(out, start, columns.load(row, start));
  });
}

//   reads   rows [count, D] float32, and those of `index`
//   writes  those
//   launch  ceil(count / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads)
    add_class_rows(const __grid_constant__ AddClassRowsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.count) return;
  const float* row = p.rows + static_cast<int64_t>(i) * p.dim;
  float* to = p.to + static_cast<int64_t>(p.index[i]) * p.dim;
  with_columns(aligned_rows(p.rows, p.dim) && aligned_rows(p.to, p.dim), p.dim, [&](auto columns) {
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) {
      Four<float> sum = columns.load(to, start);
      const Four<float> more = columns.load(row, start);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) sum.v[e] += more.v[e];
      columns.store(to, start, sum);
    }
  });
}

}  // namespace marginfc
