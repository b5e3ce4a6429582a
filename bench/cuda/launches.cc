// Launches kernels of a PTX text or fatbin one after the other, at sizes of real use and with parameters as the engine
// sets them; `npm run cuda:report` reads what the software GPU counted. Results are not looked at: the tests do that.
//
//   cuda_launches IMAGE kernel[:variant],B,D,C ...     for example negatives_float16,512,512,2048
//
// Rows own no class, but for kernels that are about nothing else (targets, finish_features).
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "bench/cuda/device_memory.h"
#include "cuda/driver.h"
#include "cuda/hopper.h"
#include "cuda/kernel_table.h"
#include "cuda/parameters.h"
#include "cuda/plan.h"
#include "engine/draw.h"

using namespace marginfc;
using namespace marginfc::cuda;

namespace {

// Of an A100: what the engine cuts launches to.
constexpr int64_t kMultiprocessors = 108;
// Tiles of classes a block of negatives or probabilities takes, of the 14 to 28 it takes at 100 000 classes.
constexpr int32_t kTilesPerBlock = 8;
constexpr int32_t kNearest = 10;
// Rows of a class that has several.
constexpr int32_t kCenters = 3;
// Rows of the batch of each class, for triplets.
constexpr int32_t kTripletRows = 4;
// MV-Softmax's.
constexpr AccumulatorTransform kTransform{{{0, 1, 0}, {1, 0}}, {{18.5f, 1.2f, 0}, {1.2f, 0}}};

// SphereFace2's at s = 40 and t = 3, with negatives on both sides of 0; and UniFace's.
constexpr AccumulatorBinary kBinary{0.02f, 2.4f, -14, 2, 0.17f, 0};
constexpr AccumulatorBinary kFirstPower{1, 0, -14, 0, 1, 0};

struct Request {
  std::string kernel, variant;
  int32_t rows, dim, classes;
};

bool parse(const char* text, Request* request) {
  char name[96];
  if (std::sscanf(text, "%95[^,],%d,%d,%d", name, &request->rows, &request->dim, &request->classes) != 4) return false;
  request->kernel = name;
  const size_t colon = request->kernel.find(':');
  if (colon != std::string::npos) {
    request->variant = request->kernel.substr(colon + 1);
    request->kernel.resize(colon);
  }
  return request->rows > 0 && request->dim > 0 && request->classes > 0;
}

class Launcher {
 public:
  Launcher(const KernelTable& kernels, const Request& request)
      : kernels_(kernels),
        request_(request),
        B_(request.rows),
        D_(request.dim),
        C_(request.classes),
        rows_(static_cast<int32_t>(padded_rows(B_))),
        classes_(static_cast<int32_t>(padded_rows(C_))),
        depth_(static_cast<int32_t>(padded_depth(D_))),
        width_(static_cast<int32_t>(padded_width(D_))) {}

  // False where there is no such kernel.
  bool run() { return run_tiles() || run_features() || run_weights(); }

 private:
  bool named(const char* name) const { return request_.kernel == name; }

  template <class Parameters>
  bool launch(const Kernel& kernel, int64_t x, int64_t y, int64_t z, const Parameters& p) {
    if (!kernel.function) return false;
    void* arguments[] = {const_cast<Parameters*>(&p)};
    must(driver()->launch(kernel.function, static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z),
                          kernel.threads, 1, 1, kernel.shared_bytes, nullptr, arguments, nullptr),
         "cuLaunchKernel");
    must(driver()->stream_synchronize(nullptr), request_.kernel.c_str());
    return true;
  }

  // With the operands' rows, for kernels that take tensor maps.
  template <class Parameters>
  bool launch_product(const Kernel& kernel, int64_t x, int64_t y, int64_t z, const Parameters& p, const Operand& left,
                      int64_t left_rows, const Operand& right, int64_t right_rows, int32_t tiles_per_block = 0) {
    if (!mapped_) return launch(kernel, x, y, z, p);
    const auto map_of = [](const Operand& operand, int64_t rows) {
      TensorMap map;
      must(map_rows(driver(), reinterpret_cast<DevicePointer>(operand.values), rows, operand.stride, &map),
           "cuTensorMapEncodeTiled");
      return map;
    };
    const Mapped<Parameters> m{map_of(left, left_rows), map_of(right, right_rows), 0, 0, p, tiles_per_block};
    return launch(kernel, x, y, z, m);
  }

