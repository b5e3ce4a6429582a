// cp.async.bulk and its tensor form (ISA 9.7.9.25.4 and .5), tensormap.replace and its copy (9.7.9.26). A load lands, and
// a store reads its source, when the scheduler chooses: at a random moment with GPUSIM_SEED, else when nothing else runs.
#include <algorithm>

#include "memory/access.h"
#include "memory/tensor_map.h"
#include "ops/async.h"
#include "ops/lanes.h"

namespace gpusim {

struct BulkState::Store {
  int lane = 0;
  bool committed = false;
  uint32_t group = 0;
  bool read = false;  // the source has been read, and the bytes are written
};
BulkState::~BulkState() = default;

namespace {

uint32_t to_shared(uint64_t address) {
  return static_cast<uint32_t>(address - kSharedWindow < kWindowSize ? address - kSharedWindow : address);
}

/// Consecutive bytes of shared memory with their global counterpart; a zero address stands for fill.
struct Piece {
  uint32_t shared;
  uint32_t bytes;
  uint64_t global;
};

struct Load : Pending {
  Warp* warp;
  const Instruction* instruction;
  int lane;
  uint32_t barrier;
  uint32_t bytes = 0;
  std::vector<Piece> pieces;
  std::vector<uint8_t> snapshot;  // of the source, when the copy was issued
  void complete(Block& block) override {
    MBarrier& object = block.mbarrier(*warp, *instruction, lane, barrier);
    const Stamp stamp = make_stamp(object.agent, ++object.completions);
    size_t at = 0;
    for (const Piece& piece : pieces) {
      std::vector<uint8_t> value(piece.bytes, 0);
      if (piece.global != 0) {
        const Allocation* allocation = GlobalMemory::get().find(piece.global);
        const uint8_t* from = allocation == nullptr ? nullptr : allocation->data + (piece.global - allocation->base);
        if (from == nullptr || std::memcmp(from, &snapshot[at], piece.bytes) != 0)
          warp->fail_at(*instruction, lane, FaultCode::launch_failed, piece.global,
                        "is the source of an asynchronous copy and was changed before the copy completed");
        value.assign(from, from + piece.bytes);
        at += piece.bytes;
      }
      block.shared.land(piece.shared, piece.bytes, value.data(), stamp);
    }
    object.collecting.seen[static_cast<size_t>(object.agent)] = object.completions;
    object.transactions -= bytes;
    block.arrive(&object, 0);
  }
};

struct StoreLater : Pending {
  Warp* warp;
  const Instruction* instruction;
  std::vector<Piece> pieces;
  std::shared_ptr<BulkState::Store> store;
  void complete(Block& block) override {
    for (const Piece& piece : pieces) {
      block.shared.hold(piece.shared, piece.bytes, -1);
      if (piece.global == 0) continue;  // outside the tensor
      for (uint32_t done = 0; done < piece.bytes;) {
        uint32_t bytes = 16;
        while (bytes > piece.bytes - done || (piece.global + done) % bytes != 0) bytes /= 2;
        store_global(*warp, *instruction, store->lane, piece.global + done, bytes,
                     block.shared.data() + piece.shared + done, false);
        done += bytes;
      }
    }
    store->read = true;
  }
};

BulkState& state(Warp& w) {
  if (!w.bulk) w.bulk = std::make_unique<BulkState>();
  return *w.bulk;
}

void issue_load(Warp& w, const Instruction& in, int lane, std::vector<Piece> pieces, uint32_t barrier) {
  auto load = std::make_unique<Load>();
  load->warp = &w;
  load->instruction = &in;
  load->lane = lane;
  load->barrier = barrier;
  w.block->mbarrier(w, in, lane, barrier);
  for (const Piece& piece : pieces) {
    const SharedProblem problem = w.block->shared.launch_write(piece.shared, piece.bytes, accessor(w));
    if (problem != SharedProblem::none) fail_shared(w, in, lane, piece.shared, problem);
    load->bytes += piece.bytes;
    if (piece.global == 0) continue;
    for (uint32_t done = 0; done < piece.bytes;) {
      uint32_t bytes = 16;
      while (bytes > piece.bytes - done || (piece.global + done) % bytes != 0) bytes /= 2;
      const uint8_t* from = global_bytes(w, in, lane, piece.global + done, bytes, {false, false, nullptr});
      load->snapshot.insert(load->snapshot.end(), from, from + bytes);
      done += bytes;
    }
  }
  w.block->accesses.bulk_bytes += load->bytes;
  load->pieces = std::move(pieces);
  w.block->pending.push_back(std::move(load));
}

void issue_store(Warp& w, const Instruction& in, int lane, std::vector<Piece> pieces) {
  auto later = std::make_unique<StoreLater>();
  later->warp = &w;
  later->instruction = &in;
  later->store = std::make_shared<BulkState::Store>();
  later->store->lane = lane;
  for (const Piece& piece : pieces) {
    // The source must be written and ordered before the copy; afterwards nobody may write it.
    const SharedProblem problem = w.block->shared.read(piece.shared, piece.bytes, accessor(w));
    if (problem != SharedProblem::none) fail_shared(w, in, lane, piece.shared, problem);
    w.block->shared.hold(piece.shared, piece.bytes, 1);
    w.block->accesses.bulk_bytes += piece.bytes;
  }
  later->pieces = std::move(pieces);
  state(w).stores.push_back(later->store);
  w.block->pending.push_back(std::move(later));
}

const uint8_t* map_bytes(Warp& w, const Instruction& in, int lane, uint64_t address) {
  const auto& params = w.block->launch.params;
  if (address - kParamWindow < kWindowSize) {
    const uint64_t offset = address - kParamWindow;
    if (offset + 128 > params.size() || offset % 64 != 0)
      w.fail_at(in, lane, FaultCode::illegal_address, address, "is no tensor map among the parameters");
    return params.data() + offset;
  }
  require_aligned(w, in, lane, address, 64);
  const uint8_t* first = nullptr;
  for (uint32_t i = 0; i < 128; i += 16) {
    const uint8_t* at = global_bytes(w, in, lane, address + i, 16, {false, true, nullptr});
    if (i == 0) first = at;
  }
  return first;
}

/// The rows of a box: for each combination of the outer coordinates, `box[0]` elements of the innermost dimension.
std::vector<Piece> tensor_pieces(Warp& w, const Instruction& in, int lane, const TensorMap& map, const int32_t* at,
                                 uint32_t shared) {
  const uint32_t rank = map.rank_less_1 + 1;
  const uint32_t element = tensor_element_bytes(map.element_type);
  const auto bad = [&](const char* what) {
    w.fail(in, lane, FaultCode::illegal_instruction, std::string("tensor map: ") + what);
  };
  if (rank != in.more->c[0]) bad("its rank is not the instruction's");
  if (element == 0) bad("unknown element type");
  if (map.interleave != 0) bad("interleaved layouts are not implemented");
  if (map.fill != 0) bad("NaN fill is not implemented");
  const auto swizzle = static_cast<Swizzle>(map.swizzle);
  if (map.swizzle > 3) bad("unknown swizzle");
  for (uint32_t d = 0; d < rank; d++) {
    if (map.element_strides[d] != 1) bad("element strides other than 1 are not implemented");
    if (map.box[d] == 0 || map.box[d] > 256) bad("a box extent outside 1 to 256");
  }
  if (map.address % 16 != 0) bad("its address is not a multiple of 16");
  const uint32_t row_bytes = map.box[0] * element;
  if (row_bytes % 16 != 0) bad("a row of the box is no multiple of 16 bytes");
  const uint32_t span[] = {~0u, 32, 64, 128};
  if (row_bytes > span[map.swizzle]) bad("a row of the box is longer than the swizzle");
  // ISA 5.5.6: the pattern is by address, so the start must be aligned; 128 bytes always (9.7.9.25.5.2).
  if (shared % 128 != 0)
    w.fail_at(in, lane, FaultCode::misaligned_address, shared, "in shared memory is not aligned to 128 bytes");
  uint32_t rows = 1;
  for (uint32_t d = 1; d < rank; d++) rows *= map.box[d];
  std::vector<Piece> pieces;
  for (uint32_t row = 0; row < rows; row++) {
    uint64_t address = map.address;
    bool inside = true;
    for (uint32_t d = 1, rest = row; d < rank; rest /= map.box[d], d++) {
      const int64_t coordinate = int64_t{at[d]} + rest % map.box[d];
      inside &= coordinate >= 0 && coordinate < map.dims[d];
      if (map.strides[d - 1] % 16 != 0) bad("a stride is no multiple of 16 bytes");
      address += static_cast<uint64_t>(coordinate) * map.strides[d - 1];
    }
    for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16) {
      const uint32_t to = swizzle_address(shared + row * row_bytes + chunk, swizzle);
      for (uint32_t e = 0; e < 16;) {
        // Runs of elements that are all inside the tensor or all outside.
        const int64_t first = int64_t{at[0]} + (chunk + e) / element;
        const bool in_row = inside && first >= 0 && first < map.dims[0];
        uint32_t end = e + element;
        while (end < 16) {
          const int64_t next = int64_t{at[0]} + (chunk + end) / element;
          if ((inside && next >= 0 && next < map.dims[0]) != in_row) break;
          end += element;
        }
        pieces.push_back({to + e, end - e, in_row ? address + static_cast<uint64_t>(first) * element : 0});
        e = end;
      }
    }
  }
  return pieces;
}

// list.c: rank, number of bytes operands; list.a: coordinates; list.b: the address of the mbarrier. in.b, imm: the global
// side.
uint64_t other_address(const Warp& w, const Instruction& in, int lane) {
  const auto& flags = in.more->c;
  const uint64_t base = flags[1] != 0 ? w.in<uint64_t>(in.b)[lane] : w.in<uint32_t>(in.b)[lane];
  return base + static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(in.imm)));
}

