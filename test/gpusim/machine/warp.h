// A warp: registers as arrays of 32 lanes, predicates as masks, and the groups of lanes that run at the same place.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "machine/fault.h"
#include "machine/instruction.h"
#include "machine/vector_clock.h"
#include "memory/global_memory.h"

namespace gpusim {

constexpr int kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct Block;
struct WgmmaState;
struct BulkState;

/// Threads that execute together. A warp starts as one group; a divergent branch splits it, and groups that reach the same
/// instruction merge.
struct Group {
  enum class State : uint8_t { running, barrier, collective, polling, rendezvous };
  uint32_t pc = 0;
  uint32_t mask = 0;
  State state = State::running;
  uint16_t barrier = 0;  // the barrier it waits at
  uint64_t event = 0;    // polling: runs again when the block's events have passed this
};

/// Copies of cp.async in the order of issue. Groups are counted by lane (ISA 9.7.9.25.3).
struct AsyncCopy {
  uint64_t serial = 0;
  uint32_t mask = 0;
  uint8_t bytes = 0;
  uint32_t committed = 0;  // lanes that committed it
  uint32_t group[kLanes];
  uint32_t destination[kLanes];
  uint8_t source_bytes[kLanes];
  const uint8_t* source[kLanes];
  uint8_t value[kLanes][16];  // of the source when it was issued
  const Instruction* instruction = nullptr;
};

struct Warp {
  Warp(Block* of, int number);
  ~Warp();

  const uint8_t* base[2] = {nullptr, nullptr};  // registers, constants
  uint32_t* predicates = nullptr;
  Block* block;
  int index;
  uint32_t existing = 0;  // lanes that are threads of the block
  uint32_t live = 0;      // of these, not exited
  std::vector<Group> groups;
  size_t current = 0;
  bool in_turn = false;   // `current` runs although another group is at a lower instruction
  uint64_t together = 0;  // what `executed` was when the warp was last one group
  VectorClock clock;
  uint32_t count = 1;  // this warp's own releases
  uint32_t segment = 0;
  uint32_t carry = 0;   // lanes whose carry flag is set (ISA 9.7.2)
  bool fenced = false;  // a fence since the last atomic: what follows releases
  uint64_t executed = 0;
  Allocation* cached[2] = {nullptr, nullptr};

  std::vector<std::unique_ptr<AsyncCopy>> copies;
  std::vector<std::unique_ptr<AsyncCopy>> free_copies;
  uint32_t copy_groups[kLanes] = {};
  uint64_t copy_serial = 0;
  std::unique_ptr<WgmmaState> wgmma;
  std::unique_ptr<BulkState> bulk;

  Group& group() { return groups[current]; }
  Stamp stamp() const { return make_stamp(index, count); }
  /// After a release: accesses from here on are not ordered before what was released.
  void advance_clock() {
    clock.seen[index] = ++count;
    segment = 0;
  }

  template <class T>
  const T* in(Place place) const {
    return reinterpret_cast<const T*>(base[place >> 31] + (place & 0x7fffffffu));
  }
  template <class T>
  T* out(Place place) {
    return reinterpret_cast<T*>(const_cast<uint8_t*>(base[0]) + place);
  }
  uint64_t address(const Instruction& in_, int lane) const {
    const uint64_t register_value = in_.wide_address ? in<uint64_t>(in_.a)[lane] : in<uint32_t>(in_.a)[lane];
    return register_value + static_cast<uint64_t>(in_.offset);
  }

  [[noreturn]] void fail(const Instruction& in_, int lane, FaultCode code, const std::string& text) const;
  [[noreturn]] void fail_at(const Instruction& in_, int lane, FaultCode code, uint64_t address,
                            const std::string& text) const;
  /// ISA's .aligned: all threads of the warp execute it together. False if some have yet to come: the group then waits.
  bool converge(const Instruction& in_, uint32_t mask) {
    if (mask == live) return true;
    if (group().mask != mask || groups.size() == 1) fail_divergent(in_, mask);
    group().state = Group::State::collective;
    return false;
  }
  [[noreturn]] void fail_divergent(const Instruction& in_, uint32_t mask) const;
};

inline int first_lane(uint32_t mask) { return __builtin_ctz(mask); }

/// for_lanes(mask, [&](int lane) {...}) in rising order.
template <class F>
inline void for_lanes(uint32_t mask, F&& f) {
  for (; mask != 0; mask &= mask - 1) f(__builtin_ctz(mask));
}

}  // namespace gpusim