  bool run_tiles() {
    constexpr const char* kNames[] = {"float16", "bfloat16", "float32"};  // by OperandKind
    for (int k = 0; k < 3; k++) {
      const std::string end = std::string("_") + kNames[k];
      const size_t at = request_.kernel.find(end);
      if (at != std::string::npos)
        return run_tile(request_.kernel.substr(0, at), kernels_.tiles[k], static_cast<OperandKind>(k));
    }
    return false;
  }

  bool run_tile(const std::string& full_name, const TileKernels& tiles, OperandKind kind) {
    const std::string prefix = "hopper_";
    mapped_ = full_name.compare(0, prefix.size(), prefix) == 0;
    const std::string name = mapped_ ? full_name.substr(prefix.size()) : full_name;
    const ProductKernels& products = mapped_ ? tiles.hopper : tiles;
    const std::string several = "_sub_centers";
    if (name.size() > several.size() && name.compare(name.size() - several.size(), several.size(), several) == 0)
      return run_logits(name.substr(0, name.size() - several.size()), products.sub_centers, kind);
    if (run_logits(name, products, kind)) return true;
    if (name == "negatives") return negatives(products.negatives, kind);
    if (name == "features_product") return features_product(products.features_product, kind, kTileSide);
    if (name == "weights_product") return weights_product(products.weights_product, kind, kTileSide);
    if (name == "features_product_wide") return features_product(tiles.features_product_wide, kind, kWideTile);
    if (name == "weights_product_wide") return weights_product(tiles.weights_product_wide, kind, kWideTile);
    if (name == "cosines") return cosines(tiles.cosines, kind);
    if (name == "negatives_angles") return negatives(tiles.negatives_angles, kind);
    if (name == "probabilities_angles") return probabilities(tiles.probabilities_angles, kind);
    const Kernel* update = tiles.update(width_);
    return name == "update" && update && fused_update(*update, kind);
  }

  bool run_logits(const std::string& name, const LogitKernels& products, OperandKind kind) {
    if (name == "negatives_hardest") return negatives(products.negatives_hardest, kind);
    if (name == "negatives_above") return negatives(products.negatives_above, kind);
    if (name == "negatives_binary") return negatives(products.negatives_binary, kind);
    if (name == "negatives_shifted") return negatives(products.negatives_shifted, kind);
    if (name == "negatives_transformed") return negatives(products.negatives_transformed, kind);
    if (name == "negatives_transformed_hard") return negatives(products.negatives_transformed_hard, kind);
    if (name == "probabilities") return probabilities(products.probabilities, kind);
    if (name == "probabilities_transformed") return probabilities(products.probabilities_transformed, kind);
    if (name == "probabilities_binary") return probabilities(products.probabilities_binary, kind);
    return false;
  }

  SubCenterSlots slots() const { return {kCenters, mapped_ ? SlotOrder::wgmma : SlotOrder::mma}; }
  // That the slots of the classes have room for.
  int32_t classes_of_slots() const { return classes_ / kGroupSlots * slots().classes_of_group(); }

  int32_t class_tiles() const { return classes_ / kTileSide; }
  int64_t splits() const { return divide_up(class_tiles(), kTilesPerBlock); }
  Operand features(OperandKind kind) { return memory_.operand(rows_, depth_, kind); }
  Operand weights(OperandKind kind) { return memory_.operand(classes_, depth_, kind); }
  int32_t* no_labels() { return memory_.all<int32_t>(rows_, -1); }

  const AccumulatorBinary& binary() const { return request_.variant == "first_power" ? kFirstPower : kBinary; }

