// The tile kernels: products of 16-bit operands against the same operands multiplied in float64, so that only what the
// kernels do themselves is measured; and the fused update against the two kernels it replaces, bit by bit.
#include <algorithm>
#include <memory>

#include "cuda/hopper.h"
#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

struct Size {
  int32_t rows, classes, dim, tiles_per_split;
};
// One tile and many, one step of the inner dimension and many, more and fewer steps than stages, tails of every kind.
constexpr Size kSizes[] = {{1, 1, 1, 1},     {2, 131, 31, 1},    {5, 3, 33, 4},      {131, 33, 131, 1},
                           {33, 700, 96, 2}, {257, 400, 200, 4}, {130, 1009, 64, 3}, {64, 300, 512, 2}};
// Longer than what Hopper kernels keep of the left operand, along D, the classes or the rows; lines of tiles of one
// consumer more than of the other.
constexpr Size kHopperSizes[] = {{3, 641, 600, 5}, {600, 140, 130, 2}, {140, 260, 768, 1}};

double widen(uint16_t bits, OperandKind kind) {
  return kind == OperandKind::bfloat16 ? from_bfloat16(bits) : from_float16(bits);
}
uint16_t narrow(double value, OperandKind kind) {
  const auto v = static_cast<float>(value);
  return kind == OperandKind::bfloat16 ? to_bfloat16(v) : to_float16(v);
}

// Rows of one length, rounded to an operand, on the device and as float64. Rows added by padding repeat row 0; what lies
// behind the operand is NaN.
struct Rows {
  Rows(Random& random, int64_t row_count, int64_t column_count, double length, OperandKind operand_kind)
      : kind(operand_kind), columns(column_count), buffer(padded_rows(row_count), column_count, operand_kind) {
    const bool split = kind == OperandKind::split;
    std::vector<uint16_t> bits((split ? 2 : 1) * buffer.low, OperandBuffer::kPoison);
    exact.resize(buffer.rows * columns);
    for (int64_t i = 0; i < buffer.rows; i++) {
      std::vector<double> row(columns);
      double square = 0;
      for (double& v : row) {
        v = random.normal();
        square += v * v;
      }
      for (int64_t d = 0; d < buffer.depth; d++) {
        const int64_t at = i * buffer.depth + d;
        if (d >= columns || i >= row_count) {
          bits[at] = d >= columns ? 0 : bits[d];
          if (split) bits[buffer.low + at] = d >= columns ? 0 : bits[buffer.low + d];
          if (d < columns) exact[i * columns + d] = exact[d];
          continue;
        }
        const double value = row[d] * length / std::sqrt(square);
        bits[at] = narrow(value, kind);
        double held = widen(bits[at], kind);
        if (split) {
          bits[buffer.low + at] = narrow(value - held, kind);
          held += widen(bits[buffer.low + at], kind);
        }
        exact[i * columns + d] = held;
      }
    }
    memory = std::make_unique<Buffer<uint16_t>>(bits);
  }
  Operand operand() const { return {memory->get(), buffer.low, buffer.depth}; }
  const double* row(int64_t i) const { return exact.data() + i * columns; }

  OperandKind kind;
  int64_t columns;
  OperandBuffer buffer;
  std::vector<double> exact;  // [padded rows, columns]
  std::unique_ptr<Buffer<uint16_t>> memory;
};

std::string type_name(OperandKind kind) { return kind == OperandKind::split ? "float32" : name_of(kind); }

// An operand as the Hopper kernels take it.
TensorMap map_of(const Operand& operand, int64_t rows) {
  TensorMap map;
  const auto values = reinterpret_cast<cuda::DevicePointer>(operand.values);
  must(cuda::map_rows(cuda::driver(), values, rows, operand.stride, &map), "cuTensorMapEncodeTiled");
  return map;
}

