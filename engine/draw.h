// What the host's and the devices' draws of classes have in common; sampling.h says what is drawn.
#pragma once

#include "engine/random.h"

namespace marginfc {

constexpr int32_t kSamplingBlock = 4096;

// u of four classes from `id` on, a multiple of four.
MARGINFC_HOST_DEVICE inline Random4 draw_four(uint64_t seed, int64_t step, int64_t id) {
  constexpr uint64_t kDrawCounters = uint64_t{1} << 63;
  return philox(seed, id / 4, kDrawCounters | static_cast<uint64_t>(step));
}

}  // namespace marginfc
