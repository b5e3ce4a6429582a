#include "test/native/cuda_kernels/check.h"

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace marginfc::check {

Counts& counts() {
  static Counts all;
  return all;
}

std::string size_text(const std::string& kernel, int64_t rows, int64_t dim) {
  return kernel + " of " + std::to_string(rows) + " x " + std::to_string(dim);
}

void check(bool ok, const std::string& what) {
  ok ? counts().passed++ : counts().failed++;
  if (ok) return;
  std::printf("FAILED: %s\n", what.c_str());
  if (counts().give_up) std::exit(1);
}

std::vector<int32_t> shuffled(int64_t rows) {
  std::vector<int32_t> index;
  // From the last on, every second one: the first half of the result is the odd rows of the other.
  for (const int64_t start : {1, 0})
    for (int64_t row = rows - 1 - start; row >= 0; row -= 2) index.push_back(static_cast<int32_t>(row));
  return index;
}

void Values::report(double got, double want, double tolerance, int64_t row, int64_t column) {
  if (!message_.empty()) return;
  char text[160];
  std::snprintf(text, sizeof text, ": row %lld, column %lld is %.9g instead of %.9g (+- %.2g)",
                static_cast<long long>(row), static_cast<long long>(column), got, want, tolerance);
  message_ = text;
}

void must(cuda::Result result, const char* what) {
  if (result == cuda::Result::success) return;
  std::printf("FAILED: %s: %s\n", what, cuda::driver().describe(result).c_str());
  std::exit(1);
}

Device::Device(const char* path) {
  if (!cuda::driver().available()) {
    std::printf("%s\n", cuda::driver().reason.c_str());
    std::exit(1);
  }
  std::ifstream file(path, std::ios::binary);
  std::vector<char> image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  image.push_back(0);  // PTX is a string
  cuda::DeviceOrdinal device = 0;
  must(cuda::driver()->device_get(&device, 0), "cuDeviceGet");
  must(cuda::driver()->context_retain(&context_, device), "cuDevicePrimaryCtxRetain");
  must(cuda::driver()->context_push(context_), "cuCtxPushCurrent");
  char log[2048] = "";
  const cuda::JitOption options[] = {cuda::JitOption::error_log, cuda::JitOption::error_log_bytes};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  const cuda::Result result = cuda::driver()->module_load(&module_, image.data(), 2, options, values);
  if (result != cuda::Result::success) std::printf("%s: %s\n", path, log);
  must(result, "cuModuleLoadDataEx");
}

Device::~Device() {
  cuda::driver()->module_unload(module_);
  cuda::driver()->context_pop(&context_);
  cuda::driver()->context_release(0);
}

void Device::launch(const char* kernel, const void* parameters, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z,
                    int32_t threads, int32_t shared_bytes) const {
  cuda::FunctionHandle* function = nullptr;
  must(cuda::driver()->module_function(&function, module_, kernel), kernel);
  if (shared_bytes > 0)
    must(cuda::driver()->set_function_attribute(function, cuda::FunctionAttribute::max_dynamic_shared_bytes,
                                                shared_bytes),
         kernel);
  void* arguments[] = {const_cast<void*>(parameters)};
  must(cuda::driver()->launch(function, grid_x, grid_y, grid_z, static_cast<uint32_t>(threads), 1, 1,
                              static_cast<uint32_t>(shared_bytes), nullptr, arguments, nullptr),
       kernel);
  must(cuda::driver()->stream_synchronize(nullptr), kernel);
}

bool Device::has(const char* kernel) const {
  cuda::FunctionHandle* function = nullptr;
  return cuda::driver()->module_function(&function, module_, kernel) == cuda::Result{};
}

int32_t Device::variable(const char* name) const {
  cuda::DevicePointer address = 0;
  size_t bytes = 0;
  int32_t value = 0;
  must(cuda::driver()->module_variable(&address, &bytes, module_, name), name);
  must(cuda::driver()->copy_to_host(&value, address, sizeof value, nullptr), name);
  must(cuda::driver()->stream_synchronize(nullptr), name);
  return value;
}

double Random::normal() {
  double first, second;
  const Random4 random = philox(seed_, counter_++, 1);
  normal_pair(random.v[0], random.v[1], &first, &second);
  return first;
}

std::vector<float> make_rows(Random& random, int64_t rows, int64_t dim, bool extremes) {
  // By row modulo 16; 1 where nothing is said. The largest leaves room for a factor 6 of a normal deviate.
  static const double kLengths[] = {1, 1, 0, 1e-40, 1e-13, 1, 5e-12, 1e-18, 1, 1e12, 5e36, 1, 1e18, 1e-8, 1, 1e4};
  std::vector<float> values(rows * dim);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < dim; d++)
      values[i * dim + d] = static_cast<float>(random.normal() * (extremes ? kLengths[i % 16] : 1.0));
  return values;
}

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

