// GPUSIM_STATS: one JSON object for each launch, in an array that is complete after every launch.
#pragma once

#include <string>

#include "machine/launch.h"

namespace gpusim {

void report_launch(const Launch& launch, int sm);

/// Clocks of the whole device that each resource would need by itself, from the counters: a prediction, no measurement.
struct Roofline {
  const char* gpu;
  double tensor, issue, shared, l2, dram, special;
  const char* binds;
};
Roofline predict(const Launch& launch, int sm, uint64_t dram_bytes);

}  // namespace gpusim
