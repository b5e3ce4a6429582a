// cp.async (ISA 9.7.9.25.3), as late as it may be: bytes arrive when the thread waits for their group, the source is read
// then, and until then nobody may touch the destination or change the source.
#include <algorithm>

#include "memory/access.h"
#include "ops/async.h"
#include "ops/lanes.h"

namespace gpusim {
namespace {

uint64_t shared_address(uint64_t address) {
  return address - kSharedWindow < kWindowSize ? address - kSharedWindow : address;
}

/// The second address is in b, its displacement in imm as a signed number of bytes.
uint64_t source_address(const Warp& w, const Instruction& in, int lane) {
  const auto& wide = in.more->c;
  const uint64_t base = wide[0] != 0 ? w.in<uint64_t>(in.b)[lane] : w.in<uint32_t>(in.b)[lane];
  return base + static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(in.imm)));
}

Flow cp_async(Warp& w, const Instruction& in, uint32_t mask) {
  std::unique_ptr<AsyncCopy> copy;
  if (w.free_copies.empty()) {
    copy = std::make_unique<AsyncCopy>();
  } else {
    copy = std::move(w.free_copies.back());
    w.free_copies.pop_back();
  }
  const auto& list = in.more->c;  // is the source address wide, size, has a source size, ignores
  const uint32_t size = list[1];
  copy->mask = mask;
  copy->bytes = static_cast<uint8_t>(size);
  copy->committed = 0;
  copy->serial = ++w.copy_serial;
  copy->instruction = &in;
  const uint32_t ignore = list[3] != 0 ? w.predicates[in.p] : 0;
  uint64_t addresses[kLanes] = {};
  uint32_t reading = 0;
  for_lanes(mask, [&](int l) {
    const uint64_t to = shared_address(w.address(in, l));
    require_aligned(w, in, l, to, size);
    SharedMemory& shared = w.block->shared;
    const SharedProblem problem = to > shared.size()
                                      ? SharedProblem::bounds
                                      : shared.launch_write(static_cast<uint32_t>(to), size, accessor(w));
    if (problem != SharedProblem::none) fail_shared(w, in, l, to, problem);
    copy->destination[l] = static_cast<uint32_t>(to);
    uint32_t bytes = list[2] != 0 ? w.in<uint32_t>(in.c)[l] : size;
    if ((ignore >> l & 1) != 0) bytes = 0;
    if (bytes > size) w.fail(in, l, FaultCode::illegal_instruction, "reads more bytes than it writes");
    copy->source_bytes[l] = static_cast<uint8_t>(bytes);
    addresses[l] = source_address(w, in, l);
    std::memset(copy->value[l], 0, sizeof copy->value[l]);
    if (bytes == 0) return;
    require_aligned(w, in, l, addresses[l], size);
    // Odd sizes are read in pieces that are aligned to themselves.
    copy->source[l] = nullptr;
    for (uint32_t done = 0; done < bytes;) {
      uint32_t piece = size;
      while (piece > bytes - done) piece /= 2;
      const uint8_t* from = global_bytes(w, in, l, addresses[l] + done, piece, {false, false, nullptr});
      if (done == 0) copy->source[l] = from;
      std::memcpy(copy->value[l] + done, from, piece);
      done += piece;
    }
    reading |= 1u << l;
  });
  AccessCounters& counters = w.block->accesses;
  const uint64_t before = counters.load_sectors;
  if (reading != 0) count_global(w, reading, addresses, size, false);
  counters.async_sectors += counters.load_sectors - before;
  count_shared(w, mask, copy->destination, size);
  w.copies.push_back(std::move(copy));
  return Flow::next;
}

Flow commit(Warp& w, const Instruction&, uint32_t mask) {
  for (auto& copy : w.copies) {
    const uint32_t lanes = copy->mask & mask & ~copy->committed;
    if (lanes == 0) continue;
    each_lane(lanes, [&](int l) { copy->group[l] = w.copy_groups[l]; });
    copy->committed |= lanes;
  }
  for_lanes(mask, [&](int l) { w.copy_groups[l]++; });
  return Flow::next;
}

void land(Warp& w, AsyncCopy& copy, uint32_t lanes, Stamp stamp) {
  uint8_t zeros[16] = {};
  for_lanes(lanes, [&](int l) {
    const uint32_t bytes = copy.source_bytes[l];
    if (bytes != 0 && std::memcmp(copy.source[l], copy.value[l], bytes) != 0)
      w.fail_at(*copy.instruction, l, FaultCode::launch_failed, copy.destination[l],
                "in shared memory gets a source that was changed before the copy was waited for");
    w.block->shared.land(copy.destination[l], copy.bytes, bytes != 0 ? copy.value[l] : zeros, stamp);
  });
  copy.mask &= ~lanes;
}

void drop_finished(Warp& w) {
  size_t kept = 0;
  for (auto& copy : w.copies) {
    if (copy->mask == 0)
      w.free_copies.push_back(std::move(copy));
    else
      w.copies[kept++] = std::move(copy);
  }
  w.copies.resize(kept);
}

