// The inner loops, one table of functions per instruction set. cpu/kernels.cc is compiled once for each and
// exports nothing but its table; which one runs is decided by cpu/dispatch.cc.
//
// All three products are one micro-kernel: acc[h][0..1] += a[h, k] * b[k], with `a` broadcast and `b` two
// vectors. Only the operands and the epilogue differ:
//
//   product          h        k        b, two vectors of   epilogue
//   negatives        classes  d        batch rows          exp, mask own class, row sums, store E
//   feature gradient rows     classes  d                   add to the chunk's accumulators
//   weight gradient  classes  rows     d                   store, dot with the class row
//
// Lanes of the first product are batch rows, so W is read as it is, never packed or transposed, and row sums
// need no shuffles. `panel` = two vectors; packed arrays come in panels of that many words. No function
// allocates, locks or throws; results depend on the arguments alone.
//
// Operands are made of words of 4 bytes, typed float: a float32, or in a table with `pairs` two bfloat16 that are
// neighbours in k, the even one in the low half, with a zero behind an odd last one. Sums are float32 in both. Operands that
// kernels make for each other (class rows in pairs, E in pairs of classes) lie as the table likes.
#pragma once

#include <cstdint>

#include "engine/arccos.h"
#include "engine/exponent_quadratic.h"
#include "engine/optimizer_step.h"

namespace marginfc {

// Squares of norms between which they are exact enough in float32 and leave exp(z) / |w| far from its ends: e^64 * 1e6 and
// e^-64 / 1e6 are both normal numbers.
constexpr float kShortestSquare = 1e-12f;
constexpr float kLongestSquare = 1e12f;

// Negatives above a threshold that are counted at least.
constexpr float kCountedAbove = 5;

// Rows whose E is made and used while a class block is in the cache.
constexpr int64_t kRowBlock = 128;

// What becomes of exponents before 2 is raised to them, and what E is multiplied with.
struct ExponentTransform {
  ExponentQuadratic below, above;  // where x <= threshold, and elsewhere
  const float* threshold;          // [panels * panel], log2 units
  // [panels * panel]: raised to the block's largest transformed exponent over negatives; null when not asked for.
  float* largest;
  // [panels * panel]: sum and number of exponents over negatives above the threshold are added here; null when not asked for.
  float* hard_sum;
  float* hard_count;
};

// What becomes of exponents x, log2 units, where each has a binary cross-entropy of its own: with h = half_unit x + 1 / 2
//
//   z = factor h^power + constant, and where power is 1 z = x + constant;   dz/dx = slope_factor h^(power - 1) + slope_constant
struct BinaryElements {
  int32_t power;  // >= 1
  float half_unit;
  float factor;
  float constant;
  float slope_factor;
  float slope_constant;
  // [panels * panel], over negatives are added here: the part of the losses in log2 units that `sums` has not, and the sum of
  // sigmoids.
  float* excess;
  float* slopes;
};

// Class rows that operands are to be made of.
struct UnmadeOperands {
  const float* rows;  // [classes, dim]
  int32_t dim;
  // As of pair_classes and inverse_norms.
  float *product, *gradient;
  float* inverse_norm;
};

struct NegativesTask {
  // Packed s * log2(e) * xh in words: [panels, depth, panel]; the pad rows of the last panel are 0.
  const float* features;
  // Class rows in words, `stride` apart; depth of each are read: dim, or half of it, rounded up to a step.
  const float* weights;
  int64_t stride;
  int32_t depth;
  // What `weights` and `inverse_norm` are made of on the way, tile by tile, only if is_short(); no rows where they are made already.
  UnmadeOperands unmade;
  // Class rows to be fetched with the same rows of `weights`, `next_row_bytes` each; null for none.
  const void* next_weights;
  int64_t next_row_bytes;
  int32_t classes;
  int32_t begin;  // classes before this one are left out
  int32_t rows;
  int32_t panels;  // of rows
  // [classes], multiplies a class's products: log2 of exp(s * cos) = product * inverse_norm.
  const float* inverse_norm;
  // [panels * panel], own class of each row in the numbering in which this block starts at first_class.
  const int32_t* labels;
  int32_t first_class;
  // [panels * panel], log2 units, subtracted from every exponent; null for 0.
  const float* offset;
  // E: class c, row i at element c * row_stride + i, = exp2(exponent - offset) * inverse_norm, 0 for the row's own
  // class. Elements are float32, rounded to bfloat16 with `round`; with pairs they are bfloat16 and rows are
  // the pairs of the weight gradient. Null where only sums are wanted.
  float* exponentials;
  int64_t row_stride;
  bool round;
  // With pairs also E for the feature gradient, at most kRowBlock rows; nullable, and null without `exponentials`.
  float* paired;
  // [panels * panel]: sums over classes of exp2(exponent - offset) are added here.
  float* sums;
  // [panels * panel]: raised to the block's largest exponent over negatives; null when not asked for.
  float* hardest;
  // [panels * panel], only with `hardest`: `above` gets the number of exponents over negatives that are above `threshold`
  // added. Once it is kCountedAbove the threshold rises to infinity, so that counting ends. Null when not asked for.
  float* threshold;
  float* above;
  ExponentTransform transform;  // of transformed_negatives only
  BinaryElements binary;        // of binary_negatives only
  // Rows of a class. Where there are several, `classes` counts rows, `labels` and `first_class` count classes, the exponent of a
  // class is the largest of its rows' (of equal ones the first row's), that row's E has what a class's would, and E of the others
  // is 0.
  int32_t sub_centers;
  // Room for the exponents of several, [classes, product_stride].
  float* products;
  int64_t product_stride;
};

struct FeatureGradientTask {
  const float* exponentials;  // [depth, row_stride], rows from the task's first; with pairs what `paired` was
  int64_t row_stride;
  const float* weights;  // [depth, stride]; with pairs what pair_classes made
  int64_t stride;
  const float*
      tail;  // words [depth, panel]: columns from the last full panel on, zero padded; null if `weights` has them
  int32_t dim;
  int32_t depth;  // classes, or pairs of them rounded up
  int32_t rows;
  // accumulators[(p * accumulator_rows + i) * panel + l] = sum over classes of E * W, column p * panel + l; with `add`,
  // += that.
  float* accumulators;
  int64_t accumulator_rows;
  bool add;
};

struct WeightGradientTask {
  const float* exponentials;  // words [classes, row_stride], all rows of the batch
  int64_t row_stride;
  const float* features;  // packed kappa * xh in words: [ceil(dim / panel), depth, panel], pad columns 0
  int32_t depth;          // rows of the batch, or pairs of them rounded up to a step
  const float* weights;   // float32 [classes, stride]
  int64_t stride;
  int32_t dim;
  int32_t classes;  // <= weight_classes of the table
  float* gradient;  // [classes, ceil(dim / panel) * panel] out: sum over rows of E * kappa * xh
  // To be fetched on the way: what the rows are written to or added to, and the operands of the classes behind; null for
  // none.
  const float* destination;
  const float* next_exponentials;
  const void* next_weights;
  int64_t next_row_bytes;
  float* dots;  // [classes rounded up to 4] out: gradient row . class row
};

// One class's finished gradient g = unscale * (raw - beta * unit) * inverse + target, and what is done with it.
struct GradientRow {
  const float* raw;   // [dim]
  const float* unit;  // [dim]
  float beta;
  float unscale;        // a power of two
  float inverse;        // apart from unscale: their product may be too small for a float
  const float* target;  // [dim], terms of rows that own the class; nullable
  int32_t dim;
};

// What the random numbers of stochastic rounding follow from, besides the column.
struct RoundingDraw {
  uint64_t seed;
  uint32_t step;   // number of the update
  uint32_t index;  // class of the whole head
};

struct Kernels {
  const char* isa;
  bool pairs;
  int panel;
  int step;          // words of k that a product takes at a time: operands have zeros up to a multiple of it
  int tile_classes;  // height of a weight gradient tile
  // Most classes of a WeightGradientTask. More than a tile of them share what they read of the features, which pays where
  // these are too many for the second-level cache.
  int weight_classes;
  int block_classes;  // most classes of a block: their operands stay in the second-level cache

