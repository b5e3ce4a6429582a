// The contract every engine implements. Start reading here.
//
// marginfc computes, for B feature rows x and C class rows w of D floats each, the softmax cross-entropy
// of s * cos(x, w) with a margin on each row's own class, and both gradients, without the B x C logits.
// The classes are split in contiguous ranges. An engine keeps a range (ClassShard) and runs one batch
// against it (ShardPass); engine/evaluation.h drives the phases over all shards and does what is per row:
//
//   0 prepare     ClassShard::begin          norms, operands packed for the engine
//   1 target      ShardPass::targets         cosine and sine of the own class, float64
//   2 negatives   ShardPass::negatives       sums of exp, or of softplus, over all other classes of the shard
//   3 epilogue    engine/row_epilogue.h      margin, loss, row coefficients; engine/row_function.h: a function of p
//   4 gradients   ShardPass::gradients       dX of the shard and dW, or the update of W
//   5 finish      the same call              tangent projection, optimiser
//
// Every pointer below is borrowed for as long as its comment says and never freed by the callee. Calls
// return when their results are written. A ShardPass may be used by one thread at a time; a ClassShard
// may serve several passes, but not while it is being updated. Shards of different engines may be used at
// the same time. No exception leaves these functions.
#pragma once

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/status.h"
#include "engine/triplets.h"

namespace marginfc {

// Classes start .. end-1 of the whole head.
struct ClassRange {
  int64_t start = 0;
  int64_t end = 0;
  int64_t size() const { return end - start; }
};

// Shard `index` of `count`: C / count classes, the first C mod count shards one more (as PartialFC).
inline ClassRange shard_range(int64_t classes, int64_t count, int64_t index) {
  const int64_t base = classes / count, extra = classes % count;
  const int64_t start = index * base + (index < extra ? index : extra);
  return {start, start + base + (index < extra ? 1 : 0)};
}

enum class Workspace { keep, recompute };
constexpr size_t kKeepsNothing = SIZE_MAX;

// Of the multiply operands, or of stored rows; sums are float32 whatever the operands.
enum class Precision { float32, bfloat16, float16 };
inline size_t byte_size(Precision precision) { return precision == Precision::float32 ? 4 : 2; }

// Where an array of the caller's lies. The host follows no pointer into a GPU's memory, and gives such to engines of GPUs
// only; any of them reads and writes the memory of any other.
enum class Place { host, device };

// The rows of one class: one, or sub_centers of them, whose largest cosine is the class's (Deng et al., ECCV 2020). What is
// [classes, dim] in this file is [classes, sub_centers, dim] where a class has several.
struct ClassShape {
  ClassShape(int32_t dim, int32_t sub_centers = 1) : dim(dim), sub_centers(sub_centers) {}
  int64_t size() const { return int64_t{dim} * sub_centers; }

  int32_t dim;
  int32_t sub_centers;
};

// Class rows of the caller's.
struct ClassRows {
  const void* values = nullptr;  // [classes, dim] of type `storage`
  Precision storage = Precision::float32;
  Place place = Place::host;
};

// Which classes take part in a step: engine/sampling.h says how they are drawn.
struct Sampling {
  double rate = 1;  // in (0, 1]; 1: all classes, and the rest of this is not looked at
  uint64_t seed = 0;
  int64_t step = 0;     // number of updates made before
  int64_t classes = 0;  // of the whole head
  // Classes that take no part: false, their weights and optimiser state stay as they are; true, they are updated as with a
  // gradient of zero.
  bool updates_all = false;

