// wgmma (ISA 9.7.15), as late as it may be: operands are read and accumulators written when the warpgroup waits. Until
// then the shared memory that it reads may not be written, and its registers may not be touched.
#include "ops/wgmma.h"

#include <algorithm>

#include "memory/access.h"
#include "memory/tensor_map.h"
#include "ops/async.h"
#include "ops/lanes.h"
#include "ops/rounding.h"
#include "ops/tile.h"

namespace gpusim {

/// One wgmma.mma_async of this warp: its 16 rows of D.
struct WgmmaState::Operation {
  const Instruction* instruction;
  uint64_t a = 0, b = 0;  // descriptors
  bool accumulate = false;
  bool committed = false;
  uint32_t group = 0;
};
WgmmaState::~WgmmaState() = default;

namespace {

/// ISA 9.7.15.5.1: the matrix descriptor.
struct Descriptor {
  uint32_t start, leading, stride;
  Swizzle swizzle;
  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        // In descriptors 1 is 128 bytes and 3 is 32.
        swizzle((bits >> 62) == 0 ? Swizzle::none : static_cast<Swizzle>(4 - (bits >> 62))) {}
  uint32_t span() const { return 16u << static_cast<uint32_t>(swizzle); }  // bytes of a row of the pattern
};

/// Where 16 bytes of an operand are. K-major: 8 values of k at k0 (a multiple of 8) of row `mn`. MN-major: 8 rows at mn
/// (a multiple of 8) of one k. 16-bit elements; the layouts are those of ISA 9.7.15.5.1.1 and .2:
///   K-major, swizzled: rows of `span` bytes, 8 rows one after the other, groups of 8 rows `stride` apart.
///   K-major, not swizzled: core matrices of 8 rows x 16 bytes, `leading` apart along k, `stride` along mn.
///   MN-major, swizzled: 8 values of k, each `span` bytes of neighbours in mn; `stride` apart along k, `leading` along mn.
///   MN-major, not swizzled: core matrices of 8 k x 16 bytes, `leading` apart along k, `stride` along mn.
uint32_t chunk_address(const Descriptor& d, bool mn_major, uint32_t mn, uint32_t k) {
  const uint32_t span = d.span();
  uint32_t offset;
  if (d.swizzle == Swizzle::none)
    offset = mn_major ? k % 8 * 16 + k / 8 * d.leading + mn / 8 * d.stride
                      : mn % 8 * 16 + k / 8 * d.leading + mn / 8 * d.stride;
  else if (mn_major)
    offset = k % 8 * span + k / 8 * d.stride + mn * 2 / span * d.leading + mn * 2 % span;
  else
    offset = mn % 8 * span + mn / 8 * d.stride + k * 2;
  return swizzle_address(d.start + offset, d.swizzle);
}

struct Shape {
  uint32_t n, k;
  bool brain, tf32, a_in_registers, transpose_a, transpose_b, negate_a, negate_b;
};
// imm: n, flags; see bind_mma_async.
Shape shape_of(const Instruction& in) {
  const auto flag = [&](int bit) { return (in.imm >> bit & 1) != 0; };
  const bool tf32 = flag(17);
  return {in.imm & 0xffff, tf32 ? 8u : 16u, flag(16), tf32, flag(18), flag(19), flag(20), flag(21), flag(22)};
}

constexpr uint32_t kLargestN = 256;

float widen(uint16_t bits, bool brain) { return brain ? bf16_to_f32(bits) : f16_to_f32(bits); }

/// For each 16-byte chunk of an operand: f(address, mn, k).
template <class F>
void each_chunk(const Descriptor& d, const Shape& shape, bool mn_major, uint32_t first, uint32_t count, F&& f) {
  // tf32 has 4-byte elements and is K-major only: a chunk holds 4 of them, as if k counted 16-bit halves.
  const uint32_t depth = shape.tf32 ? 16 : shape.k;
  if (mn_major) {
    for (uint32_t k = 0; k < depth; k++)
      for (uint32_t mn = first; mn < first + count; mn += 8) f(chunk_address(d, true, mn, k), mn - first, k);
  } else {
    for (uint32_t mn = first; mn < first + count; mn++)
      for (uint32_t k = 0; k < depth; k += 8) f(chunk_address(d, false, mn, k), mn - first, k);
  }
}

/// Reads `count` rows from `first` of an operand into out[mn * 16 + k].
void read_operand(Warp& w, const Instruction& in, uint64_t descriptor, const Shape& shape, bool mn_major, bool negate,
                  uint32_t first, uint32_t count, float* out) {
  const float sign = negate ? -1.0f : 1.0f;
  each_chunk(Descriptor(descriptor), shape, mn_major, first, count, [&](uint32_t address, uint32_t mn, uint32_t k) {
    const uint8_t* at = load_shared(w, in, 0, address, 16);
    if (shape.tf32) {
      for (uint32_t i = 0; i < 4; i++) {
        uint32_t bits;
        std::memcpy(&bits, at + i * 4, 4);
        out[mn * 16 + k / 2 + i] = sign * float_of(bits & 0xffffe000u);
      }
      return;
    }
    for (uint32_t i = 0; i < 8; i++) {
      uint16_t bits;
      std::memcpy(&bits, at + i * 2, 2);
      const uint32_t place = mn_major ? (mn + i) * 16 + k : mn * 16 + k + i;
      out[place] = sign * widen(bits, shape.brain);
    }
  });
}

uint32_t warp_row(const Warp& w) { return static_cast<uint32_t>(w.index % 4) * 16; }

void hold(Warp& w, const WgmmaState::Operation& operation, int change) {
  const Shape shape = shape_of(*operation.instruction);
  const auto each = [&](uint32_t address, uint32_t, uint32_t) { w.block->shared.hold(address, 16, change); };
  if (!shape.a_in_registers) each_chunk(Descriptor(operation.a), shape, shape.transpose_a, warp_row(w), 16, each);
  each_chunk(Descriptor(operation.b), shape, shape.transpose_b, 0, shape.n, each);
}

// ISA 9.7.15.5.2: warp i of the four has rows 16i to 16i+15. With g = lane/4, t = lane%4, register 4j+r of D is row
// g + 8(r/2), column 8j + 2t + r%2. A in registers is as for mma.m16n8k16 (or m16n8k8 tf32).
void retire(Warp& w, const WgmmaState::Operation& operation) {
  const Instruction& in = *operation.instruction;
  const Shape shape = shape_of(in);
  const OperandList& list = *in.more;
  alignas(64) static thread_local float a[16][16], b_rows[kLargestN * 16], b[16][kLargestN], d[16][kLargestN];
  if (shape.a_in_registers) {
    for (size_t part = 0; part < 4; part++) {
      const auto* from = w.in<uint32_t>(list.a[part]);
      for (uint32_t l = 0; l < kLanes; l++) {
        const uint32_t row = l / 4 + part % 2 * 8;
        if (shape.tf32) {
          a[row][l % 4 + part / 2 * 4] = float_of(from[l] & 0xffffe000u);
        } else {
          a[row][l % 4 * 2 + part / 2 * 8] = widen(static_cast<uint16_t>(from[l]), shape.brain);
          a[row][l % 4 * 2 + 1 + part / 2 * 8] = widen(static_cast<uint16_t>(from[l] >> 16), shape.brain);
        }
      }
    }
    if (shape.negate_a)
      for (auto& row : a)
        for (float& x : row) x = -x;
  } else {
    read_operand(w, in, operation.a, shape, shape.transpose_a, shape.negate_a, warp_row(w), 16, &a[0][0]);
  }
  read_operand(w, in, operation.b, shape, shape.transpose_b, shape.negate_b, 0, shape.n, b_rows);
  for (uint32_t k = 0; k < shape.k; k++)
    for (uint32_t j = 0; j < shape.n; j++) b[k][j] = b_rows[j * 16 + k];
  for (uint32_t r = 0; r < shape.n / 2; r++) {
    const auto* from = w.in<float>(list.d[r]);
    for (uint32_t l = 0; l < kLanes; l++)
      d[l / 4 + r % 4 / 2 * 8][r / 4 * 8 + l % 4 * 2 + r % 2] = operation.accumulate ? from[l] : 0.0f;
  }
  for (uint32_t k = 0; k < shape.k; k++)
    for (int i = 0; i < 16; i++)
#pragma GCC ivdep
      for (uint32_t j = 0; j < shape.n; j++) d[i][j] = std::fma(a[i][k], b[k][j], d[i][j]);
  for (uint32_t r = 0; r < shape.n / 2; r++) {
    auto* to = w.out<float>(list.d[r]);
    for (uint32_t l = 0; l < kLanes; l++) to[l] = d[l / 4 + r % 4 / 2 * 8][r / 4 * 8 + l % 4 * 2 + r % 2];
  }
  hold(w, operation, -1);
  w.block->accesses.wgmma_count += w.index % 4 == 0;
  w.block->accesses.mma_flops += uint64_t{2} * 16 * shape.n * shape.k;
}

WgmmaState& state(Warp& w) {
  if (!w.wgmma) w.wgmma = std::make_unique<WgmmaState>();
  return *w.wgmma;
}

Flow mma_async(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  WgmmaState& of = state(w);
  if (w.block->launch.options->checks && of.needs_fence)
    w.fail(in, 0, FaultCode::launch_failed, "its registers were touched after the last wgmma.fence");
  auto operation = std::make_unique<WgmmaState::Operation>();
  operation->instruction = &in;
  if (in.a != kNowhere) operation->a = w.in<uint64_t>(in.a)[0];
  operation->b = w.in<uint64_t>(in.b)[0];
  operation->accumulate = (w.predicates[in.p] & 1) != 0;
  hold(w, *operation, 1);
  of.operations.push_back(std::move(operation));
  return Flow::next;
}

Flow commit(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  WgmmaState& of = state(w);
  for (auto& operation : of.operations)
    if (!operation->committed) {
      operation->committed = true;
      operation->group = of.committed;
    }
  of.committed++;
  return Flow::next;
}

Flow fence(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  state(w).needs_fence = false;
  return Flow::next;
}

/// Everything but the last `pending` committed groups.
void retire_groups(Warp& w, uint32_t pending) {
  WgmmaState& of = state(w);
  while (!of.operations.empty()) {
    const WgmmaState::Operation& first = *of.operations.front();
    if (!first.committed || of.committed - first.group <= pending) break;
    retire(w, first);
    of.operations.erase(of.operations.begin());
  }
}

// The four warps of a warpgroup wait together: one thread may then tell others that all have finished with a buffer.
Flow wait_group(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  Block& block = *w.block;
  const size_t first = static_cast<size_t>(w.index) / 4 * 4;
  if (first + 4 > block.warps.size())
    w.fail(in, 0, FaultCode::illegal_instruction, "the block has no whole warpgroup here");
  state(w).waiting = &in;
  bool all = true;
  for (size_t i = first; i < first + 4; i++) all &= state(*block.warps[i]).waiting != nullptr;
  Group& group = w.group();
  group.state = Group::State::rendezvous;
  if (!all) return Flow::wait;
  VectorClock joined;
  for (size_t i = first; i < first + 4; i++) {
    Warp& other = *block.warps[i];
    if (state(other).waiting != &in)
      w.fail(in, 0, FaultCode::launch_failed, "the warps of the warpgroup wait at different instructions");
    retire_groups(other, in.imm);
    joined.join(other.clock);
  }
  for (size_t i = first; i < first + 4; i++) {
    Warp& other = *block.warps[i];
    state(other).waiting = nullptr;
    other.clock.join(joined);
    other.advance_clock();
    for (Group& of : other.groups)
      if (of.state == Group::State::rendezvous) {
        of.state = Group::State::running;
        of.pc++;
      }
  }
  block.events++;
  return Flow::wait;
}

// setmaxnreg (ISA 9.7.19.5) only moves registers between warps.
Flow setmaxnreg(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  return Flow::next;
}

void bind_setmaxnreg(Binding& b) {
  if (b.take_one({"inc", "dec"}) < 0 || !b.take("sync") || !b.take("aligned")) b.malformed("modifiers");
  b.take_type();
  b.require_operands(1);
  const uint64_t count = b.constant(size_t{0});
  if (count < 24 || count > 256 || count % 8 != 0) b.malformed("a number of registers from 24 to 256 in steps of 8");
  b.in.kind = Class::control;
  b.in.run = setmaxnreg;
}

void bind_mma_async(Binding& b) {
  Instruction& in = b.in;
  in.kind = Class::wgmma;
  uint32_t n = 0;
  for (uint32_t candidate = 8; candidate <= kLargestN && n == 0; candidate += 8) {
    const std::string text = "m64n" + std::to_string(candidate);
    if (b.take((text + "k16").c_str())) n = candidate;
    if (n == 0 && b.take((text + "k8").c_str())) n = candidate | 1;
  }
  if (n == 0) b.unsupported("shape");
  const bool tf32_shape = (n & 1) != 0;
  n &= ~1u;
  const Type d = b.take_type(), a = b.take_type(), second = b.take_type();
  if (!d.is(Type::Kind::f, 32)) b.unsupported("accumulators other than .f32");
  const bool brain = a.kind == Type::Kind::bf, tf32 = a.kind == Type::Kind::tf;
  if (!brain && !tf32 && !a.is(Type::Kind::f, 16)) b.unsupported("element type");
  if (a.kind != second.kind || tf32 != tf32_shape) b.malformed("types");
  const bool registers = b.operand(1).kind == Operand::Kind::vector;
  // d, a, b, scale-d, imm-scale-a, imm-scale-b, then the transposes that the operands allow
  const size_t transposes = tf32 ? 0 : registers ? 1 : 2;
  b.require_operands(6 + transposes);
  OperandList& list = b.list();
  b.destinations(b.operand(0), {Type::Kind::f, 32}, &list.d);
  if (list.d.size() != n / 2) b.malformed("number of accumulators");
  for (Place place : list.d)
    if (place == kNowhere) b.malformed("a sink");
  if (registers) {
    b.sources(b.operand(1), kB32, &list.a);
    if (list.a.size() != 4) b.malformed("number of registers of A");
  }
  b.pin_registers();
  if (!registers) in.a = b.source(1, kB64);
  in.b = b.source(2, kB64);
  in.p = b.predicate(3);
  if (b.operand(3).negated) b.unsupported("a negated scale-d");
  const auto scale = [&](size_t i) {
    const auto value = static_cast<int64_t>(b.constant(i));
    if (value != 1 && value != -1) b.malformed("a scale that is not 1 or -1");
    return value == -1;
  };
  const bool negate_a = scale(4), negate_b = scale(5);
  const bool transpose_a = transposes == 2 && b.constant(6) != 0;
  const bool transpose_b = transposes > 0 && b.constant(5 + transposes) != 0;
  in.imm = n | static_cast<uint32_t>(brain) << 16 | static_cast<uint32_t>(tf32) << 17 |
           static_cast<uint32_t>(registers) << 18 | static_cast<uint32_t>(transpose_a) << 19 |
           static_cast<uint32_t>(transpose_b) << 20 | static_cast<uint32_t>(negate_a) << 21 |
           static_cast<uint32_t>(negate_b) << 22;
  in.run = mma_async;
}

void bind_wgmma(Binding& b) {
  const int op = b.take_one({"fence", "commit_group", "wait_group", "mma_async"});
  if (!b.take("sync") || !b.take("aligned")) b.malformed("needs .sync.aligned");
  b.in.kind = Class::wgmma;
  switch (op) {
    case 0: b.in.run = fence; break;
    case 1: b.in.run = commit; break;
    case 2:
      b.require_operands(1);
      b.in.imm = static_cast<uint32_t>(b.constant(size_t{0}));
      b.in.run = wait_group;
      break;
    case 3: bind_mma_async(b); break;
    default: b.unsupported("operation");
  }
}

bool shares(const std::vector<Place>& places, Place place) {
  return std::find(places.begin(), places.end(), place) != places.end();
}

}  // namespace

Flow touch_wgmma_registers(Warp& w, const Instruction& in, uint32_t mask) {
  if (w.wgmma) {
    WgmmaState& of = *w.wgmma;
    of.needs_fence = true;
    for (const auto& operation : of.operations) {
      const OperandList& list = *operation->instruction->more;
      const auto check = [&](Place place) {
        if (shares(list.d, place) || shares(list.a, place))
          w.fail(in, first_lane(mask), FaultCode::launch_failed,
                 "touches a register of the wgmma of PTX line " + std::to_string(operation->instruction->line) +
                     " that was not waited for");
      };
      for (Place place : {in.d, in.a, in.b, in.c})
        if ((place & kConstant) == 0 && place != kNowhere) check(place);
      if (in.more != nullptr)
        for (const auto* places : {&in.more->d, &in.more->a, &in.more->b, &in.more->c})
          for (Place place : *places) check(place);
    }
  }
  return in.inner(w, in, mask);
}

void add_wgmma_ops(OpTable* table) {
  OpTable& t = *table;
  t["wgmma"] = bind_wgmma;
  t["wgmma/f"] = bind_wgmma;
  t["wgmma/h"] = bind_wgmma;
  t["setmaxnreg"] = bind_setmaxnreg;
}

}  // namespace gpusim
