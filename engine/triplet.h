// One triplet of a batch. Included by engines and by the CUDA kernels.
#pragma once

#include <stdint.h>

namespace marginfc {

// Rows of the batch and, in float64, their cosines to the anchor, which is known by the triplet's place.
struct Triplet {
  int32_t positive = -1;  // -1: none
  int32_t negative = -1;
  double positive_cosine = 0, negative_cosine = 0;
};

}  // namespace marginfc
