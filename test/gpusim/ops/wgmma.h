// The asynchronous state of wgmma, which a warp owns.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "machine/warp.h"

namespace gpusim {

struct WgmmaState {
  struct Operation;
  std::vector<std::unique_ptr<Operation>> operations;  // in the order of issue
  uint32_t committed = 0;                              // groups
  bool needs_fence = true;                             // registers were touched since the last wgmma.fence
  const Instruction* waiting = nullptr;                // the wait_group at which the other warps are awaited
  ~WgmmaState();
};

/// Runs in place of an instruction that names registers of some wgmma: they may not be touched while one is under way.
Flow touch_wgmma_registers(Warp& w, const Instruction& in, uint32_t mask);

}  // namespace gpusim