// A batch against classes, with everything the kernels need. `hopper`: by the kernels of this name.
struct TileProblem {
  TileProblem(const Device& on, const Size& of, OperandKind operand_kind, bool by_hopper)
      : device(on),
        size(of),
        kind(operand_kind),
        hopper(by_hopper),
        random(of.rows * 7919 + of.classes),
        x(random, of.rows, of.dim, kMostPlainScale * kLog2E / (kind == OperandKind::split ? 16 : 1), kind),
        w(random, of.classes, of.dim, kind == OperandKind::split ? 16 : 1, kind),
        v(random, of.rows, of.dim, 1024, kind),
        labels(make_labels()),
        label_memory(labels),
        logits(static_cast<size_t>(of.rows) * of.classes),
        sums(of.rows, 0.0),
        largest(of.rows, -std::numeric_limits<double>::infinity()) {
    for (int32_t i = 0; i < size.rows; i++)
      for (int32_t j = 0; j < size.classes; j++) {
        double z = 0;
        for (int32_t d = 0; d < size.dim; d++) z += x.row(i)[d] * w.row(j)[d];
        logits[static_cast<size_t>(i) * size.classes + j] = z;
        if (j == labels[i]) continue;
        sums[i] += std::exp2(z);
        largest[i] = std::max(largest[i], z);
      }
  }

  // Without a class, of the first and the last class, and of any.
  std::vector<int32_t> make_labels() {
    std::vector<int32_t> made(padded_rows(size.rows), -1);
    for (int32_t i = 0; i < size.rows; i++)
      made[i] = i % 5 == 4 ? -1 : i % 5 == 1 ? size.classes - 1 : i % 5 == 2 ? 0 : random.below(size.classes);
    return made;
  }

  void launch(const std::string& kernel, const void* parameters, int64_t x_blocks, int64_t y_blocks, int64_t z_blocks,
              const std::string& shape = "tile") const {
    const std::string type = type_name(kind);
    device.launch((kernel + "_" + type).c_str(), parameters, static_cast<uint32_t>(x_blocks),
                  static_cast<uint32_t>(y_blocks), static_cast<uint32_t>(z_blocks),
                  device.variable((shape + "_threads_" + type).c_str()),
                  device.variable((shape + "_bytes_" + type).c_str()));
  }
  // A product of rows of two operands; `x_blocks` is for the Hopper kernels divided by `tiles_per_block`.
  template <typename Parameters>
  void launch_product(const std::string& kernel, const Parameters& p, const Operand& left, int64_t left_rows,
                      const Operand& right, int64_t right_rows, int64_t x_blocks, int64_t y_blocks,
                      int64_t z_blocks = 1, int32_t tiles_per_block = 1) const {
    if (!hopper) return launch(kernel, &p, x_blocks, y_blocks, z_blocks);
    const Mapped<Parameters> m{map_of(left, left_rows), map_of(right, right_rows), 0, 0, p, tiles_per_block};
    launch("hopper_" + kernel, &m, (x_blocks + tiles_per_block - 1) / tiles_per_block, y_blocks, z_blocks, "hopper");
  }
  int64_t row_tiles() const { return x.buffer.rows / kTileSide; }
  int64_t class_tiles() const { return w.buffer.rows / kTileSide; }
  int64_t splits() const { return (class_tiles() + size.tiles_per_split - 1) / size.tiles_per_split; }
  int32_t steps() const { return x.buffer.depth / kStageDepth; }
  double logit(int64_t i, int64_t j) const { return logits[i * size.classes + j]; }
  std::string text(const std::string& kernel) const {
    return (hopper ? "hopper_" : "") + kernel + "_" + type_name(kind) + " of " + std::to_string(size.rows) + " x " +
           std::to_string(size.classes) + " x " + std::to_string(size.dim);
  }

  const Device& device;
  Size size;
  OperandKind kind;
  bool hopper;
  Random random;
  Rows x, w, v;
  std::vector<int32_t> labels;
  Buffer<int32_t> label_memory;
  std::vector<double> logits, sums, largest;
};

// exp2 of an exponent near 92: a unit in the last place of that is 5e-6 of the result.
constexpr double kExponentError = 3e-5;

