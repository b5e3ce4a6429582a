#include "cuda/hopper.h"

namespace marginfc::cuda {
namespace {

// CUtensorMapDataType, CUtensorMapSwizzle, CUtensorMapL2promotion. Elements are only moved: their type does not matter.
constexpr int32_t kUint16 = 1;
constexpr int32_t kSwizzle128 = 3;
constexpr int32_t kPromote256 = 3;

}  // namespace

Result map_rows(const Driver& driver, DevicePointer values, int64_t rows, int64_t columns, TensorMap* map) {
  const uint64_t sizes[] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows)};
  const uint64_t stride = sizes[0] * sizeof(uint16_t);  // bytes
  constexpr uint32_t kBox[] = {kBoxSide, kBoxSide}, kEach[] = {1, 1};
  return driver->tensor_map_encode(map, kUint16, 2, reinterpret_cast<void*>(values), sizes, &stride, kBox, kEach, 0,
                                   kSwizzle128, kPromote256, 0);
}

}  // namespace marginfc::cuda
