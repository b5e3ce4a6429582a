// One batch against one shard on a GPU: phases 0, 1, 2, 4 and 5 of engine.h, all on the device's stream. Nothing of size
// B x C is ever held: gradients.cc makes the probabilities of a chunk of classes, uses them up and goes on.
#pragma once

#include <vector>

#include "cuda/plan.h"
#include "cuda/sampling.h"
#include "cuda/shard.h"
#include "engine/owners.h"

namespace marginfc::cuda {

class CudaPass final : public ShardPass {
 public:
  CudaPass(CudaShard& shard, const Batch& batch);

  // Phase 0. `must_check`: weights that may hold a NaN are looked through, where the batch asks for it.
  Status prepare(bool must_check);
  int64_t classes() const override { return classes_; }
  Status targets(Target* targets) override;
  Status negatives(const GradientPlan& plan, const Negatives& result) override;
  Status reserve(const FeatureSink& features, const WeightSink& weights) override;
  Status gradients(const RowCoefficients& rows, const FeatureSink& features, const WeightSink& weights) override;
  Status store_features(const float* total, float* to) override;
  Status load_features(float* to) override;
  // ClassShard::nearest; after prepare().
  Status nearest(int64_t k, int32_t* classes, float* cosines);
  // Engine::triplets, where the classes are the batch's rows themselves; after prepare().
  Status triplets(const TripletPlan& plan, const int32_t* labels, Triplets* result);

 private:
  // Classes whose P is made and used up together, counted from the shard's first; or slots, where classes have several rows.
  struct Chunk {
    int64_t first;
    int32_t classes;
    int32_t tiles;
  };
  // Phase 4's memory.
  struct GradientMemory {
    int64_t chunk_tiles = 0;                 // of a whole chunk
    int32_t product_tiles = 0;               // of each split of dX's product
    OperandRows weighted;                    // V, [padded rows, depth]
    OperandRows probabilities;               // P, [padded rows, chunk]
    DeviceBuffer raw;                        // dW before phase 5, [chunk, width]; not where the update is fused
    DeviceBuffer products;                   // dX by splits, [splits, padded rows, width]
    DeviceBuffer total;                      // dX, [padded rows, width] float64
    std::vector<double> coefficient_values;  // [5, rows]
    DeviceBuffer coefficients;               // [5, rows] float64: factor of V, scale of dX, gamma, radial, uniform
    DeviceBuffer uniform_sum;                // [dim] float64: sum over rows of uniform xh
    DeviceBuffer uniform;                    // [width]: the same, as it is added to the raw product
    SquareSum squares;
    DeviceBuffer features;    // dX, [rows, dim]
    DeviceBuffer weights[2];  // dW of a chunk on its way to the host, [chunk, dim]
  };