  bool negatives(const Kernel& kernel, OperandKind kind) {
    NegativesParameters p{};
    p.features = features(kind);
    p.weights = weights(kind);
    p.labels = no_labels();
    p.offset = memory_.all(rows_, 1.0f);
    p.factor = 1;
    p.sums = memory_.empty<float>(2 * splits() * rows_);
    p.hardest = memory_.empty<float>(2 * splits() * rows_);
    p.threshold = memory_.all(rows_, 1.0f);
    p.above = memory_.empty<int32_t>(2 * splits() * rows_);
    p.hard = memory_.empty<float>(2 * splits() * rows_);
    p.slopes = memory_.empty<float>(2 * splits() * rows_);
    p.transform = kTransform;
    p.binary = binary();
    p.sub_centers = columns_of(slots(), classes_of_slots());
    p.padded_rows = rows_;
    p.classes = C_;
    p.steps = depth_ / kStageDepth;
    p.tiles_per_split = kTilesPerBlock;
    return launch_product(kernel, splits(), rows_ / kTileSide, 1, p, p.features, rows_, p.weights, classes_);
  }

  bool probabilities(const Kernel& kernel, OperandKind kind) {
    const Operand out = memory_.operand(rows_, classes_, kind);
    ProbabilitiesParameters p{};
    p.features = features(kind);
    p.weights = weights(kind);
    p.labels = no_labels();
    p.shift = memory_.all(rows_, 0.0f);
    p.factor = 1;
    p.probabilities = const_cast<uint16_t*>(out.values);
    p.low = out.low;
    p.stride = out.stride;
    p.classes = C_;
    p.steps = depth_ / kStageDepth;
    p.tiles_per_split = kTilesPerBlock;
    p.threshold = memory_.all(rows_, 1.0f);
    p.transform = kTransform;
    p.binary = binary();
    p.sub_centers = columns_of(slots(), classes_of_slots());
    return launch_product(kernel, splits(), rows_ / kTileSide, 1, p, p.features, rows_, p.weights, classes_);
  }

  bool cosines(const Kernel& kernel, OperandKind kind) {
    CosinesParameters p{};
    p.features = features(kind);
    p.weights = weights(kind);
    p.cosines = memory_.empty<float>(static_cast<int64_t>(rows_) * classes_);
    p.stride = classes_;
    p.classes = C_;
    p.steps = depth_ / kStageDepth;
    p.tiles_per_split = kTilesPerBlock;
    return launch(kernel, splits(), rows_ / kTileSide, 1, p);
  }

  bool features_product(const Kernel& kernel, OperandKind kind, int32_t columns) {
    const int64_t splits = divide_up(class_tiles(), kMostTilesPerProduct);
    ProductParameters p{};
    p.left = memory_.operand(rows_, classes_, kind);
    p.right = weights(kind);
    p.split_stride = static_cast<int64_t>(rows_) * width_;
    p.out = memory_.empty<float>(splits * p.split_stride);
    p.width = width_;
    p.steps = classes_ / kStageDepth;
    p.steps_per_split = kMostTilesPerProduct * kTileSide / kStageDepth;
    const int32_t across = width_ / columns;
    return launch_product(kernel, mapped_ ? 1 : across, rows_ / kTileSide, splits, p, p.left, rows_, p.right, classes_,
                          across);
  }

  bool weights_product(const Kernel& kernel, OperandKind kind, int32_t columns) {
    ProductParameters p{};
    p.left = memory_.operand(rows_, classes_, kind);
    p.right = features(kind);
    p.out = memory_.empty<float>(static_cast<int64_t>(classes_) * width_);
    p.width = width_;
    p.steps = p.steps_per_split = rows_ / kStageDepth;
    const int32_t across = width_ / columns;
    return launch_product(kernel, mapped_ ? 1 : across, class_tiles(), 1, p, p.left, rows_, p.right, rows_, across);
  }

  // Four tiles of 64 classes a block.
  bool fused_update(const Kernel& kernel, OperandKind kind) {
    UpdateParameters p{};
    p.left = memory_.operand(rows_, classes_, kind);
    p.right = features(kind);
    p.steps = rows_ / kStageDepth;
    p.finish = finish(SinkKind::sgd, kind);
    return launch(kernel, divide_up(C_, 256), 1, 1, p);
  }

