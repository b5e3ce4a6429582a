#include "machine/launch.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <thread>

#include "machine/block.h"
#include "memory/global_memory.h"

namespace gpusim {
namespace {

// A block that waits for another one must let it run, so blocks take turns; few enough are begun at a time.
constexpr uint64_t kBudget = 1000000;
constexpr size_t kResident = 16;
constexpr uint32_t kSegments = 1u << 27;

uint64_t number(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::atomic<uint32_t> next_segment{1};
std::atomic<uint64_t> executed_by_all{0};

Segment* segments() {
  // Pages are given when they are touched.
  static Segment* const table = static_cast<Segment*>(mmap(nullptr, sizeof(Segment) * size_t{kSegments},
                                                           PROT_READ | PROT_WRITE,
                                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return table;
}

}  // namespace

Options& Options::storage() {
  static Options& options = *new Options([] {
    Options o;
    o.checks = number("GPUSIM_CHECKS", 1) != 0;
    o.seed = number("GPUSIM_SEED", 0);
    o.max_instructions = number("GPUSIM_MAX_INSTRUCTIONS", 1000000000);
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    o.threads = static_cast<int>(std::min<uint64_t>(number("GPUSIM_THREADS", cores), 256));
    o.stats_path = text("GPUSIM_STATS");
    o.coverage_path = text("GPUSIM_COVERAGE");
    o.ptx_path = text("GPUSIM_PTX");
    o.log_path = text("GPUSIM_LOG");
    o.eager = number("GPUSIM_EAGER", 0) != 0;
    o.lazy_loading = text("CUDA_MODULE_LOADING") != "EAGER";
    return o;
  }());
  return options;
}

void AccessCounters::add(const AccessCounters& other) {
  load_sectors += other.load_sectors;
  load_bytes += other.load_bytes;
  ideal_load_sectors += other.ideal_load_sectors;
  async_sectors += other.async_sectors;
  store_sectors += other.store_sectors;
  store_bytes += other.store_bytes;
  ideal_store_sectors += other.ideal_store_sectors;
  wavefronts += other.wavefronts;
  ideal_wavefronts += other.ideal_wavefronts;
  atomics += other.atomics;
  mma_flops += other.mma_flops;
  mma_count += other.mma_count;
  wgmma_count += other.wgmma_count;
  bulk_bytes += other.bulk_bytes;
}

uint32_t new_segment(const Segment& segment) {
  // Beyond the table (134 million in one launch) all share the last, which only hides races.
  const uint32_t number_of = std::min(next_segment.fetch_add(1, std::memory_order_relaxed), kSegments - 1);
  segments()[number_of] = segment;
  return number_of;
}

const Segment& segment_at(uint32_t number_of) { return segments()[number_of]; }

uint64_t Launch::total_executed() { return executed_by_all.load(); }

void Launch::run() {
  if (next_segment.load() > kSegments / 2) {
    GlobalMemory::get().forget_accesses();
    next_segment = 1;
  }
  first_segment = next_segment.load();
  counts.assign(program->code.size(), 0);
  ran.assign(program->code.size(), 0);
  const uint32_t total = blocks();
  std::vector<uint32_t> order(total);
  std::iota(order.begin(), order.end(), 0u);
  if (options->seed != 0) std::shuffle(order.begin(), order.end(), std::mt19937_64(options->seed));

  std::mutex mutex;
  std::deque<std::unique_ptr<Block>> resting;
  size_t next = 0, running = 0;
  std::exception_ptr fault;
  const auto workers = static_cast<uint32_t>(std::min<uint64_t>(static_cast<uint64_t>(options->threads), total));
  const auto work = [&] {
    std::unique_lock<std::mutex> lock(mutex);
    while (!fault) {
      std::unique_ptr<Block> block;
      if (next < total && resting.size() + running < std::max<size_t>(kResident, workers)) {
        const uint32_t index = order[next++];
        running++;
        lock.unlock();
        block = std::make_unique<Block>(*this, index, options->seed);
      } else if (!resting.empty()) {
        block = std::move(resting.front());
        resting.pop_front();
        running++;
        lock.unlock();
      } else {
        return;
      }
      bool done = false;
      std::exception_ptr thrown;
      try {
        done = block->run(kBudget);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      running--;
      if (thrown && !fault) fault = thrown;
      if (done || thrown) {
        for (size_t i = 0; i < counts.size(); i++) {
          counts[i] += block->counts[i];
          ran[i] |= block->ran[i];
        }
        accesses.add(block->accesses);
      } else {
        resting.push_back(std::move(block));
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t i = 1; i < workers; i++) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  executed_by_all += std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  if (fault) std::rethrow_exception(fault);
}

}  // namespace gpusim