void check_negatives(const TileProblem& problem, const std::string& kernel) {
  const bool shifted = kernel == "negatives_shifted", hardest = kernel == "negatives_hardest";
  const int64_t padded = problem.x.buffer.rows, partials = 2 * problem.splits();
  // As for s = 128: twice the exponent, from the largest.
  std::vector<float> offsets(padded, 0.0f);
  for (int32_t i = 0; i < problem.size.rows; i++)
    if (std::isfinite(problem.largest[i])) offsets[i] = static_cast<float>(2 * problem.largest[i]);
  const Buffer<float> offset(offsets), sums(partials * padded), largest(partials * padded);
  NegativesParameters p{};
  p.features = problem.x.operand();
  p.weights = problem.w.operand();
  p.labels = problem.label_memory.get();
  p.offset = shifted ? offset.get() : nullptr;
  p.factor = 2;
  p.sums = sums.get();
  p.hardest = hardest ? largest.get() : nullptr;
  p.padded_rows = static_cast<int32_t>(padded);
  p.classes = problem.size.classes;
  p.steps = problem.steps();
  p.tiles_per_split = problem.size.tiles_per_split;
  problem.launch_product(kernel, p, p.features, padded, p.weights, problem.w.buffer.rows, problem.splits(),
                         problem.row_tiles());

  Values values(problem.text(kernel));
  const std::vector<float> got = sums.read(), got_largest = hardest ? largest.read() : std::vector<float>();
  for (int32_t i = 0; i < problem.size.rows; i++) {
    double sum = 0, most = -std::numeric_limits<double>::infinity(), want = problem.sums[i];
    for (int64_t k = 0; k < partials; k++) {
      sum += got[k * padded + i];
      if (hardest) most = std::max<double>(most, got_largest[k * padded + i]);
    }
    if (shifted) {
      want = 0;
      for (int32_t j = 0; j < problem.size.classes; j++)
        if (j != problem.labels[i]) want += std::exp2(2 * problem.logit(i, j) - offsets[i]);
    }
    values.near(sum, want, (shifted ? 2 : 1) * kExponentError * want, i);
    if (hardest) values.near(most, problem.largest[i], 5e-5, i);
  }
}

// P of all classes as one chunk: what the two other products read.
struct Probabilities {
  explicit Probabilities(const TileProblem& problem)
      : stride(static_cast<int32_t>(problem.w.buffer.rows)),
        low(problem.x.buffer.rows * stride + kOperandSlack),
        memory(std::vector<uint16_t>((problem.kind == OperandKind::split ? 2 : 1) * low, OperandBuffer::kPoison)) {
    const int64_t padded = problem.x.buffer.rows;
    std::vector<float> shifts(padded, std::numeric_limits<float>::infinity());
    for (int32_t i = 0; i < problem.size.rows; i++)
      if (problem.sums[i] > 0) shifts[i] = static_cast<float>(std::log2(problem.sums[i]) - kProbabilityExponent);
    const Buffer<float> shift(shifts);
    ProbabilitiesParameters p{};
    p.features = problem.x.operand();
    p.weights = problem.w.operand();
    p.labels = problem.label_memory.get();
    p.shift = shift.get();
    p.factor = 1;
    p.probabilities = memory.get();
    p.low = low;
    p.stride = stride;
    p.classes = problem.size.classes;
    p.steps = problem.steps();
    p.tiles_per_split = problem.size.tiles_per_split;
    problem.launch_product("probabilities", p, p.features, padded, p.weights, stride, problem.splits(),
                           problem.row_tiles());

    Values values(problem.text("probabilities"));
    const std::vector<uint16_t> bits = memory.read();
    const double relative = problem.kind == OperandKind::split      ? kExponentError
                            : problem.kind == OperandKind::bfloat16 ? 0x1p-8
                                                                    : 0x1p-11 + kExponentError;
    exact.resize(padded * stride);
    for (int64_t i = 0; i < padded; i++)
      for (int64_t j = 0; j < stride; j++) {
        const int64_t at = i * stride + j;
        exact[at] = widen(bits[at], problem.kind);
        if (problem.kind == OperandKind::split) exact[at] += widen(bits[low + at], problem.kind);
        const bool counts = i < problem.size.rows && j < problem.size.classes && j != problem.labels[i];
        const double want = counts ? std::exp2(problem.logit(i, j) - shifts[i]) : 0;
        // Below its normal numbers float16 has a fixed step.
        values.near(exact[at], want, counts ? relative * want + 0x1p-25 : 0, i, j);
      }
  }
  int32_t stride;
  int64_t low;
  Buffer<uint16_t> memory;
  std::vector<double> exact;  // [padded rows, stride]
};

