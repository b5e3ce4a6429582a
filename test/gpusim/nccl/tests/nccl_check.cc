// That the stand-in does what NCCL's documentation says, and is as strict: one process, a thread and a device for each rank.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "nccl/api.h"

namespace gpusim::nccl {
struct Context;
struct Stream;
struct Event;
}  // namespace gpusim::nccl
using namespace gpusim::nccl;

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(Context**, int);
int cuCtxSetCurrent(Context*);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemcpyHtoD_v2(uint64_t, const void*, size_t);
int cuMemcpyDtoH_v2(void*, uint64_t, size_t);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, Stream*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemsetD32Async(uint64_t, unsigned, size_t, Stream*);
int cuStreamCreate(Stream**, unsigned);
int cuStreamQuery(Stream*);
int cuStreamSynchronize(Stream*);
int cuStreamWaitValue32_v2(Stream*, uint64_t, uint32_t, unsigned);

Result ncclGetUniqueId(UniqueId*);
Result ncclCommInitRank(Communicator**, int, UniqueId, int);
Result ncclCommInitRankConfig(Communicator**, int, UniqueId, int, const Config*);
Result ncclCommGetAsyncError(Communicator*, Result*);
Result ncclCommFinalize(Communicator*);
Result ncclCommDestroy(Communicator*);
Result ncclCommAbort(Communicator*);
Result ncclGroupStart();
Result ncclGroupEnd();
const char* ncclGetLastError(Communicator*);
Result ncclAllReduce(const void*, void*, size_t, Type, Operation, Communicator*, Stream*);
Result ncclReduce(const void*, void*, size_t, Type, Operation, int, Communicator*, Stream*);
Result ncclBroadcast(const void*, void*, size_t, Type, int, Communicator*, Stream*);
Result ncclAllGather(const void*, void*, size_t, Type, Communicator*, Stream*);
Result ncclReduceScatter(const void*, void*, size_t, Type, Operation, Communicator*, Stream*);
}

namespace {

constexpr int kRanks = 3;
// More than a piece, and no multiple of one.
constexpr size_t kCount = 40001;

int failures = 0;
std::mutex printing;
void check(bool ok, const std::string& what) {
  if (ok) return;
  const std::lock_guard<std::mutex> lock(printing);
  failures++;
  std::printf("FAILED: %s\n", what.c_str());
}

void use_device(int device) {
  Context* context = nullptr;
  cuDevicePrimaryCtxRetain(&context, device);
  cuCtxSetCurrent(context);
}

/// Floats on the current device.
struct Array {
  explicit Array(const std::vector<float>& values) : count(values.size()) {
    cuMemAlloc_v2(&at, count * sizeof(float));
    cuMemcpyHtoD_v2(at, values.data(), count * sizeof(float));
  }
  void* pointer(size_t offset = 0) const { return reinterpret_cast<void*>(at + offset * sizeof(float)); }
  std::vector<float> read() const {
    std::vector<float> values(count);
    cuMemcpyDtoH_v2(values.data(), at, count * sizeof(float));
    return values;
  }
  uint64_t at = 0;
  size_t count;
};

Result state_of(Communicator* communicator) {
  Result state = internal_error;
  return ncclCommGetAsyncError(communicator, &state) == success ? state : internal_error;
}
Result settled(Communicator* communicator) {
  while (state_of(communicator) == in_progress) std::this_thread::yield();
  return state_of(communicator);
}

Result start(Communicator** communicator, int ranks, const UniqueId& id, int rank) {
  const Config config{24, kConfigMagic, 21400, 0};
  return ncclCommInitRankConfig(communicator, ranks, id, rank, &config);
}

using Body = std::function<void(int rank, Communicator*, Stream*)>;
void on_ranks(int ranks, bool blocking, const Body& body) {
  UniqueId id;
  ncclGetUniqueId(&id);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([=] {
      use_device(rank);
      Stream* stream = nullptr;
      cuStreamCreate(&stream, 1);
      Communicator* communicator = nullptr;
      const Result started = blocking ? ncclCommInitRank(&communicator, ranks, id, rank)
                                      : start(&communicator, ranks, id, rank);
      check(started == (blocking ? success : in_progress) && settled(communicator) == success, "a communicator starts");
      body(rank, communicator, stream);
    });
  for (std::thread& thread : threads) thread.join();
}

std::vector<float> values_of(int rank, size_t count = kCount) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; i++) values[i] = static_cast<float>((rank + 1) * 1000 + static_cast<int>(i % 997));
  return values;
}
std::vector<float> sum_of_all(size_t count = kCount) {
  std::vector<float> sum(count, 0.0f);
  for (int rank = 0; rank < kRanks; rank++) {
    const std::vector<float> values = values_of(rank, count);
    for (size_t i = 0; i < count; i++) sum[i] += values[i];
  }
  return sum;
}

