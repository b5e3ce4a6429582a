// What the host hands to each kernel: plain structs, passed by value as a kernel's only argument, and the layouts and
// constants both sides rely on. Included by the engine (C++) and by kernels/ (CUDA); includes no CUDA header.
//
// Notation: B rows of the batch, C classes of the shard, D floats a row. The products run on padded 16-bit copies of
// unit rows, so that their loads need no predicates:
//
//   padded_rows(n)   n rounded up to 128, the side of a tile
//   padded_depth(D)  D rounded up to 32, the depth of a stage; the row stride of every operand below
//   padded_width(D)  D rounded up to 128; the row stride of float32 products [.., D]
//
// Operands are float16 or bfloat16. On the float32 path a number v is the sum of two float16 numbers, high =
// float16(v) and low = float16(v - high); the low halves form a second array of the same layout, `low` elements behind
// the first. Rows added by padding are copies of a real row (a kernel that forgot to mask them would be visibly wrong),
// columns added by padding are zero. Behind each operand lie kOperandSlack more elements that may be read and are never
// used.
#pragma once

#include <stdint.h>

#include "cuda/sub_center_slots.h"
#include "engine/exponent_quadratic.h"
#include "engine/margin.h"
#include "engine/optimizer_step.h"
#include "engine/triplet.h"

namespace marginfc {

constexpr int kTileSide = 128;      // rows and classes of a block's tile
constexpr int kStageDepth = 32;     // of the products' inner dimension
constexpr int kOperandSlack = 256;  // elements
constexpr double kLog2E = 1.4426950408889634;
// Up to this s exponents need no offset; above it operands are scaled as if s were this.
constexpr double kMostPlainScale = 64;
// P = exp(z - offset) / S * 2^kProbabilityExponent, S the row's sum over the shard's negatives.
constexpr int kProbabilityExponent = 15;
// Unit features in dW's operand carry 2^kWeightedExponent, float32-path weights 2^kWeightExponent: then the low halves
// are normal float16 numbers. The float32 path's features are divided by the latter, so that x . w = z log2 e.
constexpr int kWeightedExponent = 10;
constexpr int kWeightExponent = 4;

inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }
inline int64_t padded_rows(int64_t rows) { return round_up(rows, kTileSide); }
inline int64_t padded_depth(int64_t dim) { return round_up(dim, kStageDepth); }
inline int64_t padded_width(int64_t dim) { return round_up(dim, kTileSide); }

// A 16-bit operand, [rows, stride]; see above.
struct Operand {
  const uint16_t* values;
  int64_t low;     // elements from the high to the low halves; float32 path only
  int32_t stride;  // elements from row to row
};

// --- tile kernels: kernels/negatives.cu, probabilities.cu, products.cu ------------------------------------------------
// Each exists per operand type T in {float16, bfloat16, float32} (float32: two float16 halves). Threads a block: the
// module's variable tile_threads_T (int32); dynamic shared memory: tile_bytes_T (int32); both depend on the architecture.

constexpr int32_t kMostCounted = 8;

// G of accumulators, by a row's threshold: exponent = the quadratic's value, and the gradient's factor its slope.
struct AccumulatorTransform {
  ExponentQuadratic below, above;  // where accumulator <= threshold, and elsewhere
};

// z of a BinaryReduction (engine/engine.h) in log2 units, of accumulators s: with r = s * root_unit + root_zero, a multiple of
// (c + 1) / 2, z = r^(exponent + 1) + constant, and the gradient's factor is r^exponent * slope_factor + slope_constant. With
// exponent 0 root_zero is 0.
constexpr int kMostBinaryExponent = 15;
struct AccumulatorBinary {
  float root_unit, root_zero, constant;
  int32_t exponent;  // power - 1
  float slope_factor, slope_constant;
};

