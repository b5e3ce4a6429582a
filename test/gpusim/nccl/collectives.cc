#include "nccl/collectives.h"

#include <algorithm>
#include <cstring>

namespace gpusim::nccl {
namespace {

using Kind = Request::Kind;

template <class T>
void add_piece(Operation operation, T* to, const T* from, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    if (operation == Operation::max)
      to[i] = std::max(to[i], from[i]);
    else
      to[i] = static_cast<T>(to[i] + from[i]);
  }
}

void reduce_pieces(const Clique& clique, const Request& request, uint8_t* to, uint64_t count) {
  std::memcpy(to, clique.piece(0), count * byte_size(request.type));
  for (int rank = 1; rank < clique.size(); rank++) {
    const uint8_t* piece = clique.piece(rank);
    const auto add = [&](auto zero) {
      using T = decltype(zero);
      add_piece(request.operation, reinterpret_cast<T*>(to), reinterpret_cast<const T*>(piece), count);
    };
    switch (request.type) {
      case Type::float32: add(0.0f); break;
      case Type::float64: add(0.0); break;
      case Type::int32: add(int32_t{0}); break;
      default: add(uint8_t{0}); break;
    }
  }
}

}  // namespace

size_t byte_size(Type type) {
  switch (type) {
    case Type::float64: return 8;
    case Type::float32:
    case Type::int32: return 4;
    case Type::uint8: return 1;
    default: return 0;
  }
}

uint64_t sent_elements(const Request& request, int rank, int ranks) {
  switch (request.kind) {
    case Kind::leave: return 0;
    case Kind::broadcast: return rank == request.root ? request.count : 0;
    case Kind::reduce_scatter: return request.count * static_cast<uint64_t>(ranks);
    default: return request.count;
  }
}

uint64_t received_elements(const Request& request, int rank, int ranks) {
  switch (request.kind) {
    case Kind::leave: return 0;
    case Kind::reduce: return rank == request.root ? request.count : 0;
    case Kind::all_gather: return request.count * static_cast<uint64_t>(ranks);
    default: return request.count;
  }
}

Result run(Clique& clique, const Request& request, const void* send, void* receive) {
  const size_t element = byte_size(request.type);
  const auto* from = static_cast<const uint8_t*>(send);
  auto* to = static_cast<uint8_t*>(receive);
  const int rank = clique.rank(), size = clique.size();
  const uint64_t most = kPieceBytes / element;
  const int targets = request.kind == Kind::reduce_scatter ? size : 1;
  for (int target = 0; target < targets; target++) {
    for (uint64_t at = 0; at < request.count; at += most) {
      const uint64_t count = std::min(most, request.count - at);
      const bool gives = request.kind != Kind::broadcast || rank == request.root;
      const uint8_t* piece = from + (static_cast<uint64_t>(target) * request.count + at) * element;
      const Result result = clique.step(request, piece, gives ? count * element : 0, [&] {
        switch (request.kind) {
          case Kind::all_gather:
            for (int other = 0; other < size; other++)
              std::memcpy(to + (static_cast<uint64_t>(other) * request.count + at) * element, clique.piece(other),
                          count * element);
            break;
          case Kind::broadcast: std::memcpy(to + at * element, clique.piece(request.root), count * element); break;
          case Kind::reduce_scatter:
            if (target == rank) reduce_pieces(clique, request, to + at * element, count);
            break;
          case Kind::reduce:
            if (rank == request.root) reduce_pieces(clique, request, to + at * element, count);
            break;
          default: reduce_pieces(clique, request, to + at * element, count); break;
        }
      });
      if (result != success) return result;
    }
  }
  return success;
}

}  // namespace gpusim::nccl
