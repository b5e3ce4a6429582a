#include "group/collective.h"

#include <string>

namespace marginfc::group {
namespace {

const char* name_of(Element element) {
  switch (element) {
    case Element::float32: return "Float32Array";
    case Element::float64: return "Float64Array";
    case Element::int32: return "Int32Array";
    case Element::uint8: break;
  }
  return "Uint8Array";
}

std::string on_rank(size_t rank) { return " on rank " + std::to_string(rank); }

Status differ(Code code, const std::string& what, const std::string& first, const std::string& other, size_t rank) {
  return Status::failure(
      code, what + " must be the same on every rank, received " + first + on_rank(0) + " and " + other + on_rank(rank));
}

}  // namespace

const char* name_of(Round::Kind kind) {
  switch (kind) {
    case Round::Kind::all_gather: return "allGather";
    case Round::Kind::all_reduce: return "allReduce";
    case Round::Kind::reduce_scatter: return "reduceScatter";
    case Round::Kind::broadcast: return "broadcast";
    case Round::Kind::barrier: break;
  }
  return "barrier";
}

Announcement announce(const Collective& collective) {
  return {static_cast<int64_t>(collective.kind),
          static_cast<int64_t>(collective.element),
          static_cast<int64_t>(collective.reduction),
          collective.root,
          collective.input_length,
          collective.output_length};
}

int32_t first_leaving(const std::vector<Announcement>& ranks) {
  for (size_t rank = 0; rank < ranks.size(); rank++)
    if (ranks[rank].kind == kLeaving) return static_cast<int32_t>(rank);
  return -1;
}

Status check_agreement(const std::vector<Announcement>& ranks) {
  const Announcement& first = ranks.front();
  const auto kind = static_cast<Round::Kind>(first.kind);
  const std::string name = name_of(kind);
  for (size_t rank = 0; rank < ranks.size(); rank++) {
    const Announcement& own = ranks[rank];
    if (own.kind != first.kind)
      return differ(Code::group, "the function called on a group", name, name_of(static_cast<Round::Kind>(own.kind)),
                    rank);
    if (own.element != first.element)
      return differ(Code::type, "the type of " + name + "'s arrays", name_of(static_cast<Element>(first.element)),
                    name_of(static_cast<Element>(own.element)), rank);
    if (own.reduction != first.reduction)
      return differ(Code::group, "operation of " + name, first.reduction == 0 ? "'sum'" : "'max'",
                    own.reduction == 0 ? "'sum'" : "'max'", rank);
    if (own.root != first.root)
      return differ(Code::group, "root of " + name, std::to_string(first.root), std::to_string(own.root), rank);
  }
  const bool gathers = kind == Round::Kind::all_gather, scatters = kind == Round::Kind::reduce_scatter;
  int64_t sum = 0;
  for (const Announcement& own : ranks) sum += gathers ? own.input_length : own.output_length;
  for (size_t rank = 0; rank < ranks.size(); rank++) {
    const Announcement& own = ranks[rank];
    if (!gathers && !scatters && own.output_length != first.output_length)
      return differ(Code::shape, "values.length of " + name, std::to_string(first.output_length),
                    std::to_string(own.output_length), rank);
    const int64_t whole = gathers ? own.output_length : own.input_length;
    if ((gathers || scatters) && whole != sum)
      return Status::failure(Code::shape, "whole.length of " + name + " must be " + std::to_string(sum) +
                                              " (the parts of all ranks), received " + std::to_string(whole) +
                                              on_rank(rank));
  }
  return {};
}

}  // namespace marginfc::group
