// Divergence, reconvergence, deadlock and loops without end.
#include "tests/check.h"

namespace gpusim {
namespace {

const char* const kLane =
    "ld.param.u64 %rd0, [out];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd1, %r0, 4;\nadd.u64 %rd0, %rd0, %rd1;\n";

Outcome run(const std::string& body, std::vector<uint32_t>* out, unsigned threads = 64) {
  Buffer buffer = Buffer::unwritten(threads * 4);
  const Outcome outcome = run_kernel(kernel_text(".param .u64 out", kLane + body), "k", {}, {threads}, 0, {&buffer});
  *out = buffer.as<uint32_t>();
  return outcome;
}

void divergence() {
  std::vector<uint32_t> out;
  // Each lane counts to its own number, in an outer loop whose length differs too.
  const Outcome loops = run(
      "mov.u32 %r1, 0;\nmov.u32 %r2, 0;\nouter:\nmov.u32 %r3, 0;\ninner:\nadd.u32 %r1, %r1, 1;\nadd.u32 %r3, %r3, 1;\n"
      "setp.le.u32 %p1, %r3, %r0;\n@%p1 bra inner;\nadd.u32 %r2, %r2, 1;\nand.b32 %r4, %r0, 3;\nsetp.le.u32 %p2, %r2, "
      "%r4;\n"
      "@%p2 bra outer;\nst.global.u32 [%rd0], %r1;",
      &out);
  bool right = loops.ok();
  for (uint32_t i = 0; i < out.size(); i++) right &= out[i] == (i + 1) * ((i & 3) + 1);
  check(right, "loops of different lengths in each lane: " + loops.text);

  // After the branches the whole warp is together again: activemask and a vote see all lanes.
  const Outcome joined = run(
      "and.b32 %r1, %r0, 1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra even;\nmov.u32 %r2, 7;\nbra both;\neven:\nmov.u32 %r2, "
      "9;\n"
      "both:\nvote.sync.ballot.b32 %r3, %p1, -1;\nxor.b32 %r3, %r3, %r2;\nst.global.u32 [%rd0], %r3;",
      &out);
  right = joined.ok();
  for (uint32_t i = 0; i < out.size(); i++) right &= out[i] == (0x55555555u ^ (i % 2 == 0 ? 9 : 7));
  check(right, "lanes meet again after a branch: " + joined.text);

  const Outcome scoped = run(
      "{\n.reg .pred done;\nagain:\nsetp.eq.u32 done, 1, 1;\n@!done bra again;\n}\n{\n.reg .pred done;\nagain:\n"
      "setp.eq.u32 done, 1, 1;\n@!done bra again;\n}\nst.global.u32 [%rd0], 1;",
      &out);
  check(scoped.ok() && out[0] == 1, "blocks have labels and registers of their own: " + scoped.text);

  // A lane holds a lock that its neighbours spin for.
  const Outcome lock = run(
      ".shared .align 4 .b8 lock[8];\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [lock], 0;\n@%p1 st.shared.u32 "
      "[lock+4], 0;\n"
      "bar.sync 0;\ntry:\natom.shared.cas.b32 %r1, [lock], 0, 1;\nsetp.ne.u32 %p2, %r1, 0;\n@%p2 bra try;\n"
      "atom.shared.add.u32 %r2, [lock+4], 1;\natom.shared.exch.b32 %r1, [lock], 0;\nst.global.u32 [%rd0], %r2;",
      &out);
  uint32_t sum = 0;
  for (const uint32_t x : out) sum += x;
  check(lock.ok() && sum == 64 * 63 / 2, "a lock inside a warp: " + lock.text);
}

void endings() {
  std::vector<uint32_t> out;
  {
    const With settings([](Options& options) { options.max_instructions = 100000; });
    const Outcome outcome = run("again:\nadd.u32 %r1, %r1, 1;\nbra again;", &out, 32);
    check(outcome.code == 702 && outcome.says("run-away loop") && outcome.says("kernel k"),
          "a run-away loop is stopped");
  }
  const Outcome deadlock = run("setp.lt.u32 %p1, %r0, 32;\n@%p1 bar.sync 1, 64;", &out);
  check(deadlock.code == 702 && deadlock.says("deadlock") && deadlock.says("warp 0"),
        "a barrier that waits for a warp that exited");
  const Outcome trap = run("setp.eq.u32 %p1, %r0, 5;\n@%p1 trap;", &out);
  check(trap.code == 719 && trap.says("lane 5"), "trap names the lane");
  const Outcome partial = run("setp.ge.u32 %p1, %r0, 40;\n@%p1 exit;\nbar.sync 0;\nst.global.u32 [%rd0], 3;", &out, 48);
  check(partial.ok(), "threads that have exited do not count at a barrier: " + partial.text);
}

}  // namespace

void check_control() {
  divergence();
  endings();
}

}  // namespace gpusim
