// One batch against one CPU shard: phases 0, 1, 2, 4 and 5 of engine.h.
//
// Phases 2 and 4 are sweeps over the shard's classes in blocks. Blocks belong to a fixed number of chunks, each
// with its own row sums and dX accumulators that are added in chunk order, so the result does not depend on
// the number of threads or on who ran what.
//
// Where classes are sampled, those that take part are numbered from 0 without gaps: a class's place. All that a pass
// holds of a class is by its place, which is its index in the shard where all take part. Where a class has several rows,
// each has a place, and of the target's only the one nearest to the batch's row counts.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/class_block.h"
#include "cpu/memory.h"
#include "cpu/shard.h"
#include "engine/owners.h"
#include "engine/sampling.h"
#include "engine/triplets.h"

namespace marginfc {

inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Elements from one class to the next in E: whole panels, and no power of two, which would put every class of a
// tile in the same cache set.
int64_t exponential_stride(int64_t rows, const Kernels& kernels);

// dX is added up block by block; after this many blocks the sum is moved to a second one, so that no float32 sum
// runs over more than this many terms.
constexpr int64_t kBlocksPerSettle = 128;
// Rows of the batch that a task handles where each is handled by itself: even, and whole cache lines of packed features.
constexpr int64_t kBatchRowsPerTask = 16;

class CpuPass final : public ShardPass {
 public:
  CpuPass(CpuShard& shard, const Batch& batch);

  // Phase 0.
  Status prepare();
  int64_t classes() const override { return classes_ / sub_centers_; }
  Status targets(Target* targets) override;
  Status negatives(const GradientPlan& plan, const Negatives& result) override;
  Status reserve(const FeatureSink& features, const WeightSink& sink) override;
  Status gradients(const RowCoefficients& rows, const FeatureSink& features, const WeightSink& sink) override;
  Status store_features(const float* total, float* to) override;
  Status load_features(float* to) override;
  // ClassShard::nearest; after prepare().
  Status nearest(int64_t k, int32_t* classes, float* cosines);
  // Engine::triplets, where the classes are the batch's rows themselves and `labels` theirs; after prepare().
  Status triplets(const TripletRule& rule, const int32_t* labels, const std::vector<double>& weight, bool mean,
                  Triplets* result);

 private:
  // What a sweep does with each block's E.
  struct Sweep {
    bool sums = false;      // gather row sums
    bool hardest = false;   // gather the largest exponents
    bool above = false;     // with `hardest`: count exponents above the thresholds
    bool largest = false;   // of a transform: gather the largest transformed exponents
    bool hard = false;      // with `sums`, of a transform: gather what is above its threshold
    bool binary = false;    // with `sums`, of a binary reduction
    bool unit_sum = false;  // with `sums`: gather the sum of unit rows
    bool features = false;  // gather dX
    bool weights = false;   // finish dW
    bool recompute = true;  // from the product; else E is the kept one
    bool cancellable = true;
    WeightSink sink;
    CpuShard::Step step;  // of an update
  };
  // One thread's memory.
  struct Scratch {
    ClassBlock block;
    PooledBuffer paired;             // E of one block and row block in pairs of classes, where operands are pairs
    PooledBuffer products;           // of one block and row block, in float32, where a class has several rows
    PooledBuffer exponentials;       // E of one block: [classes, stride], or of one block and row block
    PooledBuffer sums;               // [row block]
    PooledBuffer more;               // [2, row block]: as of more_sums_, of one block
    PooledBuffer gradient;           // one tile of dW, [tile classes, width], then one row of target terms
    PooledBuffer dots;               // [tile classes rounded up to 4]
    std::vector<float> operand_row;  // [dim]
    std::vector<double> row;         // [dim]
    std::vector<double> rows;        // [width / panel, kBatchRowsPerTask, panel]
  };
  struct RowNorm {
    double norm;
    double inverse;      // 1 / max(|x|, 1e-12)
    bool has_direction;  // |x| >= 1e-12
  };

