// The kernels over tiles that take angles, against arccos and sine in float64: classes anywhere, on the rows and opposite to them,
// and with products that are above 1.
#include "engine/arccos.h"
#include "test/native/cuda_kernels/tile_problem.h"

namespace marginfc::check {
namespace {

constexpr double kScale = 64, kWeightScale = 16;  // of accumulators, and of classes' operands

struct AngleSize {
  TileSize tiles;
  double alike;  // class j is row j times this; 0: no row
};
constexpr AngleSize kAngleSizes[] = {{{1, 1, 1, 1}, 0},       {{2, 131, 31, 1}, 0},        {{131, 33, 131, 1}, 1},
                                     {{33, 700, 96, 2}, 1},   {{130, 1009, 64, 3}, -1},    {{140, 300, 33, 2}, 1.001},
                                     {{64, 300, 512, 2}, -1}, {{257, 400, 200, 4}, -1.001}};

// A function of a cosine, and how far off it is where the cosine is off by `error`.
template <typename Function>
std::pair<double, double> around(const Function& of, double cosine, double error) {
  const double at = of(cosine);
  return {at, std::max(std::fabs(of(cosine - error) - at), std::fabs(of(cosine + error) - at))};
}
double angle_of(double cosine) { return std::acos(std::fmax(std::fmin(cosine, 1), -1)); }
double inverse_sine_of(double cosine) {
  return 1 / std::fmax(std::sqrt(std::fmax(1 - cosine * cosine, 0)), kLeastSine);
}

struct AngleProblem {
  explicit AngleProblem(const AngleSize& of)
      : size(of.tiles),
        random(size.rows * 7919 + size.classes),
        same(random),
        x(random, size.rows, size.dim, kScale / kWeightScale, OperandKind::split),
        // The same random numbers, or those that come next.
        w(of.alike != 0 ? same : random, size.classes, size.dim, (of.alike != 0 ? of.alike : 1) * kWeightScale,
          OperandKind::split),
        labels(x.padded, -1) {
    for (int32_t i = 0; i < size.rows; i++)
      labels[i] = i % 5 == 4 ? -1 : i % 5 == 1 ? size.classes - 1 : random.below(size.classes);
  }

  bool counts(int64_t i, int64_t j) const { return i < size.rows && j < size.classes && j != labels[i]; }
  double cosine(int64_t i, int64_t j) const {
    double product = 0;
    for (int64_t d = 0; d < size.dim; d++) product += x.row(i)[d] * w.row(j)[d];
    return product / kScale;
  }
  // Of a cosine: that of operands and of numbers in a row is less, but a sum whose terms are all of one sign is truncated to its last
  // place with each step.
  double error(double cosine) const { return 5e-7 + std::fabs(cosine) * x.depth * 1e-8; }
  int32_t splits() const {
    return static_cast<int32_t>((w.padded / kTileSide + size.tiles_per_split - 1) / size.tiles_per_split);
  }
  template <typename Parameters>
  void launch(const Device& device, const char* kernel, const Parameters& p) const {
    device.launch(kernel, &p, splits(), static_cast<uint32_t>(x.padded / kTileSide), 1,
                  device.variable("tile_threads_float32"), device.variable("tile_bytes_float32"));
  }
  std::string text(const char* kernel) const {
    return std::string(kernel) + " of " + std::to_string(size.rows) + " x " + std::to_string(size.classes) + " x " +
           std::to_string(size.dim);
  }

