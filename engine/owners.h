// Which rows of a batch have their own class in a range.
#pragma once

#include <vector>

#include "engine/engine.h"

namespace marginfc {

struct Owner {
  int32_t index;  // of the class, counted from the range's first
  int32_t row;
};

// By class, then row.
void sort_owners(std::vector<Owner>* owners);
std::vector<Owner> find_owners(const Batch& batch, ClassRange range);

}  // namespace marginfc
