#include "cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

namespace marginfc {
namespace {

// Some tens of microseconds: long beside a look at the clock, short beside the time a thread runs undisturbed.
constexpr int64_t kRounds = 4000;

// Floats: 256 MiB, several times what the largest last-level cache of a core holds.
constexpr int64_t kArray = int64_t{1} << 26;
constexpr int32_t kRow = 1 << 14;
constexpr int32_t kRows = kArray / kRow;

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The best bytes per second of passes that move `bytes` and are split in kRows tasks.
double best_pass(CpuEngine& engine, double seconds, double bytes, const std::function<void(int64_t, int)>& row) {
  engine.pool().run(kRows, row);  // maps the pages
  double best = 0;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    engine.pool().run(kRows, row);
    best = std::max(best, bytes / since(start));
  } while (since(begin) < seconds);
  return best;
}

}  // namespace

double peak_operations(CpuEngine& engine, Precision operands, double seconds) {
  const Kernels& kernels = engine.kernels(operands);
  std::vector<double> rates(engine.pool().threads());
  engine.pool().run(static_cast<int64_t>(rates.size()), [&](int64_t index, int thread) {
    // A thread that comes late finds its task taken: the sum is then too small, and never too large.
    if (index != thread) return;
    alignas(64) float sums[64];
    double operations = 0, elapsed;
    const Clock::time_point start = Clock::now();
    do {
      operations += static_cast<double>(kernels.multiply_adds(kRounds, sums));
      elapsed = since(start);
    } while (elapsed < seconds);
    rates[index] = operations / elapsed;
  });
  double total = 0;
  for (const double rate : rates) total += rate;
  return total;
}

double peak_read(CpuEngine& engine, double seconds) {
  FloatBuffer from;
  if (!from.allocate(kArray)) return 0;
  std::fill_n(from.data(), kArray, 1.0f);  // untouched pages all map the same zeros
  const Kernels& kernels = engine.kernels();
  std::vector<float> norms(kRows);
  return best_pass(engine, seconds, sizeof(float) * static_cast<double>(kArray),
                   [&](int64_t row, int) { kernels.inverse_norms(from.data() + row * kRow, 1, kRow, &norms[row]); });
}

double peak_copy(CpuEngine& engine, double seconds) {
  FloatBuffer from, to;
  if (!from.allocate(kArray) || !to.allocate(kArray)) return 0;
  std::fill_n(from.data(), kArray, 1.0f);
  const Kernels& kernels = engine.kernels();
  return best_pass(engine, seconds, 2 * sizeof(float) * static_cast<double>(kArray), [&](int64_t row, int) {
    const float* values = from.data() + row * kRow;
    kernels.write_row({values, values, 0, 1, 1, nullptr, kRow}, to.data() + row * kRow, true);
    kernels.fence();
  });
}

}  // namespace marginfc