  // Whether products can make the operands of rows of so many columns on the way: those of two tiles are in the first-level cache
  // together.
  bool (*is_short)(int32_t dim);
  // 16-bit floats, bfloat16 or float16, to float32; and float32 rounded to the nearest of them.
  void (*widen)(const uint16_t* from, int64_t count, bool float16, float* to);
  void (*round)(const float* from, int64_t count, bool float16, float* to);
  // float32 as the nearest bfloat16, `to` may be where `from` is; and as one of the two around it, so that the mean is the
  // float32: see cpu/stochastic_rounding.h.
  void (*narrow)(const float* from, int64_t count, uint16_t* to);
  void (*round_stochastically)(const float* from, int32_t first, int32_t count, const RoundingDraw& draw, uint16_t* to);
  // Of one row in float64: a . b, |a_scale * a - b_scale * b|, scale * from, and to += a_scale * a + b_scale * b.
  double (*exact_dot)(const float* a, const float* b, int32_t count);
  double (*exact_product)(const double* a, const float* b, int32_t count);
  double (*exact_distance)(const float* a, double a_scale, const float* b, double b_scale, int32_t count);
  void (*exact_scale)(const float* from, double scale, int32_t count, float* to);
  void (*exact_add)(const float* a, double a_scale, const float* b, double b_scale, int32_t count, double* to);
  // With pairs: class rows [classes, dim] as operands of the first product and of the feature gradient (nullable). With
  // `inverse_norm` (nullable) inverse_norms() on the way, and its answer; else true. Null without pairs.
  bool (*pair_classes)(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                       float* inverse_norm);
  // With pairs: NegativesTask's `paired` from its `exponentials`; row_stride in elements.
  void (*pair_exponentials)(const float* exponentials, int64_t row_stride, int32_t classes, int32_t rows,
                            float* paired);
  // tails [classes, panel]: the columns of `rows` [classes, dim] behind their last full panel, then zeros.
  void (*copy_tails)(const float* rows, int32_t classes, int32_t dim, float* tails);
  // masses[c] = sum over rows of kappa[i] * |E[c, i]|; E as NegativesTask leaves it, row_stride in elements.
  void (*masses)(const float* exponentials, int64_t row_stride, int32_t classes, int32_t rows, const float* kappa,
                 float* masses);
  // inverse_norm[c] = 1 / |class row c| of rows [classes, dim]. False if the square of a norm is not between kShortestSquare and
  // kLongestSquare, a NaN included.
  bool (*inverse_norms)(const float* weights, int32_t classes, int32_t dim, float* inverse_norm);
  // Returns `classes`, or if a norm is not ordinary as of inverse_norms(), a class before it: that one and those behind are left
  // out then, with operands unmade.
  int32_t (*negatives)(const NegativesTask& task);
  // The same with `transform`: E = exp2(G(exponent) - offset) * G'(exponent) * inverse_norm, sums without the two factors.
  int32_t (*transformed_negatives)(const NegativesTask& task);
  // The same with `binary`: E = sigmoid(z) * dz/dx * inverse_norm, `sums` the product over negatives of 1 + 2^-|z|, less 1, and
  // without the powers of 2 that `excess` has; it goes on with what is there. No offset.
  int32_t (*binary_negatives)(const NegativesTask& task);
  // The same loop without exp: cosines of all classes times the features' scale go to `exponentials`, in float32 always, own
  // class included; sums and labels are not used.
  int32_t (*products)(const NegativesTask& task);
  // After `products` of unscaled features: E becomes inverse_norm / sin(theta) instead of the cosine, 0 for a row's own class, and
  // the block's sums of theta over the others are added to `sums`.
  void (*angles)(const NegativesTask& task);
  void (*feature_gradient)(const FeatureGradientTask& task);
  // to[i] += from[i]
  void (*widen_add)(const float* from, int64_t count, double* to);
  void (*weight_gradient)(const WeightGradientTask& task);

