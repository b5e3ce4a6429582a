// Launches of the kernels over the rows of a batch.
#include <cstdint>
#include <numeric>
#include <vector>

#include "bench/cuda/launcher.h"

namespace marginfc::cuda {
namespace {

// Rows of the batch of each class, for triplets.
constexpr int32_t kTripletRows = 4;

class BatchLaunches : Launcher {
 public:
  using Launcher::Launcher;

  bool run() {
    static constexpr Named<BatchLaunches> kKernels[] = {
        {"prepare_features", &BatchLaunches::prepare_features},
        {"weight_features", &BatchLaunches::weight_features},
        {"targets", &BatchLaunches::targets},
        {"targets_sub_centers", &BatchLaunches::targets_sub_centers},
        {"finish_features", &BatchLaunches::finish_features},
        {"reduce_negatives", &BatchLaunches::reduce_negatives},
        {"cosine_sums", &BatchLaunches::cosine_sums},
        {"choose_triplets", &BatchLaunches::choose_triplets},
        {"triplet_gradients", &BatchLaunches::triplet_gradients},
        {"add_products", &BatchLaunches::add_products},
    };
    return run_named(*this, kKernels);
  }

 private:
  int64_t elements() const { return static_cast<int64_t>(B_) * D_; }

  // Every row has a class, no two the same where there are enough.
  int32_t* own_labels() {
    std::vector<int32_t> labels(rows_, -1);
    for (int32_t i = 0; i < B_; i++) labels[i] = i % C_;
    return memory_.holding(labels);
  }

  bool prepare_features() {
    const Operand operand = features(OperandKind::float16);
    PrepareFeaturesParameters p{};
    p.features = memory_.floats(elements());
    p.operand = const_cast<uint16_t*>(operand.values);
    p.low = operand.low;
    p.norm = memory_.empty<double>(B_);
    p.operand_scale = 1;
    p.rows = B_;
    p.dim = D_;
    p.depth = depth_;
    return launch(kernels_.prepare_features, rows_ / kRowWarps, 1, 1, p);
  }

  bool weight_features() {
    const Operand operand = features(OperandKind::float16);
    WeightFeaturesParameters p{};
    p.features = memory_.floats(elements());
    p.norm = memory_.all(B_, 1.0);
    p.factor = memory_.all(B_, 1.0);
    p.operand = const_cast<uint16_t*>(operand.values);
    p.low = operand.low;
    p.rows = B_;
    p.dim = D_;
    p.depth = depth_;
    return launch(kernels_.weight_features, rows_ / kRowWarps, 1, 1, p);
  }

  TargetsParameters targets_parameters() {
    TargetsParameters p{};
    p.features = memory_.floats(elements());
    p.weights = memory_.floats(static_cast<int64_t>(C_) * D_);
    p.labels = own_labels();
    p.norm = memory_.all(B_, 1.0);
    p.cosine = memory_.empty<double>(B_);
    p.sine = memory_.empty<double>(B_);
    p.weight_norm = memory_.empty<double>(B_);
    p.rows = B_;
    p.dim = D_;
    return p;
  }

  bool targets() { return launch(kernels_.targets, divide_up(B_, kRowWarps), 1, 1, targets_parameters()); }

  bool targets_sub_centers() {
    TargetsParameters p = targets_parameters();
    p.labels = memory_.all<int32_t>(B_, 1);
    const SubCenterTargetsParameters of_several{p, memory_.empty<int32_t>(B_), kCenters};
    return launch(kernels_.targets_sub_centers, divide_up(B_, kRowWarps), 1, 1, of_several);
  }

  bool finish_features() {
    FinishFeaturesParameters p{};
    p.total = memory_.all(static_cast<int64_t>(rows_) * width_, 0.5);
    p.scale = memory_.all(B_, 1.0);
    p.features = memory_.floats(elements());
    p.norm = memory_.all(B_, 1.0);
    p.weights = memory_.floats(static_cast<int64_t>(C_) * D_);
    p.labels = own_labels();
    p.cosine = memory_.all(B_, 0.5);
    p.weight_norm = memory_.all(B_, 1.0);
    p.gamma = memory_.all(B_, 0.5);
    p.gradient = memory_.empty<float>(elements());
    p.rows = B_;
    p.dim = D_;
    p.width = width_;
    return launch(kernels_.finish_features, divide_up(B_, kRowWarps), 1, 1, p);
  }