  FinishWeightsParameters finish(SinkKind sink, OperandKind kind) {
    const int64_t elements = static_cast<int64_t>(C_) * D_;
    FinishWeightsParameters p{};
    p.unscale = 1;
    p.weights = memory_.floats(elements);
    p.sink = sink;
    if (sink == SinkKind::write) p.gradient = memory_.empty<float>(elements);
    if (sink == SinkKind::accumulate) p.gradient = memory_.floats(elements);
    if (sink == SinkKind::sgd || sink == SinkKind::adamw) {
      p.momentum = memory_.floats(elements);
      const Operand operand = weights(kind);
      p.operand = const_cast<uint16_t*>(operand.values);
      p.low = operand.low;
    }
    if (sink == SinkKind::adamw) p.variance = memory_.all(elements, 1.0f);
    p.operand_scale = 1;
    p.features = memory_.floats(static_cast<int64_t>(B_) * D_);
    p.norm = memory_.all(B_, 1.0);
    p.cosine = memory_.all(B_, 0.5);
    p.gamma = memory_.all(B_, 0.5);
    p.owner_class = p.owner_row = memory_.all<int32_t>(1, 0);
    p.sgd_step = {0.1f, 0.9f, 5e-4f, false};
    p.adamw_step = {0.1f, 0.9f, 0.999f, 1, 1e-8f, 1};
    p.classes = C_;
    p.padding = classes_ - C_;
    p.dim = D_;
    p.depth = depth_;
    p.width = width_;
    p.kind = kind;
    p.storage = StorageKind::float32;
    return p;
  }

