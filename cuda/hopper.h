// What the kernels for compute capability 9.0 need beside their parameters: tensor maps of operands.
#pragma once

#include "cuda/driver.h"
#include "cuda/hopper_parameters.h"

namespace marginfc::cuda {

// Of 16-bit rows, in the boxes of hopper_parameters.h. The driver must have tensor_map_encode.
Result map_rows(const Driver& driver, DevicePointer values, int64_t rows, int64_t columns, TensorMap* map);

}  // namespace marginfc::cuda
