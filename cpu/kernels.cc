// The kernels of one instruction set; see kernels.h. Compiled once per set with the compiler's flags for it and
// MARGINFC_ISA_NAME / MARGINFC_ISA_TABLE set. Everything but the table is in an anonymous namespace and no
// standard library template is used: a weak symbol compiled here for a new CPU could be the one the linker
// keeps for an old one.
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace marginfc {
namespace {

#if defined(__AMX_BF16__)
constexpr int kLanes = 16, kHeight = 32;  // two tile registers of 16 rows
#elif defined(__AVX512F__)
constexpr int kLanes = 16, kHeight = 14;  // 32 registers: 28 accumulators, two vectors, two broadcasts
#elif defined(__AVX__)
constexpr int kLanes = 8, kHeight = 6;  // 16 registers: 12, 2, 2
#elif defined(__aarch64__)
constexpr int kLanes = 4, kHeight = 12;  // 32 registers: 24, 2, and 6 for words that multiply as lanes
#else
constexpr int kLanes = 4, kHeight = 6;
#endif
constexpr int kPanel = 2 * kLanes;
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
#else
constexpr bool kPairs = false;
#endif
#if defined(__AMX_BF16__)
constexpr int kStep = 16, kBlockClasses = 256, kWeightTiles = 1;
constexpr bool kTransposesPairs = true;  // E for the feature gradient is made of whole tiles
#else
// 112 rows of 512 floats and the features of a row block share a second-level cache of 1 MiB; so do half as many rows of E
// and dW, and a panel of the weighted features of 1024 rows.
constexpr int kStep = 1, kBlockClasses = 112 / kHeight * kHeight, kWeightTiles = 56 / kHeight;
constexpr bool kTransposesPairs = false;
#endif

// Rows of two tiles (14 KiB) and the features of 64 rows share a first-level cache of 48 KiB; the loop that makes operands of a
// tile is there for AVX-512.
#if defined(__AVX512F__) && !defined(__AMX_BF16__)
constexpr int kShortRow = 128;
#else
constexpr int kShortRow = 0;
#endif

#define MARGINFC_INLINE inline __attribute__((always_inline))
#include "cpu/half.h"
#include "cpu/vector.h"
// These need what is above.
#include "cpu/epilogues.h"
#include "cpu/exact_rows.h"
#include "cpu/row_pointers.h"
#include "cpu/stochastic_rounding.h"
#include "cpu/unfused_passes.h"
// After row_pointers.h, and norms.h after it.
#include "cpu/short_rows.h"
// Before the products.
#include "cpu/norms.h"
// After the epilogues.
#include "cpu/binary_losses.h"
#if defined(__AMX_BF16__)
#include "cpu/amx_products.h"
#else
#include "cpu/class_operands.h"
#include "cpu/products.h"
#endif
#include "cpu/sub_centers.h"

void masses(const float* exponentials, int64_t row_stride, int32_t classes, int32_t rows, const float* kappa,
            float* masses) {
  for (int32_t c = 0; c < classes; c++) {
    // Lane by lane: sums of a vector's width, added at the end.
    Vector total{};
    int32_t i = 0;
    float rest;
    if constexpr (kPairs) {
      const auto* e = reinterpret_cast<const uint16_t*>(exponentials) + c * row_stride;
      for (; i + kLanes <= rows; i += kLanes) total += load(kappa + i) * absolute(load_halves(e + i));
      rest = sum(total);
      for (; i < rows; i++) rest += kappa[i] * __builtin_fabsf(from_bfloat16(e[i]));
    } else {
      const float* e = exponentials + c * row_stride;
      for (; i + kLanes <= rows; i += kLanes) total += load(kappa + i) * absolute(load(e + i));
      rest = sum(total);
      for (; i < rows; i++) rest += kappa[i] * __builtin_fabsf(e[i]);
    }
    masses[c] = rest;
  }
}

void copy_tails(const float* rows, int32_t classes, int32_t dim, float* tails) {
  const int32_t width = dim % kPanel;
  const float* from = rows + dim - width;
  for (int32_t c = 0; c < classes; c++, from += dim, tails += kPanel) {
    store(tails, load_first(from, width));
    store(tails + kLanes, load_first(from + kLanes, width - kLanes));
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

// Of a copy of the row that stores cannot change, so that its numbers stay in registers.
template <typename Lane>
MARGINFC_INLINE Lane gradient(const GradientRow& row, int32_t d, Lane lane) {
  Lane g = row.unscale * (get(row.raw + d, lane) - row.beta * get(row.unit + d, lane)) * row.inverse;
  if (row.target) g += get(row.target + d, lane);
  return g;
}

double gradient_square(const GradientRow& row) {
  // Squares of float32 leave its range, those of float64 do not.
  Wide low{}, high{};
  int32_t d = 0;
  for (; d + kLanes <= row.dim; d += kLanes) {
    float lanes[kLanes];
    store(lanes, gradient(row, d, Vector{}));
    const Wide first = load_wide(lanes), second = load_wide(lanes + kWideLanes);
    low += first * first;
    high += second * second;
  }
  double total = sum(low + high);
  for (; d < row.dim; d++) {
    const double g = gradient(row, d, 0.0f);
    total += g * g;
  }
  return total;
}

void write_row(const GradientRow& given, float* destination, bool streaming) {
  const GradientRow row = given;
  if (!streaming) {
    for_columns(row.dim, [&](int32_t d, auto lane) { put(destination + d, gradient(row, d, lane)); });
    return;
  }
  int32_t d = 0;
  for (; d < row.dim && reinterpret_cast<uintptr_t>(destination + d) % sizeof(Vector) != 0; d++)
    destination[d] = gradient(row, d, 0.0f);
  for (; d + kLanes <= row.dim; d += kLanes) stream(destination + d, gradient(row, d, Vector{}));
  for (; d < row.dim; d++) destination[d] = gradient(row, d, 0.0f);
}

void add_row(const GradientRow& given, float* destination) {
  const GradientRow row = given;
  for_columns(row.dim,
              [&](int32_t d, auto lane) { put(destination + d, get(destination + d, lane) + gradient(row, d, lane)); });
}

// torch.optim.SGD: g += decay * w; v = momentum * v + g; w -= lr * (nesterov ? g + momentum * v : v). v starts at
// 0, which makes the first v = g as PyTorch's does.
void sgd_row(const GradientRow& given, const SgdStep& step, float* weights, float* momentum) {
  const GradientRow row = given;
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
void adamw_row(const GradientRow& given, const AdamwStep& step, float* weights, float* mean, float* variance) {
  const GradientRow row = given;
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

#include "cpu/angles.h"
#include "cpu/peak_loop.h"

constexpr Kernels kTable = {
    MARGINFC_ISA_NAME,
    kPairs,
    kPanel,
    kStep,
    kHeight,
    kWeightTiles* kHeight,
    kBlockClasses,
    is_short,
    widen,
    round,
    narrow,
    round_stochastically,
    exact_dot,
    exact_product,
    exact_distance,
    exact_scale,
    exact_add,
    pair_classes,
    pair_exponentials,
    copy_tails,
    masses,
    inverse_norms,
    of_any_rows<SameExponents, negatives>,
    of_any_rows<TransformedExponents, transformed_negatives>,
    of_any_rows<BinaryExponents, binary_negatives>,
    products,
    angles,
    feature_gradient,
    widen_add,
    weight_gradient,
    gradient_square,
    write_row,
    add_row,
    sgd_row,
    adamw_row,
    fence,
    multiply_adds,
    unfused_maxima,
    unfused_exponentials,
    unfused_scale,
};

}  // namespace

const Kernels* MARGINFC_ISA_TABLE() { return &kTable; }

}  // namespace marginfc