void collectives() {
  on_ranks(kRanks, true, [](int rank, Communicator* communicator, Stream* stream) {
    const size_t part = kCount / kRanks, whole = part * kRanks;
    Array sum(values_of(rank)), largest(values_of(rank)), reduced(values_of(rank)), sent(values_of(rank));
    Array gathered(std::vector<float>(whole, -1.0f)), scattered(std::vector<float>(part, -1.0f));
    Array own(values_of(rank, part)), all(values_of(rank, whole));
    check(ncclGroupStart() == success, "a group");
    ncclAllReduce(sum.pointer(), sum.pointer(), kCount, Type::float32, Operation::sum, communicator, stream);
    ncclAllReduce(largest.pointer(), largest.pointer(), kCount, Type::float32, Operation::max, communicator, stream);
    ncclReduce(reduced.pointer(), reduced.pointer(), kCount, Type::float32, Operation::sum, 1, communicator, stream);
    ncclBroadcast(sent.pointer(), sent.pointer(), kCount, Type::float32, 2, communicator, stream);
    ncclAllGather(own.pointer(), gathered.pointer(), part, Type::float32, communicator, stream);
    ncclReduceScatter(all.pointer(), scattered.pointer(), part, Type::float32, Operation::sum, communicator, stream);
    check(ncclGroupEnd() == success, "a group's end");
    check(cuStreamQuery(stream) == 600, "nothing has happened yet");
    cuStreamSynchronize(stream);
    const std::vector<float> sums = sum_of_all(), short_sums = sum_of_all(whole), got = gathered.read();
    check(sum.read() == sums, "all-reduce");
    check(largest.read() == values_of(kRanks - 1), "all-reduce, max");
    check(reduced.read() == (rank == 1 ? sums : values_of(rank)), "reduce writes on the root only");
    check(sent.read() == values_of(2), "broadcast");
    bool right = true;
    for (int from = 0; from < kRanks; from++) {
      const std::vector<float> sent_part = values_of(from, part);
      right = right && std::equal(sent_part.begin(), sent_part.end(), got.begin() + from * part);
    }
    check(right, "all-gather");
    const size_t first = rank * part;
    check(scattered.read() == std::vector<float>(short_sums.begin() + first, short_sums.begin() + first + part),
          "reduce-scatter");
    check(ncclCommDestroy(communicator) == success && ncclCommDestroy(communicator) == invalid_argument,
          "destroyed once");
  });
}

