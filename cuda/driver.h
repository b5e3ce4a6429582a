// The CUDA driver as this package uses it: libcuda.so.1 opened at run time, so that one binary serves machines with and
// without NVIDIA software. Types, values and layouts are the driver's; its header is not needed.
//
// cuda/ is the engine of engine/engine.h on NVIDIA GPUs; it may include engine/ and the system, nothing else:
//
//   driver         the driver's entry points, and what its errors say
//   device         one GPU: context, streams, memory, copies
//   launch_graphs  launches that follow each other, handed over at once
//   hopper         tensor maps for the kernels of compute capability 9.0
//   kernel_table   the kernels by name
//   parameters     what the host hands to each kernel (hopper_parameters: to those of compute capability 9.0)
//   cuda_engine    the engine of one device, and the list of devices
//   shard          a class range: weights, operands, optimiser state
//   pass           a batch against a shard: the phases
//   kernels/       device code, compiled to one image that the addon carries
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace marginfc::cuda {

using DevicePointer = uint64_t;
using DeviceOrdinal = int32_t;
struct ContextHandle;
struct StreamHandle;
struct EventHandle;
struct ModuleHandle;
struct FunctionHandle;
struct GraphHandle;
struct GraphNodeHandle;
struct GraphExecHandle;

// CUresult, as far as it is told apart here.
enum class Result : int32_t {
  success = 0,
  out_of_memory = 2,
  no_device = 100,
  not_found = 500,
  not_ready = 600,
};

// CUdevice_attribute.
enum class DeviceAttribute : int32_t {
  multiprocessors = 16,
  l2_bytes = 38,
  major = 75,
  minor = 76,
  shared_bytes_per_block = 97,  // after opting in
};

// CUpointer_attribute.
enum class PointerAttribute : int32_t { memory_type = 2, device = 9, range_start = 11, range_bytes = 12 };
constexpr uint32_t kDeviceMemory = 2;  // CUmemorytype

// CUfunction_attribute.
enum class FunctionAttribute : int32_t { max_dynamic_shared_bytes = 8 };

// CUjit_option.
enum class JitOption : int32_t { error_log = 5, error_log_bytes = 6 };

// CUDA_KERNEL_NODE_PARAMS in its first version.
struct KernelNode {
  FunctionHandle* function;
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  const void* const* parameters;
  void** extra;
};

constexpr uint32_t kStreamNonBlocking = 1;
constexpr uint32_t kEventDisableTiming = 2;

// One pointer per entry point of kEntries, which says where each comes from.
struct DriverFunctions {
  Result (*init)(uint32_t flags);
  Result (*driver_version)(int32_t* version);
  Result (*error_name)(Result code, const char** name);
  Result (*error_text)(Result code, const char** text);

  Result (*device_count)(int32_t* count);
  Result (*device_get)(DeviceOrdinal* device, int32_t index);
  Result (*device_name)(char* name, int32_t size, DeviceOrdinal device);
  Result (*device_bytes)(size_t* bytes, DeviceOrdinal device);
  Result (*device_attribute)(int32_t* value, DeviceAttribute attribute, DeviceOrdinal device);

  Result (*context_retain)(ContextHandle** context, DeviceOrdinal device);
  Result (*context_release)(DeviceOrdinal device);
  Result (*context_push)(ContextHandle* context);
  Result (*context_pop)(ContextHandle** context);

  Result (*module_load)(ModuleHandle** module, const void* image, uint32_t options, const JitOption* names,
                        void** values);
  Result (*module_unload)(ModuleHandle* module);
  Result (*module_function)(FunctionHandle** function, ModuleHandle* module, const char* name);
  Result (*module_variable)(DevicePointer* address, size_t* bytes, ModuleHandle* module, const char* name);
  Result (*set_function_attribute)(FunctionHandle* function, FunctionAttribute attribute, int32_t value);
  Result (*blocks_per_multiprocessor)(int32_t* blocks, FunctionHandle* function, int32_t threads, size_t shared_bytes);

  Result (*memory_allocate)(DevicePointer* memory, size_t bytes);
  Result (*memory_free)(DevicePointer memory);
  Result (*host_allocate)(void** memory, size_t bytes, uint32_t flags);
  Result (*host_free)(void* memory);
  Result (*copy_to_device)(DevicePointer to, const void* from, size_t bytes, StreamHandle* stream);
  Result (*copy_to_host)(void* to, DevicePointer from, size_t bytes, StreamHandle* stream);
  // Between any two addresses that the driver knows; of the same GPU or of two.
  Result (*copy)(DevicePointer to, DevicePointer from, size_t bytes, StreamHandle* stream);
  Result (*pointer_attribute)(void* value, PointerAttribute attribute, DevicePointer pointer);
  Result (*fill_words)(DevicePointer to, uint32_t value, size_t count, StreamHandle* stream);

  Result (*stream_create)(StreamHandle** stream, uint32_t flags);
  Result (*stream_destroy)(StreamHandle* stream);
  Result (*stream_synchronize)(StreamHandle* stream);
  Result (*stream_wait)(StreamHandle* stream, EventHandle* event, uint32_t flags);
  Result (*event_create)(EventHandle** event, uint32_t flags);
  Result (*event_destroy)(EventHandle* event);
  Result (*event_record)(EventHandle* event, StreamHandle* stream);
  Result (*event_synchronize)(EventHandle* event);
  Result (*event_query)(EventHandle* event);
  Result (*launch)(FunctionHandle* function, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x,
                   uint32_t block_y, uint32_t block_z, uint32_t shared_bytes, StreamHandle* stream, void** parameters,
                   void** extra);

  // Null where the driver has none.
  Result (*event_elapsed)(float* milliseconds, EventHandle* start, EventHandle* end);
  Result (*tensor_map_encode)(void* map, int32_t type, uint32_t rank, void* address, const uint64_t* sizes,
                              const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                              int32_t interleave, int32_t swizzle, int32_t promotion, int32_t fill);
  Result (*graph_create)(GraphHandle** graph, uint32_t flags);
  Result (*graph_destroy)(GraphHandle* graph);
  Result (*graph_add_kernel)(GraphNodeHandle** node, GraphHandle* graph, GraphNodeHandle* const* after, size_t count,
                             const KernelNode* kernel);
  Result (*graph_instantiate)(GraphExecHandle** exec, GraphHandle* graph, uint64_t flags);
  Result (*graph_exec_destroy)(GraphExecHandle* exec);
  Result (*graph_set_kernel)(GraphExecHandle* exec, GraphNodeHandle* node, const KernelNode* kernel);
  Result (*graph_launch)(GraphExecHandle* exec, StreamHandle* stream);
};

enum class Need { required, optional };

struct Entry {
  const char* symbol;
  size_t offset;  // in DriverFunctions
  Need need;
};

// Every entry point that is ever called. _v2 and the like are the names under which drivers since CUDA 11 export them.
inline constexpr Entry kEntries[] = {
    {"cuInit", offsetof(DriverFunctions, init), Need::required},
    {"cuDriverGetVersion", offsetof(DriverFunctions, driver_version), Need::required},
    {"cuGetErrorName", offsetof(DriverFunctions, error_name), Need::required},
    {"cuGetErrorString", offsetof(DriverFunctions, error_text), Need::required},
    {"cuDeviceGetCount", offsetof(DriverFunctions, device_count), Need::required},
    {"cuDeviceGet", offsetof(DriverFunctions, device_get), Need::required},
    {"cuDeviceGetName", offsetof(DriverFunctions, device_name), Need::required},
    {"cuDeviceTotalMem_v2", offsetof(DriverFunctions, device_bytes), Need::required},
    {"cuDeviceGetAttribute", offsetof(DriverFunctions, device_attribute), Need::required},
    {"cuDevicePrimaryCtxRetain", offsetof(DriverFunctions, context_retain), Need::required},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(DriverFunctions, context_release), Need::required},
    {"cuCtxPushCurrent_v2", offsetof(DriverFunctions, context_push), Need::required},
    {"cuCtxPopCurrent_v2", offsetof(DriverFunctions, context_pop), Need::required},
    {"cuModuleLoadDataEx", offsetof(DriverFunctions, module_load), Need::required},
    {"cuModuleUnload", offsetof(DriverFunctions, module_unload), Need::required},
    {"cuModuleGetFunction", offsetof(DriverFunctions, module_function), Need::required},
    {"cuModuleGetGlobal_v2", offsetof(DriverFunctions, module_variable), Need::required},
    {"cuFuncSetAttribute", offsetof(DriverFunctions, set_function_attribute), Need::required},
    {"cuOccupancyMaxActiveBlocksPerMultiprocessor", offsetof(DriverFunctions, blocks_per_multiprocessor),
     Need::required},
    {"cuMemAlloc_v2", offsetof(DriverFunctions, memory_allocate), Need::required},
    {"cuMemFree_v2", offsetof(DriverFunctions, memory_free), Need::required},
    {"cuMemHostAlloc", offsetof(DriverFunctions, host_allocate), Need::required},
    {"cuMemFreeHost", offsetof(DriverFunctions, host_free), Need::required},
    {"cuMemcpyHtoDAsync_v2", offsetof(DriverFunctions, copy_to_device), Need::required},
    {"cuMemcpyDtoHAsync_v2", offsetof(DriverFunctions, copy_to_host), Need::required},
    {"cuMemcpyAsync", offsetof(DriverFunctions, copy), Need::required},
    {"cuPointerGetAttribute", offsetof(DriverFunctions, pointer_attribute), Need::required},
    {"cuMemsetD32Async", offsetof(DriverFunctions, fill_words), Need::required},
    {"cuStreamCreate", offsetof(DriverFunctions, stream_create), Need::required},
    {"cuStreamDestroy_v2", offsetof(DriverFunctions, stream_destroy), Need::required},
    {"cuStreamSynchronize", offsetof(DriverFunctions, stream_synchronize), Need::required},
    {"cuStreamWaitEvent", offsetof(DriverFunctions, stream_wait), Need::required},
    {"cuEventCreate", offsetof(DriverFunctions, event_create), Need::required},
    {"cuEventDestroy_v2", offsetof(DriverFunctions, event_destroy), Need::required},
    {"cuEventRecord", offsetof(DriverFunctions, event_record), Need::required},
    {"cuEventSynchronize", offsetof(DriverFunctions, event_synchronize), Need::required},
    {"cuEventQuery", offsetof(DriverFunctions, event_query), Need::required},
    {"cuLaunchKernel", offsetof(DriverFunctions, launch), Need::required},
    // For benchmarks.
    {"cuEventElapsedTime", offsetof(DriverFunctions, event_elapsed), Need::optional},
    // Drivers since CUDA 12, for kernels of compute capability 9.0.
    {"cuTensorMapEncodeTiled", offsetof(DriverFunctions, tensor_map_encode), Need::optional},
    // Drivers since CUDA 11.4 have all of these.
    {"cuGraphCreate", offsetof(DriverFunctions, graph_create), Need::optional},
    {"cuGraphDestroy", offsetof(DriverFunctions, graph_destroy), Need::optional},
    {"cuGraphAddKernelNode", offsetof(DriverFunctions, graph_add_kernel), Need::optional},
    {"cuGraphInstantiateWithFlags", offsetof(DriverFunctions, graph_instantiate), Need::optional},
    {"cuGraphExecDestroy", offsetof(DriverFunctions, graph_exec_destroy), Need::optional},
    {"cuGraphExecKernelNodeSetParams", offsetof(DriverFunctions, graph_set_kernel), Need::optional},
    {"cuGraphLaunch", offsetof(DriverFunctions, graph_launch), Need::optional},
};
static_assert(sizeof(kEntries) / sizeof(Entry) * sizeof(void*) == sizeof(DriverFunctions), "one entry per function");

// CUDA 11.0: the first with cuDevicePrimaryCtxRelease_v2, and with bfloat16.
constexpr int32_t kOldestDriver = 11000;

struct Driver {
  DriverFunctions functions{};
  int32_t version = 0;  // 1000 * major + 10 * minor of the newest CUDA it serves
  int32_t devices = 0;
  std::string reason;  // why there is no driver, no usable one or no device; empty: there is

  bool available() const { return reason.empty(); }
  const DriverFunctions* operator->() const { return &functions; }
  // "CUDA_ERROR_X (n): text"
  std::string describe(Result code) const;
};

// "12.4"
std::string version_text(int32_t version);

// Opens the library and looks everything up; devices are counted, none is touched.
Driver load_driver(const char* path);

// The driver of this process: MARGINFC_LIBCUDA, or libcuda.so.1 as the system finds it. Loaded on first use, for good:
// a driver cannot be initialised twice.
const Driver& driver();

}  // namespace marginfc::cuda