  const TileSize size;
  Random random, same;
  const TileRows x, w;
  std::vector<int32_t> labels;  // [padded rows]
};

void check_negatives(const Device& device, const char* kernel) {
  for (const AngleSize& size : kAngleSizes) {
    const AngleProblem problem(size);
    const int64_t padded = problem.x.padded, partials = 2 * problem.splits();
    const Buffer<float> sums(partials * padded);
    const Buffer<int32_t> labels(problem.labels);
    NegativesParameters p{};
    p.features = problem.x.operand(Padding::poison);
    p.weights = problem.w.operand(Padding::poison);
    p.labels = labels.get();
    p.factor = 1 / kScale;
    p.sums = sums.get();
    p.padded_rows = static_cast<int32_t>(padded);
    p.classes = problem.size.classes;
    p.steps = problem.x.depth / kStageDepth;
    p.tiles_per_split = problem.size.tiles_per_split;
    problem.launch(device, kernel, p);

    Values values(problem.text(kernel));
    const std::vector<float> got = sums.read();
    for (int32_t i = 0; i < problem.size.rows; i++) {
      double sum = 0, want = 0, off = 0;
      for (int64_t k = 0; k < partials; k++) sum += got[k * padded + i];
      for (int32_t j = 0; j < problem.size.classes; j++) {
        if (!problem.counts(i, j)) continue;
        const double cosine = problem.cosine(i, j);
        const auto [angle, angle_off] = around(angle_of, cosine, problem.error(cosine));
        want += angle;
        off += angle_off + 5e-7;
      }
      values.near(sum, want, off, i);
    }
  }
}

// As a chunk that is not the shard's first, of whose columns the last tile is not there.
void check_probabilities(const Device& device, const char* kernel) {
  constexpr int32_t kFirst = 1024;
  for (const AngleSize& size : kAngleSizes) {
    const AngleProblem problem(size);
    const int64_t padded = problem.x.padded, stride = problem.w.padded + kTileSide;
    const int64_t low = padded * stride + kOperandSlack;
    const Buffer<uint16_t> memory(std::vector<uint16_t>(2 * low, OperandBuffer::kPoison));
    std::vector<float> shifts(padded, std::numeric_limits<float>::infinity());
    for (int32_t i = 0; i < problem.size.rows; i++)
      if (i % 7 != 6) shifts[i] = i % 3 == 0 ? 0.0f : static_cast<float>(i % 11) - 4.5f;
    std::vector<int32_t> labels = problem.labels;
    for (int32_t& label : labels)
      if (label >= 0) label += kFirst;
    const Buffer<float> shift(shifts);
    const Buffer<int32_t> label_memory(labels);
    ProbabilitiesParameters p{};
    p.features = problem.x.operand();
    p.weights = problem.w.operand(Padding::poison);
    p.labels = label_memory.get();
    p.shift = shift.get();
    p.factor = 1 / kScale;
    p.probabilities = memory.get();
    p.low = low;
    p.stride = static_cast<int32_t>(stride);
    p.first_class = kFirst;
    p.classes = problem.size.classes;
    p.steps = problem.x.depth / kStageDepth;
    p.tiles_per_split = problem.size.tiles_per_split;
    problem.launch(device, kernel, p);

    Values values(problem.text(kernel));
    const std::vector<uint16_t> bits = memory.read();
    for (int64_t i = 0; i < padded; i++)
      for (int64_t j = 0; j < stride; j++) {
        const int64_t at = i * stride + j;
        if (j >= problem.w.padded) {
          values.equal(bits[at], OperandBuffer::kPoison, i, j);
          continue;
        }
        const double got = from_float16(bits[at]) + from_float16(bits[low + at]);
        if (!problem.counts(i, j)) {
          values.equal(got, 0, i, j);
          continue;
        }
        const double cosine = problem.cosine(i, j), factor = std::exp2(-shifts[i]);
        const auto [inverse, off] = around(inverse_sine_of, cosine, problem.error(cosine));
        values.near(got, inverse * factor, (off + 1e-6 * inverse) * factor + 0x1p-25, i, j);
      }
  }
}

}  // namespace

void check_negatives_angles(const Device& device) { check_negatives(device, "negatives_angles_float32"); }

void check_probabilities_angles(const Device& device) { check_probabilities(device, "probabilities_angles_float32"); }

}  // namespace marginfc::check