  bool draws() const { return rate < 1; }
};

// The B rows that every shard sees.
struct Batch {
  const float* features = nullptr;  // [rows, dim], until the pass ends
  Place place = Place::host;        // of the features
  const int32_t* labels = nullptr;  // [rows], class ids of the whole head or -1, until the pass ends
  int64_t rows = 0;
  int32_t dim = 0;
  double scale = 64;                        // s
  Precision operands = Precision::float32;  // what the products multiply
  bool check_finite = true;
  bool hardest = false;     // phase 2 will be asked for Negatives::hardest
  bool above = false;       // and for Negatives::above
  bool transforms = false;  // and be given Negatives::transform or Negatives::binary
  // Phase 2 sums the angles theta_ij instead of exp(s * cos_ij), and phase 4 takes kappa_i / sin(theta_ij); with s = ln 2, in
  // float32, and of classes of one row.
  bool angles = false;
  Sampling sampling;  // of owned weights; the others are as if they were not there
  Workspace workspace = Workspace::recompute;
  const std::atomic<int32_t>* cancel = nullptr;  // work stops soon after it becomes non-zero; nullable
};

// One row's angle to its own class. Written only by the shard that owns the label.
struct Target {
  double cosine = 0;        // clamped to [-1, 1]
  double sine = 0;          // |wh - cosine * xh|, or sqrt(1 - cosine^2) where a row has no direction
  double feature_norm = 0;  // |x|, written by every shard
};

// G of a cosine c: value[0] + value[1] c + value[2] c^2; and what the gradient takes as G'(c): slope[0] + slope[1] c.
struct Quadratic {
  double value[3] = {0, 1, 0};
  double slope[2] = {1, 0};
};

// What negatives' cosines become: z_ij = s * G(cos_ij), one quadratic up to a row's threshold and another above it.
struct NegativesTransform {
  Quadratic below, above;
  const double* threshold = nullptr;  // [rows]
};

// A binary cross-entropy for each logit, and no softmax: a row's loss is
//
//   positive * softplus(-z_iy) + negative * sum over negatives of softplus(z_ij),   softplus(z) = log(1 + e^z)
//   z_iy = s F(theta_iy) + bias,   z_ij = s (g(cos_ij) + shift) + bias,   g(c) = 2 ((c + 1) / 2)^power - 1
struct BinaryReduction {
  double bias = 0;
  double positive = 1;
  double negative = 1;
  double shift = 0;
  int32_t power = 1;              // >= 1
  bool straight_through = false;  // g' is taken as 1
};

// Results of phase 2, one entry a row, for the classes of one shard without the row's own class. The cosine to a class is the
// largest to its rows.
struct Negatives {
  double* sum = nullptr;  // [rows], sum over negatives of exp(s * G(cos) - offset), or of angles
  // [rows], 0 while s <= 64 and G is the cosine, else such that nothing overflows or underflows
  double* offset = nullptr;
  float* hardest = nullptr;  // [rows], largest negative cosine (-2 if there is none); nullable
  // [rows], sum of the cosines to all classes of the shard, the row's own included, by the rows as they are; nullable, and null
  // with sub-centres.
  double* cosine_sum = nullptr;
  // [rows], number of negatives with a cosine above `target_cosine`; from kMostAbove on it may be any that is not smaller.
  // Nullable; only with `hardest`.
  int32_t* above = nullptr;
  const double* target_cosine = nullptr;  // [rows], to each row's own class, wherever it lies; 2 for a row without one
  const NegativesTransform* transform = nullptr;  // null: G is the cosine
  // [rows], only with `transform`: sum and number of the cosines of negatives above the threshold; nullable.
  double* hard_sum = nullptr;
  double* hard_count = nullptr;
  // Null: softmax. Else without `transform`; `sum` gets the sum over negatives of softplus(z), `offset` 0, and `slope_sum` [rows] the
  // sum of the derivatives, sigmoid(z).
  const BinaryReduction* binary = nullptr;
  double* slope_sum = nullptr;
};
constexpr int32_t kMostAbove = 5;

// Phase 3's answer to one shard: loss gradient of a row's cosines.
struct RowCoefficients {
  // [rows], dLoss/dcos_ij = kappa_i * exp(s * G(cos_ij) - offset_i) * G'(cos_ij) for negatives; of a BinaryReduction
  // kappa_i * sigmoid(z_ij) * g'(cos_ij)
  const double* kappa = nullptr;
  const double* gamma = nullptr;   // [rows], dLoss/dcos_iy for the own class
  const double* radial = nullptr;  // [rows], dLoss/d|x_i| of a margin that depends on it; nullable
  // [rows], what dLoss/dcos_ij has more for every class, a row's own included; nullable, else cosine_sum was asked for.
  const double* uniform = nullptr;
  double largest_weight = 0;  // largest |dLoss/dz| a row's weight allows: kappa <= this * exp(offset - lse)
};

// What a shard that owns its classes keeps of each, a row of dim floats: the weights; what the optimiser has of momentum (sgd:
// velocity, adamw: mean) and variance; and the sum that accumulate has made, zero while there is none.
enum class ClassArray { weights, momentum, variance, accumulated };

struct Optimizer {
  enum class Kind { sgd, adamw };
  Kind kind = Kind::sgd;
  double weight_decay = 0;
  double momentum = 0;    // sgd
  bool nesterov = false;  // sgd
  double beta1 = 0.9;     // adamw
  double beta2 = 0.999;   // adamw
  double epsilon = 1e-8;  // adamw
  // What the weights are kept in; the state above is float32. An update rounds bfloat16 weights stochastically, with random
  // numbers of seed, step, class and column (engine/random.h); what is written to them is rounded to nearest.
  Precision storage = Precision::float32;
  uint64_t seed = 0;

