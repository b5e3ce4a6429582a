// Malformed text gives an error with a line, and what is not implemented is named when the kernel is assembled.
#include "ptx/parser.h"
#include "tests/check.h"

namespace gpusim {
namespace {

struct Case {
  const char* what;
  const char* body;
  const char* says;
};
const Case kCases[] = {
    {"an unknown instruction", "frobnicate.u32 %r1, %r2;", "instruction frobnicate.u32 is not implemented"},
    {"an unknown modifier", "add.cluster.u32 %r1, %r2, %r3;", "add.cluster.u32 is not implemented (.cluster)"},
    {"an unknown function", "call foo;", "call of foo, a function without a body"},
    {"textures", "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [t, {%f1, %f2}];", "is not implemented"},
    {"an unknown register", "add.u32 %r1, %r2, %q;", "unknown register %q"},
    {"an unknown label", "bra nowhere;", "unknown label nowhere"},
    {"an unknown predicate", "@%p99 add.u32 %r1, %r2, %r3;", "unknown predicate %p99"},
    {"a wrong width", "add.u32 %r1, %rd2, %r3;", "has 64 bits"},
    {"too few operands", "add.u32 %r1, %r2;", "operands"},
    {"a label twice", "here:\nhere:", "declared twice"},
    {"an unfinished vector", "ld.global.v2.u32 {%r1, %r2; [%rd0]};", "expected ',' or '}'"},
    {"a missing semicolon", "add.u32 %r1, %r2, %r3", "expected"},
    {"a comment without end", "/* add.u32", "comment without end"},
    {"a rounding that is missing", "cvt.f16.f32 %h1, %f1;", "needs a rounding mode"},
    {"a wgmma shape", "wgmma.mma_async.sync.aligned.m64n12k16.f32.f16.f16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;",
     "is not implemented (shape)"},
    {"a register count near the end of 64 bits", ".reg .b64 %q<0xffffffffffffffff>;", "too many registers"},
    {"registers beyond the limit in several steps", ".reg .b64 %q<131000>, %s<131000>;", "too many registers"},
    {"an integer of more than 64 bits", "mov.u64 %rd1, 0xffffffffffffffff64;", "an integer of more than 64 bits"},
    {"clusters", "barrier.cluster.arrive;", "is not implemented (clusters)"},
};

}  // namespace

void check_parser() {
  for (const Case& one : kCases) {
    const Outcome outcome = run_kernel(kernel_text("", one.body), "k", {}, {}, 0, {});
    check(outcome.code == 218 && outcome.says(one.says) && outcome.says("PTX line"),
          std::string(one.what) + ": " + outcome.text);
  }
  const Outcome terse = run_kernel(
      kernel_text("", "{.reg.b16 x;\nmov.b16 x, %h1;\n}\nrsqrt.approx.ftz.f64 %fd1, %fd2;"), "k", {}, {}, 0, {});
  check(terse.ok(), "inline assembly as cuda_fp16.h writes it: " + terse.text);
  check(run_kernel("", "k", {}, {}, 0, {}).code == 209, "no text at all");
  check(run_kernel("not PTX", "k", {}, {}, 0, {}).code == 218, "no PTX");
  check(run_kernel(".version 12.0\n.target sm_80\n", "k", {}, {}, 0, {}).code == 222, "a version of the future");
  check(run_kernel(kernel_text("", ""), "k", {}, {}, 0, {}, 80).code == 209, "a target above the device");
  check(run_kernel(kernel_text("", ""), "other", {}, {}, 0, {}).code == 500, "a kernel that is not there");
  const Module module = parse_ptx(kernel_text(".param .u64 .ptr .global .align 16 a, .param .align 64 .b8 map[128]",
                                              "mov.f32 %f1, 0f3F800000; // one"));
  check(module.target == 90 && module.arch_specific && module.version_major == 9, "the header");
  check(module.kernels.size() == 1 && module.kernels[0].param_offsets[1] == 64 && module.kernels[0].param_bytes == 192,
        "parameters are aligned");
}

}  // namespace gpusim