void lateness() {
  on_ranks(2, false, [](int rank, Communicator* communicator, Stream* stream) {
    const std::vector<float> ones(8, 1.0f);
    Array array(ones);
    void* memory = nullptr;
    cuMemHostAlloc(&memory, 64, 0);
    const auto* copy = static_cast<const float*>(memory);
    const auto reduce = [&](void* at, size_t count) {
      return ncclAllReduce(at, at, count, Type::float32, Operation::sum, communicator, stream);
    };
    check(reduce(array.pointer(), 8) == in_progress, "a call of a non-blocking communicator");
    cuMemcpyDtoHAsync_v2(memory, array.at, 32, stream);
    cuStreamSynchronize(stream);
    check(copy[0] == 1.0f, "before NCCL says success nothing is in the stream");
    check(reduce(array.pointer(), 8) == invalid_argument, "nor is the next call taken");
    check(settled(communicator) == success, "it is");
    cuMemsetD32Async(array.at, 0, 8, stream);
    cuMemcpyDtoHAsync_v2(memory, array.at, 32, stream);
    cuStreamSynchronize(stream);
    check(copy[0] == 0.0f, "what follows in the stream follows");
    const float four = 4.0f;
    uint32_t bits;
    std::memcpy(&bits, &four, 4);
    cuMemsetD32Async(array.at, bits, 8, stream);
    reduce(array.pointer(), 8);
    settled(communicator);
    cuStreamSynchronize(stream);
    check(array.read()[7] == 8.0f, "what precedes in the stream precedes");

    use_device(1 - rank);
    Array other(ones);
    use_device(rank);
    const uint64_t freed = Array(ones).at;
    cuMemFree_v2(freed);
    if (rank == 0) {
      // Refused where they are launched; this communicator is of no use after it.
      reduce(other.pointer(), 8);
      check(settled(communicator) == invalid_argument, "memory of another device");
    } else {
      reduce(reinterpret_cast<void*>(freed), 8);
      check(settled(communicator) == invalid_argument, "freed memory");
    }
    check(*ncclGetLastError(communicator) != 0, "with a reason");
    ncclCommAbort(communicator);
  });
}

void disagreement() {
  on_ranks(2, false, [](int rank, Communicator* communicator, Stream* stream) {
    Array array(std::vector<float>(8, 1.0f));
    ncclAllReduce(array.pointer(), array.pointer(), rank == 0 ? 8 : 7, Type::float32, Operation::sum, communicator,
                  stream);
    // The device works on it when somebody asks.
    while (state_of(communicator) != invalid_usage) std::this_thread::yield();
    check(cuStreamQuery(stream) == 600 && cuStreamQuery(stream) == 600 && cuStreamQuery(stream) == 600,
          "ranks that disagree hang");
    ncclCommAbort(communicator);
    check(cuStreamSynchronize(stream) == 0, "until they abort");
  });
}

void absence() {
  on_ranks(2, false, [](int rank, Communicator* communicator, Stream* stream) {
    Array array(std::vector<float>(8, 1.0f));
    if (rank == 0) {
      ncclAllReduce(array.pointer(), array.pointer(), 8, Type::float32, Operation::sum, communicator, stream);
      check(settled(communicator) == success, "it is in the stream");
      for (int i = 0; i < 1000; i++) check(cuStreamQuery(stream) == 600, "and waits for the other rank");
    }
    ncclCommAbort(communicator);
    check(cuStreamSynchronize(stream) == 0, "abort ends it");
  });
  UniqueId id;
  ncclGetUniqueId(&id);
  use_device(0);
  Communicator* alone = nullptr;
  start(&alone, 2, id, 0);
  check(state_of(alone) == in_progress, "a communicator waits for all ranks");
  check(ncclCommAbort(alone) == success, "and can be aborted meanwhile");
}

void refusals() {
  UniqueId id;
  ncclGetUniqueId(&id);
  use_device(0);
  Communicator *first = nullptr, *second = nullptr;
  start(&first, 2, id, 0);
  start(&second, 2, id, 1);
  check(settled(first) == invalid_usage && settled(second) == invalid_usage, "two ranks on one device");
  check(std::strstr(ncclGetLastError(first), "duplicate GPU") != nullptr, "with the reason");
  ncclCommAbort(second);
  ncclCommAbort(first);
  const Config wrong{24, 1, 21400, 0};
  check(ncclCommInitRankConfig(&first, 1, id, 0, &wrong) == invalid_argument,
        "a configuration without its magic number");
  check(ncclCommInitRank(&first, 2, id, 2) == invalid_argument, "a rank that does not exist");
  check(ncclGroupEnd() == invalid_usage, "an end without a start");
  Stream* stream = nullptr;
  cuStreamCreate(&stream, 1);
  check(cuStreamWaitValue32_v2(stream, 64, 0, 0) == 1, "a word that is no memory");
}

}  // namespace

int main() {
  setenv("GPUSIM_DEVICES", std::to_string(kRanks).c_str(), 1);
  cuInit(0);
  collectives();
  lateness();
  disagreement();
  absence();
  refusals();
  std::printf("%s\n", failures == 0 ? "all passed" : "failed");
  return failures == 0 ? 0 : 1;
}
