// atom and red (ISA 9.7.13.5, 9.7.13.7). Lanes go one after the other; on global memory a lock orders blocks that run on
// different cores. With .release, .acquire or a fence before them they order what blocks did (memory/access.h).
#include <mutex>

#include "memory/access.h"
#include "ops/lanes.h"
#include "ops/rounding.h"

namespace gpusim {
namespace {

enum class Op : uint8_t { add, min, max, inc, dec, and_, or_, xor_, exch, cas };
enum class Number : uint8_t { u32, s32, u64, s64, f32, f64, f16, bf16, f16x2, bf16x2, b16 };

constexpr uint32_t kRelease = 1u << 16;
constexpr uint32_t kAcquire = 1u << 17;

template <class T>
T apply_integer(Op op, T old, T b, T c) {
  using U = std::make_unsigned_t<T>;
  switch (op) {
    case Op::add: return static_cast<T>(static_cast<U>(old) + static_cast<U>(b));
    case Op::min: return b < old ? b : old;
    case Op::max: return old < b ? b : old;
    case Op::inc: return old >= b ? T{0} : static_cast<T>(old + 1);
    case Op::dec: return old == 0 || old > b ? b : static_cast<T>(old - 1);
    case Op::and_: return old & b;
    case Op::or_: return old | b;
    case Op::xor_: return old ^ b;
    case Op::exch: return b;
    case Op::cas: return old == b ? c : old;
  }
  return old;
}

// Float32 addition in global memory flushes subnormals, in shared memory it does not (ISA 9.7.13.5); both kept here.
uint16_t add_half(Number number, uint16_t a, uint16_t b) {
  if (number == Number::f16 || number == Number::f16x2) return f32_to_f16(f16_to_f32(a) + f16_to_f32(b));
  return f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b));
}

uint64_t apply(Op op, Number number, uint64_t old, uint64_t b, uint64_t c) {
  switch (number) {
    case Number::u32:
      return apply_integer<uint32_t>(op, static_cast<uint32_t>(old), static_cast<uint32_t>(b),
                                     static_cast<uint32_t>(c));
    case Number::s32:
      return static_cast<uint32_t>(apply_integer<int32_t>(op, static_cast<int32_t>(old), static_cast<int32_t>(b), 0));
    case Number::u64: return apply_integer<uint64_t>(op, old, b, c);
    case Number::s64:
      return static_cast<uint64_t>(apply_integer<int64_t>(op, static_cast<int64_t>(old), static_cast<int64_t>(b), 0));
    case Number::f32:
      return bits_of(canonical(float_of(static_cast<uint32_t>(old)) + float_of(static_cast<uint32_t>(b))));
    case Number::f64: return bits_of(double_of(old) + double_of(b));
    case Number::b16: return static_cast<uint16_t>(old) == static_cast<uint16_t>(b) ? c & 0xffff : old;
    case Number::f16:
    case Number::bf16: return add_half(number, static_cast<uint16_t>(old), static_cast<uint16_t>(b));
    case Number::f16x2:
    case Number::bf16x2:
      return add_half(number, static_cast<uint16_t>(old), static_cast<uint16_t>(b)) |
             static_cast<uint64_t>(add_half(number, static_cast<uint16_t>(old >> 16), static_cast<uint16_t>(b >> 16)))
                 << 16;
  }
  return old;
}

/// imm: operation, number, bytes, order.
struct Plan {
  Op op;
  Number number;
  uint32_t bytes;
};
Plan plan_of(const Instruction& in) {
  return {static_cast<Op>(in.imm & 0xf), static_cast<Number>(in.imm >> 4 & 0xf), in.imm >> 8 & 0xf};
}

uint64_t lane_value(const Warp& w, Place place, int lane, uint32_t bytes) {
  if (place == kNowhere) return 0;
  return bytes == 8 ? w.in<uint64_t>(place)[lane] : w.in<uint32_t>(place)[lane];
}

std::mutex& lock_of(uint64_t address) {
  static std::mutex locks[64];
  return locks[address >> 3 & 63];
}

