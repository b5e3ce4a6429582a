// Asynchronous copies and barriers, as far as the scheduler must know them.
#pragma once

#include "machine/block.h"

namespace gpusim {

/// Bulk copies from shared memory that no mbarrier tracks, by the thread that issued them (ISA 9.7.9.25.2).
struct BulkState {
  struct Store;
  std::vector<std::shared_ptr<Store>> stores;
  uint32_t groups[kLanes] = {};
  ~BulkState();
};

class Binding;
/// cp.async.bulk and its tensor form, in ops/bulk.cc.
void bind_bulk_copy(Binding& b);

/// bar.red gives each waiting warp the reduction.
void write_barrier_result(Warp& warp, const Instruction& in, uint32_t mask, const NamedBarrier& barrier);

/// The block has exited: what it issued and never waited for still happens.
void finish_block(Block& block);

}  // namespace gpusim
