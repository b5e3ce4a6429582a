// A driver that fails when told to, and that counts memory: exports a few of the driver's entry points over those of the
// library it is linked to (dlsym on a handle looks at the library itself first, then at what it needs).
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>

namespace {

// Of all devices; tests that ask use one.
std::map<uint64_t, size_t> allocated;
size_t allocated_bytes = 0, most_bytes = 0;
bool idle = false;  // launches do nothing

struct Plan {
  const char* symbol;
  int call;
  int code;
  int seen = 0;
  bool lost = false;

  Plan(const char* symbol, int call, int code) : symbol(symbol), call(call), code(code) {}
} plan("", 0, 0);

// The code to return instead, or 0. After a code that loses the context every call has it.
int failure(const char* symbol) {
  if (plan.lost) return plan.code;
  if (std::strcmp(symbol, plan.symbol) != 0 || ++plan.seen != plan.call) return 0;
  plan.lost = plan.code >= 700;
  return plan.code;
}

template <class... Arguments>
int forward(const char* symbol, Arguments... arguments) {
  if (const int code = failure(symbol)) return code;
  return reinterpret_cast<int (*)(Arguments...)>(dlsym(RTLD_NEXT, symbol))(arguments...);
}

}  // namespace

#define DRIVER_API extern "C" __attribute__((visibility("default")))

// The Nth call from now on of `symbol`, which must live on, returns `code`. Returns whether the plan before came to that.
DRIVER_API bool fail_driver(const char* symbol, int call, int code) {
  const bool failed = plan.call > 0 && plan.seen >= plan.call;
  plan = Plan(symbol, call, code);
  return failed;
}

// The most bytes that were allocated at a time since the last call.
DRIVER_API size_t most_driver_memory() {
  const size_t most = most_bytes;
  most_bytes = allocated_bytes;
  return most;
}

// Whether launches do nothing from now on: for sizes that the software device would take minutes for.
DRIVER_API void idle_driver(bool on) { idle = on; }

DRIVER_API int cuMemAlloc_v2(uint64_t* memory, size_t bytes) {
  const int code = forward("cuMemAlloc_v2", memory, bytes);
  if (code != 0) return code;
  allocated[*memory] = bytes;
  allocated_bytes += bytes;
  if (allocated_bytes > most_bytes) most_bytes = allocated_bytes;
  return code;
}
DRIVER_API int cuMemFree_v2(uint64_t memory) {
  const int code = forward("cuMemFree_v2", memory);
  const auto found = allocated.find(memory);
  if (code != 0 || found == allocated.end()) return code;
  allocated_bytes -= found->second;
  allocated.erase(found);
  return code;
}
DRIVER_API int cuStreamSynchronize(void* stream) { return forward("cuStreamSynchronize", stream); }
DRIVER_API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                              void** parameters, void** extra) {
  if (idle) return 0;
  return forward("cuLaunchKernel", function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                 parameters, extra);
}
DRIVER_API int cuGraphCreate(void** graph, unsigned flags) { return forward("cuGraphCreate", graph, flags); }
DRIVER_API int cuGraphAddKernelNode(void** node, void* graph, void* const* after, size_t count, const void* kernel) {
  return forward("cuGraphAddKernelNode", node, graph, after, count, kernel);
}
DRIVER_API int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  return forward("cuGraphInstantiateWithFlags", exec, graph, flags);
}
DRIVER_API int cuGraphExecKernelNodeSetParams(void* exec, void* node, const void* kernel) {
  return forward("cuGraphExecKernelNodeSetParams", exec, node, kernel);
}
DRIVER_API int cuGraphLaunch(void* exec, void* stream) { return idle ? 0 : forward("cuGraphLaunch", exec, stream); }