  bool reduce_negatives() {
    ReduceNegativesParameters p{};
    p.partials = static_cast<int32_t>(2 * splits());
    p.sums = memory_.all(static_cast<int64_t>(p.partials) * rows_, 1.0f);
    p.sum = memory_.empty<double>(B_);
    p.shift = memory_.empty<float>(rows_);
    p.rows = B_;
    p.padded_rows = rows_;
    return launch(kernels_.reduce_negatives, divide_up(rows_, 256), 1, 1, p);
  }

  bool cosine_sums() {
    CosineSumsParameters p{};
    p.features = memory_.floats(elements());
    p.norm = memory_.all(B_, 1.0);
    p.class_sum = memory_.all(D_, 1.0);
    p.sum = memory_.empty<double>(B_);
    p.rows = B_;
    p.dim = D_;
    return launch(kernels_.cosine_sums, divide_up(B_, kRowWarps), 1, 1, p);
  }

  bool choose_triplets() {
    const bool semihard = request_.variant == "semihard";
    const int32_t each = semihard ? kTripletRows - 1 : 1;
    std::vector<int32_t> labels(B_), starts(B_), members(B_);
    std::vector<int64_t> first(B_ + 1);
    std::iota(members.begin(), members.end(), 0);
    for (int32_t i = 0; i < B_; i++) {
      labels[i] = i / kTripletRows;
      starts[i] = labels[i] * kTripletRows;
      first[i + 1] = first[i] + each;
    }
    ChooseTripletsParameters p{};
    p.stride = rows_;
    p.cosines = memory_.floats(static_cast<int64_t>(rows_) * rows_);
    p.labels = memory_.holding(labels);
    p.members = memory_.holding(members);
    p.class_start = memory_.holding(starts);
    p.class_size = memory_.all(B_, kTripletRows);
    p.first = memory_.holding(first);
    p.features = memory_.floats(elements());
    p.norm = memory_.all(B_, 1.0);
    p.triplets = memory_.empty<Triplet>(first.back());
    p.rows = p.anchors = B_;
    p.dim = D_;
    p.semihard = semihard;
    return launch(kernels_.choose_triplets, divide_up(B_, kRowWarps), 1, 1, p);
  }

  bool triplet_gradients() {
    std::vector<int32_t> others(static_cast<int64_t>(B_) * kTripletRows);
    std::vector<int64_t> start(B_ + 1);
    for (int32_t i = 0; i < B_; i++) {
      start[i + 1] = start[i] + kTripletRows;
      for (int32_t t = 0; t < kTripletRows; t++)
        others[i * kTripletRows + t] = static_cast<int32_t>((i + static_cast<int64_t>(t) * 37 + 1) % B_);
    }
    TripletGradientsParameters p{};
    p.features = memory_.floats(elements());
    p.norm = memory_.all(B_, 1.0);
    p.start = memory_.holding(start);
    p.other = memory_.holding(others);
    p.slope = memory_.all(start.back(), 0.5);
    p.along = memory_.all(B_, 0.5);
    p.gradient = memory_.empty<float>(elements());
    p.rows = B_;
    p.dim = D_;
    return launch(kernels_.triplet_gradients, divide_up(B_, kRowWarps), divide_up(D_, kTileSide), 1, p);
  }

  bool add_products() {
    AddProductsParameters p{};
    p.count = p.split_stride = static_cast<int64_t>(rows_) * width_;
    p.splits = static_cast<int32_t>(divide_up(class_tiles(), kMostTilesPerProduct));
    p.products = memory_.all(p.splits * p.split_stride, 1.0f);
    p.total = memory_.all(p.count, 1.0);
    return launch(kernels_.add_products, divide_up(p.count, 4 * 256), 1, 1, p);
  }
};

}  // namespace

bool launch_batch_rows(const KernelTable& kernels, const Request& request) {
  return BatchLaunches(kernels, request).run();
}

}  // namespace marginfc::cuda
