// How fast the device runs. Prints; asserts nothing.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "ops/rounding.h"
#include "tests/check.h"
#include "tests/gemm.h"
#include "tests/programs.h"

namespace gpusim {
namespace {

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The mix of an ordinary kernel: address arithmetic, float arithmetic, comparisons, a conversion, one load from global and
/// one each from and to shared memory in 24 instructions.
std::string ordinary_text() {
  return kernel_text(".param .u64 a, .param .u32 rounds",
                     ".shared .align 16 .b8 s[1024];\nld.param.u64 %rd0, [a];\nld.param.u32 %r9, [rounds];\nmov.u32 "
                     "%r0, %tid.x;\nmov.u32 %r1, s;\nshl.b32 %r2, %r0, 2;\n"
                     "add.u32 %r3, %r1, %r2;\nmov.u32 %r4, 0;\nmov.f32 %f1, 0f3F800000;\nst.shared.f32 [%r3], "
                     "%f1;\nloop:\nand.b32 %r5, %r4, 63;\nadd.u32 %r6, %r5, %r0;\n"
                     "mul.wide.u32 %rd1, %r6, 4;\nadd.s64 %rd2, %rd0, %rd1;\nld.global.f32 %f2, [%rd2];\nfma.rn.f32 "
                     "%f3, %f2, %f1, %f2;\nadd.f32 %f4, %f3, %f2;\n"
                     "mul.f32 %f5, %f4, 0f3F000000;\nmax.f32 %f6, %f5, %f2;\nsetp.gt.f32 %p1, %f6, "
                     "0f41200000;\nselp.f32 %f7, 0f3F800000, %f6, %p1;\nxor.b32 %r7, %r6, %r4;\n"
                     "shr.u32 %r8, %r7, 3;\nlop3.b32 %r10, %r8, %r7, %r6, 150;\ncvt.rn.f32.u32 %f8, %r10;\nfma.rn.f32 "
                     "%f9, %f8, 0f30000000, %f7;\nst.shared.f32 [%r3], %f9;\n"
                     "ld.shared.f32 %f1, [%r3];\nsub.s32 %r11, %r10, %r4;\nmad.lo.s32 %r12, %r11, %r5, %r6;\nmin.s32 "
                     "%r13, %r12, %r11;\nadd.u32 %r4, %r4, 1;\n"
                     "setp.lt.u32 %p2, %r4, %r9;\n@%p2 bra loop;");
}

}  // namespace

int measure_speed() {
  cuInit(0);
  const std::string text = gemm_text();
  if (text.empty()) return std::printf("test/gpusim/tests/fixtures/gemm.ptx is missing\n"), 1;
  for (const bool checks : {true, false}) {
    const With settings([&](Options& options) {
      options.checks = checks;
      options.threads = 1;
    });
    GemmProblem problem(256, 2048, 512);
    double best = 1e9;
    uint64_t instructions = 0;
    for (int round = 0; round < 3; round++) {
      Outcome outcome;
      const uint64_t before = total_instructions();
      const double seconds = seconds_of([&] { outcome = problem.run(text); });
      instructions = total_instructions() - before;
      if (!outcome.ok()) return std::printf("%s\n", outcome.text.c_str()), 1;
      best = std::min(best, seconds);
    }
    std::printf("checks %s, one core: GEMM 256 x 2048 x 512 in %.3f s, %.1f M warp instructions/s\n",
                checks ? "on " : "off", best, static_cast<double>(instructions) / best * 1e-6);
  }
  for (const bool checks : {true, false}) {
    const With settings([&](Options& options) {
      options.checks = checks;
      options.threads = 1;
    });
    Buffer a = Buffer::of(std::vector<float>(512, 1.0f));
    double best = 1e9;
    uint64_t instructions = 0;
    for (int round = 0; round < 3; round++) {
      const uint64_t before = total_instructions();
      Outcome outcome;
      const double seconds = seconds_of([&] { outcome = run_kernel(ordinary_text(), "k", {8}, {128}, 0, {&a, 4000}); });
      if (!outcome.ok()) return std::printf("%s\n", outcome.text.c_str()), 1;
      instructions = total_instructions() - before;
      best = std::min(best, seconds);
    }
    std::printf("checks %s, one core: ordinary mix, %.1f M warp instructions/s\n", checks ? "on " : "off",
                static_cast<double>(instructions) / best * 1e-6);
  }
  return 0;
}

}  // namespace gpusim
