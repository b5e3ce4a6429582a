// Kernels over the class rows, of which there are many: each row comes from memory once, whole lines at a time, and is
// read again from the caches. Sums are float32 in a lane and float64 over the lanes; rows so short or long that float32
// would leave its range, and rows that own a row of the batch, are measured in float64. A warp a class; no atomics but
// an integer minimum, each value is written by one thread: the same bits every time.
#pragma once

#include "cuda/kernels/rows.cuh"
#include "engine/random.h"

namespace marginfc {

// Blocks of finish_weights a multiprocessor holds: 64 registers a thread do, but on sm_100, where they would spill.
#if __CUDA_ARCH__ == 1000
constexpr int kFinishBlocks = 3;
#else
constexpr int kFinishBlocks = 4;
#endif

// Squared norms between which float32 squares and the inverse norm lose nothing.
constexpr double kShortestPlainSquare = 1e-20, kLongestPlainSquare = 1e30;
// Factors that float32 holds with room for what they multiply.
constexpr float kLeastPlainFactor = 1e-30f, kMostPlainFactor = 1e30f;

// Four columns of no gradient at all.
struct NoGradient {
  __device__ Four<float> operator()(int32_t) const { return {}; }
};

// w . w and raw . w, of raw(start) four columns a lane. Number is what a lane adds in.
struct ClassSums {
  double squares, product;
};
template <typename Number, typename Columns, typename Row, typename Raw>
__device__ inline ClassSums class_sums(const Columns& columns, const Row& row, const Raw& raw) {
  Number squares = 0, product = 0;
#pragma unroll 1
  for (int32_t start = 0; start < columns.dim; start += kColumns) {
    const Four<float> w = columns.load(row, start), g = raw(start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) {
      squares += static_cast<Number>(w.v[e]) * w.v[e];
      product += static_cast<Number>(g.v[e]) * w.v[e];
    }
  }
  return {warp_sum(squares), warp_sum(product)};
}

__device__ inline bool plain_square(double squares) {
  return squares >= kShortestPlainSquare && squares <= kLongestPlainSquare;
}

template <typename Columns, typename Raw>
__device__ inline ClassSums measure(const Columns& columns, const StoredRow& row, const Raw& raw, bool exact) {
  if (!exact) {
    const ClassSums sums = class_sums<float>(columns, row, raw);
    if (plain_square(sums.squares)) return sums;
  }
  return class_sums<double>(columns, row, raw);
}

// w / |w| of a class.
struct UnitRow {
  double norm, inverse;
  float plain_inverse;
  bool plain;

  __device__ explicit UnitRow(double squares)
      : norm(sqrt(squares)),
        inverse(inverse_of(norm)),
        plain_inverse(static_cast<float>(inverse)),
        plain(plain_square(squares)) {}

  __device__ float of(float w) const { return plain ? w * plain_inverse : static_cast<float>(w * inverse); }
};

// The operand of class c is wh * scale; so are `copies` rows behind it.
template <typename Columns, typename Row>
__device__ inline void store_unit_row(const Columns& columns, const Row& row, double squares, double scale,
                                      OperandRow operand, int32_t copies) {
  const UnitRow unit(squares);
  const auto scale32 = static_cast<float>(scale);  // a power of two
#pragma unroll 1
  for (int32_t start = 0; start < operand.depth; start += kColumns) {
    Four<float> w = columns.load(row, start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) w.v[e] = unit.of(w.v[e]) * scale32;
    OperandRow to = operand;
    for (int32_t copy = 0; copy <= copies; copy++, to.values += operand.depth) to.store(columns, start, w);
  }
}

// The right operand of the products, wh * operand_scale rounded to 16 bits or to two halves, and the first class that
// holds a NaN or an infinite value.
//
//   reads   weights [C, D] of 4 or 2 bytes, twice (the second time from the cache)
//   writes  operand [padded classes, depth] of 2 bytes (4 when split); bad_class, by an integer minimum, whose result
//           no order of the blocks changes
//   launch  padded classes / 8 blocks of 8 warps: no block waits for another row
extern "C" __global__ void __launch_bounds__(kRowThreads)
    prepare_weights(const __grid_constant__ PrepareWeightsParameters p) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
  const int64_t place = c < p.classes ? c : p.classes - 1, row = p.index ? p.index[place] : place;
  const StoredRow w = stored_row(p.weights, p.storage, row, p.dim);
  // A slot that no class has is zero: of its row no column is read.
  with_columns(aligned_rows(p.weights, p.storage, p.dim), row < 0 ? 0 : p.dim, [&](auto columns) {
    const double squares = measure(columns, w, NoGradient(), false).squares;
    if (!isfinite(squares) && p.bad_class && columns.lane == 0) atomicMin(p.bad_class, static_cast<int32_t>(row));
    store_unit_row(columns, w, squares, p.operand_scale, {p.operand + c * p.depth, p.low, p.depth, p.kind}, 0);
  });
}

