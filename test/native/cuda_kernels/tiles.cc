// The kernels over tiles, each against the same operands multiplied in float64.
#include <algorithm>

#include "test/native/cuda_kernels/binary_reference.h"
#include "test/native/cuda_kernels/tile_problem.h"

namespace marginfc::check {
namespace {

// exp2 of an exponent near 92: a unit in the last place of that is 5e-6 of the result.
constexpr double kExponentError = 3e-5;

// For accumulators of cosines from -1 to 1. Left to themselves masked ones would be infinite, or not a number.
constexpr AccumulatorTransform kTransform{{{1, 0.5f, 0.002f}, {0.5f, 0.002f}}, {{-2, 1.1f, 0.004f}, {-0.2f, 0.008f}}};
// Their steepest slope.
constexpr double kSteepest = 2;

// With classes counted by slots, in which the last group has fewer than fit. Of one column rows are equal.
constexpr std::pair<TileSize, int32_t> kSubCenterSizes[] = {{{1, 64, 1, 1}, 2},     {{33, 192, 1, 1}, 3},
                                                            {{131, 320, 33, 2}, 3}, {{140, 128, 31, 4}, 9},
                                                            {{64, 384, 96, 2}, 16}, {{33, 320, 200, 2}, 5}};

double value_of(const ExponentQuadratic& g, double s) { return g.value[0] + (g.value[1] + g.value[2] * s) * s; }
double slope_of(const ExponentQuadratic& g, double s) { return g.slope[0] + g.slope[1] * s; }

const AccumulatorBinary& binary_of(const TileProblem& problem) { return kBinaries[problem.size.rows % 3]; }

// The classes of a problem as its kernels take them: each of its class rows is one, or each of its slots is a row of a class of
// several, whose logit is the largest of them, of equal ones the first's. What slots of no class hold must not count.
class Classes {
 public:
  explicit Classes(const TileProblem& of) : problem(of), count(of.size.classes), labels(of.labels) {}
  Classes(const TileProblem& of, const SubCenterSlots& of_slots)
      : problem(of), slots(of_slots), labels(of.labels.size(), -1) {
    // The last group has classes for one thread and a half.
    const int32_t groups = of.size.classes / kGroupSlots;
    count = (groups - 1) * slots.classes_of_group() + (slots.classes_of_thread() * 3 + 1) / 2;
    for (size_t i = 0; i < labels.size(); i++)
      if (of.labels[i] >= 0) labels[i] = of.labels[i] == of.size.classes - 1 ? count - 1 : of.labels[i] % count;
  }

  int64_t slot(int32_t j, int32_t k) const { return several() ? slots.slot(j, k) : j; }
  // Of the class's rows; kNear: no kernel can tell which.
  int32_t largest(int64_t i, int32_t j) const {
    int32_t best = 0;
    for (int32_t k = 1; k < slots.centers; k++)
      if (row_logit(i, j, k) > row_logit(i, j, best)) best = k;
    for (int32_t k = 0; k < slots.centers; k++) {
      const double below = row_logit(i, j, best) - row_logit(i, j, k);
      if (below > 0 && below < 1e-3) return kNear;
    }
    return best;
  }
  double logit(int64_t i, int32_t j) const {
    double most = row_logit(i, j, 0);
    for (int32_t k = 1; k < slots.centers; k++) most = std::max(most, row_logit(i, j, k));
    return most;
  }
  bool several() const { return slots.centers > 1; }
  // `first` as the number of places before these classes.
  SubCenterColumns columns(int32_t first) const { return columns_of(slots, first + count); }

  static constexpr int32_t kNear = -1;
  const TileProblem& problem;
  const SubCenterSlots slots{1, SlotOrder::mma};
  int32_t count;
  std::vector<int32_t> labels;  // [padded rows]