  // Calls body(row, thread) for every row of the batch, on all threads.
  template <typename Body>
  void for_rows(const Body& body) {
    engine_.pool().run((rows_ + kBatchRowsPerTask - 1) / kBatchRowsPerTask, [&](int64_t task, int thread) {
      for (int64_t i = task * kBatchRowsPerTask; i < std::min(rows_, (task + 1) * kBatchRowsPerTask); i++)
        body(i, thread);
    });
  }
  // Calls body(owner) for every one of owners_, on all threads.
  template <typename Body>
  void for_owners(const Body& body) {
    const auto owners = static_cast<int64_t>(owners_.size());
    engine_.pool().run((owners + kBatchRowsPerTask - 1) / kBatchRowsPerTask, [&](int64_t task, int) {
      for (int64_t o = task * kBatchRowsPerTask; o < std::min(owners, (task + 1) * kBatchRowsPerTask); o++) body(o);
    });
  }
  // Writes the operands of row `i`, factor * x, as lane or k `i` of what they are packed in.
  void pack_feature_row(int64_t i, std::vector<float>& row);
  void find_target(size_t owner);
  // The nearest of the rows of each row's own class becomes its owner.
  void choose_sub_centers();
  // The class at this place, counted from the shard's first.
  int64_t index_of(int64_t place) const { return samples() ? sampled_[place] : place; }
  bool samples() const { return batch_.sampling.draws(); }
  // The class rows from this place on, one behind the other.
  const void* rows_at(int64_t place, int32_t count, ClassBlock& block) const;
  bool reserve_accumulators();
  // Makes the rows' products log2 of exp(s * cos).
  double feature_scale() const { return batch_.scale * 1.4426950408889634; }
  // Of all rows.
  Status set_offset(double offset);
  // Adds what a block has left of rows row .. row + rows - 1 to what the chunk has.
  void add_binary_sums(const Scratch& scratch, int64_t chunk, int64_t row, int64_t rows);
  Status set_transform(const NegativesTransform& transform);
  void set_binary(const BinaryReduction& binary);
  // Makes each row's largest exponent its offset, and gathers on the way what `sweep` then need not.
  Status measure_offsets(Sweep* sweep);
  Status sweep_negatives(const Sweep& sweep);
  bool underflows() const;
  // Fails when a sweep met a class row that is not finite.
  Status check_weights() const;
  // Returns the block's classes, whose operands multiply() makes where the first product can.
  int32_t begin_block(int64_t b, const Sweep& sweep, ClassBlock& block);
  // Once the operands of classes before `done` are made.
  void finish_block(int32_t done, ClassBlock& block);
  // Norms, and how many classes are ordinary(), for the sweeps after the first.
  void note_norms(int64_t b, const ClassBlock& block);
  // A product of all of the block's classes.
  void multiply(int32_t (*kernel)(const NegativesTask&), NegativesTask& task, ClassBlock& block);
  NegativesTask product_task(const ClassBlock& block, int64_t row, int64_t rows, float* exponentials,
                             int64_t stride) const;
  // Floats that hold this many elements of E.
  int64_t floats_of(int64_t elements) const { return kernels_.pairs ? (elements + 1) / 2 : elements; }
  template <typename Float>
  Float* element(Float* exponentials, int64_t index) const {
    // Indices of pairs are even where a tile starts, so that words stay whole.
    return kernels_.pairs ? reinterpret_cast<Float*>(reinterpret_cast<uintptr_t>(exponentials) + 2 * index)
                          : exponentials + index;
  }
  // To the operands' precision, in place.
  void round_operands(float* values, int64_t count) const;
  // Sets element (k, lane) of an operand packed in words, [pairs of k][lane]; the value is rounded already.
  static void set_half(float* words, int64_t lanes, int64_t k, int64_t lane, float value);
  Status run(const Sweep& sweep);
  // Blocks first .. last - 1; sums, maxima and dX of rows row_start .. row_end - 1 go to `chunk`.
  void sweep_blocks(const Sweep& sweep, int64_t first, int64_t last, int64_t chunk, int64_t row_start, int64_t row_end,
                    Scratch& scratch);
  // Whether classes c .. c + count - 1 of the block may be left out of dW, and notes their mass if so.
  bool skip_tile(const Sweep& sweep, Scratch& scratch, const float* exponentials, int64_t stride, int32_t c,
                 int32_t count, bool owned);
  // What is read or written for a class besides its weights.
  const float* destination(const WeightSink& sink, int64_t place) const;
  void weight_tiles(const Sweep& sweep, Scratch& scratch, const float* exponentials, int64_t stride);
  // Of class c, `owner` is the first of its rows, or of a class behind it; `added` [dim] is nullable.
  void target_terms(Scratch& scratch, int32_t c, size_t owner, const float* added, float* terms) const;
  // Adds the block's unit rows to the chunk's sum of them.
  void add_unit_rows(const ClassBlock& block, int64_t chunk);
  // Every class's part of the gradient that RowCoefficients::uniform stands for.
  void sum_uniform(const RowCoefficients& rows);
  void settle(int64_t chunk, int64_t row_start, int64_t row_end);
  void finish_features(const RowCoefficients& rows, float* feature_gradient);
  void pack_weighted_features(const RowCoefficients& rows);
  const float* target_row(size_t owner) const { return target_rows_.data() + owner * dim_; }
  bool cancelled() const { return batch_.cancel && batch_.cancel->load(std::memory_order_relaxed) != 0; }