// Entries of a sorted list that are below `wanted`: each step takes one probe a lane and leaves a 32nd of the list.
__device__ inline int32_t count_below(const int32_t* sorted, int32_t count, int32_t wanted, int32_t lane) {
  int32_t first = 0, last = count;  // the answer is in [first, last]
  while (first < last) {
    const int32_t step = (last - first + kWarp - 1) / kWarp;
    const int32_t probe = min(first + (lane + 1) * step, last) - 1;
    const int32_t pieces = __popc(__ballot_sync(kWholeWarp, sorted[probe] < wanted));
    first = min(first + pieces * step, last);
    last = pieces == kWarp ? first : min(first + step, last) - 1;
  }
  return first;
}

// The rows of the batch that have a class: owner .. end-1 of the list.
struct OwnRows {
  int32_t owner, end;
  double of_w;  // minus the sum over them of gamma cos / |w|^2
};

template <typename Columns>
__device__ inline OwnRows find_own_rows(const FinishWeightsParameters& p, const Columns& columns, int32_t index) {
  const int32_t owner = count_below(p.owner_class, p.owners, index, columns.lane);
  int32_t end = owner;
  while (end < p.owners && p.owner_class[end] == index) end++;
  return {owner, end, 0.0};
}

// Adds the sum over a class's own rows of gamma (xh - cos wh) / |w| to four columns, summed in float64.
template <typename Columns>
__device__ inline void add_own_rows(const FinishWeightsParameters& p, const Columns& columns, const OwnRows& own,
                                    double inverse, int32_t start, const Four<float>& w, Four<float>* gradient) {
  Four<double> total;
#pragma unroll
  for (int e = 0; e < kPerLane; e++) total.v[e] = gradient->v[e] + w.v[e] * own.of_w;
#pragma unroll 1
  for (int32_t owner = own.owner; owner < own.end; owner++) {
    const int32_t row = p.owner_row[owner];
    const double of_x = p.gamma[row] * inverse / floored(p.norm[row]);
    const Four<float> x = columns.load(p.features + static_cast<int64_t>(row) * p.dim, start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) total.v[e] += x.v[e] * of_x;
  }
#pragma unroll
  for (int e = 0; e < kPerLane; e++) gradient->v[e] = static_cast<float>(total.v[e]);
}

// torch.optim.SGD: g += decay * w; v = momentum * v + g; w -= lr * (nesterov ? g + momentum * v : v). v starts at 0,
// which makes the first v = g as PyTorch's does.
template <typename Columns>
__device__ inline void sgd(const SgdStep& step, const Columns& columns, float* momentum, int32_t start, Four<float> g,
                           Four<float>* w) {
  Four<float> v{};
  if (momentum) v = columns.load(momentum, start);
#pragma unroll
  for (int e = 0; e < kPerLane; e++) {
    g.v[e] += step.weight_decay * w->v[e];
    if (momentum) {
      v.v[e] = step.momentum * v.v[e] + g.v[e];
      g.v[e] = step.nesterov ? g.v[e] + step.momentum * v.v[e] : v.v[e];
    }
    w->v[e] -= step.learning_rate * g.v[e];
  }
  if (momentum) columns.store(momentum, start, v);
}

// torch.optim.AdamW: w *= 1 - lr * decay; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
template <typename Columns>
__device__ inline void adamw(const AdamwStep& step, const Columns& columns, float* mean, float* variance, int32_t start,
                             const Four<float>& g, Four<float>* w) {
  Four<float> m = columns.load(mean, start), v = columns.load(variance, start);
#pragma unroll
  for (int e = 0; e < kPerLane; e++) {
    m.v[e] += (1.0f - step.beta1) * (g.v[e] - m.v[e]);
    v.v[e] = step.beta2 * v.v[e] + (1.0f - step.beta2) * (g.v[e] * g.v[e]);
    w->v[e] = w->v[e] * step.decay - step.step_size * m.v[e] / (sqrtf(v.v[e]) * step.root_correction + step.epsilon);
  }
  columns.store(mean, start, m);
  columns.store(variance, start, v);
}

