// NCCL as this package uses it: libnccl.so.2 opened at run time, so that one binary serves machines with and without it.
// Types, values and layouts are the library's (docs.nvidia.com/deeplearning/nccl, "NCCL API"); its header is not needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/driver.h"

namespace marginfc::group {

struct NcclCommunicator;

// ncclResult_t, as far as it is told apart here.
enum class NcclResult : int32_t { success = 0, in_progress = 7 };
// ncclDataType_t.
enum class NcclType : int32_t { uint8 = 1, int32 = 2, float32 = 7, float64 = 8 };
// ncclRedOp_t.
enum class NcclOperation : int32_t { sum = 0, max = 2 };

// ncclUniqueId: what ranks that want the same communicator have in common.
struct NcclId {
  char bytes[128];
};

// ncclConfig_t as of 2.14. Later versions have more; they read as much as `size` says and take their defaults for what
// `version` did not have.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  uint32_t magic = 0xcafebeef;
  uint32_t version = 21400;
  int32_t blocking = 0;
  int32_t undefined = INT32_MIN;
};

// One pointer per entry point of kNcclEntries. Sizes are in elements; `stream` is of the communicator's device.
struct NcclFunctions {
  NcclResult (*version)(int32_t* version);
  const char* (*error_text)(NcclResult code);
  NcclResult (*unique_id)(NcclId* id);
  NcclResult (*initialize)(NcclCommunicator** communicator, int32_t size, NcclId id, int32_t rank, NcclConfig* config);
  NcclResult (*state)(NcclCommunicator* communicator, NcclResult* state);
  NcclResult (*finalize)(NcclCommunicator* communicator);
  NcclResult (*destroy)(NcclCommunicator* communicator);
  NcclResult (*abort)(NcclCommunicator* communicator);
  NcclResult (*group_start)();
  NcclResult (*group_end)();
  NcclResult (*all_reduce)(const void* send, void* receive, size_t count, NcclType type, NcclOperation operation,
                           NcclCommunicator* communicator, cuda::StreamHandle* stream);
  NcclResult (*all_gather)(const void* send, void* receive, size_t count, NcclType type, NcclCommunicator* communicator,
                           cuda::StreamHandle* stream);
  NcclResult (*reduce_scatter)(const void* send, void* receive, size_t count, NcclType type, NcclOperation operation,
                               NcclCommunicator* communicator, cuda::StreamHandle* stream);
  NcclResult (*broadcast)(const void* send, void* receive, size_t count, NcclType type, int32_t root,
                          NcclCommunicator* communicator, cuda::StreamHandle* stream);
  NcclResult (*reduce)(const void* send, void* receive, size_t count, NcclType type, NcclOperation operation,
                       int32_t root, NcclCommunicator* communicator, cuda::StreamHandle* stream);

  // Null where the library has none.
  const char* (*last_error)(NcclCommunicator* communicator);
};

struct NcclEntry {
  const char* symbol;
  size_t offset;  // in NcclFunctions
  cuda::Need need;
};

// Every entry point that is ever called.
inline constexpr NcclEntry kNcclEntries[] = {
    {"ncclGetVersion", offsetof(NcclFunctions, version), cuda::Need::required},
    {"ncclGetErrorString", offsetof(NcclFunctions, error_text), cuda::Need::required},
    {"ncclGetUniqueId", offsetof(NcclFunctions, unique_id), cuda::Need::required},
    {"ncclCommInitRankConfig", offsetof(NcclFunctions, initialize), cuda::Need::required},
    {"ncclCommGetAsyncError", offsetof(NcclFunctions, state), cuda::Need::required},
    {"ncclCommFinalize", offsetof(NcclFunctions, finalize), cuda::Need::required},
    {"ncclCommDestroy", offsetof(NcclFunctions, destroy), cuda::Need::required},
    {"ncclCommAbort", offsetof(NcclFunctions, abort), cuda::Need::required},
    {"ncclGroupStart", offsetof(NcclFunctions, group_start), cuda::Need::required},
    {"ncclGroupEnd", offsetof(NcclFunctions, group_end), cuda::Need::required},
    {"ncclAllReduce", offsetof(NcclFunctions, all_reduce), cuda::Need::required},
    {"ncclAllGather", offsetof(NcclFunctions, all_gather), cuda::Need::required},
    {"ncclReduceScatter", offsetof(NcclFunctions, reduce_scatter), cuda::Need::required},
    {"ncclBroadcast", offsetof(NcclFunctions, broadcast), cuda::Need::required},
    {"ncclReduce", offsetof(NcclFunctions, reduce), cuda::Need::required},
    // For messages.
    {"ncclGetLastError", offsetof(NcclFunctions, last_error), cuda::Need::optional},
};
static_assert(sizeof(kNcclEntries) / sizeof(NcclEntry) * sizeof(void*) == sizeof(NcclFunctions), "one entry each");

// The first whose calls need not block: ncclCommInitRankConfig.
constexpr int32_t kOldestNccl = 21400;

struct NcclLibrary {
  NcclFunctions functions{};
  int32_t version = 0;  // 10000 * major + 100 * minor + patch
  std::string reason;   // why there is none to use; empty: there is

  bool available() const { return reason.empty(); }
  const NcclFunctions* operator->() const { return &functions; }
  // "text (code): what the library said last"; the communicator may be null.
  std::string describe(NcclResult code, NcclCommunicator* communicator) const;
};

// "2.21.5"
std::string nccl_version_text(int32_t version);

// The library of this process: MARGINFC_LIBNCCL, or libnccl.so.2 as the system finds it. Loaded on first use, for good.
const NcclLibrary& nccl_library();

}  // namespace marginfc::group