 private:
  double row_logit(int64_t i, int32_t j, int32_t k) const { return problem.logit(i, slot(j, k)); }
};

// Of rows' negatives: above the largest, below all, and between the others, no accumulator near one; and how many are above.
struct Thresholds {
  explicit Thresholds(const Classes& classes);
  const ExponentQuadratic& transform(int64_t i, double s) const {
    return s > values[i] ? kTransform.above : kTransform.below;
  }
  std::vector<float> values;   // [padded rows]
  std::vector<int32_t> above;  // [padded rows]
};

Thresholds::Thresholds(const Classes& classes)
    : values(classes.problem.x.padded, std::nanf("")), above(classes.problem.x.padded) {
  for (int32_t i = 0; i < classes.problem.size.rows; i++) {
    std::vector<double> logits;
    for (int32_t j = 0; j < classes.count; j++)
      if (j != classes.labels[i]) logits.push_back(classes.logit(i, j));
    std::sort(logits.begin(), logits.end());
    const auto count = static_cast<int64_t>(logits.size());
    // All, none, half of them, a few.
    int64_t below = i % 4 == 0   ? 0
                    : i % 4 == 1 ? count
                    : i % 4 == 2 ? count / 2
                                 : std::max<int64_t>(count - 1 - i % 7, 0);
    while (below > 0 && below < count && logits[below] - logits[below - 1] < 2e-3) below++;
    above[i] = static_cast<int32_t>(count - below);
    values[i] = static_cast<float>(count == 0       ? 0
                                   : below == 0     ? logits[0] - 1
                                   : below == count ? logits[count - 1] + 1
                                                    : (logits[below - 1] + logits[below]) / 2);
  }
}

void check_negatives(const Classes& classes, Path path, const std::string& kind) {
  const TileProblem& problem = classes.problem;
  const std::string kernel = kind + (classes.several() ? "_sub_centers" : "");
  const bool transformed = kind.find("_transformed") != std::string::npos, hard = kind == "negatives_transformed_hard";
  const bool shifted = kind == "negatives_shifted", counts = hard || kind == "negatives_above";
  const bool binary = kind == "negatives_binary";
  const bool hardest = kind == "negatives_above" || kind == "negatives_hardest" || binary || (transformed && !hard);
  const int64_t padded = problem.x.padded, partials = 2 * problem.splits();
  const Thresholds thresholds(classes);
  // Of shifted ones as for s = 128: twice the exponent.
  const auto exponent = [&](int64_t i, int32_t j) {
    const double s = classes.logit(i, j);
    return transformed ? value_of(thresholds.transform(i, s), s) : shifted ? 2 * s : s;
  };
  // From the largest.
  std::vector<float> offsets(padded, std::nanf(""));
  for (int32_t i = 0; i < problem.size.rows; i++) {
    double most = -std::numeric_limits<double>::infinity();
    for (int32_t j = 0; j < classes.count; j++)
      if (j != classes.labels[i]) most = std::max(most, exponent(i, j));
    offsets[i] = std::isfinite(most) ? static_cast<float>(most) : 0;
  }
  const Buffer<float> offset(offsets), sums(partials * padded), largest(partials * padded);
  const Buffer<float> threshold(thresholds.values), hard_sums(partials * padded), slopes(partials * padded);
  const Buffer<int32_t> counted(partials * padded), labels(classes.labels);
  NegativesParameters p{};
  p.features = problem.x.operand(Padding::poison);
  p.weights = problem.w.operand(Padding::poison);
  p.labels = labels.get();
  p.offset = shifted || transformed ? offset.get() : nullptr;
  p.factor = 2;
  p.sums = sums.get();
  p.hardest = hardest ? largest.get() : nullptr;
  p.threshold = counts || transformed ? threshold.get() : nullptr;
  p.above = counts ? counted.get() : nullptr;
  p.hard = hard ? hard_sums.get() : nullptr;
  p.slopes = binary ? slopes.get() : nullptr;
  p.padded_rows = static_cast<int32_t>(padded);
  p.classes = problem.size.classes;
  p.steps = problem.steps();
  p.tiles_per_split = problem.size.tiles_per_split;
  p.transform = kTransform;
  p.binary = binary_of(problem);
  p.sub_centers = classes.columns(0);
  problem.launch_product(path, kernel, p, p.features, padded, p.weights, problem.w.padded, problem.splits(),
                         problem.row_tiles());

  Values values(problem.text(path, kernel));
  const std::vector<float> got = sums.read(), got_largest = hardest ? largest.read() : std::vector<float>();
  const std::vector<int32_t> got_above = counts ? counted.read() : std::vector<int32_t>();
  const std::vector<float> got_hard = hard ? hard_sums.read() : std::vector<float>();
  const std::vector<float> got_slopes = binary ? slopes.read() : std::vector<float>();
  for (int32_t i = 0; i < problem.size.rows; i++) {
    double sum = 0, most = -std::numeric_limits<double>::infinity(), hard_sum = 0, slope_sum = 0;
    int32_t count = 0;
    for (int64_t k = 0; k < partials; k++) {
      sum += got[k * padded + i];
      if (hardest) most = std::max<double>(most, got_largest[k * padded + i]);
      if (counts) count += got_above[k * padded + i];
      if (hard) hard_sum += got_hard[k * padded + i];
      if (binary) slope_sum += got_slopes[k * padded + i];
    }
    double want = 0, want_most = -std::numeric_limits<double>::infinity(), want_hard = 0, size = 0;
    double want_slopes = 0, off = 0, slopes_off = 0;
    for (int32_t j = 0; j < classes.count; j++) {
      if (j == classes.labels[i]) continue;
      const double s = classes.logit(i, j), z = exponent(i, j) - (p.offset ? offsets[i] : 0);
      const BinaryReference reference(p.binary, s);
      want += binary ? reference.logarithm : std::exp2(z);
      want_slopes += reference.sigmoid;
      off += reference.sigmoid * reference.off + 4e-6 * reference.logarithm;
      slopes_off += reference.sigmoid * (reference.off + 2e-6);
      want_most = std::max(want_most, s);
      if (s <= thresholds.values[i]) continue;
      want_hard += s;
      size += std::fabs(s);
    }
    const double steep = transformed ? kSteepest + 1 : shifted ? 2 : 1;
    values.near(sum, want, binary ? off : steep * kExponentError * want, i);
    if (binary) values.near(slope_sum, want_slopes, slopes_off, i, 4);
    if (hardest) values.near(most, want_most, 5e-5, i);
    const int32_t above = thresholds.above[i];
    if (hard) {
      values.equal(count, above, i, 1);
      values.near(hard_sum, want_hard, 5e-5 * above + 1e-6 * size, i, 3);
      continue;
    }
    // From kMostCounted on by a warp's lane or a block it need not be exact.
    if (counts && above < kMostCounted) values.equal(count, above, i, 1);
    if (counts) values.equal(count >= std::min(above, kMostCounted) && count <= above, true, i, 2);
  }
}

// As a chunk that is not the shard's first, of whose columns the last tile is not there.
void check_probabilities(const Classes& classes, Path path, const std::string& kind) {
  constexpr int32_t kFirst = 1024;  // class or slot
  const TileProblem& problem = classes.problem;
  const bool transformed = kind == "probabilities_transformed", binary = kind == "probabilities_binary";
  const int32_t first_place = classes.several() ? kFirst / kGroupSlots * classes.slots.classes_of_group() : kFirst;
  const int64_t padded = problem.x.padded, stride = problem.w.padded + kTileSide;
  const int64_t low = padded * stride + kOperandSlack;
  const bool split = problem.kind == OperandKind::split;
  const Buffer<uint16_t> memory(std::vector<uint16_t>((split ? 2 : 1) * low, OperandBuffer::kPoison));
  const Thresholds thresholds(classes);
  const auto exponent = [&](int64_t i, int32_t j) {
    const double s = classes.logit(i, j);
    if (binary) return std::log2(BinaryReference(binary_of(problem), s).sigmoid);
    return transformed ? value_of(thresholds.transform(i, s), s) : s;
  };
  const std::vector<float> shifts = probability_shifts(problem, classes.count, classes.labels, exponent);
  std::vector<int32_t> labels = classes.labels;
  for (int32_t& label : labels)
    if (label >= 0) label += first_place;
  const Buffer<float> shift(shifts), threshold(thresholds.values);
  const Buffer<int32_t> label_memory(labels);
  ProbabilitiesParameters p{};
  p.features = problem.x.operand();
  p.weights = problem.w.operand(Padding::poison);
  p.labels = label_memory.get();
  p.shift = shift.get();
  p.factor = 1;
  p.probabilities = memory.get();
  p.low = low;
  p.stride = static_cast<int32_t>(stride);
  p.first_class = kFirst;
  p.classes = problem.size.classes;
  p.steps = problem.steps();
  p.tiles_per_split = problem.size.tiles_per_split;
  p.threshold = transformed ? threshold.get() : nullptr;
  p.transform = kTransform;
  p.binary = binary_of(problem);
  p.sub_centers = classes.columns(first_place);
  const std::string kernel = kind + (classes.several() ? "_sub_centers" : "");
  problem.launch_product(path, kernel, p, p.features, padded, p.weights, problem.w.padded, problem.splits(),
                         problem.row_tiles());

  Values values(problem.text(path, kernel));
  const std::vector<uint16_t> bits = memory.read();
  const double relative = split                                   ? kExponentError
                          : problem.kind == OperandKind::bfloat16 ? 0x1p-8
                                                                  : 0x1p-11 + kExponentError;
  for (int64_t i = 0; i < padded; i++) {
    // The class whose row counts in this column, or none; and whether it may.
    std::vector<int32_t> class_of(stride, -1), near(stride);
    for (int32_t j = 0; i < problem.size.rows && j < classes.count; j++) {
      if (j == classes.labels[i]) continue;
      const int32_t k = classes.largest(i, j);
      if (k != Classes::kNear) class_of[classes.slot(j, k)] = j;
      for (int32_t of = 0; k == Classes::kNear && of < classes.slots.centers; of++) near[classes.slot(j, of)] = 1;
    }
    for (int64_t j = 0; j < stride; j++) {
      const int64_t at = i * stride + j;
      if (j >= problem.w.padded) {
        values.equal(bits[at], OperandBuffer::kPoison, i, j);
        continue;
      }
      double got = widen(bits[at], problem.kind);
      if (split) got += widen(bits[low + at], problem.kind);
      const int32_t counted = class_of[j];
      if (near[j]) continue;
      if (counted < 0) {
        values.equal(got, 0, i, j);
        continue;
      }
      const double s = classes.logit(i, counted), e = std::exp2(exponent(i, counted) - shifts[i]);
      const BinaryReference reference(p.binary, s);
      const double slope = transformed ? slope_of(thresholds.transform(i, s), s) : binary ? reference.slope : 1;
      const double off = transformed ? kSteepest * kExponentError * std::fabs(slope) + 1e-6
                         : binary    ? reference.off * std::fabs(slope) + reference.slope_off
                                     : 0;
      // Below its normal numbers float16 has a fixed step.
      values.near(got, e * slope, e * (relative * std::fabs(slope) + off) + 0x1p-25, i, j);
    }
  }
}

void check_cosines(const TileProblem& problem, Path path) {
  const int64_t padded = problem.x.padded, stride = problem.w.padded;
  const Buffer<float> out(padded * stride);
  CosinesParameters p{};
  p.features = problem.x.operand(Padding::poison);
  p.weights = problem.w.operand(Padding::poison);
  p.cosines = out.get();
  p.stride = static_cast<int32_t>(stride);
  p.classes = problem.size.classes;
  p.steps = problem.steps();
  p.tiles_per_split = problem.size.tiles_per_split;
  problem.launch("cosines", &p, problem.splits(), problem.row_tiles(), 1);
  Values values(problem.text(path, "cosines"));
  const std::vector<float> got = out.read();
  for (int32_t i = 0; i < problem.size.rows; i++)
    for (int32_t j = 0; j < problem.size.classes; j++)
      values.near(got[i * stride + j], problem.logit(i, j), 5e-5, i, j);
}

// out [rows, dim] of a product against float64: terms(row, column, k).
template <typename Terms>
void compare_product(Values& values, const std::vector<float>& out, int64_t splits, int64_t split_stride, int64_t width,
                     int64_t rows, int64_t dim, int64_t inner, const Terms& terms) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < dim; d++) {
      double want = 0, size = 0, got = 0;
      for (int64_t k = 0; k < inner; k++) {
        const double term = terms(i, d, k);
        want += term;
        size += std::fabs(term);
      }
      for (int64_t z = 0; z < splits; z++) got += out[z * split_stride + i * width + d];
      values.near(got, want, 2e-6 * size, i, d);
    }
}

