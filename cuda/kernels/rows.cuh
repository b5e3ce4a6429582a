// What the row kernels share: a warp's way through a row, sums over it, and the stores of operand rows.
//
// A warp takes a row 128 columns at a time, four a lane; everything behind the row reads as 0, so that sums need no
// care at its end. Sums are per lane in order of columns, then over the lanes in a fixed tree: the same bits every time
// and the same value in all lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/parameters.h"

namespace marginfc {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kPerLane = 4;
constexpr int kColumns = kWarp * kPerLane;  // of a warp at a time
constexpr int kRowThreads = kWarp * kRowWarps;

// Rows of a grid of row kernels: a warp each.
__device__ inline int32_t warp_row() { return static_cast<int32_t>(blockIdx.x * kRowWarps + threadIdx.x / kWarp); }
__device__ inline int32_t warp_lane() { return static_cast<int32_t>(threadIdx.x % kWarp); }

__device__ inline double warp_sum(double value) {
#pragma unroll
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kWholeWarp, value, apart);
  return value;
}

// |x| as a divisor: not below 1e-12; a NaN stays one.
__device__ inline double floored(double norm) { return norm < kNormFloor ? kNormFloor : norm; }
// 1 / |w|; an infinite norm must not look like a finite inverse of 0.
__device__ inline double inverse_of(double norm) { return isfinite(norm) ? 1 / floored(norm) : norm - norm; }

// A class row in the type it is stored in.
struct StoredRow {
  const void* values;
  StorageKind storage;
};
__device__ inline int32_t stored_bytes(StorageKind storage) { return storage == StorageKind::float32 ? 4 : 2; }
__device__ inline StoredRow stored_row(const void* rows, StorageKind storage, int64_t row, int32_t dim) {
  return {static_cast<const char*>(rows) + row * dim * stored_bytes(storage), storage};
}

__device__ inline float widened(uint16_t bits, StorageKind storage) {
  return storage == StorageKind::bfloat16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                                          : __half2float(__ushort_as_half(bits));
}

__device__ inline float stored_element(const StoredRow& row, int32_t column) {
  return row.storage == StorageKind::float32 ? static_cast<const float*>(row.values)[column]
                                             : widened(static_cast<const uint16_t*>(row.values)[column], row.storage);
}

// Four columns of a lane.
template <typename Number>
struct Four {
  Number v[kPerLane];
};

// Which columns are a lane's. Neighbours: four in a row, one access of 16 or 8 bytes; for rows of whole, aligned fours.
// Otherwise 32 apart, one element an access: still whole lines for the warp, whatever D and the alignment.
template <bool kNeighbours>
struct Columns {
  int32_t dim;
  int32_t lane;

  __device__ int32_t column(int32_t start, int e) const {
    return start + (kNeighbours ? kPerLane * lane + e : lane + kWarp * e);
  }

  __device__ Four<float> load(const float* row, int32_t start) const {
    Four<float> out{};
    if constexpr (kNeighbours) {
      if (column(start, 0) >= dim) return out;
      const float4 four = *reinterpret_cast<const float4*>(row + column(start, 0));
      return {{four.x, four.y, four.z, four.w}};
    } else {
#pragma unroll
      for (int e = 0; e < kPerLane; e++)
        if (column(start, e) < dim) out.v[e] = row[column(start, e)];
      return out;
    }
  }