// negatives_T, negatives_hardest_T, negatives_above_T, negatives_binary_T, negatives_shifted_T, negatives_transformed_T,
// negatives_transformed_hard_T, negatives_angles_float32: sums over classes of exp2(exponent), of binary log2(1 + 2^z), of
// angles arccos(accumulator * factor), without the row's own. Grid: x = splits (ceil(tiles / tiles_per_split)), y = padded
// rows / 128. Partial sums leave as [2 * splits, padded rows]: two halves of every tile; each entry is written once.
struct NegativesParameters {
  // [padded rows, padded depth], x / |x| * min(s, 64) * log2 e, of angles x / |x| / factor (/ 2^4 on the float32 path)
  Operand features;
  Operand weights;        // [padded classes, padded depth], w / |w| (* 2^4 on the float32 path)
  const int32_t* labels;  // [padded rows], the row's own class counted from the shard's first, -1 for none
  const float* offset;    // [padded rows], shifted and transformed: subtracted from the exponent, in log2 units
  // shifted: exponent = accumulator * factor - offset, factor = s / min(s, 64); angles: cosine = accumulator * factor
  float factor;
  float* sums;  // [2 * splits, padded rows]
  // [2 * splits, padded rows], largest accumulator over negatives, -inf if none; hardest, above, binary and transformed
  float* hardest;
  const float* threshold;  // [padded rows]; above and transformed
  // [2 * splits, padded rows], negatives whose accumulator is larger than the threshold; above and transformed_hard. Of
  // above kMostCounted or more may be any such number.
  int32_t* above;
  float* hard;    // [2 * splits, padded rows], sum of those negatives' accumulators; transformed_hard
  float* slopes;  // [2 * splits, padded rows], sum of sigmoid(z); binary
  int32_t padded_rows;
  int32_t classes;          // C
  int32_t steps;            // padded depth / 32
  int32_t tiles_per_split;  // tiles of 128 classes
  AccumulatorTransform transform;
  AccumulatorBinary binary;
  SubCenterColumns sub_centers;  // sub_centers
};

// probabilities_T, probabilities_transformed_T, probabilities_binary_T, probabilities_angles_float32: P for a chunk of classes.
// Grid: x = splits over the chunk's tiles, y = padded rows / 128. P[i, j] = exp2(accumulator * factor - shift[i]), transformed:
// exp2(value - shift[i]) * slope of the accumulator, binary: sigmoid(z) * the gradient's factor / exp2(shift[i]), angles:
// 1 / max(sin, kLeastSine) / exp2(shift[i]); 0 for the row's own class and for padding.
struct ProbabilitiesParameters {
  Operand features;       // as above
  Operand weights;        // of the chunk's first class
  const int32_t* labels;  // [padded rows], the row's own class counted from the shard's first, -1 for none
  // [padded rows], log2 S + offset - 15, S of binary the sum of slopes; +inf where P must be 0 (padding, S = 0)
  const float* shift;
  float factor;
  uint16_t* probabilities;  // [padded rows, stride]; low halves `low` elements behind
  int64_t low;
  int32_t stride;       // padded classes of a whole chunk
  int32_t first_class;  // of this chunk, counted from the shard's first
  int32_t classes;      // of this chunk
  int32_t steps;
  int32_t tiles_per_split;
  const float* threshold;  // [padded rows]; transformed
  AccumulatorTransform transform;
  AccumulatorBinary binary;
  SubCenterColumns sub_centers;  // sub_centers
};

// With _sub_centers before _T (all but negatives_T): of classes of several rows. Then what is [classes] above and in the
// products below is of slots, first_class too, and labels are places of classes; of each class only its largest row counts,
// and all rows of a row's own class are masked.

// features_product_T (dX): out[split] = P . W over the split's classes, [padded rows, width] float32.
// Grid: x = width / 128, y = padded rows / 128, z = splits.
// weights_product_T (dW): out = P^T . V over all rows of the batch, [padded classes of the chunk, width] float32.
// Grid: x = width / 128, y = tiles of the chunk, z = 1.
struct ProductParameters {
  Operand left;   // P; features_product: [padded rows, classes], weights_product: read by columns
  Operand right;  // W of the chunk's first class, or the weighted features V: [inner, padded depth]
  float* out;
  int64_t split_stride;     // elements between splits of out
  int32_t width;            // row stride of out: padded_width(D)
  int32_t steps;            // of 32 along the inner dimension, all splits together
  int32_t steps_per_split;  // of 32
};