  // On these two operands, from these rows on. `tiles_per_block`: of products.
  template <class Parameters>
  Status launch_product(const Kernel& kernel, Grid grid, const OperandRows& left, int64_t left_row,
                        const OperandRows& right, int64_t right_row, const Parameters& p, int32_t tiles_per_block = 0) {
    if (!mapped()) return device_.launch(kernel, grid, p);
    const Mapped<Parameters> m{
        left.map(), right.map(), static_cast<int32_t>(left_row), static_cast<int32_t>(right_row), p, tiles_per_block};
    return device_.launch(kernel, grid, m);
  }
  // Columns of a product's tiles; `stays`: its left operand may stay in shared memory.
  int32_t tile_columns(bool stays) const {
    return mapped() && !stays && width_ % kWideTile == 0 ? kWideTile : kTileSide;
  }
  // Whether kernels take tensor maps.
  bool mapped() const { return &products_ != &tiles_; }
  bool samples() const { return batch_.sampling.draws(); }
  // Launches the draw and the list of the classes that take part.
  Status sample_classes();
  Status upload_labels();
  Status prepare_features();
  Status prepare_weights(bool must_check);
  // Of the batch's data that came back: fails at the first row that is not finite.
  Status check_features() const;
  // Fails when weights were looked through and a row is not finite.
  Status check_weights(int32_t bad_class);
  // What a launch over the negatives finds besides their sums.
  struct Finds {
    bool hardest = false;
    bool above = false;
    bool hard = false;  // with above
    bool slopes = false;
  };
  // Of classes of several rows no kernel finds less than the hardest.
  Finds wanted() const { return {batch_.hardest || has_sub_centers(), batch_.above, false}; }
  const Kernel& negatives_kernel(Finds finds) const;
  // `offset` and `threshold` [padded rows]: where the kernel looks at them.
  Status launch_negatives(const Kernel& kernel, const float* offset, const float* threshold, Finds finds);
  Status reserve_sums(Finds finds);
  // Cosines [rows] as thresholds of accumulators [padded rows].
  Status upload_thresholds(const double* cosine, DeviceBuffer* to);
  // Phase 2 of a scale that needs no offsets; nothing where it was launched already.
  Status begin_negatives();
  // No shift of P, but for padding; of angles.
  Status fill_shifts();
  Status find_offsets();
  Status upload_offsets();
  // Phase 2 but for what all have in common: without a transform, in transform.cc with one, and in binary.cc of a binary
  // reduction.
  Status plain_negatives();
  Status transformed_negatives(const Negatives& result);
  // What the kernels that change negatives do not find: hardest and, where it is asked for, above. Waits for it.
  Status find_apart();
  Status set_transform(const NegativesTransform& transform);
  Status launch_transformed(const Kernel& kernel, Finds finds);
  Status binary_negatives(const BinaryReduction& binary);
  void set_binary(const BinaryReduction& binary);
  // Launches the sum of the classes' unit rows, and what it says of each row.
  Status launch_cosine_sums();
  Status sum_unit_rows(const DeviceBuffer& rows, Precision storage, int64_t count, const double* factor,
                       AddUnitSumsParameters add);
  const DeviceBuffer& class_rows() const { return borrowed() ? weights_ : shard_.weights(); }
  const OperandRows& class_operand() const { return borrowed() || samples() ? operand_ : shard_.operand(kind_); }
  // Rows of class_rows() from this place of the operand on; null where they are the places themselves.
  const int32_t* index(int64_t place) const { return place_rows_ ? place_rows_ + place : nullptr; }
  // Classes that take part, by place; null where all do.
  const int32_t* classes_index() const { return samples() ? sampled_.index(0) : nullptr; }
  bool has_sub_centers() const { return slots_.centers > 1; }
  // Rows of the operand.
  int64_t places() const { return has_sub_centers() ? slots_.count(classes_) : classes_; }
  // Each row's largest own row; after targets().
  Status upload_owner_slots(const std::vector<int32_t>& center);
  bool borrowed() const { return shard_.borrowed().values != nullptr; }
  // Exponents need offsets.
  bool far() const { return batch_.scale > kMostPlainScale; }
  bool cancelled() const { return batch_.cancel && batch_.cancel->load(std::memory_order_relaxed) != 0; }
  int64_t class_tiles() const { return padded_rows(places()) / kTileSide; }
  int64_t row_tiles() const { return padded_rows_ / kTileSide; }
  // Blocks that run at the same time.
  int64_t slots(const ProductKernels& kernels) const {
    return static_cast<int64_t>(device_.multiprocessors()) * kernels.blocks_per_multiprocessor;
  }
  int64_t slots() const { return slots(products_); }
  int32_t steps() const { return features_operand_.depth() / kStageDepth; }
  // The chunk that starts at this class, of at most `tiles`.
  Chunk chunk_from(int64_t first, int64_t tiles) const;
  // Of the shard that sampled nothing: the rows of a chunk, which are neighbours in some order.
  struct ChunkRows {
    int64_t first, count;
  };
  ChunkRows rows_of(const Chunk& chunk) const;

  // Memory for these gradients; no more where they were planned before.
  Status plan_gradients(const GradientPlan& plan);
  // For dW as a product of its own.
  Status reserve_raw();
  // Whether dW takes more than the fused kernels do.
  bool aided(const WeightSink& sink) const {
    return smooth_ || sink.added || sink.kind == WeightSink::Kind::measure || !sink.clip.none();
  }
  // P and dX of the first chunk need the sums but not what the host makes of them.
  Status begin_gradients(const GradientPlan& plan);
  Status upload_coefficients(const RowCoefficients& rows, double* unscale);
  Status launch_probabilities(const Chunk& chunk);
  Status launch_feature_product(const Chunk& chunk);
  // dW of a chunk to its sink; `to`: where `write` leaves it.
  Status launch_weights(const Chunk& chunk, const WeightSink& sink, double unscale, const DeviceBuffer& to);
  Status launch_weight_product(const Chunk& chunk);
  // The kernel that makes and uses up dW at once, or null.
  const Kernel* fused(WeightSink::Kind sink) const;
  int64_t finish_blocks(int64_t classes) const { return row_blocks(classes, device_.multiprocessors()); }
  FinishWeightsParameters weight_finish(const Chunk& chunk, const WeightSink& sink, double unscale,
                                        const DeviceBuffer& to) const;
  // Moves the classes that take no part as by a gradient of zero.
  Status launch_others(const WeightSink& sink);
  Status launch_feature_finish(const RowCoefficients& rows);
  // Waits for the triplets that were chosen, [plan.count()].
  Status choose_triplets(const TripletPlan& plan, const int32_t* labels, std::vector<Triplet>* triplets);
  Status sum_triplets(const TripletTerms& terms, float* gradient);
  Status run_chunks(bool features, const WeightSink& sink, double unscale);

