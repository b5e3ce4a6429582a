// The compiled kernels that this binary carries.
#pragma once

#include <cstddef>

namespace marginfc {

struct EmbeddedKernels {
  const void* image;     // a fatbin, for cuModuleLoadData; null where there is none
  size_t size;           // bytes
  const char* contents;  // its architectures and its compiler; null where there is none
  const char* missing;   // why there is none, else null
};

EmbeddedKernels embedded_kernels();

}  // namespace marginfc