// out [rows, dim] of a product against float64: wanted(row, column) and the sum of absolute terms.
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

void check_products(const TileProblem& problem) {
  const Probabilities probabilities(problem);
  const Operand left{probabilities.memory.get(), probabilities.low, probabilities.stride};
  const int64_t padded = problem.x.buffer.rows, width = padded_width(problem.size.dim);
  const int64_t stride = probabilities.stride;
  ProductParameters p{};
  p.left = left;
  p.width = static_cast<int32_t>(width);

  p.right = problem.w.operand();
  p.steps = probabilities.stride / kStageDepth;
  p.steps_per_split = (p.steps + 2) / 3;
  if (problem.hopper) p.steps_per_split += p.steps_per_split % 2;
  p.split_stride = padded * width;
  const int64_t splits = (p.steps + p.steps_per_split - 1) / p.steps_per_split;
  // By the columns of a tile; several tiles a block, and fewer in the last one.
  std::vector<std::pair<std::string, int64_t>> variants = {{"", kTileSide}};
  if (problem.hopper && width % kWideTile == 0) variants.push_back({"_wide", kWideTile});
  for (const auto& [variant, columns] : variants) {
    const Buffer<float> features(splits * padded * width);
    p.out = features.get();
    problem.launch_product("features_product" + variant, p, left, padded, p.right, stride, width / columns,
                           problem.row_tiles(), splits, 2);
    Values dx(problem.text("features_product" + variant));
    compare_product(
        dx, features.read(), splits, p.split_stride, width, problem.size.rows, problem.size.dim, stride,
        [&](int64_t i, int64_t d, int64_t j) { return probabilities.exact[i * stride + j] * problem.w.row(j)[d]; });
  }

  const Buffer<float> weights(stride * width);
  p.right = problem.v.operand();
  p.out = weights.get();
  p.split_stride = 0;
  p.steps = p.steps_per_split = static_cast<int32_t>(padded / kStageDepth);
  for (const auto& [variant, columns] : variants) {
    problem.launch_product("weights_product" + variant, p, left, padded, p.right, padded, width / columns,
                           problem.class_tiles(), 1, 3);
    const std::vector<float> dw = weights.read();
    Values values(problem.text("weights_product" + variant));
    compare_product(
        values, dw, 1, 0, width, problem.size.classes, problem.size.dim, padded,
        [&](int64_t j, int64_t d, int64_t i) { return probabilities.exact[i * stride + j] * problem.v.row(i)[d]; });
  }

  // The fused update of the same product; hardware may add otherwise inside a wgmma.
  if (problem.hopper) return;
  const std::string wide = width <= 128 ? "128" : width <= 256 ? "256" : "512";
  const std::string kernel = "update_" + type_name(problem.kind) + "_" + wide;
  if (width > 512 || !problem.device.has(kernel.c_str())) return;
  const int64_t classes = problem.size.classes, dim = problem.size.dim;
  Random random(classes);
  const std::vector<float> start = make_rows(random, classes, dim, true);
  std::vector<double> norms(problem.size.rows), ones(problem.size.rows, 0.25);
  const std::vector<float> x = make_rows(random, problem.size.rows, dim, false);
  for (int32_t i = 0; i < problem.size.rows; i++) norms[i] = norm_of(x.data() + i * dim, dim);
  std::vector<std::pair<int32_t, int32_t>> owners;
  for (int32_t i = 0; i < problem.size.rows; i++)
    if (problem.labels[i] >= 0) owners.push_back({problem.labels[i], i});
  std::sort(owners.begin(), owners.end());
  std::vector<int32_t> owner_class, owner_row;
  for (const auto& [label, row] : owners) {
    owner_class.push_back(label);
    owner_row.push_back(row);
  }
  const Buffer<float> features_memory(x);
  const Buffer<double> norm(norms), cosine(ones), gamma(ones);
  const Buffer<int32_t> classes_memory(owner_class), rows_memory(owner_row);
  std::vector<float> moved[2], momenta[2];
  std::vector<uint16_t> operands[2];
  for (int fused = 0; fused < 2; fused++) {
    const Buffer<float> w(start), momentum(std::vector<float>(classes * dim, 0.5f));
    const OperandBuffer operand(padded_rows(classes), dim, problem.kind);
    UpdateParameters u{};
    u.left = left;
    u.right = problem.v.operand();
    u.steps = p.steps;
    FinishWeightsParameters& f = u.finish;
    f.raw = fused ? nullptr : weights.get();
    f.unscale = 0x1p-25;
    f.weights = w.get();
    f.momentum = momentum.get();
    f.operand = operand.memory.get();
    f.low = operand.low;
    f.operand_scale = problem.kind == OperandKind::split ? 16 : 1;
    f.owner_class = classes_memory.get();
    f.owner_row = rows_memory.get();
    f.owners = static_cast<int32_t>(owners.size());
    f.features = features_memory.get();
    f.norm = norm.get();
    f.cosine = cosine.get();
    f.gamma = gamma.get();
    f.sgd_step = {0.1f, 0.9f, 5e-4f, false};
    f.classes = static_cast<int32_t>(classes);
    f.padding = static_cast<int32_t>(operand.rows - classes);
    f.dim = static_cast<int32_t>(dim);
    f.depth = operand.depth;
    f.width = static_cast<int32_t>(width);
    f.kind = problem.kind;
    f.storage = StorageKind::float32;
    f.sink = SinkKind::sgd;
    if (fused)
      problem.device.launch(kernel.c_str(), &u, 3, 1, 1, 256,
                            problem.device.variable(("update_bytes_" + type_name(problem.kind) + "_" + wide).c_str()));
    else
      problem.device.launch("finish_weights", f, 3, 32 * kRowWarps);
    moved[fused] = w.read();
    momenta[fused] = momentum.read();
    operands[fused] = operand.memory.read();
  }
  check(moved[0] == moved[1] && momenta[0] == momenta[1] && operands[0] == operands[1], problem.text("update"));
}

