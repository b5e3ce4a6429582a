#include "engine/triplets.h"

#include <algorithm>

#include "engine/owners.h"

namespace marginfc {

TripletPlan::TripletPlan(const int32_t* labels, int64_t rows, const TripletRule& triplet_rule,
                         const std::vector<double>& weight, bool mean)
    : rule(triplet_rule), class_start(rows), class_size(rows), first(rows + 1), slope(rows) {
  std::vector<Owner> order;
  for (int64_t i = 0; i < rows; i++)
    if (labels[i] >= 0) order.push_back({labels[i], static_cast<int32_t>(i)});
  sort_owners(&order);
  const size_t counted = order.size();
  for (size_t begin = 0, end = 0; begin < counted; begin = end) {
    while (end < counted && order[end].index == order[begin].index) end++;
    for (size_t o = begin; o < end; o++) {
      members.push_back(order[o].row);
      class_start[order[o].row] = static_cast<int32_t>(begin);
      class_size[order[o].row] = static_cast<int32_t>(end - begin);
    }
  }
  double total = 0;
  for (int64_t a = 0; a < rows; a++) {
    const bool whole = class_size[a] >= 2 && static_cast<size_t>(class_size[a]) < counted;
    const int64_t count = !whole ? 0 : rule.semihard ? class_size[a] - 1 : 1;
    total += weight[a] * static_cast<double>(count);
    first[a + 1] = first[a] + (a >= rule.anchor_start && a < rule.anchor_end ? count : 0);
  }
  const double scale = !mean ? 1.0 : total > 0 ? 1 / total : 0.0;
  for (int64_t a = 0; a < rows; a++) slope[a] = scale * weight[a];
}

TripletTerms::TripletTerms(const TripletPlan& plan, const std::vector<Triplet>& triplets)
    : start(plan.rows() + 1), along(plan.rows()) {
  const auto for_each = [&](const auto& body) {
    for (int64_t a = 0; a < plan.rows(); a++)
      for (int64_t t = plan.first[a]; t < plan.first[a + 1]; t++) {
        const Triplet& triplet = triplets[t];
        const double hinge = 2 * (triplet.negative_cosine - triplet.positive_cosine) + plan.rule.margin;
        if (triplet.positive >= 0 && hinge > 0) body(static_cast<int32_t>(a), triplet, hinge);
      }
  };
  for_each([&](int32_t a, const Triplet& triplet, double hinge) {
    value += plan.slope[a] * hinge;
    start[a + 1] += 2;
    start[triplet.positive + 1]++;
    start[triplet.negative + 1]++;
  });
  for (int64_t i = 0; i < plan.rows(); i++) start[i + 1] += start[i];
  other.resize(start.back());
  slope.resize(start.back());
  std::vector<int64_t> next = start;
  const auto add = [&](int32_t row, int32_t to, double by, double cosine) {
    const int64_t at = next[row]++;
    other[at] = to;
    slope[at] = by;
    along[row] -= by * cosine;
  };
  for_each([&](int32_t a, const Triplet& triplet, double) {
    const double by = 2 * plan.slope[a];
    add(a, triplet.positive, -by, triplet.positive_cosine);
    add(a, triplet.negative, by, triplet.negative_cosine);
    add(triplet.positive, a, -by, triplet.positive_cosine);
    add(triplet.negative, a, by, triplet.negative_cosine);
  });
}

}  // namespace marginfc
