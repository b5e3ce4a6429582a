// Integer instructions on edge values against plain C++.
#include <algorithm>
#include <cstdlib>

#include "tests/instruction.h"

namespace gpusim {
namespace {

const std::vector<uint64_t> k32 = {0,          1,          2,          7,          31,         32,
                                   33,         255,        256,        0x7fff,     0x8000,     0xffff,
                                   0x12345678, 0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe, 0xffffffff};
const std::vector<uint64_t> k64 = {0,
                                   1,
                                   2,
                                   63,
                                   64,
                                   65,
                                   0xffffffff,
                                   0x100000000,
                                   0x123456789abcdef0,
                                   0x7fffffffffffffff,
                                   0x8000000000000000,
                                   0xffffffffffffffff};
const std::vector<uint64_t> k16 = {0, 1, 2, 15, 16, 17, 255, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff};

uint32_t u32(uint64_t x) { return static_cast<uint32_t>(x); }
int32_t s32(uint64_t x) { return static_cast<int32_t>(static_cast<uint32_t>(x)); }
int16_t s16(uint64_t x) { return static_cast<int16_t>(static_cast<uint16_t>(x)); }
uint64_t low16(int64_t x) { return static_cast<uint16_t>(x); }
uint64_t low32(int64_t x) { return static_cast<uint32_t>(x); }

void arithmetic() {
  check_binary("add.s32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return low32(static_cast<int64_t>(a + b)); });
  check_binary("sub.u32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return low32(static_cast<int64_t>(a - b)); });
  check_binary("add.sat.s32", "rrr", k32, k32, [](uint64_t a, uint64_t b) {
    const int64_t sum = int64_t{s32(a)} + s32(b);
    return low32(sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum);
  });
  check_binary("mul.lo.s32", "rrr", k32, k32,
               [](uint64_t a, uint64_t b) { return low32(static_cast<int64_t>(a * b)); });
  check_binary("mul.hi.u32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return (a * b) >> 32; });
  check_binary("mul.hi.s32", "rrr", k32, k32,
               [](uint64_t a, uint64_t b) { return low32((int64_t{s32(a)} * s32(b)) >> 32); });
  check_binary("mul.wide.u32", "drr", k32, k32, [](uint64_t a, uint64_t b) { return a * b; });
  check_binary("mul.wide.s32", "drr", k32, k32,
               [](uint64_t a, uint64_t b) { return static_cast<uint64_t>(int64_t{s32(a)} * s32(b)); });
  check_binary("mul.wide.s16", "rhh", k16, k16, [](uint64_t a, uint64_t b) { return low32(int64_t{s16(a)} * s16(b)); });
  check_binary("mul.lo.s16", "hhh", k16, k16, [](uint64_t a, uint64_t b) { return low16(int64_t{s16(a)} * s16(b)); });
  check_binary("mul.hi.u64", "ddd", k64, k64, [](uint64_t a, uint64_t b) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
  });
  check_binary("div.s32", "rrr", k32, k32,
               [](uint64_t a, uint64_t b) { return b == 0 ? 0xffffffff : low32(int64_t{s32(a)} / s32(b)); });
  check_binary("rem.u32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return b == 0 ? a : a % b; });
  check_binary("rem.s32", "rrr", k32, k32,
               [](uint64_t a, uint64_t b) { return b == 0 ? a : low32(int64_t{s32(a)} % s32(b)); });
  check_binary("div.u64", "ddd", k64, k64, [](uint64_t a, uint64_t b) { return b == 0 ? ~uint64_t{0} : a / b; });
  check_binary("min.s32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return low32(std::min(s32(a), s32(b))); });
  check_binary("max.u32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return std::max(a, b); });
  check_binary("max.s16", "hhh", k16, k16, [](uint64_t a, uint64_t b) { return low16(std::max(s16(a), s16(b))); });
  check_unary("neg.s32", "rr", k32, [](uint64_t a) { return low32(-int64_t{s32(a)}); });
  check_unary("abs.s32", "rr", k32, [](uint64_t a) { return low32(std::abs(int64_t{s32(a)})); });
  check_unary("abs.s16", "hh", k16, [](uint64_t a) { return low16(std::abs(int64_t{s16(a)})); });
  check_ternary("mad.lo.s32", "rrrr", k32, {0, 5, 0xffffffff},
                [](uint64_t a, uint64_t b, uint64_t c) { return low32(static_cast<int64_t>(a * b + c)); });
  check_ternary("mad.wide.s32", "drrd", k32, {0, 0xffffffffffffffff},
                [](uint64_t a, uint64_t b, uint64_t c) { return static_cast<uint64_t>(int64_t{s32(a)} * s32(b)) + c; });
  check_ternary("sad.u32", "rrrr", k32, {0, 7}, [](uint64_t a, uint64_t b, uint64_t c) {
    return low32(static_cast<int64_t>((a > b ? a - b : b - a) + c));
  });
}

/// An instruction that takes the carry flag, after one that sets it in odd lanes; and what it leaves in the flag.
template <class F>
void check_carry(const std::string& opcode, const std::string& registers, size_t sources,
                 const std::vector<uint64_t>& values, bool uses, F sum) {
  const bool is_wide = registers[0] == 'd';
  const std::vector<uint64_t> thirds = sources == 3 ? values : std::vector<uint64_t>{0};
  std::vector<std::vector<uint64_t>> inputs(sources);
  for (uint64_t x : values)
    for (uint64_t y : values)
      for (uint64_t z : thirds) {
        inputs[0].push_back(x);
        inputs[1].push_back(y);
        if (sources == 3) inputs[2].push_back(z);
      }
  const std::string before = "and.b32 %r20, %r3, 1;\nadd.cc.u32 %r20, %r20, -1;\n";
  const Evaluation result = evaluate(before + opcode, registers, inputs);
  // .cc: the flag afterwards, alone. A borrow is the flag of sub.cc and subc.cc (ISA 9.7.2.3).
  const bool sets = opcode.find(".cc") != std::string::npos;
  const Evaluation flag = evaluate(before + opcode, registers, inputs,
                                   is_wide ? ";\naddc.u64 %rd32, 0, 0" : ";\naddc.u32 %r32, 0, 0");
  check(result.outcome.ok() && flag.outcome.ok(), opcode + ": " + result.outcome.text);
  for (size_t i = 0; i < inputs[0].size(); i++) {
    const auto carry = static_cast<uint64_t>(i % 128 % 2);  // 128 threads a block
    const unsigned __int128 want = sum(inputs[0][i], inputs[1][i], sources == 3 ? inputs[2][i] : 0, uses ? carry : 0);
    const int bits = is_wide ? 64 : 32;
    const auto low = static_cast<uint64_t>(want) & (is_wide ? ~uint64_t{0} : 0xffffffff);
    const uint64_t out = sets ? static_cast<uint64_t>(want >> bits & 1) : carry;
    check(result.results[i] == low && flag.results[i] == out,
          opcode + " of " + std::to_string(inputs[0][i]) + ", " + std::to_string(inputs[1][i]));
  }
}

// ISA 9.7.2
void carries() {
  using U = unsigned __int128;
  const auto add = [](U a, U b, U, U carry) { return a + b + carry; };
  const auto sub = [](U a, U b, U, U carry) { return a - b - carry; };
  check_carry("add.cc.u32", "rrr", 2, k32, false, add);
  check_carry("addc.u32", "rrr", 2, k32, true, add);
  check_carry("addc.cc.s32", "rrr", 2, k32, true, add);
  check_carry("addc.cc.u64", "ddd", 2, k64, true, add);
  check_carry("sub.cc.u32", "rrr", 2, k32, false, sub);
  check_carry("subc.s32", "rrr", 2, k32, true, sub);
  check_carry("subc.cc.u32", "rrr", 2, k32, true, sub);
  check_carry("subc.cc.s64", "ddd", 2, k64, true, sub);
  const auto low = [](U a, U b, U c, U carry) { return (a * b & 0xffffffff) + c + carry; };
  const auto high = [](U a, U b, U c, U carry) { return (a * b >> 32) + c + carry; };
  const auto high_signed = [](U a, U b, U c, U carry) {
    return U{low32((int64_t{s32(static_cast<uint64_t>(a))} * s32(static_cast<uint64_t>(b))) >> 32)} + c + carry;
  };
  check_carry("mad.lo.cc.u32", "rrrr", 3, k32, false, low);
  check_carry("madc.lo.cc.s32", "rrrr", 3, k32, true, low);
  check_carry("mad.hi.cc.u32", "rrrr", 3, k32, false, high);
  check_carry("madc.hi.u32", "rrrr", 3, k32, true, high);
  check_carry("madc.hi.cc.s32", "rrrr", 3, k32, true, high_signed);
  check_carry("madc.lo.cc.u64", "dddd", 3, k64, true,
              [](U a, U b, U c, U carry) { return U{static_cast<uint64_t>(a * b)} + c + carry; });
  check_carry("madc.hi.cc.u64", "dddd", 3, k64, true, [](U a, U b, U c, U carry) { return (a * b >> 64) + c + carry; });
}

// ISA 9.7.1.19 and 9.7.1.20, bit by bit as in their pseudo-code.
void fields() {
  const std::vector<uint64_t> a = {0x12345678, 0xffffffff, 0x80000001};
  for (const uint64_t position : {0, 3, 31, 40})
    for (const uint64_t length : {0, 1, 8, 32, 60}) {
      const std::vector<uint64_t> positions(a.size(), position), lengths(a.size(), length);
      for (const bool is_signed : {false, true}) {
        const Evaluation got = evaluate(is_signed ? "bfe.s32" : "bfe.u32", "rrrr", {a, positions, lengths});
        for (size_t i = 0; i < a.size(); i++) {
          const uint64_t sign = !is_signed || length == 0 ? 0
                                                          : a[i] >> std::min<uint64_t>(position + length - 1, 31) & 1;
          uint64_t want = 0;
          for (uint64_t bit = 0; bit < 32; bit++)
            want |= (bit < length && position + bit <= 31 ? a[i] >> (position + bit) & 1 : sign) << bit;
          check(got.outcome.ok() && got.results[i] == want,
                "bfe at " + std::to_string(position) + ", " + std::to_string(length));
        }
      }
      const std::vector<uint64_t> into(a.size(), 0x0f0f0f0f);
      const Evaluation got = evaluate("bfi.b32", "rrrrr", {a, into, positions, lengths});
      for (size_t i = 0; i < a.size(); i++) {
        uint64_t want = into[i];
        for (uint64_t bit = 0; bit < length && position + bit <= 31; bit++) {
          want &= ~(uint64_t{1} << (position + bit));
          want |= (a[i] >> std::min<uint64_t>(bit, 63) & 1) << (position + bit);
        }
        check(got.outcome.ok() && got.results[i] == want,
              "bfi at " + std::to_string(position) + ", " + std::to_string(length));
      }
    }
}

void tables() {
  for (const int table : {0x00, 0x80, 0x96, 0xe8, 0xca, 0xff}) {
    const Evaluation got = evaluate("lop3.b32", "rrrr", {{0xf0f0f0f0}, {0xcccccccc}, {0xaaaaaaaa}},
                                    ", " + std::to_string(table));
    // With these inputs the result's low byte is the table itself (ISA 9.7.8.6).
    check(got.outcome.ok() && (got.results[0] & 0xff) == static_cast<uint64_t>(table), "lop3 " + std::to_string(table));
  }
  const auto prmt = [](uint64_t selector) {
    return evaluate("prmt.b32", "rrrr", {{0x33221100}, {0x77665584}, {selector}}).results[0];
  };
  check(prmt(0x3210) == 0x33221100 && prmt(0x7654) == 0x77665584 && prmt(0x0123) == 0x00112233, "prmt selects bytes");
  check(prmt(0xc8c8) == 0xff00ff00, "prmt repeats signs");
  const auto shf = [](const char* op, uint64_t n) {
    return evaluate(op, "rrrr", {{0x89abcdef}, {0x01234567}, {n}}).results[0];
  };
  check(shf("shf.l.wrap.b32", 8) == 0x23456789 && shf("shf.r.wrap.b32", 8) == 0x6789abcd, "shf");
  check(shf("shf.l.clamp.b32", 40) == 0x89abcdef && shf("shf.r.clamp.b32", 40) == 0x01234567, "shf clamps at 32");
  check(shf("shf.l.wrap.b32", 40) == 0x23456789, "shf wraps at 32");
  check(evaluate("dp4a.s32.s32", "rrrr", {{0xff020304}, {0x01010101}, {100}}).results[0] == 100 - 1 + 2 + 3 + 4,
        "dp4a");
}

void bits() {
  check_binary("and.b32", "rrr", k32, k32, [](uint64_t a, uint64_t b) { return a & b; });
  check_binary("xor.b64", "ddd", k64, k64, [](uint64_t a, uint64_t b) { return a ^ b; });
  check_unary("not.b16", "hh", k16, [](uint64_t a) { return ~a & 0xffff; });
  check_unary("cnot.b32", "rr", k32, [](uint64_t a) { return uint64_t{a == 0}; });
  check_binary("shl.b32", "rrr", k32, k32,
               [](uint64_t a, uint64_t n) { return n > 31 ? 0 : low32(static_cast<int64_t>(a << n)); });
  check_binary("shr.u32", "rrr", k32, k32, [](uint64_t a, uint64_t n) { return n > 31 ? 0 : a >> n; });
  check_binary("shr.s32", "rrr", k32, k32,
               [](uint64_t a, uint64_t n) { return low32(int64_t{s32(a)} >> std::min<uint64_t>(n, 31)); });
  check_binary("shr.s16", "hhr", k16, k32,
               [](uint64_t a, uint64_t n) { return low16(int64_t{s16(a)} >> std::min<uint64_t>(n, 15)); });
  check_binary("shl.b64", "ddr", k64, k32, [](uint64_t a, uint64_t n) { return n > 63 ? 0 : a << n; });
  check_unary("popc.b64", "rd", k64, [](uint64_t a) { return static_cast<uint64_t>(__builtin_popcountll(a)); });
  check_unary("clz.b32", "rr", k32,
              [](uint64_t a) { return a == 0 ? 32 : static_cast<uint64_t>(__builtin_clz(u32(a))); });
  check_unary("brev.b32", "rr", k32, [](uint64_t a) {
    uint64_t r = 0;
    for (int i = 0; i < 32; i++) r |= (a >> i & 1) << (31 - i);
    return r;
  });
  check_unary("bfind.u32", "rr", k32, [](uint64_t a) {
    for (int i = 31; i >= 0; i--)
      if ((a >> i & 1) != 0) return static_cast<uint64_t>(i);
    return uint64_t{0xffffffff};
  });
  fields();
  tables();
}

}  // namespace

void check_integer() {
  arithmetic();
  carries();
  bits();
}

}  // namespace gpusim