void check_cosines(const TileProblem& problem) {
  const int64_t padded = problem.x.buffer.rows, stride = problem.w.buffer.rows;
  const Buffer<float> out(padded * stride);
  CosinesParameters p{};
  p.features = problem.x.operand();
  p.weights = problem.w.operand();
  p.cosines = out.get();
  p.stride = static_cast<int32_t>(stride);
  p.classes = problem.size.classes;
  p.steps = problem.steps();
  p.tiles_per_split = problem.size.tiles_per_split;
  problem.launch("cosines", &p, problem.splits(), problem.row_tiles(), 1);
  Values values(problem.text("cosines"));
  const std::vector<float> got = out.read();
  for (int32_t i = 0; i < problem.size.rows; i++)
    for (int32_t j = 0; j < problem.size.classes; j++)
      values.near(got[i * stride + j], problem.logit(i, j), 5e-5, i, j);
}

void check_tiles_by(const Device& device, bool hopper) {
  const std::string prefix = hopper ? "hopper_negatives_" : "negatives_";
  for (const OperandKind kind : kOperands) {
    if (!device.has((prefix + type_name(kind)).c_str())) continue;
    std::vector<Size> sizes(std::begin(kSizes), std::end(kSizes));
    if (hopper) sizes.insert(sizes.end(), std::begin(kHopperSizes), std::end(kHopperSizes));
    for (const Size& size : sizes) {
      const TileProblem problem(device, size, kind, hopper);
      for (const char* kernel : {"negatives", "negatives_hardest", "negatives_shifted"})
        check_negatives(problem, kernel);
      check_products(problem);
      if (!hopper) check_cosines(problem);
    }
  }
}

}  // namespace

void check_tiles(const Device& device) { check_tiles_by(device, false); }
void check_hopper_tiles(const Device& device) { check_tiles_by(device, true); }

}  // namespace marginfc::check
