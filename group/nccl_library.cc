#include "group/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace marginfc::group {
namespace {

NcclLibrary load(const char* path) {
  NcclLibrary loaded;
  // Never closed: its threads run on in it.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    loaded.reason = "NCCL could not be loaded: " + std::string(why ? why : path);
    return loaded;
  }
  const std::string oldest = nccl_version_text(kOldestNccl);
  // The version first: it says more than the name of a function that an old library lacks.
  using GetVersion = decltype(NcclFunctions::version);
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(library, "ncclGetVersion"));
  if (get_version && get_version(&loaded.version) == NcclResult::success && loaded.version < kOldestNccl) {
    loaded.reason = "NCCL is too old: " + nccl_version_text(loaded.version) + " (" + path + "), needed is " + oldest +
                    " or newer";
    return loaded;
  }
  for (const NcclEntry& entry : kNcclEntries) {
    void* symbol = dlsym(library, entry.symbol);
    if (!symbol && entry.need == cuda::Need::required) {
      loaded.reason = std::string(path) + " has no " + entry.symbol + ": it is no NCCL, or one older than " + oldest;
      return loaded;
    }
    std::memcpy(reinterpret_cast<char*>(&loaded.functions) + entry.offset, &symbol, sizeof symbol);
  }
  return loaded;
}

}  // namespace

std::string nccl_version_text(int32_t version) {
  // Up to 2.8 the minor version had one digit less.
  const int32_t major = version < 10000 ? 1000 : 10000;
  return std::to_string(version / major) + "." + std::to_string(version % major / 100) + "." +
         std::to_string(version % 100);
}

std::string NcclLibrary::describe(NcclResult code, NcclCommunicator* communicator) const {
  const char* text = functions.error_text(code);
  const char* last = functions.last_error ? functions.last_error(communicator) : nullptr;
  return std::string(text ? text : "unknown to this NCCL") + " (" + std::to_string(static_cast<int32_t>(code)) + ")" +
         (last && *last ? std::string(": ") + last : "");
}

const NcclLibrary& nccl_library() {
  // Never destroyed: threads may still communicate while the process exits.
  static const NcclLibrary& loaded = *new NcclLibrary([] {
    const char* path = std::getenv("MARGINFC_LIBNCCL");
    return load(path && *path ? path : "libnccl.so.2");
  }());
  return loaded;
}

}  // namespace marginfc::group
