// What the host hands to the Hopper kernels: the parameters of the kernel that each stands in for, and its two operands as
// tensor maps. Included by the engine (C++) and by kernels/ (CUDA); includes no CUDA header.
#pragma once

#include "cuda/parameters.h"

namespace marginfc {

// A CUtensorMap of an operand, [rows, stride] of 16 bits, in boxes of kBoxSide x kBoxSide with swizzled rows of 128 bytes.
struct alignas(64) TensorMap {
  uint8_t opaque[128];
};

constexpr int kBoxSide = 64;      // rows and columns of a box
constexpr int kHopperDepth = 64;  // of the inner dimension in a stage

constexpr int kWideTile = 256;     // columns
constexpr int kHopperStays = 512;  // of the inner dimension, at most, of a left operand that stays in shared memory

// hopper_negatives_T, hopper_negatives_hardest_T, hopper_negatives_shifted_T, hopper_probabilities_T: as without hopper_.
// hopper_features_product_T, hopper_weights_product_T: the same, but a block takes tiles_per_block tiles of 128 columns;
// grid: x = ceil(width / 128 / tiles_per_block). With _wide before _T the tiles have 256 columns, of which width is then a
// multiple: fewer bytes where the left operand does not stay in shared memory. T is float16 or bfloat16. Threads a block: the module's variable
// hopper_threads_T (int32); dynamic shared memory: hopper_bytes_T (int32). Only compute capability 9.0 has them.
template <class Parameters>
struct Mapped {
  TensorMap left, right;  // x and W, P and W, P and V
  int32_t left_row;       // of the map, where the operand of Parameters begins
  int32_t right_row;
  Parameters of;
  int32_t tiles_per_block;  // products only
};

}  // namespace marginfc