float from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t to_float16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return 0x7e00;
  if (size >= 65504.0f) return static_cast<uint16_t>(sign | 0x7bff);
  if (size < 0x1p-14f) return static_cast<uint16_t>(sign | static_cast<int>(size * 0x1p24f));
  const int exponent = std::ilogb(size);
  const int mantissa = static_cast<int>(std::ldexp(size, 10 - exponent)) - 1024;
  return static_cast<uint16_t>(sign | (exponent + 15) << 10 | mantissa);
}

float from_float16(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  double value = exponent == 0    ? mantissa * 0x1p-24
                 : exponent == 31 ? (mantissa ? std::nan("") : std::numeric_limits<double>::infinity())
                                  : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(half & 0x8000 ? -value : value);
}

StoredRows::StoredRows(std::vector<float> rows, StorageKind storage, int64_t skew)
    : kind(storage),
      values(std::move(rows)),
      bits([&] {
        std::vector<uint16_t> stored(kind == StorageKind::float32 ? 0 : values.size());
        for (size_t e = 0; e < stored.size(); e++) {
          const bool bfloat16 = kind == StorageKind::bfloat16;
          stored[e] = bfloat16 ? to_bfloat16(values[e]) : to_float16(values[e]);
          values[e] = bfloat16 ? from_bfloat16(stored[e]) : from_float16(stored[e]);
        }
        return stored;
      }()),
      wide(kind == StorageKind::float32 ? values : std::vector<float>{}, skew),
      halves(bits, skew) {}

const char* name_of(StorageKind kind) {
  static const char* const kNames[] = {"float32", "bfloat16", "float16"};
  return kNames[static_cast<int>(kind)];
}
const char* name_of(OperandKind kind) {
  static const char* const kNames[] = {"float16", "bfloat16", "split"};
  return kNames[static_cast<int>(kind)];
}

OperandValues::OperandValues(const OperandBuffer& buffer)
    : kind(buffer.kind), depth(buffer.depth), low(buffer.low), bits(buffer.memory.read()) {}

void OperandValues::compare(Values& values, int64_t row, const std::vector<double>& wanted) const {
  const uint16_t* from = bits.data() + row * depth;
  for (int32_t d = 0; d < depth; d++) {
    double got = kind == OperandKind::bfloat16 ? from_bfloat16(from[d]) : from_float16(from[d]);
    if (kind == OperandKind::split) got += from_float16(from[low + d]);
    // 0 behind the row, whose factor a bad row has made NaN.
    const double want = d < static_cast<int32_t>(wanted.size()) ? wanted[d] : 0 * wanted[0];
    // Half a unit in the last place; beside it float32's few, for the number that was rounded.
    const double relative = kind == OperandKind::float16 ? 0x1p-11 : kind == OperandKind::bfloat16 ? 0x1p-8 : 0x1p-22;
    const double smallest = kind == OperandKind::bfloat16 ? 1e-38 : 0x1p-25;
    values.near(got, want, (relative + 4e-7) * std::fabs(want) + (want == 0 ? 0 : smallest * 1.001), row, d);
  }
}

void OperandValues::same(Values& values, int64_t row, int64_t as) const {
  for (int32_t d = 0; d < depth; d++) {
    values.equal(bits[row * depth + d], bits[as * depth + d], row, d);
    if (kind == OperandKind::split) values.equal(bits[low + row * depth + d], bits[low + as * depth + d], row, d);
  }
}

double dot(const float* a, const float* b, int64_t count) {
  double total = 0;
  for (int64_t d = 0; d < count; d++) total += static_cast<double>(a[d]) * b[d];
  return total;
}

double norm_of(const float* row, int64_t dim) { return std::sqrt(dot(row, row, dim)); }

std::vector<double> unit_row(const float* row, int64_t dim, double scale) {
  const double norm = norm_of(row, dim), factor = std::isfinite(norm) ? scale / floored(norm) : std::nan("");
  std::vector<double> out(dim);
  for (int64_t d = 0; d < dim; d++) out[d] = row[d] * factor;
  return out;
}

double operand_scale(OperandKind kind) { return kind == OperandKind::split ? std::ldexp(1.0, kWeightExponent) : 1.0; }

}  // namespace marginfc::check
