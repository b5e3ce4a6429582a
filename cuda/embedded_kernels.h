// The compiled kernels that this binary carries.
#pragma once

#include <cstddef>

namespace marginfc {

struct EmbeddedKernels {
  const void* image;  // for cuModuleLoadData; null where there is none
  size_t size;
  const char* missing;  // why there is none, else null
};

EmbeddedKernels embedded_kernels();

}  // namespace marginfc
