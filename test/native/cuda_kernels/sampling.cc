// The draw of classes and the list of those that take part.
#include <algorithm>
#include <numeric>

#include "engine/draw.h"
#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

struct Draw {
  int64_t first_class, classes, head_classes;
  int32_t drawn, drawn_last;
  int64_t step = 3;
  uint64_t seed = 0x123456789abcdef0u;

  std::string text(const char* kernel) const {
    return std::string(kernel) + " of classes " + std::to_string(first_class) + " + " + std::to_string(classes) +
           " of " + std::to_string(head_classes) + ", " + std::to_string(drawn) + " a block";
  }
  int64_t first_block() const { return first_class / kSamplingBlock; }
  int64_t blocks() const { return (first_class + classes - 1) / kSamplingBlock + 1 - first_block(); }
};

// By the definition: the classes of each block in the order of their numbers.
std::vector<uint8_t> flags_of(const Draw& draw, const std::vector<int32_t>& owner_class) {
  std::vector<uint8_t> flags(draw.classes);
  for (int64_t b = 0; b < draw.blocks(); b++) {
    const int64_t first = (draw.first_block() + b) * kSamplingBlock;
    const auto size = std::min<int64_t>(kSamplingBlock, draw.head_classes - first);
    std::vector<uint32_t> number(size);
    for (int64_t j = 0; j < size; j++)
      number[j] = draw_four(draw.seed, draw.step, (first + j) / 4 * 4).v[(first + j) % 4];
    std::vector<int64_t> order(size);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return number[i] < number[j]; });
    order.resize(size == kSamplingBlock ? draw.drawn : draw.drawn_last);
    for (const int64_t j : order) {
      const int64_t c = first + j - draw.first_class;
      if (c >= 0 && c < draw.classes) flags[c] = 1;
    }
  }
  for (const int32_t c : owner_class) flags[c] = 1;
  return flags;
}

// Of a whole head, of shards that begin and end inside blocks, of of one class.
constexpr Draw kDraws[] = {
    {0, 1, 1, 0, 1},       {0, 131, 131, 0, 39},           {0, 8192, 8192, 410, 0},     {0, 4100, 4100, 41, 0},
    {40, 90, 131, 0, 130}, {4000, 5000, 20'000, 2048, 12}, {5000, 1000, 20'000, 1, 12}, {9000, 3001, 12'001, 4096, 3},
    {0, 1, 5000, 5, 1},
};

// Owners all over the shard, some classes with many rows, the first and the last among them.
std::vector<int32_t> owners_of(const Draw& draw, int32_t rows) {
  Random random(draw.classes + rows);
  std::vector<int32_t> owners;
  for (int32_t i = 0; i < rows; i++)
    owners.push_back(i % 5 == 0   ? static_cast<int32_t>(draw.classes - 1)
                     : i % 5 == 1 ? 0
                                  : random.below(static_cast<int32_t>(draw.classes)));
  std::sort(owners.begin(), owners.end());
  return owners;
}

}  // namespace

void check_draw_classes(const Device& device) {
  for (const Draw& draw : kDraws)
    for (const int32_t rows : {0, 1, 33, 1500}) {
      const std::vector<int32_t> owner_class = owners_of(draw, rows);
      const Buffer<int32_t> owners(owner_class), counts(draw.blocks());
      const Buffer<uint8_t> flags(draw.classes);
      DrawClassesParameters p{};
      p.seed = draw.seed;
      p.step = draw.step;
      p.first_class = draw.first_class;
      p.classes = draw.classes;
      p.head_classes = draw.head_classes;
      p.drawn = draw.drawn;
      p.drawn_last = draw.drawn_last;
      p.owner_class = owners.get();
      p.owners = rows;
      p.flags = flags.get();
      p.counts = counts.get();
      device.launch("draw_classes", p, draw.blocks(), 256);

      Values values(draw.text("draw_classes") + ", owners " + std::to_string(rows));
      const std::vector<uint8_t> got = flags.read(), want = flags_of(draw, owner_class);
      std::vector<int32_t> count(draw.blocks());
      for (int64_t c = 0; c < draw.classes; c++) {
        values.equal(got[c], want[c], c);
        count[(draw.first_class + c) / kSamplingBlock - draw.first_block()] += want[c];
      }
      const std::vector<int32_t> got_counts = counts.read();
      for (int64_t b = 0; b < draw.blocks(); b++) values.equal(got_counts[b], count[b], b, 1);
    }
}

void check_list_classes(const Device& device) {
  std::vector<Draw> draws(std::begin(kDraws), std::end(kDraws));
  // More blocks than the threads of one count in one turn, or in a turn that is unrolled by four.
  draws.push_back({4000, 1100 * kSamplingBlock, 1200 * kSamplingBlock, 0, 0});
  for (const Draw& draw : draws)
    for (const int32_t rows : {0, 33, 1500}) {
      const std::vector<int32_t> owner_class = owners_of(draw, rows);
      std::vector<uint8_t> flag(draw.classes);
      std::vector<int32_t> count(draw.blocks()), index;
      Random random(7);
      for (int64_t c = 0; c < draw.classes; c++) {
        flag[c] = random.below(3) == 0 || std::binary_search(owner_class.begin(), owner_class.end(), c);
        if (flag[c]) index.push_back(static_cast<int32_t>(c));
        count[(draw.first_class + c) / kSamplingBlock - draw.first_block()] += flag[c];
      }
      const Buffer<uint8_t> flags(flag);
      const Buffer<int32_t> counts(count), owners(owner_class), list(static_cast<int64_t>(index.size())),
          places(1 + rows);
      ListClassesParameters p{};
      p.first_class = draw.first_class;
      p.classes = draw.classes;
      p.flags = flags.get();
      p.counts = counts.get();
      p.owner_class = owners.get();
      p.owners = rows;
      p.index = list.get();
      p.places = places.get();
      device.launch("list_classes", p, draw.blocks(), 256);

      Values values(draw.text("list_classes") + ", owners " + std::to_string(rows));
      const std::vector<int32_t> got = list.read(), got_places = places.read();
      values.equal(got_places[0], static_cast<double>(index.size()), 0);
      for (size_t n = 0; n < index.size(); n++) values.equal(got[n], index[n], static_cast<int64_t>(n));
      for (int32_t o = 0; o < rows; o++) values.equal(index[got_places[1 + o]], owner_class[o], o, 1);
    }
}

}  // namespace marginfc::check
