// The part of NCCL's binary interface that the stand-in libnccl.so.2 exports: names, values and layouts are those of nccl.h
// (docs.nvidia.com/deeplearning/nccl, "NCCL API"), which is not needed to build it.
#pragma once

#include <cstddef>
#include <cstdint>

#define NCCL_API extern "C" __attribute__((visibility("default")))

namespace gpusim::nccl {

enum Result : int32_t {
  success = 0,
  unhandled_cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};

enum class Type : int32_t {
  int8 = 0,
  uint8 = 1,
  int32 = 2,
  uint32 = 3,
  int64 = 4,
  uint64 = 5,
  float32 = 7,
  float64 = 8
};
enum class Operation : int32_t { sum = 0, prod = 1, max = 2, min = 3, avg = 4 };

struct UniqueId {
  char internal[128];
};

constexpr uint32_t kConfigMagic = 0xcafebeef;
// ncclConfig_t as far as 2.14 has it; callers of later versions pass more.
struct Config {
  size_t size;
  uint32_t magic;
  uint32_t version;
  int32_t blocking;
};

struct Communicator;

}  // namespace gpusim::nccl
