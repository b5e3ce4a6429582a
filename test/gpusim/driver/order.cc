// The order of the streams. Without a seed each runs when somebody waits for it. With one, each stream has a pace, by the seed
// and its place: as late as that, as early as the events that it waits for allow, or now and then an operation in between. A
// wait that is missing between two streams shows where the one that ought to wait is early and the other late, or, where
// memory is written again, the other way round.
#include <algorithm>
#include <vector>

#include "driver/state.h"
#include "machine/launch.h"

namespace gpusim {
namespace {

enum class Pace { late, early, by_chance };

/// Splitmix64: the number at `place` of the sequence of a seed.
uint64_t number_at(uint64_t seed, uint64_t place) {
  uint64_t z = seed * 0xd1342543de82ef95u + (place + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

Pace pace_of(uint64_t seed, const Stream& stream) {
  // Two streams made one after the other have each pair of paces by some seed from 1 to 9.
  return static_cast<Pace>(seed / (stream.place % 2 == 0 ? 1 : 3) % 3);
}

}  // namespace

bool Driver::may_advance(Stream* stream) const {
  if (stream->draining || stream->waiting.empty()) return false;
  const Condition& condition = stream->waiting.front().condition;
  const bool done = std::all_of(condition.after.begin(), condition.after.end(), [this](const auto& other) {
    return !exists(other.first) || other.first->done >= other.second;
  });
  return done && (!condition.ready || condition.ready());
}

void Driver::run_ahead() {
  const uint64_t seed = Options::get().seed;
  if (seed == 0 || running_ahead_) return;
  running_ahead_ = true;
  std::vector<Stream*> all(streams.begin(), streams.end());
  for (auto& entry : default_streams_) all.push_back(entry.second.get());
  std::sort(all.begin(), all.end(), [](const Stream* a, const Stream* b) { return a->place < b->place; });
  for (bool again = true; again;) {
    again = false;
    for (Stream* stream : all) {
      const Pace pace = pace_of(seed, *stream);
      while (pace != Pace::late && may_advance(stream) &&
             (pace == Pace::early || number_at(seed, choices++) % 4 == 0)) {
        advance(stream, stream->done + 1);
        again = true;
      }
    }
  }
  running_ahead_ = false;
}

}  // namespace gpusim

// Sets GPUSIM_SEED from now on.
GPUSIM_API void gpusim_set_seed(uint64_t seed) {
  gpusim::Driver& driver = gpusim::Driver::get();
  const std::lock_guard<std::recursive_mutex> lock(driver.mutex);
  gpusim::Options::storage().seed = seed;
  driver.choices = 0;
}