uint32_t barrier_address(const Warp& w, const Instruction& in, int lane) {
  const uint64_t base = in.more->c[2] != 0 ? w.in<uint64_t>(in.more->b[0])[lane] : w.in<uint32_t>(in.more->b[0])[lane];
  return to_shared(base + in.more->c[3]);
}

template <bool load>
Flow bulk(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint64_t first = w.address(in, l), second = other_address(w, in, l);
    const uint32_t bytes = w.in<uint32_t>(in.c)[l];
    const uint32_t shared = to_shared(load ? first : second);
    const uint64_t global = load ? second : first;
    require_aligned(w, in, l, shared, 16);
    require_aligned(w, in, l, global, 16);
    if (bytes % 16 != 0) w.fail(in, l, FaultCode::misaligned_address, "a size that is no multiple of 16 bytes");
    std::vector<Piece> pieces = {{shared, bytes, global}};
    if (load)
      issue_load(w, in, l, std::move(pieces), barrier_address(w, in, l));
    else
      issue_store(w, in, l, std::move(pieces));
  });
  return Flow::next;
}

template <bool load>
Flow bulk_tensor(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint64_t first = w.address(in, l), second = other_address(w, in, l);
    const uint64_t map_address = load ? second : first;
    TensorMap map;
    std::memcpy(&map, map_bytes(w, in, l, map_address), sizeof map);
    int32_t at[5] = {};
    for (size_t d = 0; d < in.more->a.size(); d++) at[d] = w.in<int32_t>(in.more->a[d])[l];
    std::vector<Piece> pieces = tensor_pieces(w, in, l, map, at, to_shared(load ? first : second));
    if (load)
      issue_load(w, in, l, std::move(pieces), barrier_address(w, in, l));
    else
      issue_store(w, in, l, std::move(pieces));
  });
  return Flow::next;
}

