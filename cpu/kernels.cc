// The kernels of one instruction set; see kernels.h. Compiled once per set with the compiler's flags for it and
// MARGINFC_ISA_NAME / MARGINFC_ISA_TABLE set. Everything but the table is in an anonymous namespace and no
// standard library template is used: a weak symbol compiled here for a new CPU could be the one the linker
// keeps for an old one.
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace marginfc {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kHeight = 14;  // 32 registers: 28 accumulators, two vectors, two broadcasts
#elif defined(__AVX__)
constexpr int kLanes = 8, kHeight = 6;  // 16 registers: 12, 2, 2
#else
constexpr int kLanes = 4, kHeight = 6;
#endif
constexpr int kPanel = 2 * kLanes;

#include "cpu/vector.h"

// How the broadcast operand lies: a[h, k] = a[h * ld + k] or a[k * ld + h].
enum class Layout { rows, columns };

// Memory that will be needed soon.
struct Ahead {
  const char* line;
  int64_t step;  // to the next line; 0 when there is nothing to fetch
};
MARGINFC_INLINE Ahead fetch_ahead(const float* from, int64_t lines_before) {
  return {reinterpret_cast<const char*>(from) + lines_before * 64, 64};
}
// Stays on a line that is in the cache anyway.
MARGINFC_INLINE Ahead nothing_ahead(const float* hot) { return {reinterpret_cast<const char*>(hot), 0}; }

// acc[h][v] = sum over k of a[h, k] * b[k * ldb + v * kLanes ...]. The loops over h are unrolled whole: an
// accumulator that is indexed at run time would live in memory.
// On the way `ahead` is brought into the cache, a line with each k: spread like this it costs nothing, in a burst
// it would stall the loads that are needed now.
template <int H, Layout kLayout>
MARGINFC_INLINE void multiply(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, Ahead ahead,
                              Vector (&acc)[H][2]) {
#pragma GCC unroll 16
  for (int h = 0; h < H; h++) acc[h][0] = acc[h][1] = Vector{};
  for (int64_t i = 0; i < k; i++) {
    const Vector b0 = load(b), b1 = load(b + kLanes);
    __builtin_prefetch(ahead.line, 0, 2);
    ahead.line += ahead.step;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      const Vector x = splat(kLayout == Layout::rows ? a[h * lda + i] : a[h]);
      acc[h][0] += x * b0;
      acc[h][1] += x * b1;
    }
    if (kLayout == Layout::columns) a += lda;
    b += ldb;
  }
}

// Splits `count` in the fewest parts of at most kHeight, as even as can be: 45 = 12 + 11 + 11 + 11 runs faster
// than 14 + 14 + 14 + 3. Calls body(first, height).
template <typename Body>
MARGINFC_INLINE void for_tiles(int32_t count, const Body& body) {
  const int32_t tiles = (count + kHeight - 1) / kHeight;
  for (int32_t t = 0, first = 0; t < tiles; t++) {
    const int32_t height = (count - first + tiles - t - 1) / (tiles - t);
    body(first, height);
    first += height;
  }
}

// One function per tile height, found by height - 1.
template <typename Task, template <int> class Tile, int... kHeights>
struct TileTable {
  static constexpr void (*entries[])(const Task&, int32_t, int32_t) = {&Tile<kHeights>::run...};
};
template <typename Task, template <int> class Tile>
MARGINFC_INLINE auto tile_function(int32_t height) {
#if defined(__AVX512F__)
  using Table = TileTable<Task, Tile, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;
#else
  using Table = TileTable<Task, Tile, 1, 2, 3, 4, 5, 6>;
#endif
  return Table::entries[height - 1];
}

// Classes first .. first + H - 1 against one panel of rows, then the exponential in registers.
template <int H>
struct NegativesTile {
  static void run(const NegativesTask& task, int32_t first, int32_t panel) {
    Vector acc[H][2];
    const float* features = task.features + static_cast<int64_t>(panel) * task.dim * kPanel;
    // The first panel fetches the tile's counterpart in the next block: as many lines as it has steps, or fewer.
    const Ahead ahead = task.next_weights && panel == 0 ? fetch_ahead(task.next_weights + first * task.stride, 0)
                                                        : nothing_ahead(features);
    multiply<H, Layout::rows>(task.weights + first * task.stride, task.stride, features, kPanel, task.dim, ahead, acc);
    const int64_t row = static_cast<int64_t>(panel) * kPanel;
    float* exponentials = task.exponentials + first * task.row_stride + row;
#pragma GCC unroll 2
    for (int v = 0; v < 2; v++) {
      const int64_t lane = row + v * kLanes;
      const Integers label = load(task.labels + lane);
      const Vector offset = task.offset ? load(task.offset + lane) : Vector{};
      Vector total = load(task.sums + lane);
      Vector hardest = task.hardest ? load(task.hardest + lane) : Vector{};
#pragma GCC unroll 16
      for (int h = 0; h < H; h++) {
        const Vector inverse_norm = splat(task.inverse_norm[first + h]);
        const Vector exponent = acc[h][v] * inverse_norm;
        const auto own = label == splat(task.first_class + first + h);
        const Vector e = own ? Vector{} : exp2(exponent - offset);
        if (task.hardest) hardest = own ? hardest : larger(hardest, exponent);
        total += e;
        store(exponentials + h * task.row_stride + v * kLanes, e * inverse_norm);
      }
      store(task.sums + lane, total);
      if (task.hardest) store(task.hardest + lane, hardest);
    }
  }
};