// --- fused update: kernels/update.cuh ---------------------------------------------------------------------------------
// update_T_W for W in {128, 256, 512}: weights_product and finish_weights in one, for padded_width(D) <= W: the raw product
// stays in shared memory. Grid: any (one block a multiprocessor), 256 threads; dynamic shared memory: the module's variable
// update_bytes_T_W (int32); kernel and variable are absent where shared memory is too small.
struct UpdateParameters;  // below, behind what it holds

// --- row kernels: kernels/features.cu, kernels/weights.cu, kernels/nearest.cu; a warp a row, kRowWarps warps a block ---
constexpr int kRowWarps = 8;

enum class OperandKind : int32_t { float16, bfloat16, split };  // split: the float32 path
enum class StorageKind : int32_t { float32, bfloat16, float16 };

// prepare_features: norms and the operand of x. Grid: padded rows / 8; rows >= B repeat row 0 (B > 0).
struct PrepareFeaturesParameters {
  const float* features;  // [B, D]
  uint16_t* operand;      // [padded rows, depth]; null where only norms are wanted
  int64_t low;
  double* norm;          // [B], |x|; a row with a NaN or infinite value gives NaN or infinity
  double operand_scale;  // the operand is x / max(|x|, 1e-12) * operand_scale
  int32_t rows, dim, depth;
  OperandKind kind;
};

// weight_features: V, the right operand of dW: x / max(|x|, 1e-12) * factor[i]. Grid: padded rows / 8; rows >= B repeat
// row 0.
struct WeightFeaturesParameters {
  const float* features;  // [B, D]
  const double* norm;     // [B]
  const double* factor;   // [B]
  uint16_t* operand;      // [padded rows, depth]
  int64_t low;
  int32_t rows, dim, depth;
  OperandKind kind;
};

// draw_classes, list_classes: the classes of a shard that take part in a step, engine/sampling.h. Grid: blocks of
// kSamplingBlock ids that meet the shard's range, 256 threads.
struct DrawClassesParameters {
  uint64_t seed;
  int64_t step;
  int64_t first_class, classes;  // of the shard
  int64_t head_classes;          // of all shards
  int32_t drawn, drawn_last;     // of a whole block, and of the last one of the head where that is shorter
  const int32_t* owner_class;    // [owners], ascending, counted from the shard's first class
  int32_t owners;
  uint8_t* flags;   // [classes], 1: takes part
  int32_t* counts;  // [blocks], classes of each that take part
};
struct ListClassesParameters {
  int64_t first_class, classes;
  const uint8_t* flags;
  const int32_t* counts;
  const int32_t* owner_class;
  int32_t owners;
  int32_t* index;   // [sum of counts], classes that take part, ascending, counted from the shard's first
  int32_t* places;  // [1 + owners], length of index, then where in it each owner's class is
};

// Where classes are sampled, those that take part are numbered without gaps: a class's place. C, labels, owners and operands
// are of places then, and `index`, which is null elsewhere, has the rows of the shard's arrays by place. Where classes have
// several rows, it has rows by slot, and a negative number in slots that no class has.

// prepare_weights: the operand of w. Grid: padded classes / 8; rows >= C repeat the last one.
struct PrepareWeightsParameters {
  const void* weights;   // [C, D] of type storage, or with index [.., D]
  const int32_t* index;  // [C]
  uint16_t* operand;     // [padded classes, depth]
  int64_t low;
  int64_t classes;
  double operand_scale;  // 1, or 2^4 on the float32 path
  int32_t* bad_class;    // smallest row of `weights` with a NaN or infinite value, by atomicMin; nullable
  int32_t dim, depth;
  OperandKind kind;
  StorageKind storage;
};

