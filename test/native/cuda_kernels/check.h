// What the checks of the CUDA kernels share: the device, its memory, counting, and input with every kind of row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "cuda/parameters.h"
#include "engine/random.h"

namespace marginfc::check {

// --- counting ---------------------------------------------------------------------------------------------------------

struct Counts {
  int passed = 0, failed = 0;
  bool give_up = false;  // at the first that fails
  uint64_t bits = 0;     // of everything that was copied back: the same for any order of blocks and warps
};
Counts& counts();
void check(bool ok, const std::string& what);

// "KERNEL of ROWS x DIM"
std::string size_text(const std::string& kernel, int64_t rows, int64_t dim);

// Counts as one check of many values: the first that is wrong is printed.
class Values {
 public:
  explicit Values(std::string what) : what_(std::move(what)) {}
  ~Values() { check(message_.empty(), what_ + message_); }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;

  void near(double got, double want, double tolerance, int64_t row, int64_t column = 0) {
    const bool same = got == want || (std::isnan(got) && std::isnan(want));
    if (!same && !(std::fabs(got - want) <= tolerance)) report(got, want, tolerance, row, column);
  }
  void equal(double got, double want, int64_t row, int64_t column = 0) { near(got, want, 0, row, column); }

 private:
  void report(double got, double want, double tolerance, int64_t row, int64_t column);
  std::string what_, message_;
};

// --- device -----------------------------------------------------------------------------------------------------------

// Ends the program on an error of the driver: nothing after it could be trusted.
void must(cuda::Result result, const char* what);

// Rows of one value, of some lanes' and of several rounds', of whole fours and not.
constexpr int64_t kDims[] = {1, 2, 31, 33, 131, 132, 512, 1009};
// Of a block of the kernels over rows.
constexpr int32_t kThreads = 32 * kRowWarps;

// The kernels of one PTX text or fatbin on device 0.
class Device {
 public:
  explicit Device(const char* path);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Kernels take one struct of parameters.h; returns when the kernel has run.
  template <typename Parameters>
  void launch(const char* kernel, const Parameters& parameters, int64_t grid_x, int32_t threads) const {
    launch(kernel, &parameters, static_cast<uint32_t>(grid_x), 1, 1, threads, 0);
  }
  void launch(const char* kernel, const void* parameters, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
              int32_t threads, int32_t shared_bytes) const;
  bool has(const char* kernel) const;
  // An int32 of the module, such as tile_threads_float16.
  int32_t variable(const char* name) const;

 private:
  cuda::ContextHandle* context_ = nullptr;
  cuda::ModuleHandle* module_ = nullptr;
};

// Memory of the device, `skew` elements behind an aligned address.
template <typename T>
class Buffer {
 public:
  // Written by nobody: the software GPU reports reads of it.
  explicit Buffer(int64_t count, int64_t skew = 0) : count_(count), skew_(skew) {
    must(cuda::driver()->memory_allocate(&memory_, (count + skew + 1) * sizeof(T)), "cuMemAlloc");
  }
  explicit Buffer(const std::vector<T>& values, int64_t skew = 0) : Buffer(static_cast<int64_t>(values.size()), skew) {
    if (count_ == 0) return;
    must(cuda::driver()->copy_to_device(address(), values.data(), count_ * sizeof(T), nullptr), "cuMemcpyHtoD");
    must(cuda::driver()->stream_synchronize(nullptr), "cuStreamSynchronize");
  }
  ~Buffer() { cuda::driver()->memory_free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* get() const { return reinterpret_cast<T*>(address()); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    if (count_ == 0) return values;
    must(cuda::driver()->copy_to_host(values.data(), address(), count_ * sizeof(T), nullptr), "cuMemcpyDtoH");
    must(cuda::driver()->stream_synchronize(nullptr), "cuStreamSynchronize");
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    for (size_t b = 0; b < count_ * sizeof(T); b++) counts().bits = (counts().bits ^ bytes[b]) * 0x100000001b3u;
    return values;
  }

 private:
  cuda::DevicePointer address() const { return memory_ + skew_ * sizeof(T); }
  cuda::DevicePointer memory_ = 0;
  int64_t count_, skew_;
};

// --- input ------------------------------------------------------------------------------------------------------------

// Random numbers of one check.
class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  double normal();
  int32_t below(int32_t limit) { return static_cast<int32_t>(bits() % static_cast<uint32_t>(limit)); }

