// Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011). The value depends on key and
// counter alone, so a draw is the same whatever the shards, threads or devices. Host and device.
//
// The key is the head's seed. Each use has counters of its own, as step numbers start at 1:
//
//   use                   low                  high
//   first weights         class                column / 4
//   stochastic rounding   class | step << 32   16 * (column / 128) + column % 16; cpu/stochastic_rounding.h
//   draws of margins      row                  2^62 | step; src/counter_random.ts
//   sampled classes       class / 4            2^63 | step; engine/draw.h
#pragma once

#include <math.h>
#include <stdint.h>

#include "engine/margin.h"

namespace marginfc {

struct Random4 {
  uint32_t v[4];
};

MARGINFC_HOST_DEVICE inline Random4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Two normal deviates from two uniform ones (Box and Muller); the first is never log(0).
MARGINFC_HOST_DEVICE inline void normal_pair(uint32_t u, uint32_t v, double* first, double* second) {
  const double radius = sqrt(-2.0 * log((u + 0.5) * 0x1p-32));
  const double angle = 2.0 * kPi * (v * 0x1p-32);
  *first = radius * cos(angle);
  *second = radius * sin(angle);
}

}  // namespace marginfc
