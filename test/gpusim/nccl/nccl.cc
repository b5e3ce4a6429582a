// A stand-in for libnccl.so.2 over the software CUDA device: see README.md there.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nccl/api.h"
#include "nccl/collectives.h"
#include "nccl/communicator.h"

using namespace gpusim::nccl;

namespace {

std::mutex mutex;
std::set<Communicator*> alive;  // guarded by mutex
std::string last_error;         // guarded by mutex

/// Calls between ncclGroupStart and ncclGroupEnd of this thread.
struct Group {
  int depth = 0;
  Result failed = success;
  std::vector<std::pair<Communicator*, Call>> calls;
};
thread_local Group group;

Result refuse(Result result, const char* why) {
  const std::lock_guard<std::mutex> lock(mutex);
  last_error = why;
  return result;
}

bool is_alive(Communicator* communicator) {
  const std::lock_guard<std::mutex> lock(mutex);
  return alive.count(communicator) != 0;
}

/// Success where it waits, as a blocking communicator does.
Result wait_for_start(Communicator& communicator) {
  while (communicator.state() == in_progress) std::this_thread::yield();
  return communicator.state();
}

Result create(Communicator** communicator, int size, const UniqueId& id, int rank, bool blocking) {
  if (communicator == nullptr || size < 1 || size > kMostRanks || rank < 0 || rank >= size)
    return refuse(invalid_argument, "invalid rank or number of ranks");
  if (driver() == nullptr) return refuse(unhandled_cuda_error, "no driver");
  int device = 0;
  Context* context = nullptr;
  if (driver()->current_device(&device) != 0 || driver()->retain_context(&context, device) != 0)
    return refuse(unhandled_cuda_error, "no current device");
  auto made = std::make_unique<Communicator>(id, rank, size, device, context, blocking);
  if (blocking) {
    const Result result = wait_for_start(*made);
    if (result != success) return refuse(result, made->error().c_str());
  }
  *communicator = made.get();
  const std::lock_guard<std::mutex> lock(mutex);
  alive.insert(made.release());
  return blocking ? success : in_progress;
}

/// Calls of one communicator go together.
Result submit_group() {
  std::vector<std::pair<Communicator*, Call>> calls;
  calls.swap(group.calls);
  Result result = success;
  while (!calls.empty()) {
    Communicator* communicator = calls.front().first;
    std::vector<Call> own;
    std::vector<std::pair<Communicator*, Call>> others;
    for (const auto& [of, call] : calls) {
      if (of == communicator)
        own.push_back(call);
      else
        others.emplace_back(of, call);
    }
    calls.swap(others);
    const Result submitted = communicator->submit(std::move(own));
    if (submitted != success && (result == success || result == in_progress)) result = submitted;
  }
  return result;
}

Result collective(Communicator* communicator, const Request& request, const void* send, void* receive, void* stream) {
  Result result = success;
  if (!is_alive(communicator))
    result = refuse(invalid_argument, "no such communicator");
  else if (byte_size(request.type) == 0 || (request.operation != Operation::sum && request.operation != Operation::max))
    result = refuse(invalid_argument, "the stand-in knows no such type or operation");
  else if (request.root < 0 || request.root >= communicator->size())
    result = refuse(invalid_argument, "invalid root");
  if (result != success) {
    if (group.depth > 0) group.failed = result;
    return result;
  }
  const Call call{request, reinterpret_cast<DevicePointer>(send), reinterpret_cast<DevicePointer>(receive),
                  static_cast<Stream*>(stream)};
  group.calls.emplace_back(communicator, call);
  return group.depth > 0 ? success : submit_group();
}

Result dispose(Communicator* communicator, bool orderly) {
  if (!is_alive(communicator)) return refuse(invalid_argument, "no such communicator");
  if (orderly) communicator->settle();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    alive.erase(communicator);
  }
  communicator->abort();
  delete communicator;
  return success;
}

}  // namespace

NCCL_API Result ncclGetVersion(int* version) {
  if (version == nullptr) return invalid_argument;
  const char* text = std::getenv("GPUSIM_NCCL_VERSION");
  *version = text != nullptr ? std::atoi(text) : 22105;
  return success;
}

