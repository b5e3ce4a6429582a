// The part of the CUDA driver API's binary interface that this library exports: names, values and layouts are those of
// cuda.h, which is not needed to build it.
#pragma once

#include <cstddef>
#include <cstdint>

#define GPUSIM_API extern "C" __attribute__((visibility("default")))

namespace gpusim {

enum class Result : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  no_binary_for_gpu = 209,
  peer_access_unsupported = 217,
  invalid_ptx = 218,
  unsupported_ptx_version = 222,
  file_not_found = 301,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  launch_timeout = 702,
  peer_access_already_enabled = 704,
  peer_access_not_enabled = 705,
  context_is_destroyed = 709,
  host_memory_already_registered = 712,
  host_memory_not_registered = 713,
  illegal_instruction = 715,
  misaligned_address = 716,
  invalid_address_space = 717,
  launch_failed = 719,
  not_supported = 801,
  stream_capture_unsupported = 900,
  stream_capture_invalidated = 901,
  stream_capture_unmatched = 903,
  stream_capture_unjoined = 904,
  stream_capture_wrong_thread = 908,
  graph_exec_update_failure = 910,
  unknown = 999,
};

using DevicePointer = uint64_t;
struct Context;
struct Stream;
struct Event;
struct LoadedModule;
class Function;
struct Graph;
struct GraphNode;
struct GraphExec;

struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int value;
  };
};

struct LaunchConfig {
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  Stream* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

struct KernelNodeParams {
  Function* function;
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  void** params;
  void** extra;
};

struct GraphUpdateInfo {
  int result;
  GraphNode* error_node;
  GraphNode* error_from_node;
};

}  // namespace gpusim
