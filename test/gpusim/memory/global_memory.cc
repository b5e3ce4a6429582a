#include "memory/global_memory.h"

#include <sys/mman.h>

#include <cstring>

namespace gpusim {
namespace {

// Far from where Linux puts heaps, stacks and mappings, and small enough for a double.
constexpr uint64_t kDeviceWindow = uint64_t{0x2000} << 32;
constexpr uint64_t kDeviceStride = uint64_t{1} << 40;
constexpr uint64_t kGuard = 4096;  // never allocated, so that running past an end is found
constexpr uint64_t kAlignment = 512;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace

void Allocation::mark_written(uint64_t address, uint64_t size) {
  if (written != nullptr) std::memset(written + (address - base), 1, size);
}

GlobalMemory& GlobalMemory::get() {
  static GlobalMemory* const memory = new GlobalMemory;
  return *memory;
}

GlobalMemory::Mapping::~Mapping() {
  if (memory != nullptr) munmap(memory, mapped);
}

Allocation* GlobalMemory::allocate(int device, uint64_t bytes, uint64_t limit, Allocation::Kind kind) {
  const uint64_t size = round_up(bytes, kAlignment);
  if (size < bytes || size > limit || used(device) > limit - size) return nullptr;
  // Pages are given when they are touched: shadows of memory that no kernel uses cost nothing.
  const uint64_t granules = size / 16 * sizeof(Granule);
  auto mapping = std::make_unique<Mapping>();
  mapping->mapped = size * 2 + granules;
  void* memory = mmap(nullptr, mapping->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                      0);
  if (memory == MAP_FAILED) return nullptr;
  mapping->memory = memory;
  Allocation& allocation = mapping->allocation;
  uint64_t& next = next_[device];
  if (next == 0) next = kDeviceWindow + static_cast<uint64_t>(device) * kDeviceStride + kGuard;
  allocation.base = round_up(next, kAlignment);
  next = allocation.base + size + kGuard;
  allocation.bytes = bytes;
  allocation.kind = kind;
  allocation.device = device;
  allocation.data = static_cast<uint8_t*>(memory);
  allocation.written = allocation.data + size;
  allocation.granules = reinterpret_cast<Granule*>(allocation.written + size);
  return &mappings_.emplace(allocation.base, std::move(mapping)).first->second->allocation;
}

Allocation* GlobalMemory::adopt_host(void* memory, uint64_t bytes) {
  auto mapping = std::make_unique<Mapping>();
  mapping->allocation.base = reinterpret_cast<uint64_t>(memory);
  mapping->allocation.bytes = bytes;
  mapping->allocation.kind = Allocation::Kind::pinned_host;
  mapping->allocation.device = -1;
  mapping->allocation.data = static_cast<uint8_t*>(memory);
  const auto inserted = mappings_.emplace(mapping->allocation.base, std::move(mapping));
  return inserted.second ? &inserted.first->second->allocation : nullptr;
}

bool GlobalMemory::release(uint64_t base) {
  const auto found = mappings_.find(base);
  if (found == mappings_.end()) return false;
  if (found->second->allocation.device >= 0) freed_[base] = found->second->allocation.bytes;
  mappings_.erase(found);
  return true;
}

void GlobalMemory::release_device(int device) {
  for (auto it = mappings_.begin(); it != mappings_.end();) {
    const Allocation& allocation = it->second->allocation;
    if (allocation.device == device) {
      freed_[allocation.base] = allocation.bytes;
      it = mappings_.erase(it);
    } else {
      ++it;
    }
  }
}

Allocation* GlobalMemory::find(uint64_t address) {
  auto after = mappings_.upper_bound(address);
  if (after == mappings_.begin()) return nullptr;
  Allocation& allocation = (--after)->second->allocation;
  return address - allocation.base < allocation.bytes || address == allocation.base ? &allocation : nullptr;
}

uint64_t GlobalMemory::used(int device) const {
  uint64_t sum = 0;
  for (const auto& entry : mappings_)
    if (entry.second->allocation.device == device) sum += round_up(entry.second->allocation.bytes, kAlignment);
  return sum;
}

std::string GlobalMemory::describe(uint64_t address) {
  auto freed = freed_.upper_bound(address);
  if (freed != freed_.begin() && (--freed, address - freed->first < freed->second)) return "is freed memory";
  auto after = mappings_.upper_bound(address);
  if (after != mappings_.begin()) {
    const Allocation& before = (--after)->second->allocation;
    const uint64_t past = address - before.base - before.bytes;
    if (past < kGuard * 16)
      return "is " + std::to_string(past) + " bytes past the end of an allocation of " + std::to_string(before.bytes) +
             " bytes";
  }
  return "is outside any allocation";
}

uint64_t GlobalMemory::touched_since(uint32_t segment) const {
  const auto recent = [&](const std::atomic<uint64_t>& access) {
    return static_cast<uint32_t>(access.load(std::memory_order_relaxed)) >= segment;
  };
  uint64_t bytes = 0;
  for (const auto& entry : mappings_) {
    const Allocation& allocation = entry.second->allocation;
    if (allocation.granules == nullptr) continue;
    for (uint64_t i = 0; i < (allocation.bytes + 15) / 16; i++)
      if (recent(allocation.granules[i].reader) || recent(allocation.granules[i].writer)) bytes += 16;
  }
  return bytes;
}

void GlobalMemory::forget_accesses() {
  for (auto& entry : mappings_) {
    Allocation& allocation = entry.second->allocation;
    if (allocation.granules == nullptr) continue;
    const uint64_t bytes = round_up(allocation.bytes, kAlignment) / 16 * sizeof(Granule);
    for (uint64_t i = 0; i < bytes / sizeof(Granule); i++) {
      allocation.granules[i].writer.store(0, std::memory_order_relaxed);
      allocation.granules[i].other_writer.store(0, std::memory_order_relaxed);
      allocation.granules[i].reader.store(0, std::memory_order_relaxed);
      allocation.granules[i].other_reader.store(0, std::memory_order_relaxed);
    }
  }
}

}  // namespace gpusim