template <int H>
struct ProductsTile {
  static void run(const NegativesTask& task, int32_t first, int32_t panel) {
    Vector acc[H][2];
    const float* features = task.features + static_cast<int64_t>(panel) * task.dim * kPanel;
    multiply<H, Layout::rows>(task.weights + first * task.stride, task.stride, features, kPanel, task.dim,
                              nothing_ahead(features), acc);
    float* products = task.exponentials + first * task.row_stride + static_cast<int64_t>(panel) * kPanel;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      const Vector inverse_norm = splat(task.inverse_norm[first + h]);
      store(products + h * task.row_stride, acc[h][0] * inverse_norm);
      store(products + h * task.row_stride + kLanes, acc[h][1] * inverse_norm);
    }
  }
};

// Rows first .. first + H - 1 of the block against one panel of columns, added to the accumulators.
template <int H>
struct FeatureGradientTile {
  static void run(const FeatureGradientTask& task, int32_t first, int32_t panel) {
    const bool tail = (panel + 1) * kPanel > task.dim;
    Vector acc[H][2];
    multiply<H, Layout::columns>(task.exponentials + first, task.row_stride,
                                 tail ? task.tail : task.weights + static_cast<int64_t>(panel) * kPanel,
                                 tail ? kPanel : task.stride, task.classes, nothing_ahead(task.exponentials), acc);
    float* out = task.accumulators + (static_cast<int64_t>(panel) * task.accumulator_rows + first) * kPanel;
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) {
      store(out + h * kPanel, load(out + h * kPanel) + acc[h][0]);
      store(out + h * kPanel + kLanes, load(out + h * kPanel + kLanes) + acc[h][1]);
    }
  }
};

// H classes against all columns; every column panel sums over all rows of the batch.
template <int H>
struct WeightGradientTile {
  static void run(const WeightGradientTask& task, int32_t, int32_t) {
    const int32_t panels = (task.dim + kPanel - 1) / kPanel;
    const int64_t width = static_cast<int64_t>(panels) * kPanel;
    Vector dots[H];
#pragma GCC unroll 16
    for (int h = 0; h < H; h++) dots[h] = Vector{};
    for (int32_t panel = 0; panel < panels; panel++) {
      // Even panels fetch the next tile's E, odd ones its class rows.
      const float* next = panel % 2 == 0 ? task.next_exponentials : task.next_weights;
      const int64_t lines_before = static_cast<int64_t>(panel / 2) * task.rows;
      const Ahead ahead = next ? fetch_ahead(next, lines_before) : nothing_ahead(task.exponentials);
      Vector acc[H][2];
      multiply<H, Layout::rows>(task.exponentials, task.row_stride,
                                task.features + static_cast<int64_t>(panel) * task.rows * kPanel, kPanel, task.rows,
                                ahead, acc);
      const bool tail = (panel + 1) * kPanel > task.dim;
      const float* weights = tail ? task.tail : task.weights + static_cast<int64_t>(panel) * kPanel;
      const int64_t stride = tail ? kPanel : task.stride;
      float* out = task.gradient + static_cast<int64_t>(panel) * kPanel;
#pragma GCC unroll 16
      for (int h = 0; h < H; h++) {
        store(out + h * width, acc[h][0]);
        store(out + h * width + kLanes, acc[h][1]);
        dots[h] += acc[h][0] * load(weights + h * stride);
        dots[h] += acc[h][1] * load(weights + h * stride + kLanes);
      }
    }
    for (int h = 0; h < H; h++) task.dots[h] = sum(dots[h]);
  }
};

// Class tile outside, row panel inside: the tile's class rows stay in the first-level cache.
template <template <int> class Tile>
MARGINFC_INLINE void over_panels(const NegativesTask& task) {
  for_tiles(task.classes, [&](int32_t first, int32_t height) {
    const auto tile = tile_function<NegativesTask, Tile>(height);
    for (int32_t panel = 0; panel < task.panels; panel++) tile(task, first, panel);
  });
}

void negatives(const NegativesTask& task) {
  for (int64_t i = 0; i < static_cast<int64_t>(task.panels) * kPanel; i++) task.sums[i] = 0;
  over_panels<NegativesTile>(task);
}

void products(const NegativesTask& task) { over_panels<ProductsTile>(task); }

// Column panel outside, so that its part of the class block stays close while all rows pass.
void feature_gradient(const FeatureGradientTask& task) {
  for (int32_t panel = 0; panel * kPanel < task.dim; panel++)
    for_tiles(task.rows, [&](int32_t first, int32_t height) {
      tile_function<FeatureGradientTask, FeatureGradientTile>(height)(task, first, panel);
    });
}

