// A block of threads on the device: its warps, barriers and shared memory, and the schedule that runs them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "machine/launch.h"
#include "machine/warp.h"
#include "memory/shared_memory.h"

namespace gpusim {

/// A named barrier (ISA 9.7.13.1). Arrivals are counted in threads, a whole warp at a time.
struct NamedBarrier {
  uint32_t arrived = 0;
  uint32_t expected = 0;  // 0: all threads of the block
  bool in_use = false;
  VectorClock clock;
  uint32_t popc = 0;
  bool all = true, any = false;
  const Instruction* instruction = nullptr;
  std::vector<std::pair<Warp*, uint32_t>> waiting;  // warps, and the lanes of the group
};

/// An mbarrier object (ISA 9.7.13.15). Its 8 bytes in shared memory are opaque; the state is here.
struct MBarrier {
  uint32_t expected = 0;
  uint32_t pending = 0;
  int64_t transactions = 0;
  uint32_t phase = 0;
  int agent = kFirstAsyncAgent;
  uint32_t completions = 0;  // of asynchronous copies: the agent's count
  VectorClock collecting, completed;
};

/// An asynchronous operation of the block that completes by itself, at any time after it was issued.
struct Pending {
  virtual ~Pending() = default;
  virtual void complete(Block& block) = 0;
};

struct Block {
  Block(Launch& of, uint32_t linear_index, uint64_t seed);
  /// Runs until the block is done (true) or `budget` warp instructions were executed (false).
  bool run(uint64_t budget);

  Launch& launch;
  uint32_t linear;
  uint32_t index[3];
  SharedMemory shared;
  std::vector<std::unique_ptr<Warp>> warps;
  NamedBarrier barriers[16];
  std::unordered_map<uint32_t, MBarrier> mbarriers;
  std::vector<std::unique_ptr<Pending>> pending;
  int next_async_agent = 0;
  uint64_t events = 0;  // grows with everything that a polling warp may wait for
  uint64_t executed = 0;
  std::mt19937_64 random;
  std::unordered_map<uint32_t, uint32_t> seen_blocks;  // releases of other blocks that happened before
  uint32_t releases = 1;
  std::vector<uint64_t> counts;  // executions of each instruction
  std::vector<uint8_t> ran;      // of each, whether a lane has executed it
  AccessCounters accesses;
  std::vector<std::vector<uint8_t>> local;  // of each warp, thread after thread
  std::vector<std::vector<uint8_t>> local_written;

  MBarrier& mbarrier(Warp& warp, const Instruction& in, int lane, uint32_t address);
  void arrive(MBarrier* barrier, uint32_t arrivals);
  void release_barrier(NamedBarrier* barrier);
  uint32_t live_threads() const;
  void check_barriers();
  void complete_one_pending();
  uint8_t* local_memory(Warp& warp);

 private:
  /// Until the slice is used up, or nothing of the warp can run.
  void run_warp(Warp& warp, uint64_t slice);
  bool choose_group(Warp& warp);
  uint32_t merge_limit(Warp& warp);
  bool can_run(const Warp& warp) const;
  [[noreturn]] void fail_deadlock();

  std::vector<uint8_t> registers_;
  std::vector<uint32_t> predicates_;
  size_t turn_ = 0;
};

}  // namespace gpusim
