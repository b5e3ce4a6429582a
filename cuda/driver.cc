#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace marginfc::cuda {

std::string version_text(int32_t version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string Driver::describe(Result code) const {
  const std::string number = std::to_string(static_cast<int32_t>(code));
  const char *name = nullptr, *text = nullptr;
  // Both leave null for a code that is newer than the driver.
  functions.error_name(code, &name);
  functions.error_text(code, &text);
  return (name ? name : "CUDA error") + (" (" + number + "): ") + (text ? text : "unknown to this driver");
}

Driver load_driver(const char* path) {
  Driver loaded;
  // Never closed: the driver's threads run on in it.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    loaded.reason = "the NVIDIA driver could not be loaded: " + std::string(why ? why : path);
    return loaded;
  }
  for (const Entry& entry : kEntries) {
    void* symbol = dlsym(library, entry.symbol);
    if (!symbol && entry.need == Need::required) {
      loaded.reason = std::string(path) + " has no " + entry.symbol +
                      ": it is no NVIDIA driver, or one older than CUDA " + version_text(kOldestDriver);
      return loaded;
    }
    std::memcpy(reinterpret_cast<char*>(&loaded.functions) + entry.offset, &symbol, sizeof symbol);
  }

  // The version first: an old driver may fail to start for a reason that a new one would not have.
  Result result = loaded->driver_version(&loaded.version);
  if (result == Result::success && loaded.version < kOldestDriver) {
    loaded.reason = "the NVIDIA driver is too old: it serves CUDA " + version_text(loaded.version) + ", needed is " +
                    version_text(kOldestDriver) + " or newer";
    return loaded;
  }
  if (result == Result::success) result = loaded->init(0);
  if (result == Result::no_device) {
    loaded.reason = "no NVIDIA GPU was found: cuInit said " + loaded.describe(result);
    return loaded;
  }
  if (result != Result::success) {
    loaded.reason = "the NVIDIA driver did not start: cuInit said " + loaded.describe(result);
    return loaded;
  }
  result = loaded->device_count(&loaded.devices);
  if (result != Result::success)
    loaded.reason = "the NVIDIA driver did not count its GPUs: cuDeviceGetCount said " + loaded.describe(result);
  else if (loaded.devices == 0)
    loaded.reason = "no NVIDIA GPU was found";
  return loaded;
}

const Driver& driver() {
  // Never destroyed: threads may still compute while the process exits.
  static const Driver& loaded = *new Driver([] {
    const char* path = std::getenv("MARGINFC_LIBCUDA");
    return load_driver(path && *path ? path : "libcuda.so.1");
  }());
  return loaded;
}

}  // namespace marginfc::cuda
