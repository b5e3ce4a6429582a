// Partial FC (An et al., ICCVW 2021 and CVPR 2022): a step looks at some of the classes only.
//
// Class j takes part if a row of the global batch owns it, or if it is drawn: of each block of kSamplingBlock
// consecutive ids (the last one may be shorter) the drawn_of(size) classes with the smallest u(seed, step, j), equal
// ones by id. u comes from a counter, and blocks are of ids, so that the draw is the same whatever the shards,
// processes, engines and threads. Owned classes come on top of the draw; those that are drawn too count once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/draw.h"
#include "engine/engine.h"

namespace marginfc {

// How many of a block of so many classes: round(rate * size), halves up.
int64_t drawn_of(const Sampling& sampling, int64_t size);

// The most classes of `range` that can take part in such a batch.
int64_t most_sampled(const Batch& batch, ClassRange range);

// Calls body(0) .. body(count - 1), in any order or at the same time; body does not throw.
using RunBlocks = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;

// [range.size()], 1 for the drawn classes of `range` and 0 for the others.
std::vector<uint8_t> draw_classes(const Sampling& sampling, ClassRange range, const RunBlocks& run);

// The classes of `range` that are drawn or that a row of the batch owns, ascending, counted from the range's first.
std::vector<int32_t> sample_classes(const Batch& batch, ClassRange range, const RunBlocks& run);

// The other classes of a range of so many.
std::vector<int32_t> unsampled_classes(const std::vector<int32_t>& sampled, int64_t size);

}  // namespace marginfc
