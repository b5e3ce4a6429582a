#include "engine/owners.h"

#include <algorithm>

namespace marginfc {

void sort_owners(std::vector<Owner>* owners) {
  std::sort(owners->begin(), owners->end(),
            [](Owner a, Owner b) { return a.index != b.index ? a.index < b.index : a.row < b.row; });
}

std::vector<Owner> find_owners(const Batch& batch, ClassRange range) {
  std::vector<Owner> owners;
  for (int64_t i = 0; i < batch.rows; i++) {
    const int32_t label = batch.labels[i];
    if (label >= range.start && label < range.end)
      owners.push_back({static_cast<int32_t>(label - range.start), static_cast<int32_t>(i)});
  }
  sort_owners(&owners);
  return owners;
}

}  // namespace marginfc
