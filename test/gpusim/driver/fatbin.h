// The container in which nvcc ships code for several architectures: which PTX text is in it, and what the cubins know about
// their kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace gpusim {

struct KernelFacts {
  uint32_t registers = 0;
  uint32_t frame_bytes = 0;  // local memory of a thread; with no .local arrays, what was spilled
};

struct CodeImage {
  std::string ptx;  // empty: none that the device can run
  std::unordered_map<std::string, KernelFacts> facts;
  std::string error;  // why there is none
  bool malformed = false;
};

/// The PTX of a fatbin that fits compute capability `sm`: the highest that is not above it; .target sm_90a only on 90.
CodeImage read_fatbin(const uint8_t* bytes, size_t size, int sm);
/// Size of the fatbin that starts at `bytes`, by its header; 0 if it is none.
size_t fatbin_size(const uint8_t* bytes);

}  // namespace gpusim
