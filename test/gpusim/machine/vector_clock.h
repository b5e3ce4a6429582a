// Happens-before inside a block. Every agent (a warp, or the asynchronous copies that complete on one mbarrier) counts
// its releases; a warp's vector clock holds, for each agent, the last release it has seen. An access is ordered before
// the current one if and only if its agent's count has been seen (FastTrack, Flanagan and Freund 2009).
#pragma once

#include <array>
#include <cstdint>

namespace gpusim {

constexpr int kAgents = 64;
constexpr int kFirstAsyncAgent = 32;  // agents 0..31 are the warps of a block
constexpr int kAsyncAgents = 27;

struct VectorClock {
  std::array<uint32_t, kAgents> seen{};
  void join(const VectorClock& other) {
    for (int i = 0; i < kAgents; i++)
      if (other.seen[i] > seen[i]) seen[i] = other.seen[i];
  }
};

/// One access: which agent and at which of its counts. Fits a shadow cell.
using Stamp = uint32_t;
constexpr Stamp kAtomicFlag = 0x80000000u;
constexpr Stamp make_stamp(int agent, uint32_t count) { return (count & 0x1ffffffu) << 6 | static_cast<Stamp>(agent); }
constexpr int agent_of(Stamp stamp) { return static_cast<int>(stamp & 63); }
constexpr uint32_t count_of(Stamp stamp) { return (stamp & ~kAtomicFlag) >> 6; }

// Cells that no clock has seen, so that one comparison sends both races and these to the slow path.
constexpr Stamp kUnwritten = 0x7fffffffu;                     // nobody wrote it
constexpr Stamp kInFlight = make_stamp(62, 0x1ffffffu);       // the destination of an asynchronous copy
constexpr Stamp kBarrierObject = make_stamp(60, 0x1ffffffu);  // an mbarrier lives here
constexpr int kSplitAgent = 61;                               // bytes differ; the count is an index of byte cells

inline bool ordered(Stamp stamp, const VectorClock& clock) { return (stamp >> 6) <= clock.seen[stamp & 63]; }

}  // namespace gpusim
