// Races in shared memory between barriers and in global memory within a launch; and what only looks like one.
#include <algorithm>

#include "tests/check.h"

namespace gpusim {
namespace {

const char* const kStart =
    ".shared .align 16 .b8 s[1024];\nld.param.u64 %rd0, [a];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, %ctaid.x;\n"
    "mov.u32 %r10, s;\nshl.b32 %r2, %r0, 2;\nadd.u32 %r11, %r10, %r2;\nshr.u32 %r3, %r0, 5;\n"
    "xor.b32 %r4, %r2, 128;\nadd.u32 %r12, %r10, %r4;\n";

struct Case {
  const char* what;
  const char* body;
  unsigned blocks;
  const char* says;  // empty: it is right
};

const Case kCases[] = {
    {"a neighbour's word without a barrier", "st.shared.u32 [%r11], %r0;\nld.shared.u32 %r5, [%r12];", 1,
     "nobody wrote|race"},
    {"a neighbour's word after a barrier", "st.shared.u32 [%r11], %r0;\nbar.sync 0;\nld.shared.u32 %r5, [%r12];", 1,
     ""},
    {"a word that a neighbour still reads",
     "st.shared.u32 [%r11], %r0;\nbar.sync 0;\nld.shared.u32 %r5, [%r12];\nst.shared.u32 [%r11], %r3;", 1,
     "races with a"},
    {"different values in one word", "st.shared.u32 [%r10], %r3;", 1, "races with a write"},
    {"equal values in one word", "st.shared.u32 [%r10], 7;\nbar.sync 0;\nld.shared.u32 %r5, [%r10];", 1, ""},
    {"bytes of one word", "add.u32 %r5, %r10, %r3;\nst.shared.u8 [%r5], %r3;\nbar.sync 0;\nld.shared.u16 %h1, [%r10];",
     1, ""},
    {"one byte of another warp's halfword",
     "add.u32 %r5, %r10, %r3;\nst.shared.u8 [%r5], %r3;\nld.shared.u8 %h2, [%r10+1];", 1, "nobody wrote|race"},
    {"a barrier for the other two warps",
     "st.shared.u32 [%r11], %r0;\nand.b32 %r6, %r3, 1;\nadd.u32 %r6, %r6, 1;\nbar.sync %r6, 32;\nld.shared.u32 %r5, "
     "[%r12];",
     1, "nobody wrote|race"},
    {"arrive and sync on a named barrier",
     "setp.eq.u32 %p1, %r3, 0;\n@!%p1 bra other;\nst.shared.u32 [%r11], %r0;\nbar.arrive 1, 64;\nbra "
     "done;\nother:\nbar.sync 1, 64;\nld.shared.u32 %r5, [%r12];\ndone:",
     1, ""},
    {"atomics on one word",
     "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r10], 0;\nbar.sync 0;\natom.shared.add.u32 %r5, [%r10], "
     "1;\nbar.sync 0;\nld.shared.u32 %r5, [%r10];",
     1, ""},
    {"an atomic and a store",
     "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [%r10], 0;\nbar.sync 0;\natom.shared.add.u32 %r5, [%r10], 1;\n@%p1 "
     "st.shared.u32 [%r10], 5;",
     1, "races"},
    {"two blocks write one word", "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.global.u32 [%rd0], %r1;", 2,
     "races with a write by block"},
    {"two blocks write the same", "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.global.u32 [%rd0], 9;", 2, ""},
    {"two blocks write halves of a word",
     "setp.eq.u32 %p1, %r0, 0;\nmul.wide.u32 %rd1, %r1, 2;\nadd.u64 %rd1, %rd0, %rd1;\ncvt.u16.u32 %h1, %r1;\n@%p1 "
     "st.global.u16 [%rd1], %h1;",
     2, ""},
    {"one block reads what another writes",
     "setp.eq.u32 %p1, %r1, 0;\n@%p1 ld.global.u32 %r5, [%rd0];\n@!%p1 st.global.u32 [%rd0], 3;", 2, "races with a"},
    {"two warps of a block in global memory",
     "mul.wide.u32 %rd1, %r2, 1;\nadd.u64 %rd2, %rd0, %rd1;\nst.global.u32 [%rd2], %r0;\nmul.wide.u32 %rd3, %r4, "
     "1;\nadd.u64 %rd3, %rd0, %rd3;\nld.global.u32 %r5, [%rd3];",
     1, "races with a"},
    {"the same with a barrier",
     "mul.wide.u32 %rd1, %r2, 1;\nadd.u64 %rd2, %rd0, %rd1;\nst.global.u32 [%rd2], %r0;\nbar.sync 0;\nmul.wide.u32 "
     "%rd3, %r4, 1;\nadd.u64 %rd3, %rd0, %rd3;\nld.global.u32 %r5, [%rd3];",
     1, ""},
    // The last block sums what all have written, in the order that a fence and an atomic make.
    {"the last block reads after fence and atomic",
     "setp.ne.u32 %p1, %r0, 0;\n@%p1 bra end;\nmul.wide.u32 %rd1, %r1, 4;\nadd.u64 %rd1, %rd0, %rd1;\nst.global.u32 "
     "[%rd1+64], %r1;\nmembar.gl;\n"
     "atom.global.add.u32 %r5, [%rd0], 1;\nsetp.ne.u32 %p2, %r5, 3;\n@%p2 bra end;\nmembar.gl;\nld.global.v4.u32 {%r5, "
     "%r6, %r7, %r8}, [%rd0+64];\nend:",
     4, ""},
    {"the last block reads without fence",
     "setp.ne.u32 %p1, %r0, 0;\n@%p1 bra end;\nmul.wide.u32 %rd1, %r1, 4;\nadd.u64 %rd1, %rd0, %rd1;\nst.global.u32 "
     "[%rd1+64], %r1;\n"
     "atom.global.add.u32 %r5, [%rd0], 1;\nsetp.ne.u32 %p2, %r5, 3;\n@%p2 bra end;\nld.global.v4.u32 {%r5, %r6, %r7, "
     "%r8}, [%rd0+64];\nend:",
     4, "races with a write by block"},
    // A block spins for another one: both must make progress.
    {"a block that waits for another",
     "setp.ne.u32 %p1, %r0, 0;\n@%p1 bra end;\nsetp.eq.u32 %p2, %r1, 0;\n@%p2 bra wait;\nst.global.u32 [%rd0+64], "
     "5;\nst.release.gpu.global.u32 [%rd0], 1;\nbra end;\n"
     "wait:\nld.acquire.gpu.global.u32 %r5, [%rd0];\nsetp.eq.u32 %p3, %r5, 0;\n@%p3 bra wait;\nld.global.u32 %r6, "
     "[%rd0+64];\nend:",
     2, ""},
};

bool says_one_of(const Outcome& outcome, const std::string& alternatives) {
  for (size_t at = 0; at <= alternatives.size();) {
    const size_t end = std::min(alternatives.find('|', at), alternatives.size());
    if (outcome.says(alternatives.substr(at, end - at))) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

void check_shared_and_races() {
  for (const Case& one : kCases)
    for (uint64_t seed = 0; seed < 6; seed++) {
      const With settings([&](Options& options) { options.seed = seed; });
      Buffer a = Buffer::of(std::vector<uint32_t>(256, 0));
      const Outcome outcome = run_kernel(kernel_text(".param .u64 a", std::string(kStart) + one.body), "k",
                                         {one.blocks}, {64}, 0, {&a});
      const bool right = one.says[0] == '\0' ? outcome.ok() : !outcome.ok() && says_one_of(outcome, one.says);
      check(right, std::string(one.what) + ", seed " + std::to_string(seed) + ": " + outcome.text);
    }
}

}  // namespace gpusim
