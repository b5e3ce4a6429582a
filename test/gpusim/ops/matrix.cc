// ldmatrix, stmatrix and mma.sync (ISA 9.7.14.5). The layouts of the figures are comments at each function.
#include <cstring>

#include "memory/access.h"
#include "ops/lanes.h"
#include "ops/rounding.h"
#include "ops/tile.h"

namespace gpusim {
namespace {

uint32_t row_address(Warp& w, const Instruction& in, int lane) {
  const uint64_t address = w.address(in, lane);
  return static_cast<uint32_t>(address - kSharedWindow < kWindowSize ? address - kSharedWindow : address);
}

/// Swaps rows and columns of an 8 x 8 matrix of 16-bit elements: three times, rows 4 apart are interleaved.
void transpose(const uint16_t* from, uint16_t* to) {
  typedef uint16_t Row __attribute__((vector_size(16)));
  constexpr Row kLow = {0, 8, 1, 9, 2, 10, 3, 11}, kHigh = {4, 12, 5, 13, 6, 14, 7, 15};
  Row rows[8], next[8];
  std::memcpy(rows, from, sizeof rows);
  for (int step = 0; step < 3; step++) {
    for (int i = 0; i < 4; i++) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + 4], kLow);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + 4], kHigh);
    }
    std::memcpy(rows, next, sizeof rows);
  }
  std::memcpy(to, rows, sizeof rows);
}

// ISA 9.7.14.5.15: lanes 8m to 8m+7 give the addresses of the rows of matrix m. Lane l receives of row l/4 the elements
// 2(l%4) and 2(l%4)+1: the 32 lanes of a register are the matrix, row after row.
template <bool transposed>
Flow ldmatrix(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  const auto& d = in.more->d;
  const auto lanes = static_cast<int>(d.size()) * 8;
  uint32_t addresses[kLanes] = {};
  const uint8_t* rows[kLanes];
  for (int l = 0; l < lanes; l++) {
    addresses[l] = row_address(w, in, l);
    rows[l] = load_shared(w, in, l, addresses[l], 16);
  }
  count_shared(w, lanes == kLanes ? kAllLanes : (1u << lanes) - 1, addresses, 16);
  // Destinations may be where the addresses are, so they are written last.
  alignas(32) uint16_t matrices[4][64];
  for (int l = 0; l < lanes; l++) std::memcpy(&matrices[l / 8][l % 8 * 8], rows[l], 16);
  for (size_t m = 0; m < d.size(); m++) {
    auto* to = reinterpret_cast<uint16_t*>(w.out<uint32_t>(d[m]));
    if (transposed)
      transpose(matrices[m], to);
    else
      std::memcpy(to, matrices[m], sizeof matrices[m]);
  }
  return Flow::next;
}

// ISA 9.7.14.5.16: the same in the other direction.
template <bool transposed>
Flow stmatrix(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  const auto& b = in.more->b;
  const auto lanes = static_cast<int>(b.size()) * 8;
  uint32_t addresses[kLanes] = {};
  for (size_t m = 0; m < b.size(); m++) {
    const auto* from = reinterpret_cast<const uint16_t*>(w.in<uint32_t>(b[m]));
    uint16_t turned[64];
    if (transposed) transpose(from, turned);
    for (int r = 0; r < 8; r++) {
      const int lane = static_cast<int>(m) * 8 + r;
      addresses[lane] = row_address(w, in, lane);
      store_shared(w, in, lane, addresses[lane], 16, (transposed ? turned : from) + r * 8);
    }
  }
  count_shared(w, lanes == kLanes ? kAllLanes : (1u << lanes) - 1, addresses, 16);
  return Flow::next;
}

template <bool store>
void bind_matrix_move(Binding& b) {
  if (!b.take("sync") || !b.take("aligned") || !b.take("m8n8")) b.unsupported("shape");
  const int count = b.take_one({"x1", "x2", "x4"});
  const bool transposed = b.take("trans");
  b.take_one({"shared", "shared::cta"});
  if (!b.take_type().is(Type::Kind::b, 16) || count < 0) b.unsupported("type");
  b.require_operands(2);
  b.address(b.operand(store ? 0 : 1));
  auto& places = store ? b.list().b : b.list().d;
  if (store)
    b.sources(b.operand(1), kB32, &places);
  else
    b.destinations(b.operand(0), kB32, &places);
  if (places.size() != size_t{1} << count) b.malformed("number of registers");
  for (Place place : places)
    if (place == kNowhere) b.malformed("a sink");
  b.in.kind = Class::matrix_load;
  if (store)
    b.in.run = transposed ? stmatrix<true> : stmatrix<false>;
  else
    b.in.run = transposed ? ldmatrix<true> : ldmatrix<false>;
}