  CpuShard& shard_;
  CpuEngine& engine_;
  const Kernels& kernels_;
  const Batch batch_;
  const int64_t rows_;
  const int32_t dim_;
  const int32_t sub_centers_;
  const std::vector<int32_t> sampled_;  // by place, counted from the shard's first; empty where all classes take part
  const int64_t classes_;               // that take part; where a class has several rows, all these
  const int64_t panels_;                // of rows
  const int64_t width_;                 // dim rounded up to a panel
  const int64_t depth_;                 // words of a row: dim, or pairs of it, rounded up to a step
  const int64_t sum_rows_;              // rows of the accumulators: whole panels
  const int64_t weight_depth_;          // words of a column: rows of the batch, or pairs of them, rounded up to a step
  const int64_t stride_;                // of a kept or whole-batch E, in elements
  int32_t block_classes_ = 0;
  int64_t blocks_ = 0;
  int32_t weight_classes_ = 0;  // of a product of dW
  int64_t chunks_ = 0;

  std::vector<RowNorm> norms_;   // [rows]
  std::vector<int32_t> labels_;  // [panels * panel], place of the class or -1; classes of several rows count once
  std::vector<Owner> owners_;    // by class, then row; index: the class's place
  std::vector<Target> targets_;  // [owners]
  std::vector<double> target_inverse_;  // [owners], 1 / max(|w_y|, 1e-12)
  PooledBuffer target_rows_;        // [owners, dim], as they were in phase 1: an update may move W before dX is done
  PooledBuffer features_;           // packed s * log2(e) * xh
  PooledBuffer weighted_features_;  // packed kappa * xh, scaled by 2^k
  PooledBuffer kept_;               // E, [classes, stride]
  PooledBuffer accumulators_;       // dX: [chunks, width / panel, sum_rows, panel]
  PooledBuffer settled_;            // the same, for long chunks
  PooledBuffer offsets_;            // [panels * panel], log2 units; only when s > 64 or with a transform
  PooledBuffer hardest_;            // [chunks, panels * panel], log2 units
  PooledBuffer thresholds_;         // [chunks, panels * panel], log2 units; only for Negatives::above
  PooledBuffer above_;              // [chunks, panels * panel], counts; likewise
  std::vector<double>
      unit_sums_;  // [chunks, dim], after phase 2 in [0] the sum of them; only for Negatives::cosine_sum
  std::vector<int32_t> ordinary_;  // [blocks], ClassBlock::ordinary()
  PooledBuffer inverse_norms_;     // [classes], of ordinary blocks' rows; only when E is kept
  std::vector<double> sums_;       // [chunks, panels * panel]
  std::vector<Scratch> scratch_;   // [threads]
  std::vector<double> gamma_;      // [rows], while gradients() runs
  std::vector<double> uniform_;    // [dim], while gradients() runs: sum over rows of uniform * xh; empty where it is 0
  std::vector<double> squares_;    // [blocks], likewise: of the gradient; only when that is measured
  std::vector<float> absolute_kappa_;  // [rows], while gradients() runs; only when classes may be skipped
  std::vector<double> skipped_;        // [blocks], likewise: mass left out
  std::vector<int64_t> owner_of_;      // [rows], index into owners_ or -1, while gradients() runs
  std::vector<int32_t> others_;        // classes that take no part and are updated, counted from the shard's first
  double unscale_ = 1;                 // undoes the scale of weighted_features_
  bool transforms_ = false;            // exponents, by
  ExponentTransform transform_{};      // what is here for all rows and
  PooledBuffer transform_thresholds_;  // [panels * panel], log2 units
  PooledBuffer largest_;               // [chunks, panels * panel], transformed exponents, log2 units; where measured
  bool binary_ = false;                // each exponent has its own loss, by
  BinaryElements elements_{};          // what is here for all rows
  // [2, chunks, panels * panel], where asked for: of hard negatives the sums in log2 units, and numbers; of a binary reduction
  // the losses in log2 units that sums_ does not have, which has products less 1, and the sums of sigmoids.
  std::vector<double> more_sums_;
  bool features_gathered_ = false;
  std::atomic<int64_t> bad_class_{INT64_MAX};
};

}  // namespace marginfc