// `raw`: the class's row of the product, or null where the gradient is there already. kAided: with what the fields of that
// name say. kListed: rows may be listed by p.index. Returns the sum of squares of the gradient where it is measured, else 0.
template <bool kListed, bool kAided, typename Columns>
__device__ inline double finish_class(const FinishWeightsParameters& p, const Columns& columns, int32_t c,
                                      const float* raw) {
  const int64_t at = kListed && p.index ? p.index[c] : c, base = at * p.dim;
  const StoredRow row = stored_row(p.weights, p.storage, at, p.dim);
  const int32_t index = p.first_class + c;
  OwnRows own = raw ? find_own_rows(p, columns, index) : OwnRows{};
  const bool owned = own.owner < own.end;
  const auto product = [&](int32_t start) {
    Four<float> g = columns.load(raw, start);
    if constexpr (kAided) {
      const Four<float> all = p.uniform ? columns.load(p.uniform, start) : Four<float>{};
#pragma unroll
      for (int e = 0; e < kPerLane; e++) g.v[e] += all.v[e];
    }
    return g;
  };

  // Of a gradient that is there already nothing is projected, so nothing is measured.
  const ClassSums sums = raw ? measure(columns, row, product, owned) : ClassSums{1, 0};
  UnitRow unit(sums.squares);
  const bool has_direction = !(unit.norm < kNormFloor);
  const auto beta = static_cast<float>(has_direction ? sums.product * unit.inverse : 0.0);
  const auto factor = static_cast<float>(p.unscale * unit.inverse);
  unit.plain = unit.plain && fabsf(factor) >= kLeastPlainFactor && fabsf(factor) <= kMostPlainFactor;

  if (has_direction)
    for (int32_t owner = own.owner; owner < own.end; owner++)
      own.of_w -= p.gamma[p.owner_row[owner]] * p.cosine[p.owner_row[owner]] * unit.inverse * unit.inverse;

  const auto gradient = [&](int32_t start, const Four<float>& w) {
    if (!raw) return p.gradient ? columns.load(p.gradient + base, start) : Four<float>{};
    Four<float> g = product(start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) {
      const float tangent = g.v[e] - beta * unit.of(w.v[e]);
      g.v[e] = unit.plain ? tangent * factor : static_cast<float>(tangent * (p.unscale * unit.inverse));
    }
    if (owned) add_own_rows(p, columns, own, unit.inverse, start, w, &g);
    if constexpr (kAided) {
      const Four<float> more = p.added ? columns.load(p.added + base, start) : Four<float>{};
#pragma unroll
      for (int e = 0; e < kPerLane; e++) g.v[e] += more.v[e];
    }
    return g;
  };
  float clip = 1;
  if constexpr (kAided) {
    const bool measures = p.sink == SinkKind::measure || !isinf(p.clip_longest);
    double squares = 0;
#pragma unroll 1
    for (int32_t start = 0; measures && start < p.dim; start += kColumns) {
      const Four<float> g = gradient(start, columns.load(row, start));
#pragma unroll
      for (int e = 0; e < kPerLane; e++) squares += static_cast<double>(g.v[e]) * g.v[e];
    }
    squares = warp_sum(squares);
    if (p.sink == SinkKind::measure) return squares;
    const double norm = p.clip_scale * sqrt(squares);
    clip = static_cast<float>(norm > p.clip_longest ? p.clip_scale * (p.clip_longest / norm) : p.clip_scale);
  }

  float squares = 0;
#pragma unroll 1
  for (int32_t start = 0; start < p.dim; start += kColumns) {
    Four<float> w = columns.load(row, start), g = gradient(start, w);
    if (!raw && p.gradient) columns.store(p.gradient + base, start, {});
    if constexpr (kAided) {
#pragma unroll
      for (int e = 0; e < kPerLane; e++) g.v[e] *= clip;
    }
    if (p.sink == SinkKind::accumulate) {
      const Four<float> before = columns.load(p.gradient + base, start);
#pragma unroll
      for (int e = 0; e < kPerLane; e++) g.v[e] += before.v[e];
    }
    if (p.sink == SinkKind::write || p.sink == SinkKind::accumulate) {
      columns.store(p.gradient + base, start, g);
      continue;
    }
    if (p.sink == SinkKind::sgd)
      sgd(p.sgd_step, columns, p.momentum ? p.momentum + base : nullptr, start, g, &w);
    else
      adamw(p.adamw_step, columns, p.momentum + base, p.variance + base, start, g, &w);
    columns.store(static_cast<float*>(p.weights) + base, start, w);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) squares += w.v[e] * w.v[e];
  }
  if (p.sink == SinkKind::write || p.sink == SinkKind::accumulate || !p.operand) return 0;
  // Each lane reads the columns back that it wrote itself; what is updated is float32.
  const float* moved = static_cast<const float*>(p.weights) + base;
  double new_squares = warp_sum(squares);
  if (!plain_square(new_squares)) new_squares = class_sums<double>(columns, moved, NoGradient()).squares;
  store_unit_row(columns, moved, new_squares, p.operand_scale,
                 {p.operand + static_cast<int64_t>(c) * p.depth, p.low, p.depth, p.kind},
                 c == p.classes - 1 ? p.padding : 0);
  return 0;
}

