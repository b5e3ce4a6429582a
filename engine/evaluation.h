// One batch against a whole head: drives the phases of engine.h over the shards and does what is per row.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/feature_terms.h"
#include "engine/margin.h"
#include "engine/row_function.h"
#include "engine/row_terms.h"
#include "engine/worker.h"

namespace marginfc {

enum class Reduction { mean, sum, none };

// A margin parameter: one value, one a row, or one a class.
struct Parameter {
  double value = 0;
  const float* per_row = nullptr;    // [rows]
  const float* per_class = nullptr;  // [classes]
};

struct Margin {
  MarginKind kind = MarginKind::arcface;
  Parameter parameters[kMaxMarginParameters];
  // kind custom, cosine units, [rows]:
  const double* target = nullptr;
  const double* target_derivative = nullptr;
  const double* norm_derivative = nullptr;  // nullable
};

struct LossOptions {
  Overflow overflow = Overflow::none;
  bool straight_through = false;
  Reduction reduction = Reduction::mean;
  const float* row_weights = nullptr;  // [rows], until the evaluation ends; nullable
  bool diagnostics = false;            // also accuracy and the hardest negative
  bool top_five = false;               // with diagnostics: also accuracy_top_five
  // The target distribution is 1 - label_smoothing on the own class and label_smoothing / classes on every class.
  double label_smoothing = 0;
  RowFunction row_function;               // not with label_smoothing
  int64_t classes = 1;                    // of all processes: what the tolerance and the smoothing are divided among
  RowTerms terms;                         // not with reduction none
  FeatureTerms* feature_terms = nullptr;  // likewise, of the same batch, until the evaluation ends; nullable
};

// What classes say of each row, [rows] each: those of this process, or those of all that share them.
struct RowStatistics {
  double* cosine = nullptr;  // to the own class; 0 where that is another process's
  double* sine = nullptr;    // likewise
  // Logarithm of the sum over negatives of exp(logit), with a binary reduction of softplus(logit); -infinity without any.
  double* log_negatives = nullptr;
  float* hardest = nullptr;      // largest negative cosine, -2 without any; with diagnostics
  double* cosine_sum = nullptr;  // sum of the cosines of all classes; with label smoothing
  double* above =
      nullptr;  // negatives with a larger cosine than the own class, from five on any that is not smaller; with top_five
  // Sum and number of the cosines of negatives above a transform's threshold; null where not asked for.
  double* hard_sum = nullptr;
  double* hard_count = nullptr;
  double* slope_sum = nullptr;  // sum over negatives of sigmoid(logit); with a binary reduction
};

// What phase 2 is told besides the batch.
struct NegativesOptions {
  // [rows], with top_five where others share the rows: to the own class, of whichever process.
  const double* target_cosine = nullptr;
  const NegativesTransform* transform = nullptr;  // until the call returns
  bool hard = false;                              // with `transform`: the statistics of hard negatives will be read
  // Without `transform`; its straight_through is that of LossOptions. Null: softmax.
  const BinaryReduction* binary = nullptr;
};

struct RowResults {
  float* loss = nullptr;              // [rows]
  float* log_sum_exp = nullptr;       // [rows]; with a binary reduction the negatives' part of the loss
  float* target_cosine = nullptr;     // [rows]
  float* hardest = nullptr;           // [rows], largest negative cosine, -2 without one; with diagnostics, nullable
  double* log_negatives = nullptr;    // [rows], as of RowStatistics; nullable
  double* target_gradient = nullptr;  // [rows], dLoss/dF of the loss as it is reduced; nullable
  double* bias_gradient = nullptr;  // [rows], each row's part of dLoss/dbias likewise, of a binary reduction; nullable
};

struct ForwardResult {
  double loss = 0;               // NaN with reduction none; without terms
  double accuracy = 0;           // NaN without diagnostics or counted rows
  double accuracy_top_five = 0;  // NaN unless asked for, or without counted rows
  RowTermValues terms;
  FeatureTermValues feature_terms;
};

struct Gradients {
  double loss_gradient = 1;                  // mean and sum
  const float* row_loss_gradient = nullptr;  // [rows]; reduction none
  FeatureSink features;
  WeightSink weights;      // weights.gradient is [classes, dim] of all shards
  bool keeps = false;      // of kind write: to each shard's kept gradient instead
  bool adds_kept = false;  // what is kept there is added
  // Classes without rows of their own may be left out of the weights' gradient while the sum over them and all rows of
  // |dLoss/dcos| is at most this part of the sum over rows of |dLoss/dz|; docs/numerics.md has the bound that follows.
  double tolerance = 0;

  GradientPlan plan() const { return {features.gradient != nullptr, weights.kind}; }
};

// How long the phases took when they last ran, by the clock on the wall; of shards that run at the same time, the slowest.
struct PhaseSeconds {
  double prepare = 0;
  double targets = 0;
  double negatives = 0;  // with dX, where that is gathered on the way
  double epilogue = 0;
  double gradients = 0;  // phases 4 and 5, with the update if there is one
};

class Evaluation {
 public:
  // `shards` cover all classes in order. Labels are in range. All pointers outlive the evaluation.
  Evaluation(std::vector<ClassShard*> shards, const Batch& batch, const LossOptions& options);
  ~Evaluation();

  // Phases 0 and 1.
  Status targets();
  const std::vector<Target>& target_rows() const { return targets_; }
  // Classes that take part, of all shards; after targets().
  int64_t classes() const;

