// A driver that fails when told to: exports a few of the driver's entry points over those of the library it is linked to
// (dlsym on a handle looks at the library itself first, then at what it needs).
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

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

DRIVER_API int cuMemAlloc_v2(uint64_t* memory, size_t bytes) { return forward("cuMemAlloc_v2", memory, bytes); }
DRIVER_API int cuStreamSynchronize(void* stream) { return forward("cuStreamSynchronize", stream); }
DRIVER_API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                              void** parameters, void** extra) {
  return forward("cuLaunchKernel", function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                 parameters, extra);
}
