// Launches kernels of a PTX text or fatbin one after the other, at sizes of real use and with parameters as the engine
// sets them; `npm run cuda:report` reads what the software GPU counted. Results are not looked at: the tests do that.
//
//   cuda_launches IMAGE kernel[:variant],B,D,C ...     for example negatives_float16,512,512,2048
//
// Rows own no class, but for kernels that are about nothing else (targets, finish_features).
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "bench/cuda/launcher.h"

using namespace marginfc;
using namespace marginfc::cuda;

namespace {

bool parse(const char* text, Request* request) {
  char name[96];
  if (std::sscanf(text, "%95[^,],%d,%d,%d", name, &request->rows, &request->dim, &request->classes) != 4) return false;
  request->kernel = name;
  const size_t colon = request->kernel.find(':');
  if (colon != std::string::npos) {
    request->variant = request->kernel.substr(colon + 1);
    request->kernel.resize(colon);
  }
  return request->rows > 0 && request->dim > 0 && request->classes > 0;
}

bool launch(const KernelTable& kernels, const Request& request) {
  return launch_tiles(kernels, request) || launch_batch_rows(kernels, request) || launch_class_rows(kernels, request);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: cuda_launches IMAGE kernel[:variant],B,D,C ...\n");
    return 2;
  }
  const Driver& driver = cuda::driver();
  if (!driver.available()) {
    std::fprintf(stderr, "%s\n", driver.reason.c_str());
    return 1;
  }
  std::ifstream file(arguments[1], std::ios::binary);
  std::string image{std::istreambuf_iterator<char>(file), {}};
  DeviceOrdinal device;
  ContextHandle* context;
  ModuleHandle* module;
  int32_t major, minor;
  must(driver->device_get(&device, 0), "cuDeviceGet");
  must(driver->device_attribute(&major, DeviceAttribute::major, device), "cuDeviceGetAttribute");
  must(driver->device_attribute(&minor, DeviceAttribute::minor, device), "cuDeviceGetAttribute");
  must(driver->context_retain(&context, device), "cuDevicePrimaryCtxRetain");
  must(driver->context_push(context), "cuCtxPushCurrent");
  must(driver->module_load(&module, image.c_str(), 0, nullptr, nullptr), "cuModuleLoadDataEx");
  KernelTable kernels;
  const std::string wrong = find_kernels(driver, module, nullptr, 10 * major + minor, &kernels);
  if (!wrong.empty()) {
    std::fprintf(stderr, "%s\n", wrong.c_str());
    return 1;
  }
  for (int i = 2; i < count; i++) {
    Request request;
    if (!parse(arguments[i], &request) || !launch(kernels, request)) {
      std::fprintf(stderr, "%s: no such kernel here\n", arguments[i]);
      return 1;
    }
  }
  return 0;
}
