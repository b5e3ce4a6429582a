// A collective on a caller's arrays, and what ranks tell each other of it before they begin, so that arguments that do not
// fit together are an error on every rank instead of a hang or an overrun.
#pragma once

#include <cstdint>
#include <vector>

#include "group/transport.h"

namespace marginfc::group {

// As ProcessGroup of src/group.ts has them.
struct Collective {
  Round::Kind kind = Round::Kind::barrier;
  Element element = Element::float32;
  Reduction reduction = Reduction::sum;  // all_reduce; reduce_scatter always adds
  int32_t root = 0;                      // broadcast
  const void* input = nullptr;           // all_gather: part. reduce_scatter: whole
  int64_t input_length = 0;
  void* output = nullptr;  // all_gather: whole. reduce_scatter: part. all_reduce, broadcast: values
  int64_t output_length = 0;
};

// The name of the function for messages.
const char* name_of(Round::Kind kind);

// What a rank says of its call. Plain numbers, so that it can be gathered as bytes.
struct Announcement {
  int64_t kind = 0;  // of Round::Kind, or kLeaving
  int64_t element = 0;
  int64_t reduction = 0;
  int64_t root = 0;
  int64_t input_length = 0;
  int64_t output_length = 0;
};
constexpr int64_t kLeaving = -1;

Announcement announce(const Collective& collective);

// The first rank that leaves; -1 where none does.
int32_t first_leaving(const std::vector<Announcement>& ranks);

// Whether the calls of all ranks, none of which leaves, are one collective. Every rank comes to the same answer.
Status check_agreement(const std::vector<Announcement>& ranks);

}  // namespace marginfc::group
