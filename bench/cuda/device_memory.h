// Device memory of one launch, with numbers as the kernels expect them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda/driver.h"
#include "cuda/parameters.h"
#include "engine/random.h"

namespace marginfc::cuda {

// No result could be used after an error of the driver.
inline void must(Result result, const char* what) {
  if (result == Result::success) return;
  std::fprintf(stderr, "%s: %s\n", what, driver().describe(result).c_str());
  std::exit(1);
}

// Freed together.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() {
    for (DevicePointer memory : memories_) driver()->memory_free(memory);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  template <class T>
  T* empty(int64_t count) {
    DevicePointer memory;
    must(driver()->memory_allocate(&memory, count * sizeof(T)), "cuMemAlloc");
    memories_.push_back(memory);
    return reinterpret_cast<T*>(memory);
  }
  template <class T>
  T* holding(const std::vector<T>& values) {
    T* memory = empty<T>(static_cast<int64_t>(values.size()));
    must(driver()->copy_to_device(reinterpret_cast<DevicePointer>(memory), values.data(), values.size() * sizeof(T),
                                  nullptr),
         "cuMemcpyHtoD");
    must(driver()->stream_synchronize(nullptr), "cuStreamSynchronize");
    return memory;
  }
  template <class T>
  T* all(int64_t count, T value) {
    return holding(std::vector<T>(count, value));
  }
  // Between -1 and 1.
  float* floats(int64_t count) {
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; i++) values[i] = static_cast<float>(static_cast<int32_t>(word(i))) * 0x1p-31f;
    return holding(values);
  }
  // Between 2^-6 and 2^-4 in size, the low halves all but 0.
  Operand operand(int64_t rows, int32_t stride, OperandKind kind) {
    const int64_t half = rows * stride + kOperandSlack;
    std::vector<uint16_t> values(half * (kind == OperandKind::split ? 2 : 1));
    const uint16_t one_32nd = kind == OperandKind::bfloat16 ? 0x3d00 : 0x2800;
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); i++)
      values[i] = static_cast<uint16_t>((word(i) & 0x807f) | (i < half ? one_32nd : 0));
    return {holding(values), half, stride};
  }

 private:
  static uint32_t word(int64_t i) { return philox(1, i, 0).v[0]; }
  std::vector<DevicePointer> memories_;
};

}  // namespace marginfc::cuda
