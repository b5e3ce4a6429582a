// The counters of a launch against numbers counted by hand.
#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "tests/check.h"
#include "tests/gemm.h"

namespace gpusim {
namespace {

double field(const std::string& json, const std::string& name) {
  const size_t at = json.rfind("\"" + name + "\": ");
  return at == std::string::npos ? -1 : std::atof(json.c_str() + at + name.size() + 4);
}

}  // namespace

void check_stats() {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("gpusim_stats_" + std::to_string(getpid()) + ".json")).string();
  {
    const With settings([&](Options& options) { options.stats_path = path; });
    // 32 lanes load 4 bytes each: once side by side, once 128 bytes apart; then a shared store in one bank.
    Buffer a = Buffer::of(std::vector<uint32_t>(32 * 32, 1));
    const Outcome outcome = run_kernel(kernel_text(".param .u64 a",
                                                   ".shared .align 16 .b8 s[4096];\nld.param.u64 %rd0, [a];\nmov.u32 "
                                                   "%r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\n"
                                                   "add.u64 %rd2, %rd0, %rd1;\nld.global.u32 %r1, "
                                                   "[%rd2];\nmul.wide.u32 %rd1, %r0, 128;\nadd.u64 %rd2, %rd0, %rd1;\n"
                                                   "ld.global.u32 %r2, [%rd2];\nmov.u32 %r3, s;\nshl.b32 %r4, %r0, "
                                                   "7;\nadd.u32 %r3, %r3, %r4;\nst.shared.u32 [%r3], %r1;"),
                                       "k", {}, {32}, 0, {&a});
    const std::string json = read_file(path);
    check(outcome.ok() && json.compare(0, 2, "[\n") == 0 && json.compare(json.size() - 3, 3, "\n]\n") == 0,
          "the file is an array: " + outcome.text);
    check(field(json, "globalLoadSectors") == 4 + 32, "sectors");
    check(field(json, "idealLoadSectors") == 4 + 4, "ideal sectors");
    check(field(json, "sharedWavefronts") == 32 && field(json, "idealWavefronts") == 1, "wavefronts");
    check(field(json, "loadGlobal") == 2 && field(json, "storeShared") == 1, "instructions by class");
    check(json.find("\"predictedClocks\"") != std::string::npos && json.find("\"binds\": ") != std::string::npos,
          "a roofline that says it predicts");
    const std::string text = gemm_text();
    GemmProblem problem(128, 128, 64);
    const Outcome product = problem.run(text);
    const std::string second = read_file(path);
    check(product.ok() && problem.error() == 0, "the GEMM is right: " + product.text);
    check(field(second, "mma") == 4 * 4 * 8 * 4 && field(second, "tensorFlops") == 2.0 * 128 * 128 * 64, "mma");
    check(field(second, "sharedWavefronts") == field(second, "idealWavefronts"), "the swizzle has no bank conflicts");
    check(field(second, "globalLoadSectors") == 2 * 128 * 64 * 2 / 32, "each operand is loaded once");
    check(field(second, "asyncLoadSectors") == field(second, "globalLoadSectors"), "by cp.async");
    check(field(second, "matrix") == field(second, "mma"), "all mma are in the loop");
    const double in_loop = field(second.substr(second.rfind("\"matrixLoop\"")), "instructions");
    check(in_loop > field(second, "mma") && in_loop < field(second, "warpInstructions"), "and not all else");
  }
  std::remove(path.c_str());
}

}  // namespace gpusim