Flow bulk_commit(Warp& w, const Instruction&, uint32_t mask) {
  BulkState& of = state(w);
  for (auto& store : of.stores)
    if (!store->committed && (mask >> store->lane & 1) != 0) {
      store->committed = true;
      store->group = of.groups[store->lane];
    }
  for_lanes(mask, [&](int l) { of.groups[l]++; });
  return Flow::next;
}

/// .read waits until sources are read; without it also for the writes, which here happen together.
Flow bulk_wait(Warp& w, const Instruction& in, uint32_t mask) {
  BulkState& of = state(w);
  const auto awaited = [&](const BulkState::Store& store) {
    return store.committed && (mask >> store.lane & 1) != 0 && of.groups[store.lane] - store.group > in.imm;
  };
  const bool waits = std::any_of(of.stores.begin(), of.stores.end(),
                                 [&](const auto& s) { return awaited(*s) && !s->read; });
  // Those that nobody waits for stay, so that an exit without wait is found out whenever they happen to complete.
  if (!waits)
    of.stores.erase(std::remove_if(of.stores.begin(), of.stores.end(), [&](const auto& s) { return awaited(*s); }),
                    of.stores.end());
  if (!waits) return Flow::next;
  Group& group = w.group();
  group.state = Group::State::polling;
  group.event = w.block->events;
  return Flow::wait;
}

