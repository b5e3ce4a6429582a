// Which triplets a block of anchors has, and the gradient of what was chosen.
#include <algorithm>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

struct Anchors {
  int32_t first, count;  // of the block
};

struct Row {
  float cosine;
  int32_t index;
};

// Cosines of anchors to `rows` rows of `classes` classes, of which some rows are ignored; `levels` > 0 leaves that many different
// values. Those of an anchor are not finite now and then, or not at all.
void check_choice(const Device& device, int32_t rows, int32_t dim, int32_t classes, Anchors anchors, int32_t levels,
                  int64_t skew, bool semihard) {
  const int32_t stride = rows + 3;
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  Random random(rows * 37 + dim + classes + levels);
  const std::vector<float> x = make_rows(random, rows, dim, true);
  std::vector<double> norms;
  std::vector<int32_t> labels, members, starts(rows, -7), sizes(rows, 0);
  for (int32_t i = 0; i < rows; i++) {
    norms.push_back(norm_of(x.data() + static_cast<int64_t>(i) * dim, dim));
    labels.push_back(i % 13 == 12 ? -1 : random.below(classes));
  }
  for (int32_t c = 0; c < classes; c++) {
    const auto start = static_cast<int32_t>(members.size());
    for (int32_t i = 0; i < rows; i++)
      if (labels[i] == c) members.push_back(i);
    for (size_t m = start; m < members.size(); m++) {
      starts[members[m]] = start;
      sizes[members[m]] = static_cast<int32_t>(members.size()) - start;
    }
  }
  std::vector<int64_t> first{0};
  for (int32_t i = 0; i < rows; i++) {
    const bool none = i < anchors.first || i >= anchors.first + anchors.count || sizes[i] < 2 || i % 7 == 3;
    first.push_back(first.back() + (none ? 0 : semihard ? sizes[i] - 1 : 1));
  }
  std::vector<float> cosines(static_cast<int64_t>(anchors.count) * stride, nan);
  for (int32_t a = 0; a < anchors.count; a++)
    for (int32_t j = 0; j < rows; j++) {
      float& cosine = cosines[static_cast<int64_t>(a) * stride + j];
      cosine = static_cast<float>(levels ? (random.below(levels) - levels / 2) * 16.0 : 24 * random.normal());
      if (cosine == 0 && random.below(2)) cosine = -0.0f;
      const int32_t strange = random.below(40);
      if (strange < 3 || a % 11 == 5) cosine = strange == 0 ? infinity : strange == 1 ? -infinity : nan;
    }

  const Buffer<float> features(x, skew), accumulators(cosines);
  const Buffer<double> norm(norms);
  const Buffer<int32_t> label(labels), member(members), start(starts), size(sizes);
  const Buffer<int64_t> places(first);
  const Buffer<Triplet> triplets(first.back());
  ChooseTripletsParameters p{};
  p.cosines = accumulators.get();
  p.labels = label.get();
  p.members = member.get();
  p.class_start = start.get();
  p.class_size = size.get();
  p.first = places.get();
  p.features = features.get();
  p.norm = norm.get();
  p.triplets = triplets.get();
  p.stride = stride;
  p.rows = rows;
  p.dim = dim;
  p.anchors = anchors.count;
  p.first_anchor = anchors.first;
  p.semihard = semihard;
  device.launch("choose_triplets", p, (anchors.count + kRowWarps - 1) / kRowWarps, kThreads);

  Values values(std::string("choose_triplets ") + (semihard ? "semihard" : "hard") + " of " + std::to_string(rows) +
                " x " + std::to_string(dim) + ", levels " + std::to_string(levels));
  const std::vector<Triplet> got = triplets.read();
  for (int32_t a = anchors.first; a < anchors.first + anchors.count; a++) {
    if (first[a] == first[a + 1]) continue;
    const float* own = cosines.data() + static_cast<int64_t>(a - anchors.first) * stride;
    std::vector<Row> positives, negatives;
    for (int32_t j = 0; j < rows; j++)
      if (j != a && labels[j] >= 0) (labels[j] == labels[a] ? positives : negatives).push_back({own[j], j});
    const auto furthest_first = [](const Row& one, const Row& other) { return one.cosine < other.cosine; };
    negatives.erase(
        std::remove_if(negatives.begin(), negatives.end(), [](Row row) { return !std::isfinite(row.cosine); }),
        negatives.end());
    // The first of equal ones comes first either way.
    std::vector<Row> nearest = negatives;
    std::stable_sort(negatives.begin(), negatives.end(), furthest_first);
    std::stable_sort(nearest.begin(), nearest.end(), [](Row one, Row other) { return one.cosine > other.cosine; });
    std::vector<Triplet> want;
    for (const Row& positive : positives) {
      Triplet triplet;
      if (std::isfinite(positive.cosine) && !negatives.empty()) {
        triplet.positive = positive.index;
        const auto further = std::find_if(nearest.begin(), nearest.end(),
                                          [&](Row row) { return row.cosine < positive.cosine; });
        triplet.negative = !semihard                  ? nearest[0].index
                           : further != nearest.end() ? further->index
                                                      : negatives[0].index;
      }
      want.push_back(triplet);
    }
    if (!semihard) {
      std::vector<Row> finite;
      for (const Row& positive : positives)
        if (std::isfinite(positive.cosine)) finite.push_back(positive);
      std::stable_sort(finite.begin(), finite.end(), furthest_first);
      Triplet triplet;
      for (const Triplet& one : want)
        if (!finite.empty() && one.positive == finite[0].index) triplet = one;
      want = {triplet};
    }
    for (size_t t = 0; t < want.size(); t++) {
      const Triplet& triplet = got[first[a] + static_cast<int64_t>(t)];
      values.equal(triplet.positive, want[t].positive, a, 0);
      values.equal(triplet.negative, want[t].negative, a, 1);
      const auto compare = [&](double cosine, int32_t other, int64_t column) {
        if (want[t].positive < 0) return values.equal(cosine, 0, a, column);
        double product = 0, sizes_sum = 0;
        for (int32_t d = 0; d < dim; d++) {
          const double term = static_cast<double>(x[static_cast<int64_t>(a) * dim + d]) *
                              x[static_cast<int64_t>(other) * dim + d] / floored(norms[a]) / floored(norms[other]);
          product += term;
          sizes_sum += std::fabs(term);
        }
        values.near(cosine, product, 1e-13 * sizes_sum, a, column);
      };
      compare(triplet.positive_cosine, want[t].positive, 2);
      compare(triplet.negative_cosine, want[t].negative, 3);
    }
  }
}

}  // namespace