  // Sum of squares of a class's finished gradient.
  double (*gradient_square)(const GradientRow& row);
  // `streaming`: the row is not read again soon; goes round the caches where aligned.
  void (*write_row)(const GradientRow& row, float* destination, bool streaming);
  void (*add_row)(const GradientRow& row, float* destination);
  void (*sgd_row)(const GradientRow& row, const SgdStep& step, float* weights, float* momentum);
  void (*adamw_row)(const GradientRow& row, const AdamwStep& step, float* weights, float* mean, float* variance);
  // Orders streaming stores before what follows.
  void (*fence)();
  // The products' multiply-adds on registers alone, `rounds` times a tile of them; returns the floating-point
  // operations done. `sums` [panel / 2] out: their sum, so that none can be left out.
  int64_t (*multiply_adds)(int64_t rounds, float* sums);
  // Of a matrix of logits in memory, [classes, stride], for cpu/unfused.cc; see cpu/unfused_passes.h.
  void (*unfused_maxima)(const float* z, int64_t stride, int32_t classes, int32_t lanes, float* largest);
  void (*unfused_exponentials)(float* z, int64_t stride, int32_t classes, int32_t lanes, const float* largest,
                               float* sums);
  void (*unfused_scale)(float* z, int64_t stride, int32_t classes, int32_t lanes, const float* factors);
};

// Words of an operand of so many elements in k.
inline int64_t operand_words(const Kernels& kernels, int64_t elements) {
  const int64_t words = kernels.pairs ? (elements + 1) / 2 : elements;
  return (words + kernels.step - 1) / kernels.step * kernels.step;
}

// Each in builds for its architecture only; see cpu/dispatch.cc.
const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512bf16_kernels();
const Kernels* amx_kernels();
const Kernels* neon_kernels();

// What this process uses.
struct KernelChoice {
  const Kernels* plain = nullptr;   // float32, and 16-bit operands by rounding; null when MARGINFC_ISA cannot be had
  const Kernels* paired = nullptr;  // bfloat16 operands in hardware; null where there is none
  const char* why = nullptr;        // when plain is null
  const char* name = nullptr;       // of the instruction set
};

// The best the CPU has, or what MARGINFC_ISA names.
KernelChoice choose_kernels();

}  // namespace marginfc
