// What the checks of this folder share: counting, and running kernels on the device through its driver API.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "driver/api.h"
#include "driver/state.h"
#include "machine/launch.h"

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(gpusim::Context**, int);
int cuDevicePrimaryCtxReset_v2(int);
int cuCtxSetCurrent(gpusim::Context*);
int cuCtxSynchronize();
int cuModuleLoadData(gpusim::LoadedModule**, const void*);
int cuModuleLoadDataEx(gpusim::LoadedModule**, const void*, unsigned, const int*, void**);
int cuModuleUnload(gpusim::LoadedModule*);
int cuModuleGetFunction(gpusim::Function**, gpusim::LoadedModule*, const char*);
int cuFuncSetAttribute(gpusim::Function*, int, int);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemcpyHtoD_v2(uint64_t, const void*, size_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuLaunchKernel(gpusim::Function*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                   gpusim::Stream*, void**, void**);
}

namespace gpusim {

struct Counts {
  int passed = 0, failed = 0, skipped = 0;
};
Counts& counts();
void check(bool ok, const std::string& what);
/// Prints why something is not checked on this machine.
void skip(const std::string& what, const std::string& why);

/// The text of a file; empty if there is none.
std::string read_file(const std::string& path);
/// Where test/gpusim is.
std::string source_folder();

/// A buffer that a kernel gets as a pointer parameter.
struct Buffer {
  std::vector<uint8_t> bytes;
  bool written = true;  // otherwise nobody has written it yet
  template <class T>
  static Buffer of(const std::vector<T>& values) {
    Buffer buffer;
    buffer.bytes.resize(values.size() * sizeof(T));
    std::memcpy(buffer.bytes.data(), values.data(), buffer.bytes.size());
    return buffer;
  }
  static Buffer unwritten(size_t bytes) { return {std::vector<uint8_t>(bytes), false}; }
  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

struct Arg {
  Buffer* buffer = nullptr;
  std::vector<uint8_t> scalar;
  Arg(Buffer* of) : buffer(of) {}
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
  Arg(T value) : scalar(sizeof(T)) {
    std::memcpy(scalar.data(), &value, sizeof(T));
  }
};

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

/// What became of a launch: a result code, and the device's message.
struct Outcome {
  int code = 0;
  std::string text;
  bool ok() const { return code == 0; }
  bool says(const std::string& part) const { return text.find(part) != std::string::npos; }
};

/// Loads the text, runs one kernel of it, and copies the buffers back; the device is reset before.
Outcome run_kernel(const std::string& ptx, const std::string& kernel, Extent grid, Extent block, unsigned shared,
                   std::vector<Arg> args, int sm = 90);

/// Settings for a while.
class With {
 public:
  explicit With(const std::function<void(Options&)>& change) : before_(Options::storage()) {
    change(Options::storage());
  }
  ~With() { Options::storage() = before_; }

 private:
  Options before_;
};

/// Wraps a body in a kernel `k` of .target sm_90a with `params` (".param .u64 a, ..."), and registers enough for small tests:
/// %p, %h (b16), %r (b32), %f (f32), %rd (b64), %fd (f64), 64 of each.
std::string kernel_text(const std::string& params, const std::string& body);

// One of these in each file.
void check_parser();
void check_integer();
void check_float();
void check_conversion();
void check_predicate();
void check_control();
void check_functions();
void check_memory();
void check_shared_and_races();
void check_collectives();
void check_matrix();
void check_async();
void check_driver();
void check_ptx_cases();
void check_mutations();
void check_stats();

}  // namespace gpusim