Flow nothing(Warp&, const Instruction&, uint32_t) { return Flow::next; }

void other_operand(Binding& b, const Operand& operand, bool* wide) {
  int64_t offset = 0;
  b.in.b = b.address_base(operand, &offset, wide);
  if (offset != static_cast<int32_t>(offset)) b.unsupported("displacement");
  b.in.imm = static_cast<uint32_t>(static_cast<int32_t>(offset));
}

}  // namespace

void bind_bulk_copy(Binding& b) {
  Instruction& in = b.in;
  if (b.take("commit_group")) {
    in.run = bulk_commit;
    return;
  }
  if (b.take("wait_group")) {
    b.take("read");
    b.require_operands(1);
    in.imm = static_cast<uint32_t>(b.constant(size_t{0}));
    in.run = bulk_wait;
    return;
  }
  const bool tensor = b.take("tensor");
  const int rank = tensor ? b.take_one({"1d", "2d", "3d", "4d", "5d"}) + 1 : 0;
  if (tensor && rank == 0) b.malformed("rank");
  if (b.take("prefetch")) {
    b.take("L2");
    b.take_one({"global", "tile"});
    in.run = nothing;
    return;
  }
  b.take("tile");
  const bool to_shared_memory = !b.statement.parts.empty() && b.take("mbarrier::complete_tx::bytes");
  if (!to_shared_memory && !b.take("bulk_group")) b.unsupported("completion mechanism");
  if (b.take_one({"shared::cluster", "shared::cta"}) < 0 || !b.take("global")) b.unsupported("state spaces");
  const bool hinted = b.take("L2::cache_hint");
  if (b.take("multicast::cluster")) b.unsupported("multicast: clusters have one block");
  b.require_operands((tensor ? (to_shared_memory ? 3u : 2u) : (to_shared_memory ? 4u : 3u)) + hinted);
  bool wide = true, barrier_wide = true;
  int64_t barrier_offset = 0;
  const Operand& map = b.operand(to_shared_memory ? 1 : 0);
  b.address(b.operand(0));
  other_operand(b, b.operand(1), &wide);
  OperandList& list = b.list();
  if (tensor) {
    if (map.items.size() != static_cast<size_t>(rank)) b.malformed("number of coordinates");
    for (const Operand& item : map.items) list.a.push_back(b.source(item, kB32));
  } else {
    in.c = b.source(2, kB32);
  }
  if (to_shared_memory) list.b.push_back(b.address_base(b.operand(tensor ? 2 : 3), &barrier_offset, &barrier_wide));
  if (barrier_offset < 0 || barrier_offset >= (1 << 28)) b.unsupported("displacement");
  list.c = {static_cast<uint32_t>(rank), wide, barrier_wide, static_cast<uint32_t>(barrier_offset)};
  if (tensor)
    in.run = to_shared_memory ? bulk_tensor<true> : bulk_tensor<false>;
  else
    in.run = to_shared_memory ? bulk<true> : bulk<false>;
}

void finish_block(Block& block) {
  for (const auto& warp : block.warps)
    if (warp->bulk)
      for (const auto& store : warp->bulk->stores)
        warp->fail(block.launch.program->code.back(), store->lane, FaultCode::launch_failed,
                   "the block exits while a bulk copy may still read its shared memory: a missing wait_group");
}

