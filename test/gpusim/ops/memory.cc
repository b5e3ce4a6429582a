// ld and st in all state spaces (ISA 9.7.9.8 to 9.7.9.13).
#include "memory/access.h"
#include "ops/lanes.h"

namespace gpusim {
namespace {

constexpr uint32_t kStrong = 1u << 16;  // in imm: .volatile, .relaxed, .acquire, .release
constexpr uint32_t kAcquire = 1u << 17;
constexpr uint32_t kRelease = 1u << 18;
constexpr uint32_t kSignExtend = 1u << 19;
constexpr uint32_t kWideRegisters = 1u << 20;  // the registers have 64 bits

uint32_t elements(const Instruction& in) { return in.imm & 0xff; }
uint32_t element_bytes(const Instruction& in) { return in.imm >> 8 & 0xff; }

const uint8_t* load_local(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  const uint32_t size = w.block->launch.program->local_bytes;
  if (address > size || bytes > size - address)
    w.fail_at(in, lane, FaultCode::illegal_address, address,
              "is outside the thread's " + std::to_string(size) + " bytes of local memory");
  require_aligned(w, in, lane, address, bytes);
  const uint8_t* memory = w.block->local_memory(w);
  const uint64_t offset = static_cast<uint64_t>(lane) * size + address;
  if (w.block->launch.options->checks) {
    const uint8_t* written = w.block->local_written[static_cast<size_t>(w.index)].data() + offset;
    for (uint32_t i = 0; i < bytes; i++)
      if (written[i] == 0)
        w.fail_at(in, lane, FaultCode::launch_failed, address, "in local memory is read, but nobody wrote it");
  }
  return memory + offset;
}

void store_local(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes, const void* value) {
  const uint32_t size = w.block->launch.program->local_bytes;
  if (address > size || bytes > size - address)
    w.fail_at(in, lane, FaultCode::illegal_address, address,
              "is outside the thread's " + std::to_string(size) + " bytes of local memory");
  require_aligned(w, in, lane, address, bytes);
  const uint64_t offset = static_cast<uint64_t>(lane) * size + address;
  std::memcpy(w.block->local_memory(w) + offset, value, bytes);
  std::memset(w.block->local_written[static_cast<size_t>(w.index)].data() + offset, 1, bytes);
}

const uint8_t* load_param(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  const auto& params = w.block->launch.params;
  if (address > params.size() || bytes > params.size() - address)
    w.fail_at(in, lane, FaultCode::illegal_address, address, "is outside the kernel's parameters");
  require_aligned(w, in, lane, address, bytes);
  return params.data() + address;
}

template <Space space>
const uint8_t* load_bytes(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes) {
  if constexpr (space == Space::shared) return load_shared(w, in, lane, address, bytes);
  if constexpr (space == Space::local) return load_local(w, in, lane, address, bytes);
  if constexpr (space == Space::param) return load_param(w, in, lane, address, bytes);
  if constexpr (space == Space::generic) {
    if (address - kSharedWindow < kWindowSize) return load_shared(w, in, lane, address - kSharedWindow, bytes);
    if (address - kLocalWindow < kWindowSize) return load_local(w, in, lane, address - kLocalWindow, bytes);
    if (address - kParamWindow < kWindowSize) return load_param(w, in, lane, address - kParamWindow, bytes);
  }
  return global_bytes(w, in, lane, address, bytes, {false, (in.imm & kStrong) != 0, nullptr});
}

template <class E, class R>
void scatter(Warp& w, Place place, uint32_t mask, const uint8_t* const* from, uint32_t offset) {
  R* d = w.out<R>(place);
  for_lanes(mask, [&](int l) {
    E element;
    std::memcpy(&element, from[l] + offset, sizeof(E));
    d[l] = static_cast<R>(element);
  });
}

void scatter_element(Warp& w, const Instruction& in, Place place, uint32_t mask, const uint8_t* const* from,
                     uint32_t offset) {
  const bool sign = (in.imm & kSignExtend) != 0;
  const uint32_t bytes = element_bytes(in);
  if ((in.imm & kWideRegisters) != 0) {
    if (bytes == 8) return scatter<uint64_t, uint64_t>(w, place, mask, from, offset);
    if (bytes == 4)
      return sign ? scatter<int32_t, int64_t>(w, place, mask, from, offset)
                  : scatter<uint32_t, uint64_t>(w, place, mask, from, offset);
    if (bytes == 2)
      return sign ? scatter<int16_t, int64_t>(w, place, mask, from, offset)
                  : scatter<uint16_t, uint64_t>(w, place, mask, from, offset);
    return sign ? scatter<int8_t, int64_t>(w, place, mask, from, offset)
                : scatter<uint8_t, uint64_t>(w, place, mask, from, offset);
  }
  if (bytes == 4) return scatter<uint32_t, uint32_t>(w, place, mask, from, offset);
  if (bytes == 2)
    return sign ? scatter<int16_t, int32_t>(w, place, mask, from, offset)
                : scatter<uint16_t, uint32_t>(w, place, mask, from, offset);
  return sign ? scatter<int8_t, int32_t>(w, place, mask, from, offset)
              : scatter<uint8_t, uint32_t>(w, place, mask, from, offset);
}

template <Space space>
Flow load(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t count = elements(in), size = element_bytes(in), bytes = count * size;
  const uint8_t* from[kLanes];
  uint64_t addresses[kLanes] = {};
  uint32_t offsets[kLanes] = {};
  for_lanes(mask, [&](int l) {
    addresses[l] = w.address(in, l);
    offsets[l] = static_cast<uint32_t>(addresses[l]);
  });
  const uint8_t* run = nullptr;
  if constexpr (space == Space::global)
    if (mask == kAllLanes) run = global_run(w, in, addresses, bytes, {false, (in.imm & kStrong) != 0, nullptr});
  for_lanes(mask, [&](int l) {
    from[l] = run != nullptr ? run + static_cast<uint32_t>(l) * bytes
                             : load_bytes<space>(w, in, l, addresses[l], bytes);
  });
  if constexpr (space == Space::global) count_global(w, mask, addresses, bytes, false);
  if constexpr (space == Space::shared) count_shared(w, mask, offsets, bytes);
  if constexpr (space == Space::generic) {
    // All lanes of a generic access are counted where the first one goes.
    if (addresses[first_lane(mask)] - kSharedWindow < kWindowSize)
      count_shared(w, mask, offsets, bytes);
    else
      count_global(w, mask, addresses, bytes, false);
  }
  for (uint32_t i = 0; i < count; i++) {
    const Place place = count == 1 ? in.d : in.more->d[i];
    if (place != kNowhere) scatter_element(w, in, place, mask, from, i * size);
  }
  // After the value is read: another core may be releasing it.
  if ((in.imm & kAcquire) != 0) for_lanes(mask, [&](int l) { synchronise_blocks(w, addresses[l], false, true); });
  return Flow::next;
}

/// Parameters at a constant address are the same for all lanes.
Flow load_uniform_param(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t count = elements(in), size = element_bytes(in);
  const int lane = first_lane(mask);
  const uint8_t* at = load_param(w, in, lane, w.address(in, lane), count * size);
  const uint8_t* from[kLanes];
  for (const uint8_t*& of_lane : from) of_lane = at;
  for (uint32_t i = 0; i < count; i++) {
    const Place place = count == 1 ? in.d : in.more->d[i];
    if (place != kNowhere) scatter_element(w, in, place, mask, from, i * size);
  }
  return Flow::next;
}

template <Space space>
void store_bytes(Warp& w, const Instruction& in, int lane, uint64_t address, uint32_t bytes, const void* value) {
  if constexpr (space == Space::shared) return store_shared(w, in, lane, address, bytes, value);
  if constexpr (space == Space::local) return store_local(w, in, lane, address, bytes, value);
  if constexpr (space == Space::generic) {
    if (address - kSharedWindow < kWindowSize) return store_shared(w, in, lane, address - kSharedWindow, bytes, value);
    if (address - kLocalWindow < kWindowSize) return store_local(w, in, lane, address - kLocalWindow, bytes, value);
    if (address - kParamWindow < kWindowSize)
      w.fail_at(in, lane, FaultCode::illegal_address, address, "is a kernel parameter, which kernels cannot write");
  }
  store_global(w, in, lane, address, bytes, value, (in.imm & kStrong) != 0);
}

template <Space space>
Flow store(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t count = elements(in), size = element_bytes(in), bytes = count * size;
  alignas(32) uint8_t values[kLanes * 32];  // lane after lane
  for (uint32_t i = 0; i < count; i++) {
    const Place place = count == 1 ? in.b : in.more->b[i];
    if ((in.imm & kWideRegisters) != 0) {
      const auto* from = w.in<uint64_t>(place);
      for_lanes(mask, [&](int l) { copy_small(values + static_cast<uint32_t>(l) * bytes + i * size, &from[l], size); });
    } else {
      const auto* from = w.in<uint32_t>(place);
      for_lanes(mask, [&](int l) { copy_small(values + static_cast<uint32_t>(l) * bytes + i * size, &from[l], size); });
    }
  }
  uint64_t addresses[kLanes] = {};
  uint32_t offsets[kLanes] = {};
  for_lanes(mask, [&](int l) {
    addresses[l] = w.address(in, l);
    offsets[l] = static_cast<uint32_t>(addresses[l]);
    if ((in.imm & kRelease) != 0) synchronise_blocks(w, addresses[l], true, false);
  });
  uint8_t* run = nullptr;
  if constexpr (space == Space::global)
    if (mask == kAllLanes) run = global_run(w, in, addresses, bytes, {true, (in.imm & kStrong) != 0, values});
  if (run != nullptr) {
    std::memcpy(run, values, kLanes * bytes);
    w.cached[0]->mark_written(addresses[0], kLanes * bytes);
  } else {
    for_lanes(mask, [&](int l) {
      store_bytes<space>(w, in, l, addresses[l], bytes, values + static_cast<uint32_t>(l) * bytes);
    });
  }
  if constexpr (space == Space::global) count_global(w, mask, addresses, bytes, true);
  if constexpr (space == Space::shared) count_shared(w, mask, offsets, bytes);
  if constexpr (space == Space::generic) {
    if (addresses[first_lane(mask)] - kSharedWindow < kWindowSize)
      count_shared(w, mask, offsets, bytes);
    else
      count_global(w, mask, addresses, bytes, true);
  }
  return Flow::next;
}

// Caching and eviction hints change nothing here.
void take_hints(Binding& b) {
  while (b.take_one({"ca",
                     "cg",
                     "cs",
                     "lu",
                     "cv",
                     "wb",
                     "wt",
                     "nc",
                     "L1::evict_normal",
                     "L1::evict_unchanged",
                     "L1::evict_first",
                     "L1::evict_last",
                     "L1::no_allocate",
                     "L2::evict_first",
                     "L2::evict_last",
                     "L2::evict_normal",
                     "L2::64B",
                     "L2::128B",
                     "L2::256B",
                     "mmio",
                     "unified"}) >= 0) {
  }
}

uint32_t take_order(Binding& b) {
  uint32_t flags = 0;
  if (b.take("weak")) flags = 0;
  if (b.take("volatile") || b.take("relaxed")) flags = kStrong;
  if (b.take("acquire")) flags = kStrong | kAcquire;
  if (b.take("release")) flags = kStrong | kRelease;
  b.take_one({"cta", "cluster", "gpu", "sys"});
  return flags;
}

Space take_space(Binding& b) {
  switch (
      b.take_one({"global", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry", "const"})) {
    case 0: return Space::global;
    case 1:
    case 2:
    case 3: return Space::shared;
    case 4: return Space::local;
    case 5:
    case 6: return Space::param;
    case 7: return Space::constant;
    default: return Space::generic;
  }
}

// What ld and st have in common: the modifiers, and how many registers of which type `operand` names. All but the space
// goes to imm.
struct Transfer {
  Space space;
  Type type;
  const Operand& registers;
  size_t count;
  // A vector of one is how some compilers write a scalar.
  const Operand& first() const { return registers.kind == Operand::Kind::vector ? registers.items[0] : registers; }
};

Transfer take_transfer(Binding& b, size_t operand) {
  take_hints(b);
  const bool hinted = b.take("L2::cache_hint");
  b.in.imm = take_order(b);
  const Space space = take_space(b);
  const int vector = b.take_one({"v2", "v4", "v8"});
  const Type type = b.take_type();
  b.require_operands(hinted ? 3 : 2);
  const Operand& registers = b.operand(operand);
  const size_t count = vector < 0 ? 1 : size_t{2} << vector;
  const bool is_vector = registers.kind == Operand::Kind::vector;
  if ((is_vector ? registers.items.size() : 1) != count) b.malformed("the number of registers");
  if (count * static_cast<size_t>(type.bytes()) > 32) b.malformed("more than 32 bytes");
  if (type.bytes() == 8) b.in.imm |= kWideRegisters;
  for (const Operand& item : is_vector ? registers.items : std::vector<Operand>{registers})
    if (b.register_bits(item) == 64) b.in.imm |= kWideRegisters;
  b.in.imm |= static_cast<uint32_t>(count) | static_cast<uint32_t>(type.bytes()) << 8;
  return {space, type, registers, count};
}

void bind_load(Binding& b) {
  const Transfer transfer = take_transfer(b, 0);
  if (transfer.count == 1)
    b.in.d = b.destination(transfer.first(), transfer.type, true);
  else
    b.destinations(transfer.registers, transfer.type, &b.list().d, true);
  if (transfer.type.kind == Type::Kind::s) b.in.imm |= kSignExtend;
  b.address(b.operand(1));
  switch (transfer.space) {
    case Space::global:
      b.in.run = load<Space::global>;
      b.in.kind = Class::load_global;
      break;
    case Space::constant:
      b.in.run = load<Space::constant>;
      b.in.kind = Class::load_constant;
      break;
    case Space::shared:
      b.in.run = load<Space::shared>;
      b.in.kind = Class::load_shared;
      break;
    case Space::local:
      b.in.run = load<Space::local>;
      b.in.kind = Class::load_local;
      break;
    case Space::param:
      b.in.run = (b.in.a & kConstant) != 0 ? load_uniform_param : load<Space::param>;
      b.in.kind = Class::load_constant;
      break;
    default:
      b.in.run = load<Space::generic>;
      b.in.kind = Class::load_global;
      break;
  }
}

void bind_store(Binding& b) {
  const Transfer transfer = take_transfer(b, 1);
  if (transfer.count == 1)
    b.in.b = b.source(transfer.first(), transfer.type, true);
  else
    b.sources(transfer.registers, transfer.type, &b.list().b, true);
  b.address(b.operand(0));
  switch (transfer.space) {
    case Space::global:
      b.in.run = store<Space::global>;
      b.in.kind = Class::store_global;
      break;
    case Space::shared:
      b.in.run = store<Space::shared>;
      b.in.kind = Class::store_shared;
      break;
    case Space::local:
      b.in.run = store<Space::local>;
      b.in.kind = Class::store_local;
      break;
    case Space::generic:
      b.in.run = store<Space::generic>;
      b.in.kind = Class::store_global;
      break;
    default: b.malformed("this state space cannot be written");
  }
}

// A policy is a hint; its value is never looked at (ISA 9.7.9.15).
Flow createpolicy(Warp& w, const Instruction& in, uint32_t mask) {
  auto* d = w.out<uint64_t>(in.d);
  for_lanes(mask, [&](int l) { d[l] = 0; });
  return Flow::next;
}

void bind_createpolicy(Binding& b) {
  while (b.take_one({"fractional", "range", "cvt", "L2", "L2::evict_last", "L2::evict_normal", "L2::evict_first",
                     "L2::evict_unchanged", "global"}) >= 0) {
  }
  b.take_type();
  b.in.run = createpolicy;
  b.in.d = b.destination(0, kB64);
}

}  // namespace

void add_memory_ops(OpTable* table) {
  OpTable& t = *table;
  t["ld"] = bind_load;
  t["ldu"] = bind_load;
  t["st"] = bind_store;
  t["createpolicy"] = bind_createpolicy;
}

}  // namespace gpusim