 private:
  uint32_t bits() { return philox(seed_, counter_++, 0).v[0]; }
  uint64_t seed_, counter_ = 0;
};

// Normal deviates [rows, dim]. With `extremes`, of every 16 rows one is zero and others have a norm that is denormal,
// around 1e-12, tiny, large or next to the largest float.
std::vector<float> make_rows(Random& random, int64_t rows, int64_t dim, bool extremes);

// 16-bit numbers; to_* cut off what does not fit.
uint16_t to_bfloat16(float value);
uint16_t to_float16(float value);
float from_bfloat16(uint16_t bits);
float from_float16(uint16_t bits);

// An order of so many rows, which is none of its own inverse; and rows in it: row index[i] of the result is row i.
std::vector<int32_t> shuffled(int64_t rows);
template <typename T>
std::vector<T> scattered(const std::vector<T>& rows, const std::vector<int32_t>& index) {
  std::vector<T> out(rows.size());
  const auto dim = static_cast<int64_t>(rows.size() / index.size());
  for (size_t i = 0; i < index.size(); i++) std::copy_n(rows.data() + i * dim, dim, out.data() + index[i] * dim);
  return out;
}
// The other way.
template <typename T>
std::vector<T> gathered(const std::vector<T>& rows, const std::vector<int32_t>& index) {
  std::vector<T> out(rows.size());
  const auto dim = static_cast<int64_t>(rows.size() / index.size());
  for (size_t i = 0; i < index.size(); i++) std::copy_n(rows.data() + index[i] * dim, dim, out.data() + i * dim);
  return out;
}

// Class rows of a storage type: on the device, and the same numbers in float32 here.
struct StoredRows {
  StoredRows(std::vector<float> rows, StorageKind kind, int64_t skew);
  void* get() const { return kind == StorageKind::float32 ? static_cast<void*>(wide.get()) : halves.get(); }
  StorageKind kind;
  std::vector<float> values;
  std::vector<uint16_t> bits;
  Buffer<float> wide;
  Buffer<uint16_t> halves;
};

const char* name_of(StorageKind kind);
const char* name_of(OperandKind kind);
constexpr StorageKind kStorages[] = {StorageKind::float32, StorageKind::bfloat16, StorageKind::float16};
constexpr OperandKind kOperands[] = {OperandKind::float16, OperandKind::bfloat16, OperandKind::split};

// --- operands ---------------------------------------------------------------------------------------------------------

// An operand on the device, [rows, padded depth], with low halves behind it if it is split.
struct OperandBuffer {
  static constexpr uint16_t kPoison = 0x7fff;  // a NaN of either type
  OperandBuffer(int64_t row_count, int64_t dim, OperandKind operand_kind)
      : kind(operand_kind),
        rows(row_count),
        depth(static_cast<int32_t>(padded_depth(dim))),
        low(rows * depth + kOperandSlack),
        memory(std::vector<uint16_t>((kind == OperandKind::split ? 2 : 1) * low, kPoison)) {}
  OperandKind kind;
  int64_t rows;
  int32_t depth;
  int64_t low;
  Buffer<uint16_t> memory;
};

// What was read back of an operand.
struct OperandValues {
  explicit OperandValues(const OperandBuffer& buffer);
  // Compares row `row` with wanted [dim]; columns behind dim must be 0.
  void compare(Values& values, int64_t row, const std::vector<double>& wanted) const;
  // The bits of two rows must be equal.
  void same(Values& values, int64_t row, int64_t as) const;
  OperandKind kind;
  int32_t depth;
  int64_t low;
  std::vector<uint16_t> bits;
};

// --- float64 ----------------------------------------------------------------------------------------------------------

double dot(const float* a, const float* b, int64_t count);
// |x|, and |x| as a divisor.
double norm_of(const float* row, int64_t dim);
inline double floored(double norm) { return norm < kNormFloor ? kNormFloor : norm; }
// The unit row times `scale`; NaN where the norm is not finite.
std::vector<double> unit_row(const float* row, int64_t dim, double scale);
// What unit rows of weights are multiplied with in an operand of this kind.
double operand_scale(OperandKind kind);

// One entry per kernel: what it computes is compared with float64.
struct KernelCheck {
  std::string kernel;
  std::function<void(const Device&)> run;
  std::vector<std::string> needs = {};  // other kernels that it launches
};
using KernelChecks = std::vector<KernelCheck>;
// Of the kernels over tiles: each of them for each operand type.
KernelChecks tile_checks(const Device& device);
void check_negatives_angles(const Device& device);
void check_probabilities_angles(const Device& device);
void check_gather_class_rows(const Device& device);
void check_add_class_rows(const Device& device);
void check_prepare_features(const Device& device);
void check_weight_features(const Device& device);
void check_targets(const Device& device);
void check_reduce_negatives(const Device& device);
void check_add_products(const Device& device);
void check_finish_features(const Device& device);
void check_prepare_weights(const Device& device);
void check_finish_weights(const Device& device);
void check_initialize_weights(const Device& device);
void check_select_nearest(const Device& device);
void check_draw_classes(const Device& device);
void check_list_classes(const Device& device);
void check_finish_weights_aided(const Device& device);
void check_sum_unit_rows(const Device& device);
void check_add_unit_sums(const Device& device);
void check_cosine_sums(const Device& device);
void check_targets_sub_centers(const Device& device);
void check_list_sub_centers(const Device& device);
void check_flag_sub_centers(const Device& device);
void check_largest_sub_centers(const Device& device);
void check_choose_triplets(const Device& device);
void check_triplet_gradients(const Device& device);

}  // namespace marginfc::check
