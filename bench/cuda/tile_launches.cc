// Launches of the kernels over tiles of rows and classes.
#include <string>

#include "bench/cuda/launcher.h"
#include "cuda/hopper.h"

namespace marginfc::cuda {
namespace {

// MV-Softmax's.
constexpr AccumulatorTransform kTransform{{{0, 1, 0}, {1, 0}}, {{18.5f, 1.2f, 0}, {1.2f, 0}}};

// SphereFace2's at s = 40 and t = 3, with negatives on both sides of 0; and UniFace's.
constexpr AccumulatorBinary kBinary{0.02f, 2.4f, -14, 2, 0.17f, 0};
constexpr AccumulatorBinary kFirstPower{1, 0, -14, 0, 1, 0};

class TileLaunches : Launcher {
 public:
  using Launcher::Launcher;

  bool run() {
    constexpr const char* kNames[] = {"float16", "bfloat16", "float32"};  // by OperandKind
    for (int k = 0; k < 3; k++) {
      const std::string end = std::string("_") + kNames[k];
      const size_t at = request_.kernel.find(end);
      if (at != std::string::npos)
        return run_tile(request_.kernel.substr(0, at), kernels_.tiles[k], static_cast<OperandKind>(k));
    }
    return false;
  }

 private:
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

  SubCenterColumns sub_centers() const {
    return columns_of(slots(mapped_ ? SlotOrder::wgmma : SlotOrder::mma), classes_of_slots());
  }
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
    p.sub_centers = sub_centers();
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
    p.sub_centers = sub_centers();
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

  bool mapped_ = false;  // the kernel takes tensor maps
};

}  // namespace

bool launch_tiles(const KernelTable& kernels, const Request& request) { return TileLaunches(kernels, request).run(); }

}  // namespace marginfc::cuda
