// A driver that leaves one call out when told to, a launch, a copy, a fill or a call for a graph, or all waits or records of a
// kind: exports some of the driver's entry points over those of the library it is linked to, as failing_driver.cc does. What is left
// out reports success. New memory is full of poison, and old memory is again when told to, so that nothing is right because it was
// right before.
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>

namespace {

constexpr unsigned char kPoison = 0xff;

std::mutex mutex;
std::map<uint64_t, size_t> device_memory;
std::map<void*, size_t> host_memory;
std::map<void*, std::string> kernels;
int seen = 0, wanted = 0;
std::string dropped;

template <class... Arguments>
int forward(const char* symbol, Arguments... arguments) {
  return reinterpret_cast<int (*)(Arguments...)>(dlsym(RTLD_NEXT, symbol))(arguments...);
}

// What the engine makes of these when it opens a device, in this order (cuda/device.cc).
constexpr const char* kStreams[] = {"compute", "downloads"};
constexpr const char* kEvents[] = {"written", "read", "written", "read", "written, other", "read, other", "slot",
                                   "slot",    "slot", "slot",    "pace", "pace",           "pace"};
int streams_made = 0, events_made = 0;
std::map<void*, std::string> names;     // of streams and events
std::map<std::string, int> sync_calls;  // by kind
std::string wanted_kind;

template <size_t kCount>
void name(void* made, const char* const (&all)[kCount], int* count) {
  const std::lock_guard<std::mutex> lock(mutex);
  names[made] = all[(*count)++ % kCount];
}

// Whether all calls of this kind are left out: who waits for what, or who records what.
bool drops_kind(const char* who, void* stream, const char* what, void* of) {
  const std::lock_guard<std::mutex> lock(mutex);
  const std::string kind = (stream ? names[stream] : who) + what + names[of];
  sync_calls[kind]++;
  return kind == wanted_kind;
}

// In the default stream, which waits for none of the engine's.
int poison(uint64_t memory, size_t bytes) {
  const int code = forward("cuMemsetD8_v2", memory, kPoison, bytes);
  return code != 0 ? code : forward("cuStreamSynchronize", static_cast<void*>(nullptr));
}

std::string kernel_name(void* function) {
  const std::lock_guard<std::mutex> lock(mutex);
  return kernels[function];
}

// Whether this call is the one to leave out.
bool drops(const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (++seen != wanted) return false;
  dropped = what;
  return true;
}

}  // namespace

#define DRIVER_API extern "C" __attribute__((visibility("default")))

// Of the calls from now on the Nth is left out, none for 0. Returns how many there have been since this was called last.
DRIVER_API int drop_call(int call) {
  const std::lock_guard<std::mutex> lock(mutex);
  const int before = seen;
  seen = 0;
  wanted = call;
  dropped.clear();
  return before;
}

// What was left out: a kernel, or the kind of copy with its size.
DRIVER_API const char* dropped_call() { return dropped.c_str(); }

// Calls of this kind are left out from now on, none for "". Returns how many of it there have been.
DRIVER_API int drop_kind(const char* kind) {
  const std::lock_guard<std::mutex> lock(mutex);
  wanted_kind = kind;
  return sync_calls[kind];
}

// The kinds of which there have been calls, sorted; null behind the last.
DRIVER_API const char* kind_of_call(int n) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto it = sync_calls.begin();
  for (; it != sync_calls.end() && n > 0; n--) ++it;
  return it == sync_calls.end() ? nullptr : it->first.c_str();
}

// All bits of memory are ones again, the device's and the host's: NaN, or -1. Nothing may be under way. False if the
// device is lost.
DRIVER_API bool poison_memory() {
  const std::lock_guard<std::mutex> lock(mutex);
  void* context = nullptr;
  forward("cuDevicePrimaryCtxRetain", &context, 0);
  forward("cuCtxPushCurrent_v2", context);
  const int code = forward("cuCtxSynchronize");
  // Memory of a context that was lost went with it.
  for (auto it = device_memory.begin(); code == 0 && it != device_memory.end();)
    it = poison(it->first, it->second) == 0 ? std::next(it) : device_memory.erase(it);
  forward("cuCtxPopCurrent_v2", &context);
  forward("cuDevicePrimaryCtxRelease_v2", 0);
  for (const auto& [memory, bytes] : host_memory) std::memset(memory, kPoison, bytes);
  return code == 0;
}

