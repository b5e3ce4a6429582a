// Launches of the kernels over rows of classes.
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "bench/cuda/launcher.h"
#include "engine/draw.h"

namespace marginfc::cuda {
namespace {

constexpr int32_t kNearest = 10;

class ClassLaunches : Launcher {
 public:
  using Launcher::Launcher;

  bool run() {
    static constexpr Named<ClassLaunches> kKernels[] = {
        {"prepare_weights", &ClassLaunches::prepare_weights},
        {"gather_class_rows", &ClassLaunches::gather_class_rows},
        {"add_class_rows", &ClassLaunches::add_class_rows},
        {"draw_classes", &ClassLaunches::draw_classes},
        {"list_sub_centers", &ClassLaunches::list_sub_centers},
        {"flag_sub_centers", &ClassLaunches::flag_sub_centers},
        {"largest_sub_centers", &ClassLaunches::largest_sub_centers},
        {"list_classes", &ClassLaunches::list_classes},
        {"finish_weights_aided", &ClassLaunches::finish_weights_aided},
        {"sum_unit_rows", &ClassLaunches::sum_unit_rows},
        {"add_unit_sums", &ClassLaunches::add_unit_sums},
        {"finish_weights", &ClassLaunches::finish_weights},
        {"initialize_weights", &ClassLaunches::initialize_weights},
        {"select_nearest", &ClassLaunches::select_nearest},
    };
    return run_named(*this, kKernels);
  }

 private:
  int64_t elements() const { return static_cast<int64_t>(C_) * D_; }

  // The list of all of them.
  int32_t* every_class() {
    std::vector<int32_t> index(C_);
    std::iota(index.begin(), index.end(), 0);
    return memory_.holding(index);
  }

  bool prepare_weights() {
    const Operand operand = weights(OperandKind::float16);
    PrepareWeightsParameters p{};
    p.weights = memory_.floats(elements());
    p.operand = const_cast<uint16_t*>(operand.values);
    p.low = operand.low;
    p.classes = C_;
    p.operand_scale = 1;
    p.dim = D_;
    p.depth = depth_;
    if (request_.variant == "sampled") p.index = every_class();
    return launch(kernels_.prepare_weights, classes_ / kRowWarps, 1, 1, p);
  }

  bool gather_class_rows() {
    GatherClassRowsParameters p{};
    p.rows = memory_.floats(static_cast<int64_t>(C_) * D_);
    p.index = every_class();
    p.out = memory_.empty<float>(static_cast<int64_t>(B_) * D_);
    p.count = B_;
    p.dim = D_;
    return launch(kernels_.gather_class_rows, divide_up(B_, kRowWarps), 1, 1, p);
  }

  bool add_class_rows() {
    AddClassRowsParameters p{};
    p.rows = memory_.floats(static_cast<int64_t>(B_) * D_);
    p.index = every_class();
    p.to = memory_.floats(static_cast<int64_t>(C_) * D_);
    p.count = B_;
    p.dim = D_;
    return launch(kernels_.add_class_rows, divide_up(B_, kRowWarps), 1, 1, p);
  }

  bool draw_classes() {
    DrawClassesParameters p{};
    p.classes = p.head_classes = C_;
    p.drawn = p.drawn_last = C_ / 2;
    p.flags = memory_.empty<uint8_t>(C_);
    p.counts = memory_.empty<int32_t>(divide_up(C_, kSamplingBlock));
    p.owner_class = memory_.all<int32_t>(1, 0);
    return launch(kernels_.draw_classes, divide_up(C_, kSamplingBlock), 1, 1, p);
  }

  bool list_sub_centers() {
    ListSubCentersParameters p{};
    p.index = memory_.empty<int32_t>(classes_);
    p.count = classes_of_slots();
    p.slots = slots(SlotOrder::mma);
    return launch(kernels_.list_sub_centers, divide_up(p.count, 256), 1, 1, p);
  }

  bool flag_sub_centers() {
    FlagSubCentersParameters p{};
    p.classes = C_ / kCenters;
    p.flags = memory_.all<uint8_t>(p.classes, 0);
    p.gradient = memory_.all(static_cast<int64_t>(C_) * D_, 0.0f);
    p.row_flags = memory_.empty<uint8_t>(C_);
    p.centers = kCenters;
    p.dim = D_;
    return launch(kernels_.flag_sub_centers, row_blocks(p.classes, kMultiprocessors), 1, 1, p);
  }

  bool largest_sub_centers() {
    LargestSubCentersParameters p{};
    p.cosines = memory_.floats(static_cast<int64_t>(B_) * classes_);
    p.largest = memory_.empty<float>(static_cast<int64_t>(B_) * classes_);
    p.stride = classes_;
    p.classes = classes_of_slots();
    p.slots = slots(SlotOrder::mma);
    return launch(kernels_.largest_sub_centers, B_, divide_up(p.classes, 256), 1, p);
  }