// movmatrix.sync.aligned.m8n8.trans.b16 (ISA 9.7.14.5.17): transposes through registers.
Flow movmatrix(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  uint16_t turned[64];
  transpose(reinterpret_cast<const uint16_t*>(w.in<uint32_t>(in.a)), turned);
  std::memcpy(w.out<uint32_t>(in.d), turned, sizeof turned);
  return Flow::next;
}

void bind_movmatrix(Binding& b) {
  if (!b.take("sync") || !b.take("aligned") || !b.take("m8n8") || !b.take("trans")) b.malformed("modifiers");
  b.take_type();
  b.require_operands(2);
  b.in.kind = Class::matrix_load;
  b.in.run = movmatrix;
  b.in.d = b.destination(0, kB32);
  b.in.a = b.source(1, kB32);
}

// ---- mma

enum class Element { f16, bf16, tf32 };

/// Eight elements.
template <Element element>
void widen(const uint16_t* from, float* to) {
  if constexpr (element == Element::f16) {
#if defined(__F16C__)
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    for (int i = 0; i < 8; i++) to[i] = f16_to_f32(from[i]);
#endif
  } else {
    for (int i = 0; i < 8; i++) to[i] = bf16_to_f32(from[i]);
  }
}
/// Tensor cores read the upper 19 bits of a tf32 operand.
float widen_tf32(uint32_t bits) { return float_of(bits & 0xffffe000u); }

/// Columns in the order in which a row's accumulators lie: c0 has the even columns 0, 2, 4, 6, c1 the odd ones.
constexpr int column_of(int position) { return position < 4 ? 2 * position : 2 * position - 7; }

// ISA 9.7.14.5.8, m16n8k16 and m16n8k8 with 16-bit elements. With g = lane/4 and t = lane%4:
//   a0: row g, k 2t and 2t+1    a1: row g+8    a2, a3: the same with k+8
//   b0: column g, k 2t and 2t+1                b1: with k+8
//   c0, c1: row g, columns 2t and 2t+1         c2, c3: row g+8
// so each register of A or B is an 8 x 8 matrix, row after row (column after column for B).
template <Element element, int depth>
void gather_half(const Warp& w, const OperandList& list, float (&a)[16][depth], float (&b)[depth][8]) {
  for (int part = 0; part < depth / 4; part++) {
    const auto* from = reinterpret_cast<const uint16_t*>(w.in<uint32_t>(list.a[static_cast<size_t>(part)]));
    for (int g = 0; g < 8; g++) widen<element>(from + g * 8, a[part % 2 * 8 + g] + part / 2 * 8);
  }
  for (int part = 0; part < depth / 8; part++) {
    const auto* from = reinterpret_cast<const uint16_t*>(w.in<uint32_t>(list.b[static_cast<size_t>(part)]));
    uint16_t columns[64], rows[64];
    for (int j = 0; j < 8; j++) std::memcpy(columns + j * 8, from + column_of(j) * 8, 16);
    transpose(columns, rows);
    for (int k = 0; k < 8; k++) widen<element>(rows + k * 8, b[part * 8 + k]);
  }
}

// ISA 9.7.14.5.7, m16n8k4 and m16n8k8 with tf32:
//   a0: row g, k t   a1: row g+8   a2, a3: k+4      b0: column g, k t   b1: k+4
template <int depth>
void gather_tf32(const Warp& w, const OperandList& list, float (&a)[16][depth], float (&b)[depth][8]) {
  for (int part = 0; part < depth / 2; part++) {
    const auto* from = w.in<uint32_t>(list.a[static_cast<size_t>(part)]);
    for (int g = 0; g < 8; g++)
      for (int k = 0; k < 4; k++) a[part % 2 * 8 + g][part / 2 * 4 + k] = widen_tf32(from[g * 4 + k]);
  }
  for (int part = 0; part < depth / 4; part++) {
    const auto* from = w.in<uint32_t>(list.b[static_cast<size_t>(part)]);
    for (int k = 0; k < 4; k++)
      for (int j = 0; j < 8; j++) b[part * 4 + k][j] = widen_tf32(from[column_of(j) * 4 + k]);
  }
}

