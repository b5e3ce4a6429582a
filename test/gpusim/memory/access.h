// The one way to memory: every load, store, atomic and copy asks here for its bytes, and here they are checked and counted.
#pragma once

#include <cstdint>

#include "machine/block.h"
#include "machine/warp.h"

namespace gpusim {

struct GlobalAccess {
  bool write = false;
  bool atomic = false;  // atomics, and .volatile, .relaxed, .acquire and .release: they race with nothing of their kind
  const void* value = nullptr;  // of a write: storing what is there already is benign
};

/// Checks bounds, alignment to `bytes`, that reads see written bytes, and races; returns the host's bytes. At most 32.
uint8_t* global_bytes(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes,
                      const GlobalAccess& access);
/// The same for 32 lanes whose elements of 4, 8 or 16 bytes lie side by side: fewer questions. Null where that is not so, or
/// where an element has a problem that the way lane by lane will name.
uint8_t* global_run(Warp& w, const Instruction& in, const uint64_t* addresses, uint32_t bytes,
                    const GlobalAccess& access);
/// Stores and marks as written.
void store_global(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes, const void* value,
                  bool atomic);

/// Fails with the sentence that belongs to a problem of shared memory.
[[noreturn]] void fail_shared(Warp& w, const Instruction& in, int lane, uint64_t address, SharedProblem problem);

inline Accessor accessor(const Warp& w) { return {&w.clock, w.stamp()}; }

inline void require_aligned(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  if ((address & (bytes - 1)) != 0)
    w.fail_at(in, lane, FaultCode::misaligned_address, address,
              "is not aligned to " + std::to_string(bytes) + " bytes");
}

inline const uint8_t* load_shared(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  require_aligned(w, in, lane, address, bytes);
  SharedMemory& shared = w.block->shared;
  const SharedProblem problem = address > shared.size()
                                    ? SharedProblem::bounds
                                    : shared.read(static_cast<uint32_t>(address), bytes, accessor(w));
  if (problem != SharedProblem::none) fail_shared(w, in, lane, address, problem);
  return shared.data() + address;
}

inline void store_shared(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes,
                         const void* value) {
  require_aligned(w, in, lane, address, bytes);
  SharedMemory& shared = w.block->shared;
  const SharedProblem problem = address > shared.size()
                                    ? SharedProblem::bounds
                                    : shared.write(static_cast<uint32_t>(address), bytes, value, accessor(w));
  if (problem != SharedProblem::none) fail_shared(w, in, lane, address, problem);
}

/// Sectors of 32 bytes that one instruction touches, against as few as its bytes would fill (notes in README.md).
void count_global(Warp& w, uint32_t mask, const uint64_t* addresses, uint32_t bytes, bool write);
/// Wavefronts: phases of 32, 16 or 8 lanes for up to 4, 8 or 16 bytes, each taking as many turns as its busiest bank has
/// distinct words.
void count_shared(Warp& w, uint32_t mask, const uint32_t* addresses, uint32_t bytes);

/// A block's release or acquire of what other blocks did, through the atomic at `address`.
void synchronise_blocks(Warp& w, uint64_t address, bool releases, bool acquires);

}  // namespace gpusim