NCCL_API Result ncclGetUniqueId(UniqueId* id) {
  if (id == nullptr) return invalid_argument;
  *id = Clique::make_id();
  return success;
}

NCCL_API Result ncclCommInitRank(Communicator** communicator, int size, UniqueId id, int rank) {
  return create(communicator, size, id, rank, true);
}

NCCL_API Result ncclCommInitRankConfig(Communicator** communicator, int size, UniqueId id, int rank,
                                       const Config* config) {
  if (config != nullptr && (config->size < sizeof(Config) || config->magic != kConfigMagic || config->version < 21400 ||
                            (config->blocking != 0 && config->blocking != 1 && config->blocking != INT32_MIN)))
    return refuse(invalid_argument, "invalid configuration");
  return create(communicator, size, id, rank, config == nullptr || config->blocking != 0);
}

NCCL_API Result ncclCommFinalize(Communicator* communicator) {
  return is_alive(communicator) ? communicator->finalize() : invalid_argument;
}
NCCL_API Result ncclCommDestroy(Communicator* communicator) { return dispose(communicator, true); }
NCCL_API Result ncclCommAbort(Communicator* communicator) { return dispose(communicator, false); }

NCCL_API Result ncclCommGetAsyncError(Communicator* communicator, Result* state) {
  if (!is_alive(communicator) || state == nullptr) return invalid_argument;
  *state = communicator->ask();
  return success;
}

NCCL_API const char* ncclGetErrorString(Result result) {
  switch (result) {
    case success: return "no error";
    case unhandled_cuda_error: return "unhandled cuda error";
    case system_error: return "unhandled system error";
    case internal_error: return "internal error";
    case invalid_argument: return "invalid argument";
    case invalid_usage: return "invalid usage";
    case remote_error: return "remote process exited or there was a network error";
    case in_progress: return "NCCL operation in progress";
  }
  return "unknown result code";
}

NCCL_API const char* ncclGetLastError(Communicator* communicator) {
  const std::string text = is_alive(communicator) ? communicator->error() : "";
  const std::lock_guard<std::mutex> lock(mutex);
  if (!text.empty()) last_error = text;
  return last_error.c_str();
}

NCCL_API Result ncclGroupStart() {
  group.depth++;
  return success;
}

NCCL_API Result ncclGroupEnd() {
  if (group.depth == 0) return refuse(invalid_usage, "ncclGroupEnd without ncclGroupStart");
  if (--group.depth > 0) return success;
  const Result failed = group.failed;
  group.failed = success;
  if (failed == success) return submit_group();
  group.calls.clear();
  return failed;
}

NCCL_API Result ncclAllReduce(const void* send, void* receive, size_t count, Type type, Operation operation,
                              Communicator* communicator, void* stream) {
  return collective(communicator, {Request::Kind::all_reduce, type, operation, 0, count}, send, receive, stream);
}

NCCL_API Result ncclReduce(const void* send, void* receive, size_t count, Type type, Operation operation, int root,
                           Communicator* communicator, void* stream) {
  return collective(communicator, {Request::Kind::reduce, type, operation, root, count}, send, receive, stream);
}

NCCL_API Result ncclBroadcast(const void* send, void* receive, size_t count, Type type, int root,
                              Communicator* communicator, void* stream) {
  return collective(communicator, {Request::Kind::broadcast, type, Operation::sum, root, count}, send, receive, stream);
}

NCCL_API Result ncclAllGather(const void* send, void* receive, size_t count, Type type, Communicator* communicator,
                              void* stream) {
  return collective(communicator, {Request::Kind::all_gather, type, Operation::sum, 0, count}, send, receive, stream);
}

NCCL_API Result ncclReduceScatter(const void* send, void* receive, size_t count, Type type, Operation operation,
                                  Communicator* communicator, void* stream) {
  return collective(communicator, {Request::Kind::reduce_scatter, type, operation, 0, count}, send, receive, stream);
}
