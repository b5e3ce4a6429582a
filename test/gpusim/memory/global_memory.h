// Global memory of all devices and the host memory that kernels may reach: one address space, as with unified virtual
// addressing. Device addresses are never host pointers, so that host code which dereferences one fails as on hardware,
// and are never reused, so that a stale pointer is found out.
//
// Each byte has a flag that says whether anyone wrote it. Each 16-byte granule remembers the last two writes and the last
// two reads of different warps with the bytes they touched, for races within a launch. Older accesses are forgotten: that can
// hide a race, never invent one.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace gpusim {

/// An access as a granule keeps it: the segment that made it, which of the 16 bytes, and whether it was atomic.
struct GranuleAccess {
  uint32_t segment = 0;
  uint16_t bytes = 0;
  uint16_t atomic = 0;
};
static_assert(sizeof(GranuleAccess) == 8, "one atomic word");

struct Granule {
  std::atomic<uint64_t> writer, other_writer, reader, other_reader;
};

struct Allocation {
  enum class Kind { device, pinned_host, module_global, module_constant };
  uint64_t base = 0;
  uint64_t bytes = 0;
  Kind kind = Kind::device;
  int device = 0;
  uint8_t* data = nullptr;
  uint8_t* written = nullptr;  // one flag a byte; null where everything counts as written
  Granule* granules = nullptr;
  bool contains(uint64_t address, uint64_t size) const {
    return address >= base && address - base <= bytes && size <= bytes - (address - base);
  }
  void mark_written(uint64_t address, uint64_t size);
};

class GlobalMemory {
 public:
  static GlobalMemory& get();

  /// Null when it exceeds what is left of `limit` bytes of the device, or the machine has no more.
  Allocation* allocate(int device, uint64_t bytes, uint64_t limit, Allocation::Kind kind = Allocation::Kind::device);
  /// Host memory that kernels may reach at its own address.
  Allocation* adopt_host(void* memory, uint64_t bytes);
  bool release(uint64_t base);
  void release_device(int device);

  /// The allocation that holds the address; null outside all of them.
  Allocation* find(uint64_t address);
  uint64_t used(int device) const;
  /// For a message: "freed memory", "outside any allocation", or how far past which one.
  std::string describe(uint64_t address);

  /// Bytes of the granules that were touched by this or a later segment.
  uint64_t touched_since(uint32_t segment) const;
  /// Forgets all accesses, when the numbers of segments start again.
  void forget_accesses();

 private:
  struct Mapping {
    Allocation allocation;
    void* memory = nullptr;
    size_t mapped = 0;
    ~Mapping();
  };
  std::map<uint64_t, std::unique_ptr<Mapping>> mappings_;
  std::map<uint64_t, uint64_t> freed_;  // base -> bytes
  uint64_t next_[64] = {};
};

}  // namespace gpusim