  bool keeps(ClassArray array) const {
    if (array == ClassArray::momentum) return kind == Kind::adamw || momentum != 0;
    return array != ClassArray::variance || kind == Kind::adamw;
  }
};

// What an update makes of a class's finished gradient g before the optimiser has it: g * scale * min(1, longest / |g * scale|).
struct Clip {
  double scale = 1;
  double longest = std::numeric_limits<double>::infinity();

  bool none() const { return scale == 1 && longest == std::numeric_limits<double>::infinity(); }
  // What g is multiplied with, by its sum of squares.
  double factor(double square) const {
    const double norm = scale * std::sqrt(square);
    return norm > longest ? scale * (longest / norm) : scale;
  }
};

// Where the weights' gradient goes.
struct WeightSink {
  // measure: only the sum of squares of the gradient's elements is taken.
  enum class Kind { none, write, accumulate, update, measure };
  Kind kind = Kind::none;
  float* gradient = nullptr;  // write: [classes of the shard, dim]
  Place place = Place::host;  // of the gradient
  double learning_rate = 0;   // update
  int64_t step = 0;           // update: number of this update, from 1 (adamw's bias correction, stochastic rounding)
  Clip clip;                  // update
  // What ClassShard::kept_gradient() gives, to be added to the gradient; null where nothing is, and where classes are sampled.
  const float* added = nullptr;
  double* square = nullptr;  // measure: is added to
  // Neighbouring classes that no row owns may be left out of dW (their gradient is 0) while the sum over them and all
  // rows of |dLoss/dcos| is at most this for each class of them. 0: nothing is left out.
  double skipped_mass_per_class = 0;
  double* skipped_mass = nullptr;  // what was left out is added here; nullable
};

// Where dX goes.
struct FeatureSink {
  float* gradient = nullptr;  // [rows, dim]; null where it is not wanted
  Place place = Place::host;
};

// What gradients() will be asked for, as far as it is known in phase 2.
struct GradientPlan {
  bool features = false;
  WeightSink::Kind weights = WeightSink::Kind::none;
};

class Engine;
class Worker;

// One batch against one shard.
class ShardPass {
 public:
  virtual ~ShardPass() = default;

  // Of the shard, those that take part.
  virtual int64_t classes() const = 0;

  // Phase 1. `targets` [rows]; rows whose label lies elsewhere keep cosine and sine as they are.
  virtual Status targets(Target* targets) = 0;

  // Phase 2. What `plan` names may be begun on the way, which saves gradients() the work.
  virtual Status negatives(const GradientPlan& plan, const Negatives& result) = 0;

  // Before gradients(): takes all memory that call needs. After this, gradients() with an update cannot
  // fail and does not look at `cancel`, so that a step over several shards happens wholly or not at all.
  virtual Status reserve(const FeatureSink& features, const WeightSink& weights) = 0;