  bool run_features() {
    const int64_t elements = static_cast<int64_t>(B_) * D_;
    if (named("prepare_features")) {
      const Operand operand = features(OperandKind::float16);
      PrepareFeaturesParameters p{};
      p.features = memory_.floats(elements);
      p.operand = const_cast<uint16_t*>(operand.values);
      p.low = operand.low;
      p.norm = memory_.empty<double>(B_);
      p.operand_scale = 1;
      p.rows = B_;
      p.dim = D_;
      p.depth = depth_;
      return launch(kernels_.prepare_features, rows_ / kRowWarps, 1, 1, p);
    }
    if (named("weight_features")) {
      const Operand operand = features(OperandKind::float16);
      WeightFeaturesParameters p{};
      p.features = memory_.floats(elements);
      p.norm = memory_.all(B_, 1.0);
      p.factor = memory_.all(B_, 1.0);
      p.operand = const_cast<uint16_t*>(operand.values);
      p.low = operand.low;
      p.rows = B_;
      p.dim = D_;
      p.depth = depth_;
      return launch(kernels_.weight_features, rows_ / kRowWarps, 1, 1, p);
    }
    if (named("targets") || named("targets_sub_centers")) {
      TargetsParameters p{};
      p.features = memory_.floats(elements);
      p.weights = memory_.floats(static_cast<int64_t>(C_) * D_);
      p.labels = own_labels();
      p.norm = memory_.all(B_, 1.0);
      p.cosine = memory_.empty<double>(B_);
      p.sine = memory_.empty<double>(B_);
      p.weight_norm = memory_.empty<double>(B_);
      p.rows = B_;
      p.dim = D_;
      if (named("targets")) return launch(kernels_.targets, divide_up(B_, kRowWarps), 1, 1, p);
      p.labels = memory_.all<int32_t>(B_, 1);
      const SubCenterTargetsParameters of_several{p, memory_.empty<int32_t>(B_), kCenters};
      return launch(kernels_.targets_sub_centers, divide_up(B_, kRowWarps), 1, 1, of_several);
    }
    if (named("finish_features")) {
      FinishFeaturesParameters p{};
      p.total = memory_.all(static_cast<int64_t>(rows_) * width_, 0.5);
      p.scale = memory_.all(B_, 1.0);
      p.features = memory_.floats(elements);
      p.norm = memory_.all(B_, 1.0);
      p.weights = memory_.floats(static_cast<int64_t>(C_) * D_);
      p.labels = own_labels();
      p.cosine = memory_.all(B_, 0.5);
      p.weight_norm = memory_.all(B_, 1.0);
      p.gamma = memory_.all(B_, 0.5);
      p.gradient = memory_.empty<float>(elements);
      p.rows = B_;
      p.dim = D_;
      p.width = width_;
      return launch(kernels_.finish_features, divide_up(B_, kRowWarps), 1, 1, p);
    }
    if (named("reduce_negatives")) {
      ReduceNegativesParameters p{};
      p.partials = static_cast<int32_t>(2 * splits());
      p.sums = memory_.all(static_cast<int64_t>(p.partials) * rows_, 1.0f);
      p.sum = memory_.empty<double>(B_);
      p.shift = memory_.empty<float>(rows_);
      p.rows = B_;
      p.padded_rows = rows_;
      return launch(kernels_.reduce_negatives, divide_up(rows_, 256), 1, 1, p);
    }
    if (named("cosine_sums")) {
      CosineSumsParameters p{};
      p.features = memory_.floats(elements);
      p.norm = memory_.all(B_, 1.0);
      p.class_sum = memory_.all(D_, 1.0);
      p.sum = memory_.empty<double>(B_);
      p.rows = B_;
      p.dim = D_;
      return launch(kernels_.cosine_sums, divide_up(B_, kRowWarps), 1, 1, p);
    }
    if (named("choose_triplets")) {
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
      p.features = memory_.floats(elements);
      p.norm = memory_.all(B_, 1.0);
      p.triplets = memory_.empty<Triplet>(first.back());
      p.rows = p.anchors = B_;
      p.dim = D_;
      p.semihard = semihard;
      return launch(kernels_.choose_triplets, divide_up(B_, kRowWarps), 1, 1, p);
    }
    if (named("triplet_gradients")) {
      std::vector<int32_t> others(static_cast<int64_t>(B_) * kTripletRows);
      std::vector<int64_t> start(B_ + 1);
      for (int32_t i = 0; i < B_; i++) {
        start[i + 1] = start[i] + kTripletRows;
        for (int32_t t = 0; t < kTripletRows; t++)
          others[i * kTripletRows + t] = static_cast<int32_t>((i + static_cast<int64_t>(t) * 37 + 1) % B_);
      }
      TripletGradientsParameters p{};
      p.features = memory_.floats(elements);
      p.norm = memory_.all(B_, 1.0);
      p.start = memory_.holding(start);
      p.other = memory_.holding(others);
      p.slope = memory_.all(start.back(), 0.5);
      p.along = memory_.all(B_, 0.5);
      p.gradient = memory_.empty<float>(elements);
      p.rows = B_;
      p.dim = D_;
      return launch(kernels_.triplet_gradients, divide_up(B_, kRowWarps), divide_up(D_, kTileSide), 1, p);
    }
    if (named("add_products")) {
      AddProductsParameters p{};
      p.count = p.split_stride = static_cast<int64_t>(rows_) * width_;
      p.splits = static_cast<int32_t>(divide_up(class_tiles(), kMostTilesPerProduct));
      p.products = memory_.all(p.splits * p.split_stride, 1.0f);
      p.total = memory_.all(p.count, 1.0);
      return launch(kernels_.add_products, divide_up(p.count, 4 * 256), 1, 1, p);
    }
    return false;
  }

  // Every row has a class, no two the same where there are enough.
  int32_t* own_labels() {
    std::vector<int32_t> labels(rows_, -1);
    for (int32_t i = 0; i < B_; i++) labels[i] = i % C_;
    return memory_.holding(labels);
  }

  // The list of all of them.
  int32_t* every_class() {
    std::vector<int32_t> index(C_);
    std::iota(index.begin(), index.end(), 0);
    return memory_.holding(index);
  }

