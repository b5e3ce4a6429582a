#include "test/native/cuda_kernels/tile_problem.h"

#include <algorithm>

namespace marginfc::check {
namespace {

// One tile and many, one step of the inner dimension and many, more and fewer steps than stages, tails of every kind.
constexpr TileSize kSizes[] = {{1, 1, 1, 1},     {2, 131, 31, 1},    {5, 3, 33, 4},      {131, 33, 131, 1},
                               {33, 700, 96, 2}, {257, 400, 200, 4}, {130, 1009, 64, 3}, {64, 300, 512, 2}};
// Longer than what Hopper kernels keep of the left operand, along D, the classes or the rows; lines of tiles of one
// consumer more than of the other.
constexpr TileSize kHopperSizes[] = {{3, 641, 600, 5}, {600, 140, 130, 2}, {140, 260, 768, 1}};

uint16_t narrow(double value, OperandKind kind) {
  const auto v = static_cast<float>(value);
  return kind == OperandKind::bfloat16 ? to_bfloat16(v) : to_float16(v);
}

// Writes a number to a pair of halves, or to the one there is; returns what they hold.
double store(double value, OperandKind kind, uint16_t* at, int64_t low) {
  *at = narrow(value, kind);
  double held = widen(*at, kind);
  if (kind == OperandKind::split) {
    at[low] = narrow(value - held, kind);
    held += widen(at[low], kind);
  }
  return held;
}

}  // namespace

std::string type_name(OperandKind kind) { return kind == OperandKind::split ? "float32" : name_of(kind); }

TensorMap map_of(const Operand& operand, int64_t rows) {
  TensorMap map;
  const auto values = reinterpret_cast<cuda::DevicePointer>(operand.values);
  must(cuda::map_rows(cuda::driver(), values, rows, operand.stride, &map), "cuTensorMapEncodeTiled");
  return map;
}

double widen(uint16_t bits, OperandKind kind) {
  return kind == OperandKind::bfloat16 ? from_bfloat16(bits) : from_float16(bits);
}

TileRows::TileRows(Random& random, int64_t row_count, int64_t column_count, double length, OperandKind operand_kind)
    : kind(operand_kind),
      rows(row_count),
      columns(column_count),
      padded(padded_rows(row_count)),
      depth(static_cast<int32_t>(padded_depth(column_count))),
      low(padded * depth + kOperandSlack),
      exact(rows * columns) {
  std::vector<uint16_t> bits((kind == OperandKind::split ? 2 : 1) * low, OperandBuffer::kPoison);
  for (int64_t i = 0; i < padded; i++) {
    std::vector<double> row(columns);
    double square = 0;
    for (double& v : row) {
      v = random.normal();
      square += v * v;
    }
    if (i == rows) memory[static_cast<int>(Padding::poison)] = std::make_unique<Buffer<uint16_t>>(bits);
    for (int64_t d = 0; d < depth; d++) {
      const double value = d < columns ? row[d] * length / std::sqrt(square) : 0;
      const double held = store(value, kind, &bits[i * depth + d], low);
      if (i < rows && d < columns) exact[i * columns + d] = held;
    }
  }
  memory[static_cast<int>(Padding::numbers)] = std::make_unique<Buffer<uint16_t>>(bits);
}

Operand TileRows::operand(Padding padding) const {
  const auto& poisoned = memory[static_cast<int>(Padding::poison)];
  const auto& numbers = memory[static_cast<int>(Padding::numbers)];
  return {(padding == Padding::poison && poisoned ? poisoned : numbers)->get(), low, depth};
}

TileProblem::TileProblem(const Device& on, const TileSize& of, OperandKind operand_kind)
    : device(on),
      size(of),
      kind(operand_kind),
      random(of.rows * 7919 + of.classes),
      x(random, of.rows, of.dim, kMostPlainScale * kLog2E / (kind == OperandKind::split ? 16 : 1), kind),
      w(random, of.classes, of.dim, kind == OperandKind::split ? 16 : 1, kind),
      v(random, of.rows, of.dim, 1024, kind),
      labels(padded_rows(of.rows), -1),
      // Without a class, of the first and the last class, and of any.
      label_memory([&] {
        for (int32_t i = 0; i < of.rows; i++)
          labels[i] = i % 5 == 4 ? -1 : i % 5 == 1 ? of.classes - 1 : i % 5 == 2 ? 0 : random.below(of.classes);
        return labels;
      }()),
      logits(static_cast<size_t>(of.rows) * of.classes) {
  for (int32_t i = 0; i < size.rows; i++)
    for (int32_t j = 0; j < size.classes; j++) {
      double z = 0;
      for (int32_t d = 0; d < size.dim; d++) z += x.row(i)[d] * w.row(j)[d];
      logits[static_cast<size_t>(i) * size.classes + j] = z;
    }
}

void TileProblem::launch(const std::string& kernel, const void* parameters, int64_t x_blocks, int64_t y_blocks,
                         int64_t z_blocks, const std::string& shape) const {
  const std::string type = type_name(kind);
  device.launch((kernel + "_" + type).c_str(), parameters, static_cast<uint32_t>(x_blocks),
                static_cast<uint32_t>(y_blocks), static_cast<uint32_t>(z_blocks),
                device.variable((shape + "_threads_" + type).c_str()),
                device.variable((shape + "_bytes_" + type).c_str()));
}

std::string TileProblem::text(Path path, const std::string& kernel) const {
  return (path == Path::hopper ? "hopper_" : "") + kernel + "_" + type_name(kind) + " of " + std::to_string(size.rows) +
         " x " + std::to_string(size.classes) + " x " + std::to_string(size.dim);
}

std::vector<float> probability_shifts(const TileProblem& problem, int32_t classes, const std::vector<int32_t>& labels,
                                      const std::function<double(int64_t, int32_t)>& exponent) {
  std::vector<float> shifts(problem.x.padded, std::numeric_limits<float>::infinity());
  for (int32_t i = 0; i < problem.size.rows; i++) {
    double sum = 0;
    for (int32_t j = 0; j < classes; j++)
      if (j != labels[i]) sum += std::exp2(exponent(i, j));
    if (sum > 0) shifts[i] = static_cast<float>(std::log2(sum) - kProbabilityExponent);
  }
  return shifts;
}

TileProbabilities::TileProbabilities(const TileProblem& problem)
    : stride(static_cast<int32_t>(problem.w.padded) + kTileSide),  // the last chunk is smaller than the others
      low(problem.x.padded * stride + kOperandSlack),
      exact(problem.x.padded * stride) {
  std::vector<uint16_t> bits((problem.kind == OperandKind::split ? 2 : 1) * low, OperandBuffer::kPoison);
  const auto logit = [&](int64_t i, int32_t j) { return problem.logit(i, j); };
  const std::vector<float> shifts = probability_shifts(problem, problem.size.classes, problem.labels, logit);
  for (int64_t i = 0; i < problem.x.padded; i++)
    for (int64_t j = 0; j < problem.w.padded; j++) {
      const bool counts = i < problem.size.rows && j < problem.size.classes && j != problem.labels[i];
      const double value = counts ? std::exp2(problem.logit(i, j) - shifts[i]) : 0;
      exact[i * stride + j] = store(value, problem.kind, &bits[i * stride + j], low);
    }
  memory = std::make_unique<Buffer<uint16_t>>(bits);
}

void TileProblems::for_each(Path path, OperandKind kind, const std::function<void(const TileProblem&)>& body) {
  for (const TileSize& size : kSizes) body(of(kind, size));
  if (path == Path::common) return;
  for (const TileSize& size : kHopperSizes) body(of(kind, size));
}

const TileProblem& TileProblems::of(OperandKind kind, const TileSize& size) {
  const std::string name = std::to_string(size.rows) + " x " + std::to_string(size.classes) + " x " +
                           std::to_string(size.dim);
  std::unique_ptr<TileProblem>& problem = made_[{kind, name}];
  if (!problem) problem = std::make_unique<TileProblem>(device_, size, kind);
  return *problem;
}

}  // namespace marginfc::check
