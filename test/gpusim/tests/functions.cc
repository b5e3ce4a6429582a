// Device functions: what nvcc compiles float64 sin, cos and pow to, and calls written by hand.
#include <cmath>

#include "tests/check.h"

namespace gpusim {
namespace {

/// Distance in units of the last place of `want`.
double ulps(double got, double want) {
  if (std::isnan(want) || std::isinf(want) || want == 0) return got == want || (got != got && want != want) ? 0 : 1e9;
  return std::fabs(got - want) / std::fabs(std::nextafter(want, INFINITY) - want);
}

void check_against_libm(const std::string& kernel, const std::vector<double>& x, const std::vector<double>& y,
                        double (*function)(double, double)) {
  const std::string text = read_file(source_folder() + "/tests/fixtures/float64_functions.ptx");
  Buffer out = Buffer::unwritten(x.size() * 8), xs = Buffer::of(x), ys = Buffer::of(y.empty() ? x : y);
  std::vector<Arg> args = {&out, &xs};
  if (!y.empty()) args.emplace_back(&ys);
  const Outcome outcome = run_kernel(text, kernel, {}, {static_cast<unsigned>(x.size())}, 0, args, 80);
  check(outcome.ok(), kernel + ": " + outcome.text);
  if (!outcome.ok()) return;
  const auto got = out.as<double>();
  for (size_t i = 0; i < x.size(); i++) {
    const double want = function(x[i], y.empty() ? 0 : y[i]);
    check(ulps(got[i], want) <= 2, kernel + " of " + std::to_string(x[i]) + " is " + std::to_string(got[i]) +
                                       " instead of " + std::to_string(want));
  }
}

// From 105615 on, reduction by pi/2 takes the function __internal_trig_reduction_slowpathd; here every third lane does.
void trigonometry() {
  std::vector<double> x = {0.0, -0.0, 1e-310, 1e22, -1e22, 1.7976931348623157e308, INFINITY, NAN, 0x1p1023, 105615.0};
  for (int i = 0; x.size() < 200; i++)
    x.push_back((i % 2 == 0 ? 1 : -1) * (i % 3 == 0 ? std::ldexp(1.1 + i, 20 + 5 * i) : 0.37 * i));
  check_against_libm("sines", x, {}, [](double a, double) { return std::sin(a); });
  check_against_libm("cosines", x, {}, [](double a, double) { return std::cos(a); });
}

void powers() {
  std::vector<double> x, y;
  const double infinity = INFINITY;
  for (const double a : {0.0, -0.0, 0.5, 1.0, -1.0, 1.0000001, 3.7, -2.0, 1e-300, 1e150, infinity, -infinity})
    for (const double b : {0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -7.0, 1.5, 700.25, 1e22, infinity}) {
      x.push_back(a);
      y.push_back(b);
    }
  check_against_libm("powers", x, y, [](double a, double b) { return std::pow(a, b); });
}

void structures() {
  constexpr int threads = 64, k = 3;
  Buffer out = Buffer::unwritten(threads * 4);
  const Outcome outcome = run_kernel(read_file(source_folder() + "/tests/fixtures/calls.ptx"), "calls", {}, {threads},
                                     0, {&out, k}, 80);
  bool right = outcome.ok();
  const auto got = out.as<float>();
  for (int thread = 0; thread < threads; thread++) {
    const int neighbour = thread ^ 1;
    float x = 1.5f;
    for (int i = 0; i < neighbour; i++) x += static_cast<float>(((i + k) & 7) * neighbour);
    right &= got[static_cast<size_t>(thread)] == 2 * x + static_cast<float>(k + 'b');
  }
  check(right, "structures, local arrays and shared memory: " + outcome.text);
}

/// A module with functions before the kernel k(out): out[lane] = %r1 after the body, with %r0 the lane.
Outcome run(const std::string& functions, const std::string& body, std::vector<uint32_t>* out) {
  const std::string kernel = kernel_text(".param .u64 out", "ld.param.u64 %rd0, [out];\nmov.u32 %r0, %tid.x;\n" + body +
                                                                "\nmul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd0, %rd0, "
                                                                "%rd1;\nst.global.u32 [%rd0], %r1;");
  const size_t at = kernel.find(".visible");
  Buffer buffer = Buffer::unwritten(64 * 4);
  const Outcome outcome = run_kernel(kernel.substr(0, at) + functions + kernel.substr(at), "k", {}, {64}, 0, {&buffer});
  *out = buffer.as<uint32_t>();
  return outcome;
}

// square's early return, its local array and its label exist at each site; sum calls it twice, once for odd numbers only.
const char* const kSquare =
    ".func (.param .b32 r) square(.param .b32 a)\n{\n.reg .pred %p<2>;\n.reg .b32 %r<4>;\n.reg .b64 %rd<2>;\n"
    ".local .align 4 .b8 depot[8];\nld.param.u32 %r1, [a];\nsetp.eq.u32 %p1, %r1, 3;\n@%p1 bra three;\n"
    "mov.u64 %rd1, depot;\nst.local.u32 [%rd1+4], %r1;\nld.local.u32 %r2, [depot+4];\nmul.lo.u32 %r3, %r1, %r2;\n"
    "st.param.b32 [r+0], %r3;\nret;\nthree:\nst.param.b32 [r+0], 9;\nret.uni;\n}\n";
const char* const kSum =
    ".func (.param .b32 r) sum(.param .b32 a, .param .align 8 .b8 pair[8])\n{\n.reg .pred %p<2>;\n.reg .b32 %r<6>;\n"
    "ld.param.u32 %r1, [a];\nld.param.v2.u32 {%r2, %r5}, [pair];\nand.b32 %r3, %r1, 1;\nsetp.eq.u32 %p1, %r3, 1;\n"
    "{\n.param .b32 x;\nst.param.b32 [x], %r2;\n.param .b32 y;\ncall.uni (y), square, (x);\nld.param.b32 %r4, [y];\n}\n"
    "{\n.param .b32 y;\nst.param.b32 [y], 100;\n@%p1 call (y), square, (a);\nld.param.b32 %r3, [y];\n}\n"
    "add.u32 %r3, %r3, %r4;\nadd.u32 %r3, %r3, %r5;\nst.param.b32 [r], %r3;\n}\n";

void written_by_hand() {
  std::vector<uint32_t> out;
  const std::string call_sum =
      "{\n.param .b32 x;\n.param .align 8 .b8 p[8];\n.param .b32 y;\nst.param.b32 [x], %r0;\nadd.u32 %r3, %r0, 1;\n"
      "st.param.v2.b32 [p], {%r3, 1000};\ncall (y), sum, (x, p);\nld.param.b32 %r1, [y];\n}\n";
  const auto want = [](uint32_t i) { return (i + 1) * (i + 1) + (i % 2 == 1 ? i * i : 100) + 1000; };

  const Outcome nested = run(std::string(kSquare) + kSum, call_sum, &out);
  bool right = nested.ok();
  for (uint32_t i = 0; i < out.size(); i++) right &= out[i] == want(i);
  check(right, "nested and guarded calls: " + nested.text);

  const Outcome looped = run(std::string(kSquare) + kSum,
                             "mov.u32 %r5, 0;\nmov.u32 %r6, 0;\nand.b32 %r7, %r0, 3;\nagain:\n" + call_sum +
                                 "add.u32 %r5, %r5, %r1;\nadd.u32 %r6, %r6, 1;\nsetp.le.u32 %p1, %r6, %r7;\n@%p1 bra "
                                 "again;\nmov.u32 %r1, %r5;",
                             &out);
  right = looped.ok();
  for (uint32_t i = 0; i < out.size(); i++) right &= out[i] == want(i) * (i % 4 + 1);
  check(right, "calls in a loop that lanes leave one by one: " + looped.text);

  const Outcome together = run(
      kSquare,
      "{\n.param .b32 x;\n.param .b32 y;\nst.param.b32 [x], %r0;\nsetp.lt.u32 %p1, %r0, 40;\n@%p1 call (y), "
      "square, (x);\nvote.sync.ballot.b32 %r1, 1, -1;\n}",
      &out);
  right = together.ok();
  for (const uint32_t x : out) right &= x == 0xffffffffu;
  check(right, "lanes meet behind a call: " + together.text);

  const Outcome unwritten = run(".func (.param .b32 r) none()\n{\nret;\n}\n",
                                "{\n.param .b32 y;\ncall (y), none;\nld.param.b32 %r1, [y];\n}", &out);
  check(unwritten.says("nobody wrote it"), "a result that the function does not write: " + unwritten.text);
  check(run(".func stop()\n{\nexit;\n}\n", "call stop;\ntrap;", &out).ok(), "exit in a function ends the thread");
  check(run(".extern .func (.param .b32 r) printer(.param .b64 a);\n", "mov.u32 %r1, 0;", &out).ok(),
        "a declaration that nobody calls");
}

void refused() {
  struct Case {
    const char* what;
    const char* functions;
    const char* body;
    const char* says;
  };
  const Case cases[] = {
      {"recursion", ".func f()\n{\ncall f;\n}\n", "call f;", "function f calls itself: recursion"},
      {"mutual recursion", ".func g();\n.func f()\n{\ncall g;\n}\n.func g()\n{\ncall f;\n}\n", "call f;", "recursion"},
      {"an indirect call", "", "call %rd1, (), p;", "indirect calls are not implemented"},
      {"a prototype", "", "p: .callprototype _ ();", "indirect calls are not implemented"},
      {"a declaration", ".extern .func f();\n", "call f;", "call of f, a function without a body"},
      {"too few arguments", ".func f(.param .b32 a)\n{\n}\n", "call f;", "0 arguments or results instead of 1"},
      {"a wrong size", ".func f(.param .b32 a)\n{\n}\n", ".param .b64 x;\ncall f, (x);", "8 bytes instead of 4"},
      {"a register", ".func f(.param .b32 a)\n{\n}\n", "call f, (%r1);", "not a .param variable"},
      {"the kernel's register", ".func f()\n{\nmov.u32 %r1, 5;\n}\n", "call f;", "unknown name %r1"},
      {"the kernel's parameter", ".func f()\n{\n.reg .b64 %x;\nld.param.u64 %x, [out];\n}\n", "call f;",
       "unknown name"},
      {"no parameter", ".global .b32 v;\n.func f()\n{\n.reg .b32 %x;\nld.param.u32 %x, [v];\n}\n", "call f;",
       "expected a parameter"},
      {"an operand of ret", ".func f()\n{\nret 5;\n}\n", "call f;", "instruction ret: has operands"},
      {"a call without end", "", "call (%r1", "expected"},
  };
  std::vector<uint32_t> out;
  for (const Case& one : cases) {
    const Outcome outcome = run(one.functions, one.body, &out);
    check(outcome.code == 218 && outcome.says(one.says) && outcome.says("PTX line"),
          std::string(one.what) + ": " + outcome.text);
  }
  std::string doubling = ".func f0()\n{\n}\n";
  for (int i = 1; i < 30; i++) {
    const std::string callee = "f" + std::to_string(i - 1);
    doubling += ".func f" + std::to_string(i) + "()\n{\ncall " + callee + ";\ncall " + callee + ";\n}\n";
  }
  const Outcome many = run(doubling, "call f29;", &out);
  check(many.code == 218 && many.says("too many"), "a billion inlined calls: " + many.text);
}

}  // namespace

void check_functions() {
  trigonometry();
  powers();
  structures();
  written_by_hand();
  refused();
}

}  // namespace gpusim