  bool run_weights() {
    const int64_t elements = static_cast<int64_t>(C_) * D_;
    if (named("prepare_weights")) {
      const Operand operand = weights(OperandKind::float16);
      PrepareWeightsParameters p{};
      p.weights = memory_.floats(elements);
      p.operand = const_cast<uint16_t*>(operand.values);
      p.low = operand.low;
      p.classes = C_;
      p.operand_scale = 1;
      p.dim = D_;
      p.depth = depth_;
      if (request_.variant == "sampled") p.index = every_class();
      return launch(kernels_.prepare_weights, classes_ / kRowWarps, 1, 1, p);
    }
    if (named("gather_class_rows")) {
      GatherClassRowsParameters p{};
      p.rows = memory_.floats(static_cast<int64_t>(C_) * D_);
      p.index = every_class();
      p.out = memory_.empty<float>(static_cast<int64_t>(B_) * D_);
      p.count = B_;
      p.dim = D_;
      return launch(kernels_.gather_class_rows, divide_up(B_, kRowWarps), 1, 1, p);
    }
    if (named("add_class_rows")) {
      AddClassRowsParameters p{};
      p.rows = memory_.floats(static_cast<int64_t>(B_) * D_);
      p.index = every_class();
      p.to = memory_.floats(static_cast<int64_t>(C_) * D_);
      p.count = B_;
      p.dim = D_;
      return launch(kernels_.add_class_rows, divide_up(B_, kRowWarps), 1, 1, p);
    }
    if (named("draw_classes")) {
      DrawClassesParameters p{};
      p.classes = p.head_classes = C_;
      p.drawn = p.drawn_last = C_ / 2;
      p.flags = memory_.empty<uint8_t>(C_);
      p.counts = memory_.empty<int32_t>(divide_up(C_, kSamplingBlock));
      p.owner_class = memory_.all<int32_t>(1, 0);
      return launch(kernels_.draw_classes, divide_up(C_, kSamplingBlock), 1, 1, p);
    }
    if (named("list_sub_centers")) {
      ListSubCentersParameters p{};
      p.index = memory_.empty<int32_t>(classes_);
      p.count = classes_of_slots();
      p.slots = slots();
      return launch(kernels_.list_sub_centers, divide_up(p.count, 256), 1, 1, p);
    }
    if (named("flag_sub_centers")) {
      FlagSubCentersParameters p{};
      p.classes = C_ / kCenters;
      p.flags = memory_.all<uint8_t>(p.classes, 0);
      p.gradient = memory_.all(static_cast<int64_t>(C_) * D_, 0.0f);
      p.row_flags = memory_.empty<uint8_t>(C_);
      p.centers = kCenters;
      p.dim = D_;
      return launch(kernels_.flag_sub_centers, row_blocks(p.classes, kMultiprocessors), 1, 1, p);
    }
    if (named("largest_sub_centers")) {
      LargestSubCentersParameters p{};
      p.cosines = memory_.floats(static_cast<int64_t>(B_) * classes_);
      p.largest = memory_.empty<float>(static_cast<int64_t>(B_) * classes_);
      p.stride = classes_;
      p.classes = classes_of_slots();
      p.slots = slots();
      return launch(kernels_.largest_sub_centers, B_, divide_up(p.classes, 256), 1, p);
    }
    if (named("list_classes")) {
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
    if (named("finish_weights_aided") && request_.variant == "others") {
      FinishWeightsParameters p = finish(SinkKind::sgd, OperandKind::float16);
      p.operand = nullptr;
      p.flags = memory_.all<uint8_t>(C_, 0);
      p.resting = 1;
      p.clip_scale = 1;
      p.clip_longest = std::numeric_limits<double>::infinity();
      return launch(kernels_.finish_weights_aided, row_blocks(C_, kMultiprocessors), 1, 1, p);
    }
    if (named("finish_weights_aided")) {
      const bool measure = request_.variant == "measure";
      FinishWeightsParameters p = finish(measure ? SinkKind::measure : SinkKind::sgd, OperandKind::float16);
      const bool added = request_.variant == "added";
      p.raw = memory_.floats(static_cast<int64_t>(classes_) * width_);
      p.added = added ? memory_.floats(elements) : nullptr;
      p.clip_scale = 1;
      p.clip_longest = added ? std::numeric_limits<double>::infinity() : 1;
      const int64_t blocks = row_blocks(C_, kMultiprocessors);
      p.squares = memory_.all(blocks * kRowWarps, 0.0);
      return launch(kernels_.finish_weights_aided, blocks, 1, 1, p);
    }
    if (named("sum_unit_rows")) {
      SumUnitRowsParameters p{};
      const int64_t blocks = divide_up(C_, kUnitRows);
      p.rows = memory_.floats(elements);
      p.partials = memory_.empty<double>(blocks * D_);
      p.count = C_;
      p.dim = D_;
      return launch(kernels_.sum_unit_rows, blocks, 1, 1, p);
    }
    if (named("add_unit_sums")) {
      AddUnitSumsParameters p{};
      p.count = static_cast<int32_t>(divide_up(C_, kUnitRows));
      p.partials = memory_.all(static_cast<int64_t>(p.count) * D_, 1.0);
      p.sum = memory_.empty<double>(D_);
      p.dim = D_;
      p.width = width_;
      return launch(kernels_.add_unit_sums, divide_up(width_, 256), 1, 1, p);
    }
    if (named("finish_weights")) {
      constexpr const char* kSinks[] = {"write", "accumulate", "sgd", "adamw"};  // by SinkKind
      for (int sink = 0; sink < 4; sink++)
        if (request_.variant == kSinks[sink]) {
          FinishWeightsParameters p = finish(static_cast<SinkKind>(sink), OperandKind::float16);
          p.raw = memory_.floats(static_cast<int64_t>(classes_) * width_);
          return launch(kernels_.finish_weights, row_blocks(C_, kMultiprocessors), 1, 1, p);
        }
      return false;
    }
    if (named("initialize_weights")) {
      InitializeWeightsParameters p{};
      p.weights = memory_.empty<float>(elements);
      p.classes = C_;
      p.std = 0.1;
      p.seed = 1;
      p.dim = D_;
      return launch(kernels_.initialize_weights, divide_up(elements / 4, 256), 1, 1, p);
    }
    if (named("select_nearest")) {
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
    return false;
  }

  const KernelTable& kernels_;
  const Request& request_;
  const int32_t B_, D_, C_;
  const int32_t rows_, classes_, depth_, width_;  // padded
  DeviceMemory memory_;
  bool mapped_ = false;  // the kernel takes tensor maps
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: cuda_launches IMAGE kernel[:variant],B,D,C ...\n");
    return 2;
  }
  const Driver& driver = cuda::driver();
  if (!driver.available()) {
    std::fprintf(stderr, "%s\n", driver.reason.c_str());
    return 1;
  }
  std::ifstream file(arguments[1], std::ios::binary);
  std::string image{std::istreambuf_iterator<char>(file), {}};
  DeviceOrdinal device;
  ContextHandle* context;
  ModuleHandle* module;
  int32_t major, minor;
  must(driver->device_get(&device, 0), "cuDeviceGet");
  must(driver->device_attribute(&major, DeviceAttribute::major, device), "cuDeviceGetAttribute");
  must(driver->device_attribute(&minor, DeviceAttribute::minor, device), "cuDeviceGetAttribute");
  must(driver->context_retain(&context, device), "cuDevicePrimaryCtxRetain");
  must(driver->context_push(context), "cuCtxPushCurrent");
  must(driver->module_load(&module, image.c_str(), 0, nullptr, nullptr), "cuModuleLoadDataEx");
  KernelTable kernels;
  const std::string wrong = find_kernels(driver, module, nullptr, 10 * major + minor, &kernels);
  if (!wrong.empty()) {
    std::fprintf(stderr, "%s\n", wrong.c_str());
    return 1;
  }
  for (int i = 2; i < count; i++) {
    Request request;
    if (!parse(arguments[i], &request) || !Launcher(kernels, request).run()) {
      std::fprintf(stderr, "%s: no such kernel here\n", arguments[i]);
      return 1;
    }
  }
  return 0;
}