// Hopper's steps are two of the others'.
int32_t whole_steps(Path path, int32_t steps) { return path == Path::hopper ? steps + steps % 2 : steps; }

// By the columns of a tile.
std::string product_name(const char* product, int64_t columns) {
  return product + std::string(columns == kWideTile ? "_wide" : "");
}

template <int64_t kTileColumns>
void check_features_product(const TileProblem& problem, Path path) {
  const TileProbabilities probabilities(problem);
  const int64_t padded = problem.x.padded, width = padded_width(problem.size.dim);
  if (width % kTileColumns != 0) return;
  const std::string kernel = product_name("features_product", kTileColumns);
  const auto steps = static_cast<int32_t>(problem.w.padded / kStageDepth);
  // Splits end with a tile of classes; fewer steps than there are stages, an odd number, and all of them in one split are of
  // interest all the same.
  for (const int32_t split : {(steps + 2) / 3, 1, 5, steps}) {
    const int32_t steps_per_split = whole_steps(path, split);
    ProductParameters p{};
    p.left = probabilities.operand();
    p.right = problem.w.operand();
    p.width = static_cast<int32_t>(width);
    p.steps = steps;
    p.steps_per_split = steps_per_split;
    p.split_stride = padded * width + 64;
    const int64_t splits = (steps + steps_per_split - 1) / steps_per_split;
    const Buffer<float> out(splits * p.split_stride);
    p.out = out.get();
    // Two tiles a block, so that consumers take turns and a block has fewer at the end.
    problem.launch_product(path, kernel, p, p.left, padded, p.right, problem.w.padded, width / kTileColumns,
                           problem.row_tiles(), splits, 2);
    Values values(problem.text(path, kernel));
    compare_product(values, out.read(), splits, p.split_stride, width, problem.size.rows, problem.size.dim,
                    problem.size.classes,
                    [&](int64_t i, int64_t d, int64_t j) { return probabilities.of(i, j) * problem.w.row(j)[d]; });
  }
}