  // Phases 0 to 2. `plan`: what backward() will be asked for, if that is known.
  Status negatives(const GradientPlan& plan, const NegativesOptions& options = {});
  // Between phases 2 and 3: what this process's classes say, and, where others share the rows, what all of them say.
  void read_statistics(const RowStatistics& to) const;
  void write_statistics(const RowStatistics& from);
  // Phase 3; after negatives().
  Status epilogue(const Margin& margin, const RowResults& rows, ForwardResult* result);
  // Phases 0 to 3.
  Status forward(const Margin& margin, const GradientPlan& plan, const RowResults& rows, ForwardResult* result) {
    MARGINFC_TRY(negatives(plan));
    return epilogue(margin, rows, result);
  }

  // Adds the sum of squares of the weights' gradient that `gradients` will update with, for a clip of the whole of it: a pass of
  // phase 4 by itself. After epilogue().
  Status measure(const Gradients& gradients, double* square);

  // Phases 4 and 5; after epilogue(). `skipped_mass`: the part that `tolerance` left out; nullable.
  Status backward(const Gradients& gradients, double* skipped_mass = nullptr) {
    MARGINFC_TRY(reserve(gradients));
    return finish(gradients, skipped_mass);
  }
  // The two halves of backward(). finish() cannot fail after reserve() of the same gradients if they update weights, and
  // may be called twice then: for the features and for the weights.
  Status reserve(const Gradients& gradients);
  Status finish(const Gradients& gradients, double* skipped_mass);

  // Weights of these classes, [count, dim] in float32; those that no shard has stay as they are.
  Status class_rows(const int32_t* classes, int64_t count, float* rows);
  // Of rows whose labels are different: adds [rows, dim] to what is kept of their classes.
  Status add_to_kept(const float* rows);

  // For benchmarks.
  const PhaseSeconds& phase_seconds() const { return seconds_; }

 private:
  // dLoss/dcos of every row before its probabilities, 0 for ignored rows.
  std::vector<double> row_gradients(const Gradients& gradients) const;
  // What shard r multiplies with; `weight` as row_gradients() gives it.
  struct Coefficients {
    std::vector<double> kappa, gamma, radial, uniform;
    double largest_weight = 0;

    RowCoefficients rows() const {
      const auto some = [](const std::vector<double>& values) { return values.empty() ? nullptr : values.data(); };
      return {kappa.data(), gamma.data(), some(radial), some(uniform), largest_weight};
    }
  };
  // With room for all rows, so that coefficients() cannot fail.
  Coefficients no_coefficients() const;
  void coefficients(size_t r, const std::vector<double>& weight, Coefficients* rows) const;
  // One shard's own part of phases 4 and 5: several may run at the same time.
  struct Part {
    Coefficients rows;
    WeightSink sink;
    std::vector<float> features;  // [rows, dim]
    double skipped_mass = 0;
  };
  bool sums_features_apart(const FeatureSink& features) const;
  // Where shard r > 0 leaves its part of dX.
  FeatureSink part_of(size_t r, const FeatureSink& features);
  // Where rows of shard r begin in an array of all this process's classes.
  int64_t elements_before(size_t r) const {
    return (shards_[r]->range().start - shards_[0]->range().start) * batch_.dim * shards_[r]->sub_centers();
  }
  // How the weights' gradient is asked for of every shard; sets weight_ and loss_gradient_.
  WeightSink weight_sink(const Gradients& gradients);
  // And of shard r.
  Status aim(const Gradients& gradients, size_t r, WeightSink* sink);

  const std::vector<ClassShard*> shards_;
  std::vector<Worker*> workers_;  // [shards]
  const Batch batch_;
  const LossOptions options_;
  PhaseSeconds seconds_;
  std::vector<std::unique_ptr<ShardPass>> passes_;
  std::vector<Target> targets_;               // [rows]
  std::vector<std::vector<double>> sums_;     // [shards][rows]
  std::vector<std::vector<double>> offsets_;  // [shards][rows]
  std::vector<double> log_negatives_;         // [rows]
  std::vector<float> hardest_;                // [rows]; with diagnostics
  std::vector<double> cosine_sum_;            // [rows]; with label smoothing
  std::vector<double> above_;                 // [rows]; with top_five
  std::vector<double> hard_sum_;              // [rows]; only where asked for, as
  std::vector<double> hard_count_;            // [rows]
  std::unique_ptr<BinaryReduction> binary_;   // null: softmax
  std::vector<double> slope_sum_;             // [rows]; with a binary reduction
  std::vector<double> log_sum_exp_;           // [rows]
  std::vector<double> shortfall_;             // [rows], -dLoss_i/dz_iy: 1 - p_iy, less with label smoothing
  std::vector<double> derivative_;            // [rows], F'
  std::vector<double> norm_derivative_;       // [rows], dF/d|x|; empty if the margin has none
  // [rows]: what the reduction multiplies a row's loss with, 0 for ignored rows; and reduction and row function together the
  // gradient of its -log p.
  std::vector<double> reduction_scale_, row_scale_;
  RowTermSlopes term_slopes_;
  // From reserve() on:
  std::vector<double> weight_;      // [rows], as row_gradients() gives it
  double loss_gradient_ = 1;        // of mean and sum
  std::vector<Part> parts_;         // [shards]
  std::vector<float> feature_sum_;  // [rows, dim]; of several shards or with feature terms, on its way to a GPU
};

}  // namespace marginfc