void atomic_lane(Warp& w, const Instruction& in, int lane, const Plan& plan, Space space) {
  uint64_t address = w.address(in, lane);
  if (space == Space::generic && address - kSharedWindow < kWindowSize) {
    space = Space::shared;
    address -= kSharedWindow;
  }
  const uint64_t b = lane_value(w, in.b, lane, plan.bytes), c = lane_value(w, in.c, lane, plan.bytes);
  uint64_t old = 0;
  if (space == Space::shared) {
    require_aligned(w, in, lane, address, plan.bytes);
    SharedMemory& shared = w.block->shared;
    const SharedProblem problem = address > shared.size()
                                      ? SharedProblem::bounds
                                      : shared.atomic(static_cast<uint32_t>(address), plan.bytes, accessor(w));
    if (problem != SharedProblem::none) fail_shared(w, in, lane, address, problem);
    std::memcpy(&old, shared.data() + address, plan.bytes);
    const uint64_t result = apply(plan.op, plan.number, old, b, c);
    std::memcpy(shared.data() + address, &result, plan.bytes);
  } else {
    const std::lock_guard<std::mutex> lock(lock_of(address));
    const uint8_t* from = global_bytes(w, in, lane, address, plan.bytes, {false, true, nullptr});
    std::memcpy(&old, from, plan.bytes);
    const uint64_t result = apply(plan.op, plan.number, old, b, c);
    synchronise_blocks(w, address, w.fenced || (in.imm & kRelease) != 0, true);
    store_global(w, in, lane, address, plan.bytes, &result, true);
  }
  if (in.d == kNowhere) return;
  if (plan.bytes == 8)
    w.out<uint64_t>(in.d)[lane] = old;
  else
    w.out<uint32_t>(in.d)[lane] = static_cast<uint32_t>(old);
}

template <Space space>
Flow atomic(Warp& w, const Instruction& in, uint32_t mask) {
  const Plan plan = plan_of(in);
  for_lanes(mask, [&](int l) { atomic_lane(w, in, l, plan, space); });
  w.block->accesses.atomics += static_cast<uint64_t>(__builtin_popcount(mask));
  w.block->events++;
  return Flow::next;
}

Number number_of(Binding& b, Type type, Op op) {
  using K = Type::Kind;
  if (type.kind == K::bf) return type.count == 2 ? Number::bf16x2 : Number::bf16;
  if (type.kind == K::f && type.bits == 16) return type.count == 2 ? Number::f16x2 : Number::f16;
  if (type.kind == K::f) return type.bits == 64 ? Number::f64 : Number::f32;
  if (type.bits == 16 && op == Op::cas) return Number::b16;
  if (type.bits != 32 && type.bits != 64) b.unsupported("type");
  const bool is_signed = type.kind == K::s && (op == Op::min || op == Op::max || op == Op::add);
  if (type.bits == 64) return is_signed ? Number::s64 : Number::u64;
  return is_signed ? Number::s32 : Number::u32;
}

template <bool returns>
void bind_atomic(Binding& b) {
  uint32_t flags = 0;
  switch (b.take_one({"relaxed", "acquire", "release", "acq_rel"})) {
    case 1: flags = kAcquire; break;
    case 2: flags = kRelease; break;
    case 3: flags = kAcquire | kRelease; break;
    default: break;
  }
  b.take_one({"cta", "cluster", "gpu", "sys"});
  const int space = b.take_one({"global", "shared", "shared::cta", "shared::cluster"});
  const bool hinted = b.take("L2::cache_hint");
  const int op = b.take_one({"add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"});
  b.take("noftz");
  const Type type = b.take_type();
  if (op < 0) b.unsupported("operation");
  const bool cas = static_cast<Op>(op) == Op::cas;
  const size_t first = returns ? 1 : 0;
  b.require_operands(first + 2 + cas + hinted);
  const Number number = number_of(b, type, static_cast<Op>(op));
  const bool floats = type.kind == Type::Kind::f || type.kind == Type::Kind::bf;
  if (floats && static_cast<Op>(op) != Op::add) b.unsupported("operation on floats");
  Instruction& in = b.in;
  in.kind = Class::atomic;
  in.imm = static_cast<uint32_t>(op) | static_cast<uint32_t>(number) << 4 | static_cast<uint32_t>(type.bytes()) << 8 |
           flags;
  if (returns) in.d = b.maybe_destination(b.operand(0), type);
  b.address(b.operand(first));
  in.b = b.source(first + 1, type);
  if (cas) in.c = b.source(first + 2, type);
  in.run = space == 0 ? atomic<Space::global> : space > 0 ? atomic<Space::shared> : atomic<Space::generic>;
}

}  // namespace

void add_atomic_ops(OpTable* table) {
  (*table)["atom"] = bind_atomic<true>;
  (*table)["red"] = bind_atomic<false>;
}

}  // namespace gpusim