DRIVER_API int cuMemAlloc_v2(uint64_t* memory, size_t bytes) {
  const int code = forward("cuMemAlloc_v2", memory, bytes);
  if (code != 0) return code;
  const std::lock_guard<std::mutex> lock(mutex);
  device_memory[*memory] = bytes;
  return poison(*memory, bytes);
}
DRIVER_API int cuMemFree_v2(uint64_t memory) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    device_memory.erase(memory);
  }
  return forward("cuMemFree_v2", memory);
}
DRIVER_API int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
  const int code = forward("cuMemHostAlloc", memory, bytes, flags);
  const std::lock_guard<std::mutex> lock(mutex);
  if (code != 0) return code;
  host_memory[*memory] = bytes;
  std::memset(*memory, kPoison, bytes);
  return code;
}
DRIVER_API int cuMemFreeHost(void* memory) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    host_memory.erase(memory);
  }
  return forward("cuMemFreeHost", memory);
}
DRIVER_API int cuModuleGetFunction(void** function, void* module, const char* name) {
  const int code = forward("cuModuleGetFunction", function, module, name);
  const std::lock_guard<std::mutex> lock(mutex);
  if (code == 0) kernels[*function] = name;
  return code;
}

DRIVER_API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                              void** parameters, void** extra) {
  if (drops(kernel_name(function))) return 0;
  return forward("cuLaunchKernel", function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                 parameters, extra);
}
// Of a node, whose parameters begin with its function: that it waits for the one before.
DRIVER_API int cuGraphAddKernelNode(void** node, void* graph, void* const* after, size_t count, void* const* kernel) {
  if (count > 0 && drops("order of " + kernel_name(*kernel))) count = 0;
  return forward("cuGraphAddKernelNode", node, graph, after, count, kernel);
}
DRIVER_API int cuGraphExecKernelNodeSetParams(void* exec, void* node, void* const* kernel) {
  if (drops("arguments of " + kernel_name(*kernel))) return 0;
  return forward("cuGraphExecKernelNodeSetParams", exec, node, kernel);
}
DRIVER_API int cuGraphLaunch(void* exec, void* stream) {
  if (drops("graph")) return 0;
  return forward("cuGraphLaunch", exec, stream);
}
DRIVER_API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  if (drops("upload of " + std::to_string(bytes) + " bytes")) return 0;
  return forward("cuMemcpyHtoDAsync_v2", to, from, bytes, stream);
}
DRIVER_API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  if (drops("download of " + std::to_string(bytes) + " bytes")) return 0;
  return forward("cuMemcpyDtoHAsync_v2", to, from, bytes, stream);
}
DRIVER_API int cuMemsetD32Async(uint64_t to, unsigned word, size_t count, void* stream) {
  if (drops("fill of " + std::to_string(4 * count) + " bytes")) return 0;
  return forward("cuMemsetD32Async", to, word, count, stream);
}

DRIVER_API int cuStreamCreate(void** stream, unsigned flags) {
  const int code = forward("cuStreamCreate", stream, flags);
  if (code == 0) name(*stream, kStreams, &streams_made);
  return code;
}
DRIVER_API int cuEventCreate(void** event, unsigned flags) {
  const int code = forward("cuEventCreate", event, flags);
  if (code == 0) name(*event, kEvents, &events_made);
  return code;
}
DRIVER_API int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
  if (drops_kind("", stream, " waits for ", event)) return 0;
  return forward("cuStreamWaitEvent", stream, event, flags);
}
DRIVER_API int cuEventRecord(void* event, void* stream) {
  if (drops_kind("", stream, " records ", event)) return 0;
  return forward("cuEventRecord", event, stream);
}
DRIVER_API int cuEventSynchronize(void* event) {
  if (drops_kind("host", nullptr, " waits for ", event)) return 0;
  return forward("cuEventSynchronize", event);
}
DRIVER_API int cuStreamSynchronize(void* stream) {
  if (drops_kind("host", nullptr, " waits for ", stream)) return 0;
  return forward("cuStreamSynchronize", stream);
}