template <int64_t kTileColumns>
void check_weights_product(const TileProblem& problem, Path path) {
  const TileProbabilities probabilities(problem);
  const int64_t width = padded_width(problem.size.dim);
  if (width % kTileColumns != 0) return;
  const std::string kernel = product_name("weights_product", kTileColumns);
  const auto whole = static_cast<int32_t>(problem.x.padded / kStageDepth);
  // Rows of the batch end with a tile; a step less or more than the stages there are is of interest all the same.
  for (const int32_t few : {whole, 1, 5}) {
    const int32_t steps = whole_steps(path, few);
    if (steps > whole) continue;
    const Buffer<float> out(problem.w.padded * width);
    ProductParameters p{};
    p.left = probabilities.operand();
    p.right = problem.v.operand();
    p.width = static_cast<int32_t>(width);
    p.out = out.get();
    p.steps = p.steps_per_split = steps;
    problem.launch_product(path, kernel, p, p.left, problem.x.padded, p.right, problem.v.padded, width / kTileColumns,
                           problem.class_tiles(), 1, 3);
    Values values(problem.text(path, kernel));
    compare_product(values, out.read(), 1, 0, width, problem.size.classes, problem.size.dim,
                    std::min(problem.size.rows, steps * kStageDepth),
                    [&](int64_t j, int64_t d, int64_t i) { return probabilities.of(i, j) * problem.v.row(i)[d]; });
  }
}

}  // namespace

