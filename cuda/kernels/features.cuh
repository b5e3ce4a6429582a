// Kernels over the rows of the batch, of which there are few: everything is summed and multiplied in float64. A warp a
// row unless said otherwise; no atomics, each value is written by one thread, the same bits every time.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace marginfc {

// |x_i| and the left operand of the products, xh_i * operand_scale rounded to 16 bits or to two halves.
//
//   reads   features [B, D] float32, twice (the second time from the cache)
//   writes  norm [B], operand [padded rows, depth] of 2 bytes (4 when split)
//   launch  padded rows / 8 blocks of 8 warps: rows fit no better shape at any D
extern "C" __global__ void __launch_bounds__(kRowThreads)
    prepare_features(const __grid_constant__ PrepareFeaturesParameters p) {
  const int32_t i = warp_row(), row = i < p.rows ? i : 0;
  const float* x = p.features + static_cast<int64_t>(row) * p.dim;
  with_columns(aligned_rows(p.features, p.dim), p.dim, [&](auto columns) {
    const double norm = sqrt(exact_squares(columns, x));
    if (i < p.rows && columns.lane == 0) p.norm[i] = norm;
    if (!p.operand) return;
    store_scaled(columns, x, p.operand_scale / floored(norm),
                 {p.operand + static_cast<int64_t>(i) * p.depth, p.low, p.depth, p.kind});
  });
}

// V, the right operand of dW: xh_i * factor_i.
//
//   reads   features [B, D] float32
//   writes  operand [padded rows, depth] of 2 bytes (4 when split)
//   launch  as prepare_features
extern "C" __global__ void __launch_bounds__(kRowThreads)
    weight_features(const __grid_constant__ WeightFeaturesParameters p) {
  const int32_t i = warp_row(), row = i < p.rows ? i : 0;
  const float* x = p.features + static_cast<int64_t>(row) * p.dim;
  with_columns(aligned_rows(p.features, p.dim), p.dim, [&](auto columns) {
    store_scaled(columns, x, p.factor[row] / floored(p.norm[row]),
                 {p.operand + static_cast<int64_t>(i) * p.depth, p.low, p.depth, p.kind});
  });
}

// Cosine and sine of row i and this row of the weights.
__device__ inline void target_of(const TargetsParameters& p, int32_t i, int64_t row) {
  const float* x = p.features + static_cast<int64_t>(i) * p.dim;
  const StoredRow w = stored_row(p.weights, p.storage, row, p.dim);
  const bool neighbours = aligned_rows(p.features, p.dim) && aligned_rows(p.weights, p.storage, p.dim) &&
                          aligned_rows(p.own_rows, p.dim);
  with_columns(neighbours, p.dim, [&](auto columns) {
    double squares = 0, product = 0;
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) {
      const Four<float> a = columns.load(x, start), b = columns.load(w, start);
      if (p.own_rows) columns.store(p.own_rows + static_cast<int64_t>(i) * p.dim, start, b);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) {
        squares += static_cast<double>(b.v[e]) * b.v[e];
        product += static_cast<double>(a.v[e]) * b.v[e];
      }
    }
    const double x_norm = p.norm[i], norm = sqrt(warp_sum(squares));
    const double x_inverse = 1 / floored(x_norm), inverse = inverse_of(norm);
    double cosine = warp_sum(product) * x_inverse * inverse;
    if (cosine > 1) cosine = 1;
    if (cosine < -1) cosine = -1;
    double sine;
    if (x_norm < kNormFloor || norm < kNormFloor) {
      sine = sqrt(1 - cosine * cosine);
    } else {
      double distance = 0;
#pragma unroll 1
      for (int32_t start = 0; start < p.dim; start += kColumns) {
        const Four<float> a = columns.load(x, start), b = columns.load(w, start);
#pragma unroll
        for (int e = 0; e < kPerLane; e++) {
          const double apart = b.v[e] * inverse - a.v[e] * (cosine * x_inverse);
          distance += apart * apart;
        }
      }
      sine = sqrt(warp_sum(distance));
    }
    if (columns.lane == 0) {
      p.cosine[i] = cosine;
      p.sine[i] = sine;
      p.weight_norm[i] = norm;
    }
  });
}

// cos = xh . wh_y, clamped, and sin = |wh_y - cos xh|, which has digits near the poles where sqrt(1 - cos^2) has none.
// Rows without a class here are left alone.
//
//   reads   the rows x_i and w_y, twice (the second time from the cache)
//   writes  cosine, sine, weight_norm [B], own_rows [B, D]
//   launch  ceil(B / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads) targets(const __grid_constant__ TargetsParameters p) {
  const int32_t i = warp_row();
  if (i >= p.rows || p.labels[i] < 0) return;
  target_of(p, i, p.index ? p.index[p.labels[i]] : p.labels[i]);
}

