// Selecting the nearest classes.
#include <algorithm>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

struct Candidate {
  float cosine;
  int32_t index;
};

// Cosines of rows with classes, in chunks of at most `chunk`; `levels` > 0 leaves that many different values.
void check_selection(const Device& device, int64_t rows, int32_t classes, int32_t chunk, int32_t k, int32_t levels) {
  const int32_t stride = chunk + 5;
  const float unscale = 1.0f / 64;
  Random random(classes * 31 + k + levels);
  std::vector<float> cosines(rows * classes);
  for (float& cosine : cosines) {
    cosine = static_cast<float>(levels ? (random.below(levels) - levels / 2) * 16.0 : 24 * random.normal());
    if (cosine == 0 && random.below(2)) cosine = -0.0f;
  }

  const Buffer<int32_t> first_class(rows * k), second_class(rows * k);
  const Buffer<float> first_cosine(rows * k), second_cosine(rows * k);
  const Buffer<int32_t>* class_lists[] = {&first_class, &second_class};
  const Buffer<float>* cosine_lists[] = {&first_cosine, &second_cosine};
  int32_t found = 0, turn = 0;
  for (int32_t start = 0; start < classes; start += chunk, turn++) {
    const int32_t count = std::min(chunk, classes - start);
    std::vector<float> part(rows * stride, std::nanf(""));
    for (int64_t i = 0; i < rows; i++)
      std::copy_n(cosines.data() + i * classes + start, count, part.data() + i * stride);
    const Buffer<float> chunk_cosines(part);
    SelectNearestParameters p{};
    p.cosines = chunk_cosines.get();
    p.stride = stride;
    p.classes = count;
    p.first_class = start;
    p.best_class = class_lists[turn % 2]->get();
    p.best_cosine = cosine_lists[turn % 2]->get();
    p.next_class = class_lists[(turn + 1) % 2]->get();
    p.next_cosine = cosine_lists[(turn + 1) % 2]->get();
    p.found = found;
    p.k = k;
    p.unscale = unscale;
    p.last = start + chunk >= classes;
    device.launch("select_nearest", p, rows, 256);
    found = std::min(k, found + count);
  }

  Values values("select_nearest " + std::to_string(k) + " of " + std::to_string(classes) + " in chunks of " +
                std::to_string(chunk) + ", levels " + std::to_string(levels));
  const std::vector<int32_t> got = class_lists[turn % 2]->read();
  const std::vector<float> got_cosines = cosine_lists[turn % 2]->read();
  for (int64_t i = 0; i < rows; i++) {
    std::vector<Candidate> sorted;
    for (int32_t c = 0; c < classes; c++) sorted.push_back({cosines[i * classes + c], c});
    std::sort(sorted.begin(), sorted.end(), [](const Candidate& a, const Candidate& b) {
      return a.cosine > b.cosine || (a.cosine == b.cosine && a.index < b.index);
    });
    for (int32_t n = 0; n < k; n++) {
      values.equal(got[i * k + n], sorted[n].index, i, n);
      values.equal(got_cosines[i * k + n], std::max(-1.0f, std::min(1.0f, sorted[n].cosine * unscale)), i, n);
    }
  }
}

}  // namespace

void check_select_nearest(const Device& device) {
  struct Size {
    int32_t classes, chunk;
  };
  for (const Size size : {Size{1, 128}, {2, 1}, {131, 128}, {131, 40}, {1009, 256}, {1009, 1024}, {5000, 2048}})
    for (const int32_t k : {1, 2, 5, 33, 64, 100, 257, 1000, 1009, 5000})
      if (k <= size.classes)
        for (const int32_t levels : {0, 1, 5}) check_selection(device, 3, size.classes, size.chunk, k, levels);
}

}  // namespace marginfc::check