  __device__ Four<float> load(const StoredRow& row, int32_t start) const {
    // The same for the whole grid; a template of each kernel for each type would only be larger.
    if (row.storage == StorageKind::float32) return load(static_cast<const float*>(row.values), start);
    const auto* values = static_cast<const uint16_t*>(row.values);
    Four<float> out{};
    if constexpr (kNeighbours) {
      if (column(start, 0) >= dim) return out;
      const uint2 words = *reinterpret_cast<const uint2*>(values + column(start, 0));
      uint16_t bits[kPerLane];
      memcpy(bits, &words, sizeof words);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) out.v[e] = widened(bits[e], row.storage);
    } else {
#pragma unroll
      for (int e = 0; e < kPerLane; e++)
        if (column(start, e) < dim) out.v[e] = widened(values[column(start, e)], row.storage);
    }
    return out;
  }

  __device__ Four<double> load(const double* row, int32_t start) const {
    Four<double> out{};
    if constexpr (kNeighbours) {
      if (column(start, 0) >= dim) return out;
      const auto* pairs = reinterpret_cast<const double2*>(row + column(start, 0));
      const double2 a = pairs[0], b = pairs[1];
      return {{a.x, a.y, b.x, b.y}};
    } else {
#pragma unroll
      for (int e = 0; e < kPerLane; e++)
        if (column(start, e) < dim) out.v[e] = row[column(start, e)];
      return out;
    }
  }

  __device__ void store(float* row, int32_t start, const Four<float>& four) const {
    if constexpr (kNeighbours) {
      if (column(start, 0) < dim)
        *reinterpret_cast<float4*>(row + column(start, 0)) = {four.v[0], four.v[1], four.v[2], four.v[3]};
    } else {
#pragma unroll
      for (int e = 0; e < kPerLane; e++)
        if (column(start, e) < dim) row[column(start, e)] = four.v[e];
    }
  }

  // Columns below `depth`, a multiple of 32, of a row of an operand; those behind the last of the row must be 0.
  __device__ void store_halves(uint16_t* row, int32_t start, int32_t depth, const uint16_t (&bits)[kPerLane]) const {
    if constexpr (kNeighbours) {
      uint2 words;
      memcpy(&words, bits, sizeof words);
      if (column(start, 0) < depth) *reinterpret_cast<uint2*>(row + column(start, 0)) = words;
    } else {
#pragma unroll
      for (int e = 0; e < kPerLane; e++)
        if (column(start, e) < depth) row[column(start, e)] = bits[e];
    }
  }
};

// Whether rows of `dim` elements from here on are whole, aligned fours. Null is.
__device__ inline bool aligned_rows(const void* rows, int32_t dim, int32_t element_bytes) {
  return dim % kPerLane == 0 && reinterpret_cast<uintptr_t>(rows) % (kPerLane * element_bytes) == 0;
}
__device__ inline bool aligned_rows(const float* rows, int32_t dim) { return aligned_rows(rows, dim, sizeof(float)); }
__device__ inline bool aligned_rows(const void* rows, StorageKind storage, int32_t dim) {
  return aligned_rows(rows, dim, stored_bytes(storage));
}

// Calls body(Columns): `neighbours` where all rows it reads and writes are aligned_rows.
template <typename Body>
__device__ inline void with_columns(bool neighbours, int32_t dim, const Body& body) {
  if (neighbours)
    body(Columns<true>{dim, warp_lane()});
  else
    body(Columns<false>{dim, warp_lane()});
}

// One row of an operand.
struct OperandRow {
  uint16_t* values;
  int64_t low;
  int32_t depth;
  OperandKind kind;

  template <typename Columns>
  __device__ void store(const Columns& columns, int32_t start, const Four<float>& four) const {
    uint16_t bits[kPerLane];
    if (kind == OperandKind::bfloat16) {
#pragma unroll
      for (int e = 0; e < kPerLane; e++) bits[e] = __bfloat16_as_ushort(__float2bfloat16_rn(four.v[e]));
      columns.store_halves(values, start, depth, bits);
      return;
    }
    uint16_t low_bits[kPerLane];
#pragma unroll
    for (int e = 0; e < kPerLane; e++) {
      const __half high = __float2half_rn(four.v[e]);
      bits[e] = __half_as_ushort(high);
      low_bits[e] = __half_as_ushort(__float2half_rn(four.v[e] - __half2float(high)));
    }
    columns.store_halves(values, start, depth, bits);
    if (kind == OperandKind::split) columns.store_halves(values + low, start, depth, low_bits);
  }
};

// Sum over a row of square(x), in float64.
template <typename Columns, typename Row>
__device__ inline double exact_squares(const Columns& columns, const Row& row) {
  double sum = 0;
#pragma unroll 1
  for (int32_t start = 0; start < columns.dim; start += kColumns) {
    const Four<float> x = columns.load(row, start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) sum += static_cast<double>(x.v[e]) * x.v[e];
  }
  return warp_sum(sum);
}

// The operand row x * factor, multiplied in float64.
template <typename Columns>
__device__ inline void store_scaled(const Columns& columns, const float* row, double factor,
                                    const OperandRow& operand) {
#pragma unroll 1
  for (int32_t start = 0; start < operand.depth; start += kColumns) {
    Four<float> x = columns.load(row, start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) x.v[e] = static_cast<float>(x.v[e] * factor);
    operand.store(columns, start, x);
  }
}

}  // namespace marginfc