// Sum over negatives of a row from its partial sums, in their order and in float64, and what else there is of them; what
// probabilities are shifted by, so that these need not wait for the host.
//
//   reads   sums (and hardest, above, hard, slopes) [partials, padded rows] of 4 bytes, once
//   writes  sum [rows] float64, shift [padded rows] float32 (and largest, count [rows] of 4 bytes, hard_sum, slope_sum [rows]
//           float64)
//   launch  ceil(padded rows / 256) blocks of 256 threads, a thread a row: a warp reads whole lines
extern "C" __global__ void __launch_bounds__(256)
    reduce_negatives(const __grid_constant__ ReduceNegativesParameters p) {
  const int32_t i = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= p.padded_rows) return;
  const auto sum_of = [&](const float* parts) {
    double sum = 0;
    for (int32_t part = 0; part < p.partials; part++) sum += parts[static_cast<int64_t>(part) * p.padded_rows + i];
    return sum;
  };
  const double sum = i < p.rows ? sum_of(p.sums) : 0;
  // exp2(-inf): no probability where there is no negative.
  const double offset = p.offset ? p.offset[i] : 0, slopes = p.slopes && i < p.rows ? sum_of(p.slopes) : 0;
  const double whole = p.slopes ? slopes : sum, shift = log2(whole) + offset - kProbabilityExponent;
  p.shift[i] = whole == 0 ? INFINITY
                          : static_cast<float>(p.slopes && shift < kLeastSlopeShift ? kLeastSlopeShift : shift);
  if (i >= p.rows) return;
  p.sum[i] = sum;
  if (p.hard) p.hard_sum[i] = sum_of(p.hard);
  if (p.slopes) p.slope_sum[i] = slopes;
  if (p.above) {
    int32_t count = 0;
    for (int32_t part = 0; part < p.partials; part++) count += p.above[static_cast<int64_t>(part) * p.padded_rows + i];
    p.count[i] = count;
  }
  if (!p.hardest) return;
  float largest = -INFINITY;
  for (int32_t part = 0; part < p.partials; part++)
    largest = fmaxf(largest, p.hardest[static_cast<int64_t>(part) * p.padded_rows + i]);
  p.largest[i] = largest;
}

// total (+)= sum over splits of products, in their order and in float64. `count` is a multiple of 4 (padded rows times
// width), and so is split_stride.
//
//   reads   products [splits, count] float32 once, total [count] float64 unless first
//   writes  total
//   launch  any number of blocks of 256 threads; a thread takes four neighbours at a time
extern "C" __global__ void __launch_bounds__(256) add_products(const __grid_constant__ AddProductsParameters p) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t at = 4 * thread; at < p.count; at += 4 * threads) {
    auto* total = reinterpret_cast<double2*>(p.total + at);
    double2 low = p.first ? double2{} : total[0], high = p.first ? double2{} : total[1];
    for (int32_t split = 0; split < p.splits; split++) {
      const float4 product = *reinterpret_cast<const float4*>(p.products + split * p.split_stride + at);
      low.x += product.x;
      low.y += product.y;
      high.x += product.z;
      high.y += product.w;
    }
    total[0] = low;
    total[1] = high;
  }
}

// dX; the formula is FinishFeaturesParameters'. Beyond g everything is a multiple of x or of w_y.
//
//   reads   total [B, width] float64 and the rows x_i and w_y, twice (the second time from the cache)
//   writes  gradient [B, D] float32
//   launch  ceil(B / 8) blocks of 8 warps
extern "C" __global__ void __launch_bounds__(kRowThreads)
    finish_features(const __grid_constant__ FinishFeaturesParameters p) {
  const int32_t i = warp_row();
  if (i >= p.rows) return;
  const int32_t label = p.labels[i];
  const float* x = p.features + static_cast<int64_t>(i) * p.dim;
  const double* total = p.total + static_cast<int64_t>(i) * p.width;
  float* gradient = p.gradient + static_cast<int64_t>(i) * p.dim;
  const StoredRow w = stored_row(p.weights, p.storage, label < 0 ? 0 : label, p.dim);
  const bool neighbours = aligned_rows(p.features, p.dim) && aligned_rows(p.weights, p.storage, p.dim) &&
                          aligned_rows(p.gradient, p.dim);
  with_columns(neighbours, p.dim, [&](auto columns) {
    const bool projected = !(p.norm[i] < kNormFloor);
    const double inverse = 1 / floored(p.norm[i]), scale = p.scale[i] * inverse;
    const double uniform = p.uniform ? p.uniform[i] * inverse : 0;
    const auto sum = [&](int32_t start) {
      Four<double> g = columns.load(total, start);
      const Four<double> all = p.uniform ? columns.load(p.class_sum, start) : Four<double>{};
#pragma unroll
      for (int e = 0; e < kPerLane; e++) g.v[e] = g.v[e] * scale + all.v[e] * uniform;
      return g;
    };
    double of_x = 0, of_w = 0;
    if (projected) {
      double product = 0;
#pragma unroll 1
      for (int32_t start = 0; start < p.dim; start += kColumns) {
        const Four<float> a = columns.load(x, start);
        const Four<double> g = sum(start);
#pragma unroll
        for (int e = 0; e < kPerLane; e++) product += g.v[e] * a.v[e];
      }
      of_x = -warp_sum(product) * inverse * inverse;
    }
    if (label >= 0) {
      const double gamma = p.gamma[i] * inverse, cosine = projected ? p.cosine[i] : 0.0;
      of_x += ((p.radial ? p.radial[i] : 0.0) - gamma * cosine) * inverse;
      of_w = gamma * inverse_of(p.weight_norm[i]);
    }
#pragma unroll 1
    for (int32_t start = 0; start < p.dim; start += kColumns) {
      const Four<float> a = columns.load(x, start);
      const Four<float> b = label < 0 ? Four<float>{} : columns.load(w, start);
      const Four<double> g = sum(start);
      Four<float> out;
#pragma unroll
      for (int e = 0; e < kPerLane; e++) out.v[e] = static_cast<float>(g.v[e] + (a.v[e] * of_x + b.v[e] * of_w));
      columns.store(gradient, start, out);
    }
  });
}

}  // namespace marginfc
