// Comparisons that give numbers, selection by sign, tests of floats, and small instructions that only have to exist.
#include <cmath>

#include "ops/rounding.h"
#include "tests/instruction.h"

namespace gpusim {
namespace {

const std::vector<uint64_t> kIntegers = {0, 1, 5, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};

std::vector<uint64_t> floats() {
  std::vector<uint64_t> bits;
  for (const float x : {0.0f, -0.0f, 1.0f, -1.0f, 1e-42f, -1e-42f, 0x1p-126f, 3e38f, INFINITY, -INFINITY, NAN})
    bits.push_back(bits_of(x));
  return bits;
}

float real(uint64_t bits) { return float_of(static_cast<uint32_t>(bits)); }
double wide(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}

// ISA 9.7.6.1: all ones, or 1.0 for a destination of .f32; a comparison with NaN is false, but true for the .equ family.
void set_instruction() {
  const auto ones = [](bool truth) { return truth ? uint64_t{0xffffffff} : 0; };
  const auto one = [](bool truth) { return truth ? uint64_t{bits_of(1.0f)} : 0; };
  check_binary("set.lt.u32.s32", "rrr", kIntegers, kIntegers,
               [&](uint64_t a, uint64_t b) { return ones(static_cast<int32_t>(a) < static_cast<int32_t>(b)); });
  check_binary("set.hi.u32.u32", "rrr", kIntegers, kIntegers, [&](uint64_t a, uint64_t b) { return ones(a > b); });
  check_binary("set.eq.f32.u32", "frr", kIntegers, kIntegers, [&](uint64_t a, uint64_t b) { return one(a == b); });
  check_binary("set.ne.s32.f32", "rff", floats(), floats(), [&](uint64_t a, uint64_t b) {
    return ones(!std::isnan(real(a)) && !std::isnan(real(b)) && real(a) != real(b));
  });
  check_binary("set.leu.f32.f32", "fff", floats(), floats(), [&](uint64_t a, uint64_t b) {
    return one(std::isnan(real(a)) || std::isnan(real(b)) || real(a) <= real(b));
  });
  const std::vector<uint64_t> doubles = {
      0, 0x8000000000000000, 0x3ff0000000000000, 0x3ff0000000000001, 0x7ff0000000000000, 0x7ff8000000000000};
  check_binary("set.gt.u32.f64", "rgg", doubles, doubles,
               [&](uint64_t a, uint64_t b) { return ones(wide(a) > wide(b)); });
  check_binary("set.num.u32.f64", "rgg", doubles, doubles,
               [&](uint64_t a, uint64_t b) { return ones(!std::isnan(wide(a)) && !std::isnan(wide(b))); });
  for (const char* type : {"f16", "bf16"}) {
    const Outcome outcome = run_kernel(kernel_text("", std::string("set.lt.u32.") + type + " %r1, %h1, %h2;"), "k", {},
                                       {}, 0, {});
    check(outcome.says("is not implemented"), std::string("set of ") + type + " is refused: " + outcome.text);
  }
}

// ISA 9.7.6.4: a where c >= 0, and -0 is; b also where c is NaN.
void slct_instruction() {
  check_ternary("slct.u32.s32", "rrrr", {1, 0xfffffff0}, kIntegers,
                [](uint64_t a, uint64_t b, uint64_t c) { return static_cast<int32_t>(c) >= 0 ? a : b; });
  check_ternary("slct.f32.f32", "ffff", {bits_of(2.0f), bits_of(-3.0f)}, floats(),
                [](uint64_t a, uint64_t b, uint64_t c) { return real(c) >= 0 ? a : b; });
  check_ternary("slct.b64.f32", "dddf", {1, 0xfedcba9876543210}, floats(),
                [](uint64_t a, uint64_t b, uint64_t c) { return real(c) >= 0 ? a : b; });
  check_ternary("slct.f64.s32", "gggr", {0x3ff0000000000000, 0x4000000000000000}, kIntegers,
                [](uint64_t a, uint64_t b, uint64_t c) { return static_cast<int32_t>(c) >= 0 ? a : b; });
}

/// One number a lane: %rd2 has the lane's value, and the body leaves 1 or 0 in %p1.
void check_lanes(const std::string& body, const std::vector<uint64_t>& values, bool (*want)(uint64_t)) {
  Buffer in = Buffer::of(values), out = Buffer::unwritten(values.size() * 4);
  const Outcome outcome = run_kernel(
      kernel_text(".param .u64 in, .param .u64 out",
                  "ld.param.u64 %rd0, [in];\nld.param.u64 %rd1, [out];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd3, %r0, "
                  "8;\nadd.u64 %rd0, %rd0, %rd3;\nmul.wide.u32 %rd3, %r0, 4;\nadd.u64 %rd1, %rd1, "
                  "%rd3;\nld.global.u64 %rd2, [%rd0];\n" +
                      body + "\nselp.u32 %r1, 1, 0, %p1;\nst.global.u32 [%rd1], %r1;"),
      "k", {}, {static_cast<unsigned>(values.size())}, 0, {&in, &out});
  bool right = outcome.ok();
  const auto got = out.as<uint32_t>();
  for (size_t i = 0; i < values.size(); i++) right &= got[i] == static_cast<uint32_t>(want(values[i]));
  check(right, body + " " + outcome.text);
}

// ISA 9.7.3.1
void testp_instruction() {
  const std::pair<const char*, bool (*)(uint64_t)> singles[] = {
      {"finite", [](uint64_t a) { return std::isfinite(real(a)); }},
      {"infinite", [](uint64_t a) { return std::isinf(real(a)); }},
      {"number", [](uint64_t a) { return !std::isnan(real(a)); }},
      {"notanumber", [](uint64_t a) { return std::isnan(real(a)); }},
      {"normal", [](uint64_t a) { return (a >> 23 & 255) != 0 && (a >> 23 & 255) != 255; }},
      {"subnormal", [](uint64_t a) { return (a >> 23 & 255) == 0 && (a & 0x7fffff) != 0; }}};
  for (const auto& [name, want] : singles)
    check_lanes(std::string("cvt.u32.u64 %r2, %rd2;\nmov.b32 %f1, %r2;\ntestp.") + name + ".f32 %p1, %f1;", floats(),
                want);
  const std::vector<uint64_t> doubles = {0,
                                         1,
                                         0x8000000000000000,
                                         0x000fffffffffffff,
                                         0x0010000000000000,
                                         0x7fefffffffffffff,
                                         0xfff0000000000000,
                                         0x7ff8000000000000};
  check_lanes("mov.b64 %fd1, %rd2;\ntestp.normal.f64 %p1, %fd1;", doubles,
              [](uint64_t a) { return (a >> 52 & 2047) != 0 && (a >> 52 & 2047) != 2047; });
  check_lanes("mov.b64 %fd1, %rd2;\ntestp.subnormal.f64 %p1, %fd1;", doubles,
              [](uint64_t a) { return (a >> 52 & 2047) == 0 && a << 12 != 0; });
}

void state_spaces() {
  const auto yes = [](uint64_t) { return true; };
  const auto no = [](uint64_t) { return false; };
  const std::string shared = ".shared .b32 s;\nmov.u64 %rd4, s;\ncvta.shared.u64 %rd4, %rd4;\nisspacep.";
  const std::string local = ".local .b32 l;\nmov.u64 %rd4, l;\ncvta.local.u64 %rd4, %rd4;\nisspacep.";
  check_lanes("isspacep.global %p1, %rd0;", {0}, yes);
  check_lanes("isspacep.shared %p1, %rd0;", {0}, no);
  check_lanes(shared + "shared %p1, %rd4;", {0}, yes);
  check_lanes(shared + "global %p1, %rd4;", {0}, no);
  check_lanes(local + "local %p1, %rd4;", {0}, yes);
  check_lanes(local + "shared::cta %p1, %rd4;", {0}, no);
  // In a cluster of one block, an address of block 0 is its own.
  check_lanes(".shared .b32 s;\nmov.u32 %r5, s;\nmapa.shared::cluster.u32 %r6, %r5, 0;\nsetp.eq.u32 %p1, %r5, %r6;",
              {0}, yes);
  check_lanes("match.all.sync.b32 %r5|%p1, 7, -1;", std::vector<uint64_t>(32), yes);
  check_lanes("match.all.sync.b64 %r5|%p1, %rd3, -1;", std::vector<uint64_t>(32), no);
}

// Hints: they change nothing, and must be taken.
void hints() {
  check_lanes(
      "ldu.global.u64 %rd4, [%rd0];\nsetp.eq.u64 %p1, %rd4, 9;\nprefetch.global.L2 [%rd0];\nprefetchu.L1 "
      "[%rd0];\nmembar.gl;\nnanosleep.u32 100;\nsetmaxnreg.inc.sync.aligned.u32 64;\ncreatepolicy.fractional."
      "L2::evict_first.b64 %rd5, 0f3F800000;",
      std::vector<uint64_t>(32, 9), [](uint64_t) { return true; });
  const Outcome stopped = run_kernel(kernel_text("", "brkpt;"), "k", {}, {}, 0, {});
  check(stopped.code == 719, "brkpt without a debugger stops the kernel: " + stopped.text);
}

}  // namespace

void check_predicate() {
  set_instruction();
  slct_instruction();
  testp_instruction();
  state_spaces();
  hints();
}

}  // namespace gpusim