  bool list_classes() {
    std::vector<uint8_t> flags(C_);
    for (int32_t c = 0; c < C_; c += 2) flags[c] = 1;
    ListClassesParameters p{};
    p.classes = C_;
    p.flags = memory_.holding(flags);
    p.counts = memory_.all(divide_up(C_, kSamplingBlock), kSamplingBlock / 2);
    p.owner_class = memory_.all<int32_t>(1, 0);
    p.index = memory_.empty<int32_t>(C_);
    p.places = memory_.empty<int32_t>(1);
    return launch(kernels_.list_classes, divide_up(C_, kSamplingBlock), 1, 1, p);
  }

  bool finish_weights_aided() {
    if (request_.variant == "others") {
      FinishWeightsParameters p = finish(SinkKind::sgd, OperandKind::float16);
      p.operand = nullptr;
      p.flags = memory_.all<uint8_t>(C_, 0);
      p.resting = 1;
      p.clip_scale = 1;
      p.clip_longest = std::numeric_limits<double>::infinity();
      return launch(kernels_.finish_weights_aided, row_blocks(C_, kMultiprocessors), 1, 1, p);
    }
    const bool measure = request_.variant == "measure";
    FinishWeightsParameters p = finish(measure ? SinkKind::measure : SinkKind::sgd, OperandKind::float16);
    const bool added = request_.variant == "added";
    p.raw = memory_.floats(static_cast<int64_t>(classes_) * width_);
    p.added = added ? memory_.floats(elements()) : nullptr;
    p.clip_scale = 1;
    p.clip_longest = added ? std::numeric_limits<double>::infinity() : 1;
    const int64_t blocks = row_blocks(C_, kMultiprocessors);
    p.squares = memory_.all(blocks * kRowWarps, 0.0);
    return launch(kernels_.finish_weights_aided, blocks, 1, 1, p);
  }

  bool sum_unit_rows() {
    SumUnitRowsParameters p{};
    const int64_t blocks = divide_up(C_, kUnitRows);
    p.rows = memory_.floats(elements());
    p.partials = memory_.empty<double>(blocks * D_);
    p.count = C_;
    p.dim = D_;
    return launch(kernels_.sum_unit_rows, blocks, 1, 1, p);
  }

  bool add_unit_sums() {
    AddUnitSumsParameters p{};
    p.count = static_cast<int32_t>(divide_up(C_, kUnitRows));
    p.partials = memory_.all(static_cast<int64_t>(p.count) * D_, 1.0);
    p.sum = memory_.empty<double>(D_);
    p.dim = D_;
    p.width = width_;
    return launch(kernels_.add_unit_sums, divide_up(width_, 256), 1, 1, p);
  }

  bool finish_weights() {
    constexpr const char* kSinks[] = {"write", "accumulate", "sgd", "adamw"};  // by SinkKind
    for (int sink = 0; sink < 4; sink++)
      if (request_.variant == kSinks[sink]) {
        FinishWeightsParameters p = finish(static_cast<SinkKind>(sink), OperandKind::float16);
        p.raw = memory_.floats(static_cast<int64_t>(classes_) * width_);
        return launch(kernels_.finish_weights, row_blocks(C_, kMultiprocessors), 1, 1, p);
      }
    return false;
  }

  bool initialize_weights() {
    InitializeWeightsParameters p{};
    p.weights = memory_.empty<float>(elements());
    p.classes = C_;
    p.std = 0.1;
    p.seed = 1;
    p.dim = D_;
    return launch(kernels_.initialize_weights, divide_up(elements() / 4, 256), 1, 1, p);
  }

  bool select_nearest() {
    SelectNearestParameters p{};
    p.cosines = memory_.floats(static_cast<int64_t>(rows_) * classes_);
    p.stride = classes_;
    p.classes = C_;
    p.best_class = memory_.all<int32_t>(1, 0);
    p.best_cosine = memory_.all(1, 0.0f);
    p.next_class = memory_.empty<int32_t>(static_cast<int64_t>(B_) * kNearest);
    p.next_cosine = memory_.empty<float>(static_cast<int64_t>(B_) * kNearest);
    p.k = kNearest;
    p.unscale = 1;
    p.last = 1;
    return launch(kernels_.select_nearest, B_, 1, 1, p);
  }
};

}  // namespace

bool launch_class_rows(const KernelTable& kernels, const Request& request) {
  return ClassLaunches(kernels, request).run();
}

}  // namespace marginfc::cuda