// Whether a class is left as it is, by the flags, or is none.
template <typename Columns>
__device__ inline bool rests(const FinishWeightsParameters& p, const Columns& columns, int32_t c) {
  const int64_t at = p.index ? p.index[c] : c;
  if (at < 0) return true;
  if (!p.flags || p.flags[at] != p.resting) return false;
  bool moves = false;
  for (int32_t start = 0; p.gradient && start < p.dim; start += kColumns) {
    const Four<float> g = columns.load(p.gradient + at * p.dim, start);
#pragma unroll
    for (int e = 0; e < kPerLane; e++) moves |= g.v[e] != 0;
  }
  return !__any_sync(kWholeWarp, moves);
}

// Whether all rows that finish_class touches are aligned_rows; null ones are, and rows of the product are padded.
__device__ inline bool whole_fours(const FinishWeightsParameters& p) {
  return aligned_rows(p.weights, p.storage, p.dim) && aligned_rows(p.gradient, p.dim) &&
         aligned_rows(p.momentum, p.dim) && aligned_rows(p.variance, p.dim) && aligned_rows(p.features, p.dim) &&
         aligned_rows(p.added, p.dim);
}

// dW of a chunk's classes from the raw product, then its sink; the formula is FinishWeightsParameters'. The own rows'
// term is formed in float64 and added after the projection: projected with the rest it would leave an error of gamma's
// size at the poles.
//
//   reads   raw [classes, width] float32 (or the gradient, which is zeroed) and weights [classes, D], twice (the second
//           time from the cache); momentum, variance or gradient of the sink once; x_i of the rows that have a class here
//   writes  gradient, or weights, momentum, variance [classes, D] float32 and operand [classes + padding, depth]
//           of 2 bytes (4 when split), which reads the new weights from the cache
//   launch  any number of blocks of 8 warps, a warp a class in a strided loop: a row's sums need no other warp
template <bool kAided>
__device__ inline void finish_classes(const FinishWeightsParameters& p) {
  with_columns(whole_fours(p), p.dim, [&](auto columns) {
    const auto warps = static_cast<int32_t>(gridDim.x * kRowWarps);
    double squares = 0;
    for (int32_t c = warp_row(); c < p.classes; c += warps)
      if (!kAided || !rests(p, columns, c))
        squares += finish_class<kAided, kAided>(p, columns, c,
                                                p.raw ? p.raw + static_cast<int64_t>(c) * p.width : nullptr);
    if constexpr (kAided)
      if (p.sink == SinkKind::measure && columns.lane == 0) p.squares[warp_row()] += squares;
  });
}
extern "C" __global__ void __launch_bounds__(kRowThreads, kFinishBlocks)
    finish_weights(const __grid_constant__ FinishWeightsParameters p) {
  finish_classes<false>(p);
}

// The same with what the gradient has more, of all classes in common or of each, for some of the classes, with clipping, or
// measured only: where classes are clipped their gradient is made twice, the second time from the cache.
//
//   reads   besides: added [classes, D] float32, as often as the gradient is made
//   writes  besides: squares [warps of the grid] float64, each by one warp
extern "C" __global__ void __launch_bounds__(kRowThreads, 2)
    finish_weights_aided(const __grid_constant__ FinishWeightsParameters p) {
  finish_classes<true>(p);
}

// Element (class, column) is std times a normal deviate that depends on seed, class and column alone: Philox blocks of
// four columns.
//
//   writes  weights [classes, D] float32
//   launch  any number of blocks of 256 threads, a thread a block of four columns in a strided loop
extern "C" __global__ void __launch_bounds__(256)
    initialize_weights(const __grid_constant__ InitializeWeightsParameters p) {
  const int64_t fours = (p.dim + 3) / 4, threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < p.classes * fours;
       at += threads) {
    const int64_t c = at / fours, four = at % fours;
    const Random4 random = philox(p.seed, p.first_class + c, four);
    double normal[4];
    normal_pair(random.v[0], random.v[1], &normal[0], &normal[1]);
    normal_pair(random.v[2], random.v[3], &normal[2], &normal[3]);
    float* row = p.weights + c * p.dim;
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (4 * four + e < p.dim) row[4 * four + e] = static_cast<float>(p.std * normal[e]);
  }
}

}  // namespace marginfc