/// .f32 accumulators; .f16 ones come in pairs, c0 and c1 in one register.
template <Element element, int depth, bool half_accumulators>
Flow mma(Warp& w, const Instruction& in, uint32_t mask) {
  if (!w.converge(in, mask)) return Flow::wait;
  const OperandList& list = *in.more;
  alignas(64) float a[16][depth], b[depth][8], d[16][8];
  if constexpr (element == Element::tf32)
    gather_tf32<depth>(w, list, a, b);
  else
    gather_half<element, depth>(w, list, a, b);
  if constexpr (half_accumulators) {
    for (int half = 0; half < 2; half++) {
      const auto* c = w.in<uint32_t>(list.c[static_cast<size_t>(half)]);
      for (int l = 0; l < kLanes; l++) {
        d[half * 8 + l / 4][l % 4] = f16_to_f32(static_cast<uint16_t>(c[l]));
        d[half * 8 + l / 4][4 + l % 4] = f16_to_f32(static_cast<uint16_t>(c[l] >> 16));
      }
    }
  } else {
    for (int part = 0; part < 4; part++) {
      const auto* c = w.in<float>(list.c[static_cast<size_t>(part)]);
      for (int g = 0; g < 8; g++) std::memcpy(&d[part / 2 * 8 + g][part % 2 * 4], c + g * 4, 16);
    }
  }
  multiply_tile<16, depth>(a, b, d);
  if constexpr (half_accumulators) {
    for (int half = 0; half < 2; half++) {
      auto* to = w.out<uint32_t>(list.d[static_cast<size_t>(half)]);
      for (int l = 0; l < kLanes; l++)
        to[l] = f32_to_f16(d[half * 8 + l / 4][l % 4]) |
                static_cast<uint32_t>(f32_to_f16(d[half * 8 + l / 4][4 + l % 4])) << 16;
    }
  } else {
    for (int part = 0; part < 4; part++) {
      auto* to = w.out<float>(list.d[static_cast<size_t>(part)]);
      for (int g = 0; g < 8; g++) std::memcpy(to + g * 4, &d[part / 2 * 8 + g][part % 2 * 4], 16);
    }
  }
  w.block->accesses.mma_count++;
  w.block->accesses.mma_flops += uint64_t{2} * 16 * 8 * depth;
  return Flow::next;
}

Handler choose(Element element, int depth, bool half_accumulators) {
  if (element == Element::tf32) {
    if (half_accumulators) return nullptr;
    return depth == 8 ? mma<Element::tf32, 8, false> : depth == 4 ? mma<Element::tf32, 4, false> : nullptr;
  }
  if (element == Element::f16) {
    if (depth == 16) return half_accumulators ? mma<Element::f16, 16, true> : mma<Element::f16, 16, false>;
    if (depth == 8) return half_accumulators ? mma<Element::f16, 8, true> : mma<Element::f16, 8, false>;
    return nullptr;
  }
  if (half_accumulators) return nullptr;
  return depth == 16 ? mma<Element::bf16, 16, false> : depth == 8 ? mma<Element::bf16, 8, false> : nullptr;
}

void bind_mma(Binding& b) {
  if (!b.take("sync") || !b.take("aligned")) b.malformed("needs .sync.aligned");
  const int shape = b.take_one({"m16n8k16", "m16n8k8", "m16n8k4"});
  if (shape < 0) b.unsupported("shape");
  if (!b.take("row") || !b.take("col")) b.unsupported("layout");
  const int depth = 16 >> shape;
  const Type d = b.take_type(), a = b.take_type(), second = b.take_type(), c = b.take_type();
  Element element = Element::f16;
  if (a.kind == Type::Kind::bf)
    element = Element::bf16;
  else if (a.kind == Type::Kind::tf)
    element = Element::tf32;
  else if (!a.is(Type::Kind::f, 16))
    b.unsupported("element type");
  if (a.kind != second.kind || a.bits != second.bits || d.kind != Type::Kind::f || c.kind != d.kind || c.bits != d.bits)
    b.unsupported("types");
  const bool half_accumulators = d.bits == 16;
  b.in.run = choose(element, depth, half_accumulators);
  if (b.in.run == nullptr || d.bits > 32) b.unsupported("types");
  b.in.kind = Class::mma;
  b.require_operands(4);
  const Type accumulator = half_accumulators ? kB32 : Type{Type::Kind::f, 32};
  OperandList& list = b.list();
  b.destinations(b.operand(0), accumulator, &list.d);
  b.sources(b.operand(1), kB32, &list.a);
  b.sources(b.operand(2), kB32, &list.b);
  b.sources(b.operand(3), accumulator, &list.c);
  const size_t per = element == Element::tf32 ? 4 : 8;
  const size_t accumulators = half_accumulators ? 2 : 4;
  const auto k = static_cast<size_t>(depth);
  if (list.a.size() != 2 * k / per || list.b.size() != k / per || list.c.size() != accumulators ||
      list.d.size() != accumulators)
    b.malformed("number of registers");
  for (Place place : list.d)
    if (place == kNowhere) b.malformed("a sink");
}

}  // namespace

void add_matrix_ops(OpTable* table) {
  OpTable& t = *table;
  t["ldmatrix"] = bind_matrix_move<false>;
  t["stmatrix"] = bind_matrix_move<true>;
  t["movmatrix"] = bind_movmatrix;
  t["mma"] = bind_mma;
  t["mma/h"] = bind_mma;
  t["mma/f"] = bind_mma;
}

}  // namespace gpusim
