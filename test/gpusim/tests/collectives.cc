// Exchanges inside a warp, and what happens when it has diverged.
#include "tests/check.h"

namespace gpusim {
namespace {

const char* const kStart =
    "ld.param.u64 %rd0, [out];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd0, %rd0, %rd1;\n";

Outcome run(const std::string& body, std::vector<uint32_t>* out) {
  Buffer buffer = Buffer::unwritten(128);
  const Outcome outcome = run_kernel(kernel_text(".param .u64 out", kStart + body + "\nst.global.u32 [%rd0], %r1;"),
                                     "k", {}, {32}, 0, {&buffer});
  *out = buffer.as<uint32_t>();
  return outcome;
}

template <class F>
void each_lane_is(const std::string& body, F want) {
  std::vector<uint32_t> out;
  const Outcome outcome = run(body, &out);
  bool right = outcome.ok();
  for (uint32_t l = 0; l < 32; l++) right &= out[l] == want(l);
  check(right, body + ": " + outcome.text);
}

void values() {
  each_lane_is("shfl.sync.up.b32 %r1, %r0, 3, 0, -1;", [](uint32_t l) { return l < 3 ? l : l - 3; });
  each_lane_is("shfl.sync.down.b32 %r1, %r0, 5, 31, -1;", [](uint32_t l) { return l + 5 > 31 ? l : l + 5; });
  each_lane_is("shfl.sync.bfly.b32 %r1, %r0, 6, 31, -1;", [](uint32_t l) { return l ^ 6; });
  each_lane_is("shfl.sync.idx.b32 %r1, %r0, 9, 31, -1;", [](uint32_t) { return 9u; });
  // Segments of 8 lanes: the segment mask is 0x18 in bits 8-12.
  each_lane_is("shfl.sync.idx.b32 %r1, %r0, 2, 0x181f, -1;", [](uint32_t l) { return (l & ~7u) + 2; });
  each_lane_is("shfl.sync.up.b32 %r1, %r0, 2, 0x1800, -1;", [](uint32_t l) { return l % 8 < 2 ? l : l - 2; });
  each_lane_is("shfl.sync.down.b32 %r2|%p1, %r0, 5, 31, -1;\nselp.u32 %r1, 1, 0, %p1;",
               [](uint32_t l) { return l + 5 <= 31 ? 1u : 0u; });
  each_lane_is("setp.lt.u32 %p1, %r0, 10;\nvote.sync.ballot.b32 %r1, %p1, -1;", [](uint32_t) { return 0x3ffu; });
  each_lane_is(
      "setp.lt.u32 %p1, %r0, 10;\nvote.sync.any.pred %p2, %p1, -1;\nvote.sync.all.pred %p3, %p1, "
      "-1;\nvote.sync.uni.pred %p4, !%p1, -1;\n"
      "selp.u32 %r1, 1, 0, %p2;\n@%p3 add.u32 %r1, %r1, 2;\n@%p4 add.u32 %r1, %r1, 4;",
      [](uint32_t) { return 1u; });
  each_lane_is("redux.sync.add.u32 %r1, %r0, -1;", [](uint32_t) { return 496u; });
  each_lane_is("sub.u32 %r2, %r0, 16;\nredux.sync.min.s32 %r1, %r2, -1;", [](uint32_t) { return 0xfffffff0u; });
  each_lane_is("redux.sync.xor.b32 %r1, %r0, -1;", [](uint32_t) { return 0u; });
  each_lane_is("shr.u32 %r2, %r0, 3;\nmatch.any.sync.b32 %r1, %r2, -1;", [](uint32_t l) { return 0xffu << (l & ~7u); });
  each_lane_is("elect.sync %r2|%p1, -1;\nselp.u32 %r1, %r2, 99, %p1;", [](uint32_t l) { return l == 0 ? 0u : 99u; });
}

void divergence() {
  std::vector<uint32_t> out;
  const std::string half = "setp.lt.u32 %p1, %r0, 16;\nmov.u32 %r1, 0;\n";
  check(run(half + "@%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff;", &out).ok() && out[3] == 2,
        "half a warp shuffles by itself");
  const Outcome missing = run(half + "@!%p1 bra skip;\nshfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;\nskip:", &out);
  check(missing.code == 719 && missing.says("diverged"),
        "a shuffle for which half of the warp never comes: " + missing.text);
  const Outcome unnamed = run(half + "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff;", &out);
  check(unnamed.code == 719 && unnamed.says("member mask"), "a lane that the member mask does not name");
  const Outcome barrier = run(half + "@%p1 bar.sync 0;", &out);
  check(barrier.code == 719 && barrier.says("diverged"), "bar.sync in half of a warp");
  const Outcome apart = run(half + "@%p1 bra low;\nbarrier.sync 0;\nbra both;\nlow:\nbarrier.sync 0;\nboth:", &out);
  check(apart.ok(), "barrier.sync from both sides of a branch: " + apart.text);
  check(
      run(half + "@%p1 bra low;\nbar.warp.sync 0xffff0000;\nbra both;\nlow:\nbar.warp.sync 0xffff;\nboth:", &out).ok(),
      "bar.warp.sync of each half");
  const Outcome reduced = run("setp.lt.u32 %p1, %r0, 10;\nbar.red.popc.u32 %r1, 0, %p1;", &out);
  check(reduced.ok() && out[0] == 10 && out[31] == 10, "bar.red.popc: " + reduced.text);
}

}  // namespace

void check_collectives() {
  values();
  divergence();
}

}  // namespace gpusim