namespace {

// ---- tensor maps in memory

enum class Field : uint8_t { address, rank, box, dims, strides, element_strides, type, interleave, swizzle, fill };

void replace_field(TensorMap* map, Field field, uint32_t ordinal, uint64_t value) {
  const auto small = static_cast<uint8_t>(value);
  switch (field) {
    case Field::address: map->address = value; break;
    case Field::rank: map->rank_less_1 = small & 7; break;
    case Field::box: map->box[ordinal] = static_cast<uint32_t>(value); break;
    case Field::dims: map->dims[ordinal] = static_cast<uint32_t>(value); break;
    case Field::strides: map->strides[ordinal] = value; break;
    case Field::element_strides: map->element_strides[ordinal] = small; break;
    case Field::type: map->element_type = small; break;
    case Field::interleave: map->interleave = small; break;
    case Field::swizzle: map->swizzle = small; break;
    case Field::fill: map->fill = small; break;
  }
}

// imm: field, ordinal << 8, wide value << 16, global << 17
Flow tensormap_replace(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(mask, [&](int l) {
    const uint64_t value = (in.imm >> 16 & 1) != 0 ? w.in<uint64_t>(in.b)[l] : w.in<uint32_t>(in.b)[l];
    const uint64_t address = w.address(in, l);
    const bool global = (in.imm >> 17 & 1) != 0;
    require_aligned(w, in, l, address, 128);
    TensorMap map;
    uint8_t bytes[128];
    if (global) {
      std::memcpy(bytes, map_bytes(w, in, l, address), 128);
    } else {
      for (uint32_t i = 0; i < 128; i += 16)
        std::memcpy(bytes + i, load_shared(w, in, l, to_shared(address) + i, 16), 16);
    }
    std::memcpy(&map, bytes, 128);
    replace_field(&map, static_cast<Field>(in.imm & 0xff), in.imm >> 8 & 7, value);
    std::memcpy(bytes, &map, 128);
    for (uint32_t i = 0; i < 128; i += 16) {
      if (global)
        store_global(w, in, l, address + i, 16, bytes + i, true);
      else
        store_shared(w, in, l, to_shared(address) + i, 16, bytes + i);
    }
  });
  return Flow::next;
}

// ISA 9.7.9.26.3: the warp copies 128 bytes together.
Flow tensormap_copy(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  const int lane = first_lane(mask);
  const uint64_t to = w.address(in, lane);
  const uint32_t from = to_shared(other_address(w, in, lane));
  require_aligned(w, in, lane, to, 128);
  require_aligned(w, in, lane, from, 128);
  for (uint32_t i = 0; i < 128; i += 16) {
    uint8_t bytes[16];
    std::memcpy(bytes, load_shared(w, in, lane, from + i, 16), 16);
    store_global(w, in, lane, to + i, 16, bytes, true);
  }
  return Flow::next;
}

void bind_tensormap(Binding& b) {
  Instruction& in = b.in;
  in.kind = Class::other;
  if (b.take("replace")) {
    if (!b.take("tile")) b.unsupported("mode");
    const int field = b.take_one({"global_address", "rank", "box_dim", "global_dim", "global_stride", "element_stride",
                                  "elemtype", "interleave_layout", "swizzle_mode", "fill_mode"});
    const bool global = b.take_one({"shared::cta", "global"}) == 1;
    b.take("b1024");
    const Type type = b.take_type();
    if (field < 0) b.unsupported("field");
    const bool has_ordinal = field >= 2 && field <= 5;
    b.require_operands(has_ordinal ? 3 : 2);
    const uint64_t ordinal = has_ordinal ? b.constant(1) : 0;
    if (ordinal > 4 || (field == 4 && ordinal > 3)) b.malformed("ordinal");
    b.address(b.operand(0));
    in.b = b.source(has_ordinal ? 2 : 1, type);
    in.imm = static_cast<uint32_t>(field) | static_cast<uint32_t>(ordinal) << 8 |
             static_cast<uint32_t>(type.bits == 64) << 16 | static_cast<uint32_t>(global) << 17;
    in.run = tensormap_replace;
    return;
  }
  if (!b.take("cp_fenceproxy")) b.unsupported("operation");
  if (!b.take("global") || !b.take("shared::cta") || !b.take("tensormap::generic") || !b.take("release") ||
      !b.take("sync") || !b.take("aligned"))
    b.unsupported("modifiers");
  b.take_one({"cta", "cluster", "gpu", "sys"});
  b.require_operands(3);
  if (b.constant(2) != 128) b.malformed("size");
  bool wide = true;
  b.address(b.operand(0));
  other_operand(b, b.operand(1), &wide);
  b.list().c = {0, wide};
  in.run = tensormap_copy;
}

}  // namespace

void add_bulk_ops(OpTable* table) {
  (*table)["tensormap"] = bind_tensormap;
  (*table)["tensormap/i"] = bind_tensormap;
}

}  // namespace gpusim