  CudaShard& shard_;
  Device& device_;
  const Batch batch_;
  const OperandKind kind_;
  const TileKernels& tiles_;
  const ProductKernels& products_;  // the fastest of them that the device has
  const SubCenterSlots slots_;      // of classes of several rows
  const LogitKernels& logits_;      // of products_
  int64_t classes_;                 // that take part, numbered by their places
  const int32_t dim_;
  // An empty batch is run as one row of zeros without a class, so that updates need no path of their own.
  const int32_t rows_;
  const int32_t padded_rows_;
  const int32_t width_;
  // exponent = accumulator * factor - offset, in log2 units; of angles cosine = accumulator * factor
  float factor_ = 1;
  double operand_scale_ = 1;  // accumulator = cosine * operand_scale

  SampledClasses sampled_;               // where classes are sampled
  SubCenterList list_;                   // where they have several rows that are sampled or borrowed
  const int32_t* place_rows_ = nullptr;  // [places()], on the device
  std::vector<Owner> owners_;            // by class, then row; index: the class's place
  std::vector<double> norms_;            // [4, rows]: |x|, then cosine, sine and |w| of the own class
  std::vector<double> sums_;             // [rows]
  std::vector<float> shifts_;            // [rows], as reduce_negatives sets them
  std::vector<float> offsets_;           // [padded rows], log2 units; only when s > 64 or with a transform

  DeviceBuffer features_;         // [rows, dim]
  OperandRows features_operand_;  // [padded rows, depth]
  // [padded rows] places of classes of this shard or -1; owners' places; owners' rows; [padded rows] the row itself where its
  // class is here, else -1.
  DeviceBuffer labels_;
  DeviceBuffer norms_memory_;  // as norms_
  // [rows], of its own class's rows the largest; and owners' slots with their rows. Where classes have several.
  DeviceBuffer centers_, owner_slots_;
  DeviceBuffer row_flags_;      // [rows of the shard], of those that take part; likewise, with updates of all
  DeviceBuffer own_rows_;       // [rows, dim], w of the row's own class, as it was in phase 1
  DeviceBuffer weights_;        // borrowed: [classes, dim] as stored; the caller's own where it lies on this GPU
  OperandRows operand_;         // borrowed or sampled: [padded classes, depth]
  int64_t operand_writes_ = 0;  // sampled: what shard_.writes() was for operand_
  DeviceBuffer bad_class_;      // [1]
  bool checked_ = false;        // bad_class_ tells of these weights
  DeviceBuffer partial_sums_, partial_hardest_, partial_above_, sums_memory_, shifts_memory_, largest_, above_;
  DeviceBuffer offsets_memory_, thresholds_;
  DeviceBuffer transform_thresholds_;  // [padded rows]
  DeviceBuffer partial_hard_, hard_sums_, partial_slopes_, slope_sums_;
  DeviceBuffer unit_partials_;  // parts of sums of unit rows
  DeviceBuffer class_sum_;      // [dim] float64, sum of the classes' unit rows; with label smoothing
  DeviceBuffer cosine_sums_;    // [rows] float64, likewise
  bool smooth_ = false;         // phase 2 was asked for them
  std::vector<float> largest_host_;
  std::vector<int32_t> above_host_;
  std::vector<double> hard_sums_host_;
  std::vector<int32_t> hard_counts_host_;
  bool transforms_ = false;  // accumulators, by
  AccumulatorTransform transform_{};
  bool binary_ = false;  // each logit has its own loss, by
  AccumulatorBinary binary_terms_{};
  std::vector<double> slope_sums_host_;
  double slope_unit_ = 1;  // slopes of kernels are those of G or g divided by this
  GradientMemory memory_;
  GradientPlan planned_;        // what memory_ is for
  bool gradient_here_ = false;  // the caller's dW lies on this GPU
  bool negatives_begun_ = false;
  bool gradients_begun_ = false;  // the first chunk's P and, if planned, dX are launched
};

}  // namespace marginfc::cuda