void weight_gradient(const WeightGradientTask& task) {
  tile_function<WeightGradientTask, WeightGradientTile>(task.classes)(task, 0, 0);
}

void square_norms(const float* weights, int64_t stride, int32_t classes, int32_t dim, float* norms) {
  for (int32_t c = 0; c < classes; c++) {
    const float* row = weights + c * stride;
    Vector part[4] = {};
    int32_t d = 0;
    for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
#pragma GCC unroll 4
      for (int u = 0; u < 4; u++) {
        const Vector x = load(row + d + u * kLanes);
        part[u] += x * x;
      }
    for (; d + kLanes <= dim; d += kLanes) {
      const Vector x = load(row + d);
      part[0] += x * x;
    }
    float total = sum((part[0] + part[1]) + (part[2] + part[3]));
    for (; d < dim; d++) total += row[d] * row[d];
    norms[c] = total;
  }
}

void widen_add(const float* from, int64_t count, double* to) {
  for (int64_t i = 0; i < count; i++) to[i] += from[i];
}

// Calls vector_step(d) for whole vectors of columns and scalar_step(d) for the rest. Both read and write column
// d (and the vector's others) of the same rows.
template <typename Step>
MARGINFC_INLINE void for_columns(int32_t dim, const Step& step) {
  int32_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) step(d, Vector{});
  for (; d < dim; d++) step(d, 0.0f);
}
// The same expression for a vector or a float of columns, picked by the tag for_columns passes.
MARGINFC_INLINE Vector get(const float* p, Vector) { return load(p); }
MARGINFC_INLINE float get(const float* p, float) { return *p; }
MARGINFC_INLINE void put(float* p, Vector v) { store(p, v); }
MARGINFC_INLINE void put(float* p, float v) { *p = v; }
MARGINFC_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
MARGINFC_INLINE Vector square_root(Vector x) {
  Vector root;
  for (int l = 0; l < kLanes; l++) root[l] = __builtin_sqrtf(x[l]);
  return root;
}

template <typename Lane>
MARGINFC_INLINE Lane gradient(const GradientRow& row, int32_t d, Lane lane) {
  Lane g = row.unscale * (get(row.raw + d, lane) - row.beta * get(row.unit + d, lane)) * row.inverse;
  if (row.target) g += get(row.target + d, lane);
  return g;
}

void write_row(const GradientRow& row, float* destination, bool streaming) {
  const bool aligned = reinterpret_cast<uintptr_t>(destination) % sizeof(Vector) == 0;
  if (streaming && aligned) {
    int32_t d = 0;
    for (; d + kLanes <= row.dim; d += kLanes) stream(destination + d, gradient(row, d, Vector{}));
    for (; d < row.dim; d++) destination[d] = gradient(row, d, 0.0f);
    return;
  }
  for_columns(row.dim, [&](int32_t d, auto lane) { put(destination + d, gradient(row, d, lane)); });
}

void add_row(const GradientRow& row, float* destination) {
  for_columns(row.dim,
              [&](int32_t d, auto lane) { put(destination + d, get(destination + d, lane) + gradient(row, d, lane)); });
}

// torch.optim.SGD: g += decay * w; v = momentum * v + g; w -= lr * (nesterov ? g + momentum * v : v). v starts at
// 0, which makes the first v = g as PyTorch's does.
void sgd_row(const GradientRow& row, const SgdStep& step, float* weights, float* momentum) {
  for_columns(row.dim, [&](int32_t d, auto lane) {
    const auto w = get(weights + d, lane);
    auto g = gradient(row, d, lane) + step.weight_decay * w;
    if (momentum) {
      const auto v = step.momentum * get(momentum + d, lane) + g;
      put(momentum + d, v);
      g = step.nesterov ? g + step.momentum * v : v;
    }
    put(weights + d, w - step.learning_rate * g);
  });
}

// torch.optim.AdamW: w *= 1 - lr * decay; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
// w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).
void adamw_row(const GradientRow& row, const AdamwStep& step, float* weights, float* mean, float* variance) {
  for_columns(row.dim, [&](int32_t d, auto lane) {
    const auto g = gradient(row, d, lane);
    const auto old = get(mean + d, lane);
    const auto m = old + (1.0f - step.beta1) * (g - old);
    const auto v = step.beta2 * get(variance + d, lane) + (1.0f - step.beta2) * (g * g);
    put(mean + d, m);
    put(variance + d, v);
    const auto w = get(weights + d, lane) * step.decay;
    put(weights + d, w - step.step_size * m / (square_root(v) * step.root_correction + step.epsilon));
  });
}

void fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

constexpr Kernels kTable = {
    MARGINFC_ISA_NAME, kPanel,          kHeight,   square_norms, negatives, products,  feature_gradient,
    widen_add,         weight_gradient, write_row, add_row,      sgd_row,   adamw_row, fence,
};

}  // namespace

const Kernels* MARGINFC_ISA_TABLE() { return &kTable; }

}  // namespace marginfc