// targets: cosine and sine of each row and its own class, in float64 from the rows themselves. Grid: ceil(B / 8).
struct TargetsParameters {
  const float* features;  // [B, D]
  const void* weights;    // [C, D] of type storage, or with index [.., D]
  const int32_t* index;   // [C]
  const int32_t* labels;  // [padded rows], counted from the shard's first class, -1 for none
  const double* norm;     // [B], |x|
  double* cosine;         // [B]; written where the row has a class here
  double* sine;           // [B], |wh - cosine xh|; sqrt(1 - cosine^2) where a row has no direction
  double* weight_norm;    // [B], |w| of the row's class; NaN or infinite if the class row is
  float* own_rows;        // [B, D], w of the row's class where it has one; nullable
  int32_t rows, dim;
  StorageKind storage;
};

// list_sub_centers: index [slots], the rows of classes by slot. Grid: ceil(count / 256), 256 threads.
struct ListSubCentersParameters {
  const int32_t* classes;  // [count]; null: 0, 1, ..
  int32_t* index;          // [slots]; those of no class stay as they are
  int64_t count;
  SubCenterSlots slots;
};

// targets_sub_centers: as targets, but weights are [C, centers, D], and what is written is of the largest row of the class.
struct SubCenterTargetsParameters {
  TargetsParameters of;
  int32_t* center;  // [B], which that is; written where the row has a class here
  int32_t centers;
};

// flag_sub_centers: flags of rows. Grid: any, 256 threads, a warp a class, strided loop.
struct FlagSubCentersParameters {
  const uint8_t* flags;   // [classes]
  const float* gradient;  // [classes, centers, D]; a class's rows are flagged where one is not 0; nullable
  uint8_t* row_flags;     // [classes, centers]
  int64_t classes;
  int32_t centers, dim;
};

// Sigmoids are multiplied with exp2(-shift), which float32 has to have.
constexpr double kLeastSlopeShift = -100;

// reduce_negatives: adds partial sums in order, in float64, and sets the shift of phase 4's probabilities. Grid:
// ceil(padded rows / 256), 256 threads.
struct ReduceNegativesParameters {
  const float* sums;     // [partials, padded rows]
  const float* hardest;  // as sums; nullable
  const int32_t* above;  // as sums; nullable
  const float* hard;     // as sums; nullable
  const float* slopes;   // as sums; nullable
  const float* offset;   // [padded rows], log2 units; null: 0
  double* sum;           // [rows]
  // [padded rows], log2(sum) + offset - kProbabilityExponent, where there are slopes of their sum and at least
  // kLeastSlopeShift; infinite where there is nothing
  float* shift;
  float* largest;     // [rows], nullable
  int32_t* count;     // [rows], sum of above; nullable
  double* hard_sum;   // [rows], sum of hard; nullable
  double* slope_sum;  // [rows], sum of slopes; nullable
  int32_t partials, rows, padded_rows;
};

// add_products: running sum of dX's products over chunks and splits, in order. Grid: any; 256 threads, strided loop.
struct AddProductsParameters {
  const float* products;  // [splits, split_stride]
  double* total;          // [count]; written when `first`, else added to
  int64_t count, split_stride;
  int32_t splits;
  bool first;
};

// The sum over rows of factor[i] * row / max(|row|, 1e-12), in float64, by two kernels of 256 threads a block.
// sum_unit_rows: each block's part of the sum; a block takes every gridDim-th group of kUnitRows rows. Grid: at most a block for
// each group.
// add_unit_sums: the parts added up in their order. Grid: ceil(width / 256), width >= D.
constexpr int kUnitRows = 32;
struct SumUnitRowsParameters {
  const void* rows;      // [count, D] of type storage
  const double* factor;  // [count]; null: 1
  double* partials;      // [blocks, D]
  int64_t count;
  int32_t dim;
  StorageKind storage;
};
struct AddUnitSumsParameters {
  const double* partials;  // [count, D]
  double* sum;             // [D]
  float* scaled;           // [width], sum * scale, 0 behind D; nullable
  double scale;
  int32_t count, dim, width;
};