void check_choose_triplets(const Device& device) {
  struct Size {
    int32_t rows, dim, classes;
    Anchors anchors;
  };
  for (const Size size :
       {Size{2, 1, 1, {0, 2}}, Size{3, 2, 2, {0, 3}}, Size{31, 33, 4, {0, 31}}, Size{33, 130, 1, {8, 25}},
        Size{70, 132, 3, {16, 41}}, Size{260, 257, 9, {128, 130}}, Size{330, 6, 2, {40, 9}}, Size{150, 4, 2, {0, 5}}})
    for (const int32_t levels : {0, 1, 5})
      for (const bool semihard : {false, true})
        check_choice(device, size.rows, size.dim, size.classes, size.anchors, levels, levels % 2, semihard);
}

void check_triplet_gradients(const Device& device) {
  for (const int64_t rows : {1, 9, 34})
    for (const int64_t dim : {1, 2, 33, 128, 132, 300})
      for (const int64_t skew : {0, 1}) {
        Random random(rows + dim);
        const std::vector<float> x = make_rows(random, rows, dim, true);
        std::vector<double> norms, slopes, along;
        std::vector<int64_t> starts{0};
        std::vector<int32_t> others;
        for (int64_t i = 0; i < rows; i++) {
          norms.push_back(norm_of(x.data() + i * dim, dim));
          // From none to more than a loop that is unrolled takes at a time.
          for (int64_t t = 0; t < (i * 3) % 11 + (rows == 1); t++) {
            others.push_back(random.below(static_cast<int32_t>(rows)));
            slopes.push_back(random.normal());
          }
          // Where there are no terms, nothing is looked at.
          starts.push_back(static_cast<int64_t>(others.size()));
          along.push_back(starts[i] == starts[i + 1] ? std::nan("") : random.normal());
        }
        const Buffer<float> features(x, skew), gradient(rows * dim, skew);
        const Buffer<double> norm(norms), slope(slopes), of_row(along);
        const Buffer<int64_t> start(starts);
        const Buffer<int32_t> other(others);
        TripletGradientsParameters p{};
        p.features = features.get();
        p.norm = norm.get();
        p.start = start.get();
        p.other = other.get();
        p.slope = slope.get();
        p.along = of_row.get();
        p.gradient = gradient.get();
        p.rows = static_cast<int32_t>(rows);
        p.dim = static_cast<int32_t>(dim);
        device.launch("triplet_gradients", &p, static_cast<uint32_t>((rows + kRowWarps - 1) / kRowWarps),
                      static_cast<uint32_t>((dim + kTileSide - 1) / kTileSide), 1, kThreads, 0);
        Values values(size_text("triplet_gradients", rows, dim));
        const std::vector<float> got = gradient.read();
        for (int64_t i = 0; i < rows; i++)
          for (int64_t d = 0; d < dim; d++) {
            const double inverse = 1 / floored(norms[i]);
            double want = 0, size = 0;
            const auto add = [&](int64_t row, double factor) {
              const double term = factor * x[row * dim + d] / floored(norms[row]) * inverse;
              want += term;
              size += std::fabs(term);
            };
            for (int64_t t = starts[i]; t < starts[i + 1]; t++) add(others[t], slopes[t]);
            if (starts[i] < starts[i + 1] && norms[i] >= kNormFloor) add(i, along[i]);
            values.near(got[i * dim + d], want, 6e-8 * std::fabs(want) + 1e-13 * size + 1e-45, i, d);
          }
      }
}

}  // namespace marginfc::check
