// A batch against classes, for the kernels over tiles: 16-bit operands and the same numbers in float64, so that only what the
// kernels do themselves is measured. What a kernel may read but must not use is poison: NaN, or where it is multiplied by 0
// numbers that nothing else has.
#pragma once

#include <map>
#include <memory>

#include "cuda/hopper.h"
#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {

struct TileSize {
  int32_t rows, classes, dim, tiles_per_split;
};

// What is in the rows added by padding.
enum class Padding { poison, numbers };

// Rows of one length, rounded to an operand, on the device and as float64. What lies behind the operand is NaN.
struct TileRows {
  TileRows(Random& random, int64_t row_count, int64_t column_count, double length, OperandKind operand_kind);
  Operand operand(Padding padding = Padding::numbers) const;
  const double* row(int64_t i) const { return exact.data() + i * columns; }

  OperandKind kind;
  int64_t rows, columns, padded;
  int32_t depth;
  int64_t low;
  std::vector<double> exact;                    // [rows, columns]
  std::unique_ptr<Buffer<uint16_t>> memory[2];  // by Padding
};

// An operand as the Hopper kernels take it.
TensorMap map_of(const Operand& operand, int64_t rows);

// Whose kernels: those that every architecture has, or hopper_*, which only compute capability 9.0 has.
enum class Path { common, hopper };

struct TileProblem {
  TileProblem(const Device& on, const TileSize& of, OperandKind operand_kind);

  // `shape` of the variables that say how many threads and how much shared memory.
  void launch(const std::string& kernel, const void* parameters, int64_t x_blocks, int64_t y_blocks, int64_t z_blocks,
              const std::string& shape = "tile") const;
  // A product of two operands of so many rows. `x_blocks` at a tile of columns each; Hopper's blocks take `tiles_per_block`.
  template <typename Parameters>
  void launch_product(Path path, const std::string& kernel, const Parameters& p, const Operand& left, int64_t left_rows,
                      const Operand& right, int64_t right_rows, int64_t x_blocks, int64_t y_blocks,
                      int64_t z_blocks = 1, int32_t tiles_per_block = 1) const {
    if (path == Path::common) return launch(kernel, &p, x_blocks, y_blocks, z_blocks);
    const Mapped<Parameters> m{map_of(left, left_rows), map_of(right, right_rows), 0, 0, p, tiles_per_block};
    launch("hopper_" + kernel, &m, (x_blocks + tiles_per_block - 1) / tiles_per_block, y_blocks, z_blocks, "hopper");
  }
  int64_t row_tiles() const { return x.padded / kTileSide; }
  int64_t class_tiles() const { return w.padded / kTileSide; }
  int64_t splits() const { return (class_tiles() + size.tiles_per_split - 1) / size.tiles_per_split; }
  int32_t steps() const { return x.depth / kStageDepth; }
  double logit(int64_t i, int64_t j) const { return logits[i * size.classes + j]; }
  std::string text(Path path, const std::string& kernel) const;

  const Device& device;
  TileSize size;
  OperandKind kind;
  Random random;
  TileRows x, w, v;
  std::vector<int32_t> labels;  // [padded rows]
  Buffer<int32_t> label_memory;
  std::vector<double> logits;  // [rows, classes]
};

// P of all classes as one chunk, which the two other products read, made on the host.
struct TileProbabilities {
  explicit TileProbabilities(const TileProblem& problem);
  Operand operand() const { return {memory->get(), low, stride}; }
  double of(int64_t i, int64_t j) const { return exact[i * stride + j]; }

  int32_t stride;
  int64_t low;
  std::vector<double> exact;  // [padded rows, stride]
  std::unique_ptr<Buffer<uint16_t>> memory;
};
// Of exponents (row, class) in log2 units: log2 S - 15, and infinity for padding and rows without negatives.
std::vector<float> probability_shifts(const TileProblem& problem, int32_t classes, const std::vector<int32_t>& labels,
                                      const std::function<double(int64_t, int32_t)>& exponent);

std::string type_name(OperandKind kind);
double widen(uint16_t bits, OperandKind kind);

// Each problem is made once, for all kernels.
class TileProblems {
 public:
  explicit TileProblems(const Device& device) : device_(device) {}
  void for_each(Path path, OperandKind kind, const std::function<void(const TileProblem&)>& body);
  const TileProblem& of(OperandKind kind, const TileSize& size);
  const Device& device() const { return device_; }

 private:
  const Device& device_;
  std::map<std::pair<OperandKind, std::string>, std::unique_ptr<TileProblem>> made_;
};

void check_updates(TileProblems& problems, OperandKind kind, int32_t width);

}  // namespace marginfc::check
