// What each collective computes, on operands in host memory, in pieces through the clique.
#pragma once

#include "nccl/clique.h"

namespace gpusim::nccl {

/// 0 for a type that is not computed with here.
size_t byte_size(Type type);

/// Elements that one rank gives, and that it gets: of an all-gather `count` and ranks * `count`.
uint64_t sent_elements(const Request& request, int rank, int ranks);
uint64_t received_elements(const Request& request, int rank, int ranks);

/// `send` and `receive` as sent_elements() and received_elements() say; they do not overlap. Sums go in the order of ranks.
Result run(Clique& clique, const Request& request, const void* send, void* receive);

}  // namespace gpusim::nccl
