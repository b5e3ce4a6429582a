// One launch of a kernel: what all its blocks share, and the loop that runs them on the machine's cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine/instruction.h"

namespace gpusim {

/// From the environment, read once: see README.md.
struct Options {
  bool checks = true;
  uint64_t seed = 0;
  uint64_t max_instructions = 0;  // of one warp
  int threads = 1;
  std::string stats_path;
  std::string coverage_path;
  std::string ptx_path;
  std::string log_path;
  bool eager = false;
  bool lazy_loading = true;  // kernels are assembled when they are first needed
  static const Options& get() { return storage(); }
  /// For this device's own tests, which run with many settings.
  static Options& storage();
};

/// What instructions do to memory, counted where they execute.
struct AccessCounters {
  uint64_t load_sectors = 0, load_bytes = 0, ideal_load_sectors = 0;
  uint64_t async_sectors = 0;  // of the loaded: by cp.async
  uint64_t store_sectors = 0, store_bytes = 0, ideal_store_sectors = 0;
  uint64_t wavefronts = 0, ideal_wavefronts = 0;
  uint64_t atomics = 0;
  uint64_t mma_flops = 0, mma_count = 0, wgmma_count = 0;
  uint64_t bulk_bytes = 0;
  void add(const AccessCounters& other);
};

/// Who made an access to global memory: a warp between two of its releases.
struct Segment {
  uint32_t block = 0;
  uint32_t block_releases = 0;
  uint32_t warp = 0;
  uint32_t count = 0;
};

/// What one block has released to others through an atomic on some address.
struct SyncCell {
  std::unordered_map<uint32_t, uint32_t> blocks;
};

struct Launch {
  const Program* program = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t dynamic_shared = 0;
  std::vector<uint8_t> params;
  int device = 0;
  uint64_t reachable = ~uint64_t{0};  // devices whose memory the kernel may touch
  bool counting = true;
  const Options* options = nullptr;

  // While it runs:
  uint32_t first_segment = 0;
  std::mutex sync_mutex;
  std::unordered_map<uint64_t, SyncCell> sync_cells;
  std::vector<uint64_t> counts;  // executions by instruction
  std::vector<uint8_t> ran;      // by instruction: for a lane, whatever its predicate
  AccessCounters accesses;

  uint32_t threads() const { return block[0] * block[1] * block[2]; }
  uint32_t blocks() const { return grid[0] * grid[1] * grid[2]; }
  uint32_t shared_bytes() const { return program->dynamic_offset + dynamic_shared; }
  /// Throws the Fault of the first block that has one.
  void run();
  /// Warp instructions of all launches of this process.
  static uint64_t total_executed();
};

uint32_t new_segment(const Segment& segment);
const Segment& segment_at(uint32_t number);

}  // namespace gpusim