/// Waits until at most `pending` of each lane's groups are left; uncommitted copies too if `all`.
void wait_copies(Warp& w, uint32_t mask, uint32_t pending, bool all) {
  for (auto& copy : w.copies) {
    uint32_t lanes = 0;
    for_lanes(copy->mask & mask & (all ? kAllLanes : copy->committed), [&](int l) {
      const bool committed = (copy->committed >> l & 1) != 0;
      if (!committed || w.copy_groups[l] - copy->group[l] > pending) lanes |= 1u << l;
    });
    if (lanes != 0) land(w, *copy, lanes, w.stamp());
  }
  drop_finished(w);
}

Flow wait_group(Warp& w, const Instruction& in, uint32_t mask) {
  wait_copies(w, mask, in.imm, false);
  return Flow::next;
}

Flow wait_all(Warp& w, const Instruction&, uint32_t mask) {
  wait_copies(w, mask, 0, true);
  return Flow::next;
}

/// cp.async.mbarrier.arrive: the arrival comes when the thread's copies so far are complete.
struct ArriveLater : Pending {
  Warp* warp;
  uint32_t mask, address[kLanes];
  std::vector<uint64_t> copies;  // their serial numbers
  std::vector<uint32_t> lanes;
  const Instruction* instruction;
  void complete(Block& block) override {
    for_lanes(mask, [&](int l) {
      MBarrier& barrier = block.mbarrier(*warp, *instruction, l, address[l]);
      const Stamp stamp = make_stamp(barrier.agent, ++barrier.completions);
      for (auto& copy : warp->copies)
        for (size_t i = 0; i < copies.size(); i++)
          if (copy->serial == copies[i] && ((lanes[i] & copy->mask) >> l & 1) != 0) land(*warp, *copy, 1u << l, stamp);
      barrier.collecting.seen[static_cast<size_t>(barrier.agent)] = barrier.completions;
      block.arrive(&barrier, 1);
    });
    drop_finished(*warp);
  }
};

Flow arrive_later(Warp& w, const Instruction& in, uint32_t mask) {
  auto later = std::make_unique<ArriveLater>();
  later->warp = &w;
  later->mask = mask;
  later->instruction = &in;
  for_lanes(mask, [&](int l) {
    later->address[l] = static_cast<uint32_t>(shared_address(w.address(in, l)));
    MBarrier& barrier = w.block->mbarrier(w, in, l, later->address[l]);
    if (in.imm == 0) barrier.pending++;  // without .noinc it brings its own arrival
  });
  for (auto& copy : w.copies) {
    later->copies.push_back(copy->serial);
    later->lanes.push_back(copy->mask & mask);
  }
  w.block->pending.push_back(std::move(later));
  return Flow::next;
}

void bind_cp_async(Binding& b) {
  Instruction& in = b.in;
  in.kind = Class::copy_async;
  if (!b.take("async")) b.unsupported("cp without .async");
  if (b.take("bulk")) return bind_bulk_copy(b);
  if (b.take("commit_group")) {
    b.require_operands(0);
    in.run = commit;
    return;
  }
  if (b.take("wait_group")) {
    b.require_operands(1);
    in.imm = static_cast<uint32_t>(b.constant(size_t{0}));
    in.run = wait_group;
    return;
  }
  if (b.take("wait_all")) {
    b.require_operands(0);
    in.run = wait_all;
    return;
  }
  if (b.take("mbarrier")) {
    if (!b.take("arrive")) b.malformed("needs .arrive");
    in.imm = b.take("noinc");
    b.take_one({"shared", "shared::cta"});
    b.take_type();
    b.require_operands(1);
    b.address(b.operand(0));
    in.run = arrive_later;
    return;
  }
  const int cache = b.take_one({"ca", "cg"});
  if (b.take_one({"shared", "shared::cta"}) < 0 || !b.take("global") || cache < 0) b.malformed("state spaces");
  b.take_one({"L2::64B", "L2::128B", "L2::256B"});
  const bool hinted = b.take("L2::cache_hint");
  const size_t count = b.operands() - hinted;
  if (count != 3 && count != 4) b.malformed("number of operands");
  const uint64_t size = b.constant(2);
  // ISA 9.7.9.25.3.1: .cg copies 16 bytes only.
  if (!(size == 16 || (cache == 0 && (size == 4 || size == 8)))) b.malformed("size");
  int64_t offset = 0;
  bool wide = false;
  b.address(b.operand(0));
  in.b = b.address_base(b.operand(1), &offset, &wide);
  if (offset != static_cast<int32_t>(offset)) b.unsupported("displacement");
  in.imm = static_cast<uint32_t>(static_cast<int32_t>(offset));
  bool has_size = false, ignores = false;
  if (count == 4) {
    const Operand& last = b.operand(3);
    has_size = last.kind == Operand::Kind::immediate || b.register_bits(last) != 0;
    ignores = !has_size;
    if (has_size)
      in.c = b.source(last, kB32);
    else
      in.p = b.predicate(last);
    if (last.negated) b.unsupported("a negated predicate");
  }
  b.list().c = {wide, static_cast<uint32_t>(size), has_size, ignores};
  in.run = cp_async;
}

}  // namespace

void add_copy_ops(OpTable* table) {
  (*table)["cp"] = bind_cp_async;
  (*table)["cp/i"] = bind_cp_async;
}

}  // namespace gpusim