KernelChecks tile_checks(const Device& device) {
  using Check = std::function<void(const TileProblem&, Path)>;
  std::vector<std::pair<std::string, Check>> kernels = {
      {"cosines", check_cosines},
      {"features_product", check_features_product<kTileSide>},
      {"features_product_wide", check_features_product<kWideTile>},
      {"weights_product", check_weights_product<kTileSide>},
      {"weights_product_wide", check_weights_product<kWideTile>},
  };
  using LogitCheck = std::function<void(const Classes&, Path)>;
  std::vector<std::pair<std::string, LogitCheck>> logit_kernels;
  for (const char* kind : {"", "_transformed", "_binary"}) {
    const std::string kernel = std::string("probabilities") + kind;
    logit_kernels.emplace_back(kernel,
                               [=](const Classes& classes, Path path) { check_probabilities(classes, path, kernel); });
  }
  for (const char* kind : {"", "_hardest", "_above", "_binary", "_shifted", "_transformed", "_transformed_hard"}) {
    const std::string kernel = std::string("negatives") + kind;
    logit_kernels.emplace_back(kernel,
                               [=](const Classes& classes, Path path) { check_negatives(classes, path, kernel); });
  }
  for (const auto& [kernel, check] : logit_kernels)
    kernels.emplace_back(kernel,
                         [check = check](const TileProblem& problem, Path path) { check(Classes(problem), path); });
  KernelChecks checks;
  const auto problems = std::make_shared<TileProblems>(device);
  const auto of_several = [=](OperandKind kind, Path path, const LogitCheck& check) {
    const SlotOrder order = path == Path::hopper ? SlotOrder::wgmma : SlotOrder::mma;
    for (const auto& [size, centers] : kSubCenterSizes)
      check(Classes(problems->of(kind, size), {centers, order}), path);
  };
  for (const OperandKind kind : kOperands) {
    for (const Path path : {Path::common, Path::hopper})
      for (const auto& [kernel, check] : kernels)
        checks.push_back({(path == Path::hopper ? "hopper_" : "") + (kernel + ("_" + type_name(kind))),
                          [=, check = check](const Device&) {
                            problems->for_each(path, kind, [&](const TileProblem& problem) { check(problem, path); });
                          }});
    for (const Path path : {Path::common, Path::hopper})
      for (const auto& [kernel, check] : logit_kernels)
        checks.push_back({(path == Path::hopper ? "hopper_" : "") + (kernel + ("_sub_centers_" + type_name(kind))),
                          [=, check = check](const Device&) { of_several(kind, path, check); }});
    for (const int32_t width : {128, 256, 512})
      checks.push_back({"update_" + type_name(kind) + "_" + std::to_string(width),
                        [=](const Device&) { check_updates(*problems, kind, width); },
                        {"weights_product_" + type_name(kind), "finish_weights"}});
  }
  return checks;
}

}  // namespace marginfc::check
