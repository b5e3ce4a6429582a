#include "nccl/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace gpusim::nccl {
namespace {

struct Entry {
  const char* symbol;
  size_t offset;
};
constexpr Entry kEntries[] = {
    {"cuCtxGetDevice", offsetof(Driver, current_device)},
    {"cuDevicePrimaryCtxRetain", offsetof(Driver, retain_context)},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(Driver, release_context)},
    {"cuCtxPushCurrent_v2", offsetof(Driver, push_context)},
    {"cuCtxPopCurrent_v2", offsetof(Driver, pop_context)},
    {"cuPointerGetAttribute", offsetof(Driver, pointer_attribute)},
    {"cuMemHostAlloc", offsetof(Driver, host_allocate)},
    {"cuMemcpyDtoHAsync_v2", offsetof(Driver, copy_to_host)},
    {"cuMemcpyHtoDAsync_v2", offsetof(Driver, copy_to_device)},
    {"cuEventCreate", offsetof(Driver, event_create)},
    {"cuEventDestroy_v2", offsetof(Driver, event_destroy)},
    {"cuEventRecord", offsetof(Driver, event_record)},
    {"cuEventQuery", offsetof(Driver, event_query)},
    {"cuStreamWaitValue32_v2", offsetof(Driver, stream_wait_value)},
};
static_assert(sizeof(kEntries) / sizeof(Entry) * sizeof(void*) == sizeof(Driver), "one entry per function");

std::mutex pool_mutex;
std::multimap<size_t, void*> pool;  // by bytes; guarded by pool_mutex

size_t block_bytes(size_t bytes) {
  size_t block = 4096;
  while (block < bytes) block *= 2;
  return block;
}

}  // namespace

const Driver* driver() {
  static const Driver* const loaded = []() -> const Driver* {
    // The program's own copy: the same file gives the same handle.
    const char* path = std::getenv("MARGINFC_LIBCUDA");
    void* library = dlopen(path != nullptr && *path != 0 ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    static Driver found;
    for (const Entry& entry : kEntries) {
      void* symbol = dlsym(library, entry.symbol);
      if (symbol == nullptr) return nullptr;
      std::memcpy(reinterpret_cast<char*>(&found) + entry.offset, &symbol, sizeof symbol);
    }
    return &found;
  }();
  return loaded;
}

void* take_pinned(size_t bytes) {
  bytes = block_bytes(bytes);
  {
    const std::lock_guard<std::mutex> lock(pool_mutex);
    const auto idle = pool.find(bytes);
    if (idle != pool.end()) {
      void* memory = idle->second;
      pool.erase(idle);
      return memory;
    }
  }
  void* memory = nullptr;
  return driver()->host_allocate(&memory, bytes, 0) == 0 ? memory : nullptr;
}

void put_pinned(void* memory, size_t bytes) {
  const std::lock_guard<std::mutex> lock(pool_mutex);
  pool.emplace(block_bytes(bytes), memory);
}

}  // namespace gpusim::nccl
