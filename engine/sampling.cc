#include "engine/sampling.h"

#include <algorithm>
#include <cmath>

namespace marginfc {
namespace {

// Sets flags[j - range.start] of the drawn classes j of one block.
void draw_block(const Sampling& sampling, int64_t block, ClassRange range, uint8_t* flags) {
  const int64_t first = block * kSamplingBlock, size = std::min<int64_t>(kSamplingBlock, sampling.classes - first);
  const int64_t drawn = drawn_of(sampling, size);
  if (drawn == 0) return;
  uint32_t u[kSamplingBlock], sorted[kSamplingBlock];
  for (int64_t j = 0; j < size; j += 4) {
    // A block starts at a multiple of four.
    const Random4 random = draw_four(sampling.seed, sampling.step, first + j);
    for (int64_t l = 0; l < 4; l++) u[j + l] = random.v[l];
  }
  std::copy_n(u, size, sorted);
  std::nth_element(sorted, sorted + drawn - 1, sorted + size);
  const uint32_t largest = sorted[drawn - 1];
  int64_t ties = drawn - std::count_if(sorted, sorted + drawn, [&](uint32_t v) { return v < largest; });
  for (int64_t j = 0; j < size; j++) {
    if (u[j] > largest || (u[j] == largest && ties-- <= 0)) continue;
    if (first + j >= range.start && first + j < range.end) flags[first + j - range.start] = 1;
  }
}

}  // namespace

int64_t drawn_of(const Sampling& sampling, int64_t size) {
  return static_cast<int64_t>(std::floor(sampling.rate * static_cast<double>(size) + 0.5));
}

int64_t most_sampled(const Batch& batch, ClassRange range) {
  const Sampling& sampling = batch.sampling;
  if (!sampling.draws()) return range.size();
  int64_t most = batch.rows;
  for (int64_t first = range.start / kSamplingBlock * kSamplingBlock; first < range.end; first += kSamplingBlock) {
    const int64_t end = std::min(first + kSamplingBlock, sampling.classes);
    most += std::min(drawn_of(sampling, end - first), std::min(end, range.end) - std::max(first, range.start));
  }
  return std::min(most, range.size());
}

std::vector<uint8_t> draw_classes(const Sampling& sampling, ClassRange range, const RunBlocks& run) {
  std::vector<uint8_t> drawn(range.size());
  if (range.size() == 0) return drawn;
  const int64_t first = range.start / kSamplingBlock, last = (range.end - 1) / kSamplingBlock;
  run(last - first + 1, [&](int64_t b) { draw_block(sampling, first + b, range, drawn.data()); });
  return drawn;
}

std::vector<int32_t> sample_classes(const Batch& batch, ClassRange range, const RunBlocks& run) {
  std::vector<uint8_t> takes_part = draw_classes(batch.sampling, range, run);
  for (int64_t i = 0; i < batch.rows; i++) {
    const int32_t label = batch.labels[i];
    if (label >= range.start && label < range.end) takes_part[label - range.start] = 1;
  }
  std::vector<int32_t> sampled;
  sampled.reserve(std::count(takes_part.begin(), takes_part.end(), 1));
  for (int64_t j = 0; j < range.size(); j++)
    if (takes_part[j]) sampled.push_back(static_cast<int32_t>(j));
  return sampled;
}

std::vector<int32_t> unsampled_classes(const std::vector<int32_t>& sampled, int64_t size) {
  std::vector<int32_t> others;
  others.reserve(size - sampled.size());
  size_t next = 0;
  for (int64_t j = 0; j < size; j++)
    if (next < sampled.size() && sampled[next] == j)
      next++;
    else
      others.push_back(static_cast<int32_t>(j));
  return others;
}

}  // namespace marginfc