// cosine_sums: xh . class_sum of each row. Grid: ceil(B / 8).
struct CosineSumsParameters {
  const float* features;    // [B, D]
  const double* norm;       // [B]
  const double* class_sum;  // [D]
  double* sum;              // [B]
  int32_t rows, dim;
};

// finish_features: dX = (g - (g . xh) xh) / |x| + gamma (wh_y - cos xh) / |x| + radial xh, g = total * scale[i]; rows
// shorter than 1e-12 are not projected and divide by 1e-12. Grid: ceil(B / 8).
struct FinishFeaturesParameters {
  const double* total;        // [padded rows, width]
  const double* scale;        // [B]
  const float* features;      // [B, D]
  const double* norm;         // [B]
  const void* weights;        // [.., D] of type storage: the shard's, or the own rows of TargetsParameters
  const int32_t* labels;      // [padded rows], rows of `weights`, -1 for none
  const double* cosine;       // [B]
  const double* weight_norm;  // [B]
  const double* gamma;        // [B]
  const double* radial;       // [B]; nullable
  const double* uniform;      // [B]; nullable: g = total * scale[i] + class_sum * uniform[i]
  const double* class_sum;    // [D]; with uniform
  float* gradient;            // [B, D]
  int32_t rows, dim, width;
  StorageKind storage;
};

enum class SinkKind : int32_t { write, accumulate, sgd, adamw, measure };

// finish_weights: from the raw product of a chunk to dW, or to the update. For class j of the chunk:
//   g = raw * unscale, dw = (g - (g . wh) wh) / |w| + sum over its rows of gamma (xh - cos wh) / |w|
// the second term in float64 and after the projection; rows shorter than 1e-12 as above. write: gradient = dw;
// accumulate: gradient += dw; sgd, adamw: the weights move, and the operand of the new row is written.
// Grid: any, 256 threads, a warp a class, strided loop; for padding rows of the operand the last class is repeated.
// finish_weights_aided: the same, but g = (raw + uniform) * unscale, dw has `added` besides, and before the sink it is multiplied
// with clip_scale * min(1, clip_longest / |clip_scale dw|); measure: only the sum over classes of |dw|^2 is added to squares.
struct FinishWeightsParameters {
  const float* raw;  // [padded classes of the chunk, width]; null: gradient holds dw already (apply), and is zeroed
  double unscale;
  void* weights;    // [classes, D] of type storage, of the chunk's first class; written by updates (float32 only)
  float* gradient;  // [classes, D] of the chunk's first class: write, accumulate; apply's input, zero where it is null
  float* momentum;  // [classes, D]; nullable
  float* variance;  // [classes, D]; adamw
  // [classes], rows of the four arrays above, which are then [.., D] from the shard's first class on. Not of finish_weights.
  const int32_t* index;
  uint16_t* operand;  // [classes, depth] of the chunk's first class; null where there is none to keep
  int64_t low;
  double operand_scale;
  // The rows of the batch that have a class here, sorted by class, then row: class counted from the chunk's first.
  const int32_t* owner_class;  // [owners], of the whole shard, counted from the shard's first class
  const int32_t* owner_row;    // [owners]
  int32_t owners;
  int32_t first_class;    // of the chunk, counted from the shard's first
  const float* features;  // [B, D]
  const double* norm;     // [B]
  const double* cosine;   // [B]
  const double* gamma;    // [B]
  SgdStep sgd_step;
  AdamwStep adamw_step;
  int32_t classes;  // of the chunk
  int32_t padding;  // rows of the operand behind the chunk's last class to fill (last chunk only)
  int32_t dim, depth, width;
  OperandKind kind;
  StorageKind storage;
  SinkKind sink;
  // finish_weights_aided alone:
  const uint8_t*
      flags;  // [classes]; those that equal `resting`, and whose gradient is 0, are left as they are; nullable
  uint8_t resting;
  const float* uniform;             // [width]; nullable
  const float* added;               // [classes, D] as gradient; nullable
  double clip_scale, clip_longest;  // 1 and infinity: as it is
  double* squares;                  // [8 * blocks of the grid]; measure
};