  // Phases 4 and 5, after targets(), negatives() and reserve(). `features` gets this shard's part of dX; the parts of all
  // shards add up.
  virtual Status gradients(const RowCoefficients& rows, const FeatureSink& features, const WeightSink& weights) = 0;

  // Writes dX [rows, dim], added up by the host, to a GPU's memory.
  virtual Status store_features(const float* total, float* to) = 0;
  // Reads the batch's features [rows, dim] out of a GPU's memory.
  virtual Status load_features(float* to) = 0;
};

// A contiguous range of classes: weights borrowed from the caller, or owned with optimiser state.
class ClassShard {
 public:
  virtual ~ClassShard() = default;

  virtual Engine& engine() = 0;

  virtual ClassRange range() const = 0;

  virtual int32_t sub_centers() const { return 1; }

  // The thread of its engine on which this shard and its passes are best used while other engines' are; null if its
  // engine has none.
  virtual Worker* worker() { return nullptr; }

  // Whether its engine follows pointers to such memory.
  virtual bool follows(Place place) const { return place == Place::host; }

  // Bytes that Workspace::keep would hold at most for such a batch: decides workspace 'auto'. kKeepsNothing where the
  // engine makes E again whatever it is asked.
  virtual size_t keep_bytes(const Batch& batch) const = 0;

  // Phase 0. `batch`'s arrays must live as long as the pass.
  virtual Status begin(const Batch& batch, std::unique_ptr<ShardPass>* pass) = 0;

  // Weights of those of these classes that it has, in float32: rows [count, dim] of which the others stay as they are.
  virtual Status gather(const int32_t* classes, int64_t count, float* rows) = 0;

  // Memory for a gradient, [classes, dim], that passes write and add from: its own, where its engine works, made on first use.
  virtual Status kept_gradient(float** gradient, Place* place) = 0;
  // Adds rows [count, dim] to those of these classes there, which are different ones; those of other shards are left out.
  virtual Status add_to_kept(const int32_t* classes, int64_t count, const float* rows) = 0;

  // The k <= size() classes with the largest cosine for each row, best first, ties to the smaller id.
  // features [rows, dim] -> classes [rows, k], cosines [rows, k].
  virtual Status nearest(const Batch& batch, int64_t k, int32_t* classes, float* cosines) = 0;

  // Owned weights only. `first` and `count` are class ids of the whole head inside range(); `array` is one that the
  // optimiser keeps.
  // Normal deviates that depend on seed, class row and column alone, as the weights of `classes`, which lie in range().
  virtual Status initialize(double std, uint64_t seed, ClassRange classes) = 0;
  virtual Status write(ClassArray array, int64_t first, int64_t count, const float* values) = 0;
  virtual Status read(ClassArray array, int64_t first, int64_t count, float* values) const = 0;
  // One update with the accumulated gradient, which is zero afterwards; classes that are not drawn and whose gradient is
  // zero take no part in it. Or, of kind measure, only the sum of squares of that gradient.
  virtual Status apply(const WeightSink& sink, const Sampling& sampling) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // `weights`: the range's own rows, borrowed for the shard's life.
  virtual Status borrow(ClassRange range, ClassShape shape, const ClassRows& weights,
                        std::unique_ptr<ClassShard>* shard) = 0;
  // Weights and optimiser state in the engine's own memory, zero at first.
  virtual Status own(ClassRange range, ClassShape shape, const Optimizer& optimizer,
                     std::unique_ptr<ClassShard>* shard) = 0;

  // The triplet loss of the batch's rows and its gradient; `weight` [rows], `mean`: see engine/triplets.h. Features lie where the
  // engine's shards follow them.
  virtual Status triplets(const Batch& batch, const TripletRule& rule, const std::vector<double>& weight, bool mean,
                          Triplets* triplets) = 0;
};

// One line of listEngines().
struct EngineRow {
  std::string name;
  bool available = false;
  std::string detail;  // when available: instruction set, threads
  std::string reason;  // when not: why
};

}  // namespace marginfc
