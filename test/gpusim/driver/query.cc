// Errors by name, entry points by name, tensor maps, and what only this device has to tell.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "driver/state.h"
#include "memory/tensor_map.h"

using namespace gpusim;

namespace {

struct ErrorText {
  Result code;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {Result::success, "CUDA_SUCCESS", "no error"},
    {Result::invalid_value, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {Result::out_of_memory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {Result::not_initialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {Result::no_device, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {Result::invalid_device, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {Result::invalid_image, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {Result::invalid_context, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {Result::no_binary_for_gpu, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {Result::peer_access_unsupported, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {Result::invalid_ptx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {Result::unsupported_ptx_version, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {Result::file_not_found, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {Result::invalid_handle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {Result::not_found, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {Result::not_ready, "CUDA_ERROR_NOT_READY", "device not ready"},
    {Result::illegal_address, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {Result::launch_out_of_resources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {Result::launch_timeout, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {Result::peer_access_already_enabled, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {Result::peer_access_not_enabled, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access has not been enabled"},
    {Result::context_is_destroyed, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {Result::host_memory_already_registered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {Result::host_memory_not_registered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {Result::illegal_instruction, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {Result::misaligned_address, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {Result::invalid_address_space, "CUDA_ERROR_INVALID_ADDRESS_SPACE",
     "operation not supported on global/shared address space"},
    {Result::launch_failed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {Result::not_supported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {Result::stream_capture_unsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {Result::stream_capture_invalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {Result::stream_capture_unmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not ended in the same stream as it began"},
    {Result::stream_capture_unjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {Result::stream_capture_wrong_thread, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {Result::graph_exec_update_failure, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE",
     "the graph update was not performed because it included changes which violated constraints specific to "
     "instantiated graph update"},
    {Result::unknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

int error_text(int code, const char** out, const char* ErrorText::* member) {
  if (out == nullptr) return static_cast<int>(Result::invalid_value);
  *out = nullptr;
  for (const ErrorText& error : kErrors)
    if (static_cast<int>(error.code) == code) *out = error.*member;
  return *out == nullptr ? static_cast<int>(Result::invalid_value) : 0;
}

/// Names change with versions: cuMemAlloc stands for cuMemAlloc_v2. The newest that this library exports.
void* entry_point(const char* name) {
  static void* const self = [] {
    Dl_info info;
    return dladdr(reinterpret_cast<void*>(&error_text), &info) != 0 ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD)
                                                                    : nullptr;
  }();
  if (self == nullptr || std::strncmp(name, "cu", 2) != 0) return nullptr;
  const std::string base = std::strcmp(name, "cuGraphInstantiate") == 0 ? "cuGraphInstantiateWithFlags" : name;
  for (const char* version : {"_v4", "_v3", "_v2", ""})
    if (void* found = dlsym(self, (base + version).c_str())) return found;
  return nullptr;
}

}  // namespace

GPUSIM_API int cuGetErrorName(int code, const char** name) { return error_text(code, name, &ErrorText::name); }
GPUSIM_API int cuGetErrorString(int code, const char** text) { return error_text(code, text, &ErrorText::text); }

GPUSIM_API int cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* status) {
  if (name == nullptr || function == nullptr) return static_cast<int>(Result::invalid_value);
  *function = entry_point(name);
  if (status != nullptr) *status = *function != nullptr ? 0 : 1;  // CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
  return *function != nullptr ? 0 : static_cast<int>(Result::not_found);
}

GPUSIM_API int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

/// The conditions are those of cuda.h's documentation; the elements' layout is memory/tensor_map.h.
GPUSIM_API int cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* dims,
                                      const uint64_t* strides, const unsigned* box, const unsigned* element_strides,
                                      int interleave, int swizzle, int, int fill) {
  return call(true, [&](Driver&) {
    // CUtensorMapDataType -> the numbers of tensormap.replace.
    constexpr uint8_t types[] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 8, 11, 12};
    if (map == nullptr || dims == nullptr || box == nullptr || element_strides == nullptr || rank < 1 || rank > 5 ||
        (rank > 1 && strides == nullptr) || type < 0 || type >= static_cast<int>(sizeof types))
      return Result::invalid_value;
    if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(address) % 16 != 0)
      return Result::invalid_value;
    if (interleave != 0 || fill != 0 || swizzle > 3) return Result::not_supported;
    TensorMap encoded{};
    encoded.address = reinterpret_cast<uint64_t>(address);
    encoded.rank_less_1 = rank - 1;
    encoded.element_type = types[type];
    encoded.swizzle = static_cast<uint8_t>(swizzle);
    const uint32_t element = tensor_element_bytes(encoded.element_type);
    const uint32_t span[] = {~0u, 32, 64, 128};
    if (uint64_t{box[0]} * element % 16 != 0 || uint64_t{box[0]} * element > span[swizzle])
      return Result::invalid_value;
    for (unsigned d = 0; d < rank; d++) {
      if (dims[d] == 0 || dims[d] > uint64_t{1} << 32 || box[d] == 0 || box[d] > 256 || element_strides[d] == 0 ||
          element_strides[d] > 8)
        return Result::invalid_value;
      if (element_strides[d] != 1) return Result::not_supported;
      encoded.dims[d] = static_cast<uint32_t>(dims[d]);
      encoded.box[d] = box[d];
      encoded.element_strides[d] = 1;
      if (d == 0) continue;
      if (strides[d - 1] % 16 != 0 || strides[d - 1] >= uint64_t{1} << 40) return Result::invalid_value;
      encoded.strides[d - 1] = strides[d - 1];
    }
    std::memcpy(map, &encoded, sizeof encoded);
    return Result::success;
  });
}

/// Not part of CUDA: the message of the last kernel that failed, for tests.
GPUSIM_API int cuGpusimLastFault(char* text, size_t size) {
  Driver& driver = Driver::get();
  const std::lock_guard<std::recursive_mutex> lock(driver.mutex);
  if (text == nullptr || size == 0) return static_cast<int>(Result::invalid_value);
  std::snprintf(text, size, "%s", driver.last_fault.c_str());
  return 0;
}

GPUSIM_API int cuProfilerStart() { return 0; }
GPUSIM_API int cuProfilerStop() { return 0; }
