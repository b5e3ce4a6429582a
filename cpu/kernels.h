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
// need no shuffles. `panel` = two vectors; packed arrays come in panels of that many floats. No function
// allocates, locks or throws; results depend on the arguments alone.
#pragma once

#include <cstdint>

namespace marginfc {

struct NegativesTask {
  // Packed s * log2(e) * xh: [panels, dim, panel]; the pad rows of the last panel are 0.
  const float* features;
  // Class rows, `stride` floats apart; dim of each are read.
  const float* weights;
  int64_t stride;
  // The class rows that come after these, to be fetched on the way; null for none.
  const float* next_weights;
  int32_t dim;
  int32_t classes;
  int32_t panels;
  // [classes], multiplies a class's products: log2 of exp(s * cos) = product * inverse_norm.
  const float* inverse_norm;
  // [panels * panel], own class of each row in the numbering in which this block starts at first_class.
  const int32_t* labels;
  int32_t first_class;
  // [panels * panel], log2 units, subtracted from every exponent; null for 0.
  const float* offset;
  // E: class c, row i at exponentials[c * row_stride + i], = exp2(exponent - offset) * inverse_norm, 0 for the
  // row's own class.
  float* exponentials;
  int64_t row_stride;
  // [panels * panel]: the block's sums over classes of exp2(exponent - offset) are written here.
  float* sums;
  // [panels * panel]: raised to the block's largest exponent over negatives; null when not asked for.
  float* hardest;
};

struct FeatureGradientTask {
  const float* exponentials;  // as above; rows from the task's first
  int64_t row_stride;
  const float* weights;  // [classes, stride]
  int64_t stride;
  const float* tail;  // [classes, panel]: columns from the last full panel on, zero padded; null if dim is a multiple
  int32_t dim;
  int32_t classes;
  int32_t rows;
  // accumulators[(p * accumulator_rows + i) * panel + l] += sum over classes of E * W, column p * panel + l
  float* accumulators;
  int64_t accumulator_rows;
};

struct WeightGradientTask {
  const float* exponentials;  // [classes, row_stride], all rows of the batch
  int64_t row_stride;
  const float* features;  // packed kappa * xh: [ceil(dim / panel), rows, panel], pad columns 0
  int32_t rows;
  const float* weights;  // [classes, stride]
  int64_t stride;
  const float* tail;  // as above
  int32_t dim;
  int32_t classes;                 // <= tile height
  float* gradient;                 // [classes, ceil(dim / panel) * panel] out: sum over rows of E * kappa * xh
  const float* next_exponentials;  // the next tile's, to be fetched on the way; null for none
  const float* next_weights;
  float* dots;  // [classes] out: gradient row . class row
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

struct SgdStep {
  float learning_rate;
  float momentum;
  float weight_decay;
  bool nesterov;
};

struct AdamwStep {
  float step_size;  // learning rate / (1 - beta1^t)
  float beta1;
  float beta2;
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
  float decay;  // 1 - learning rate * weight decay
};

struct Kernels {
  const char* isa;
  int panel;
  int tile_classes;  // height of a weight gradient tile

  // norms[c] = sum of squares of class row c.
  void (*square_norms)(const float* weights, int64_t stride, int32_t classes, int32_t dim, float* norms);
  void (*negatives)(const NegativesTask& task);
  // The same loop without exp: cosines of all classes times the features' scale go to `exponentials`, own class
  // included; sums and labels are not used.
  void (*products)(const NegativesTask& task);
  void (*feature_gradient)(const FeatureGradientTask& task);
  // to[i] += from[i]
  void (*widen_add)(const float* from, int64_t count, double* to);
  void (*weight_gradient)(const WeightGradientTask& task);

  // `streaming`: the row is not read again soon; goes round the caches where aligned.
  void (*write_row)(const GradientRow& row, float* destination, bool streaming);
  void (*add_row)(const GradientRow& row, float* destination);
  void (*sgd_row)(const GradientRow& row, const SgdStep& step, float* weights, float* momentum);
  void (*adamw_row)(const GradientRow& row, const AdamwStep& step, float* weights, float* mean, float* variance);
  // Orders streaming stores before what follows.
  void (*fence)();
};

// Null when the instruction set is not in this build.
const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

// The kernels this process uses: the best the CPU has, or MARGINFC_ISA. When MARGINFC_ISA names one that this
// CPU or build lacks, null, with the reason in `why`.
const Kernels* choose_kernels(const char** why);

}  // namespace marginfc