struct UpdateParameters {
  Operand left;                    // P of the chunk, [padded rows, classes]
  Operand right;                   // V, [padded rows, padded depth]
  int32_t steps;                   // padded rows / 32
  FinishWeightsParameters finish;  // raw and width are not used
};

// gather_class_rows: rows of a few classes, in float32. Grid: ceil(count / 8).
struct GatherClassRowsParameters {
  const void* rows;      // [.., D] of type storage
  const int32_t* index;  // [count]; null: 0, 1, ..
  float* out;            // [count, D]
  int32_t count, dim;
  StorageKind storage;
};

// add_class_rows: to[index[i]] += rows[i]. Grid: ceil(count / 8).
struct AddClassRowsParameters {
  const float* rows;     // [count, D]
  const int32_t* index;  // [count], different ones
  float* to;             // [.., D]
  int32_t count, dim;
};

// initialize_weights: std * normal deviates by seed, class and column (engine/random.h). Grid: any, 256 threads.
struct InitializeWeightsParameters {
  float* weights;  // [classes, D]
  int64_t classes, first_class;
  double std;
  uint64_t seed;
  int32_t dim;
};

// cosines_T (a tile kernel): accumulators of a chunk as they are, for nearest. Grid as probabilities_T.
struct CosinesParameters {
  Operand features;
  Operand weights;
  float* cosines;  // [padded rows, stride]
  int32_t stride, classes, steps, tiles_per_split;
};

// largest_sub_centers: a chunk's cosines by slot as those of its classes. Grid: x = rows, y = ceil(classes / 256); 256 threads.
struct LargestSubCentersParameters {
  const float* cosines;  // [rows, stride]
  float* largest;        // [rows, stride]; not the same memory
  int32_t stride, classes;
  SubCenterSlots slots;
};

// select_nearest: merges a chunk's cosines into the best k of each row: the k largest, ties to the smaller class. Grid:
// rows; 256 threads.
struct SelectNearestParameters {
  const float* cosines;                  // [padded rows, stride]
  int32_t stride, classes, first_class;  // of the chunk; first_class counted from the shard's first
  const int32_t* best_class;             // [rows, k], what earlier chunks left, best first
  const float* best_cosine;              // [rows, k]
  int32_t* next_class;                   // [rows, k], the merge; not the same memory
  float* next_cosine;                    // [rows, k]
  int32_t found;                         // entries of best_* that are there
  int32_t k;
  float unscale;  // cosine = accumulator * unscale, clamped to [-1, 1]; next_cosine holds accumulators until `last`
  int32_t last;   // 1: next_cosine leaves as cosines
};

// choose_triplets: the triplets of a block of anchors, engine/triplets.h. Grid: ceil(anchors / 8).
struct ChooseTripletsParameters {
  const float* cosines;        // [anchors, stride], accumulators of the anchors' products with all rows
  const int32_t* labels;       // [B], -1: ignored
  const int32_t* members;      // rows that are not ignored, by class, then row
  const int32_t* class_start;  // [B], where in members the row's class begins
  const int32_t* class_size;   // [B]
  const int64_t* first;        // [B + 1], of each row's triplets; none of rows that are no anchors
  const float* features;       // [B, D]
  const double* norm;          // [B]
  Triplet* triplets;           // [first[B]]
  int32_t stride, rows, dim, anchors, first_anchor;
  int32_t semihard;  // 0: hard
};

// triplet_gradients: dx_i = (sum over its terms of slope xh_other + along[i] xh_i) / |x_i|; rows shorter than 1e-12 are without
// `along` and divide by 1e-12. Grid: x = ceil(B / 8), y = ceil(D / 128).
struct TripletGradientsParameters {
  const float* features;  // [B, D]
  const double* norm;     // [B]
  const int64_t* start;   // [B + 1], of each row's terms
  const int32_t* other;   // [start[B]]
  const double* slope;    // [start[B]]
  const double* along;    // [B]
  float* gradient;        // [B, D]
  int32_t rows, dim;
};

}  // namespace marginfc
