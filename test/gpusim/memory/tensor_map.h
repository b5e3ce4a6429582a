// The 128 opaque bytes of a CUtensorMap as this device lays them out (the hardware's layout is not public), and how an
// element of a box gets its place in shared memory (ISA 5.5).
#pragma once

#include <cstdint>

namespace gpusim {

struct TensorMap {
  uint64_t address;
  uint32_t dims[5];  // elements, innermost first
  uint32_t rank_less_1;
  uint64_t strides[4];  // bytes, of dimensions 1 and up
  uint32_t box[5];
  uint8_t element_strides[5];
  uint8_t element_type;  // as tensormap.replace numbers them (ISA 9.7.9.26.2)
  uint8_t interleave, swizzle, fill, padding[3];
  uint8_t unused[32];
};
static_assert(sizeof(TensorMap) == 128, "the size of a CUtensorMap");

enum class Swizzle : uint8_t { none, b32, b64, b128 };

/// Bytes of an element type of tensormap.replace: u8 u16 u32 s32 u64 s64 f16 f32 f32.ftz f64 bf16 tf32 tf32.ftz.
inline uint32_t tensor_element_bytes(uint8_t type) {
  constexpr uint8_t bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4};
  return type < sizeof bytes ? bytes[type] : 0;
}

/// ISA 5.5.6: 16-byte chunks are exchanged by the address bits of their row: chunk ^= row mod 8, 4 or 2, for rows of 128,
/// 64 or 32 bytes in a pattern that repeats every 1024, 512 or 256 bytes.
inline uint32_t swizzle_address(uint32_t address, Swizzle mode) {
  switch (mode) {
    case Swizzle::none: return address;
    case Swizzle::b32: return address ^ (address >> 3 & 0x10);
    case Swizzle::b64: return address ^ (address >> 3 & 0x30);
    case Swizzle::b128: return address ^ (address >> 3 & 0x70);
  }
  return address;
}

}  // namespace gpusim
