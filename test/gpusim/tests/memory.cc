// Loads and stores of every size, and everything that a strict machine refuses.
#include "tests/check.h"

namespace gpusim {
namespace {

const char* const kStart = "ld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nmov.u32 %r0, %tid.x;\n";

Outcome run(const std::string& body, Buffer* a, Buffer* b, unsigned threads = 1) {
  return run_kernel(kernel_text(".param .u64 a, .param .u64 b", kStart + body), "k", {}, {threads}, 0, {a, b});
}

void values() {
  Buffer a = Buffer::of<uint8_t>({0x80, 0xff, 0x01, 0x02, 0x03, 0x04, 0x05, 0x86, 1, 2, 3, 4, 5, 6, 7, 8}),
         b = Buffer::unwritten(64);
  const Outcome outcome = run(
      "ld.global.s8 %r1, [%rd0];\nst.global.u32 [%rd1], %r1;\nld.global.u8 %r1, [%rd0];\nst.global.u32 [%rd1+4], %r1;\n"
      "ld.global.s16 %r1, [%rd0+6];\nst.global.u32 [%rd1+8], %r1;\nld.global.s32 %rd2, [%rd0+4];\nst.global.u64 "
      "[%rd1+16], %rd2;\n"
      "ld.global.v4.u8 {%h1, %h2, _, %h3}, [%rd0];\nst.global.v2.u16 [%rd1+12], {%h2, %h3};\n"
      "ld.global.v2.b64 {%rd2, %rd3}, [%rd0];\nst.global.v2.b64 [%rd1+32], {%rd3, %rd2};\n"
      "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];\nst.global.v4.b32 [%rd1+48], {%r4, %r3, %r2, %r1};",
      &a, &b);
  const auto words = b.as<uint32_t>();
  check(outcome.ok(), "loads and stores: " + outcome.text);
  check(words[0] == 0xffffff80 && words[1] == 0x80 && words[2] == 0xffff8605, "narrow loads extend");
  check(words[3] == 0x000200ff, "a vector of bytes with a sink");
  check(words[4] == 0x86050403 && words[5] == 0xffffffff, "a 32-bit load into 64 bits");
  check(b.as<uint64_t>()[4] == 0x0807060504030201 && words[12] == 0x08070605, "vectors");
}

void spaces() {
  Buffer a = Buffer::of<uint32_t>({11, 22, 33, 44}), b = Buffer::unwritten(16);
  const std::string constant =
      ".version 9.0\n.target sm_80\n.address_size 64\n.const .align 4 .u32 table[3] = {5, 6, 7};\n"
      ".global .align 8 .u64 pointer = table;\n.visible .entry k(.param .u64 b)\n{\n.reg .b64 %rd<4>;\n"
      ".reg .b32 %r<4>;\nld.param.u64 %rd1, [b];\nld.const.u32 %r1, [table+8];\nst.global.u32 [%rd1], %r1;\n"
      "ld.global.u64 %rd2, [pointer];\nld.global.u32 %r2, [%rd2+4];\nst.global.u32 [%rd1+4], %r2;\nret;\n}\n";
  const Outcome constants = run_kernel(constant, "k", {}, {}, 0, {&b});
  check(constants.ok() && b.as<uint32_t>()[0] == 7 && b.as<uint32_t>()[1] == 6,
        "constants and addresses in initialisers: " + constants.text);
  const Outcome generic = run(
      ".shared .align 8 .b8 s[64];\n.local .align 8 .b8 l[16];\nmov.u64 %rd2, s;\ncvta.shared.u64 %rd3, %rd2;\nst.u32 "
      "[%rd3+4], 77;\n"
      "ld.shared.u32 %r1, [s+4];\nst.global.u32 [%rd1], %r1;\nmov.u64 %rd4, l;\ncvta.local.u64 %rd5, %rd4;\nst.u32 "
      "[%rd5+8], 88;\n"
      "ld.local.u32 %r2, [l+8];\nst.global.u32 [%rd1+4], %r2;\nisspacep.shared %p1, %rd3;\nselp.u32 %r3, 1, 0, "
      "%p1;\nst.global.u32 [%rd1+8], %r3;",
      &a, &b);
  const auto words = b.as<uint32_t>();
  check(generic.ok() && words[0] == 77 && words[1] == 88 && words[2] == 1, "generic addresses: " + generic.text);
}

struct Refusal {
  const char* what;
  const char* body;
  int code;
  const char* says;
};

void refusals() {
  const Refusal cases[] = {
      {"a load past the end", "ld.global.u32 %r1, [%rd0+16];", 700,
       "0 bytes past the end of an allocation of 16 bytes"},
      {"a load over the end", "ld.global.u64 %rd2, [%rd0+12];", 716, "is not aligned"},
      {"a null pointer", "mov.u64 %rd2, 0;\nst.global.u32 [%rd2], 1;", 700, "outside any allocation"},
      {"a misaligned store", "st.global.u32 [%rd0+2], 1;", 716, "is not aligned to 4 bytes"},
      {"a misaligned vector", "ld.global.v2.u32 {%r1, %r2}, [%rd0+4];", 716, "is not aligned to 8 bytes"},
      {"global memory that nobody wrote", "ld.global.u32 %r1, [%rd1];", 719, "nobody wrote it"},
      {"a word of which one byte was written", "st.global.u8 [%rd1+1], 1;\nld.global.u32 %r1, [%rd1];", 719,
       "nobody wrote it"},
      {"shared memory that nobody wrote", ".shared .align 4 .b8 s[64];\nld.shared.u32 %r1, [s];", 719, "nobody wrote"},
      {"past the end of shared memory", ".shared .align 4 .b8 s[64];\nst.shared.u32 [s+64], 1;", 700,
       "outside shared memory of 64 bytes"},
      {"local memory that nobody wrote", ".local .align 4 .b8 l[8];\nld.local.u32 %r1, [l];", 719, "nobody wrote"},
      {"past the end of local memory", ".local .align 4 .b8 l[16];\nst.local.u32 [l+16], 1;", 700, "local memory"},
      {"a store to a parameter", "mov.u64 %rd2, a;\ncvta.param.u64 %rd2, %rd2;\nst.u32 [%rd2], 1;", 700, "parameter"},
  };
  for (const Refusal& one : cases) {
    Buffer a = Buffer::of<uint32_t>({1, 2, 3, 4}), b = Buffer::unwritten(16);
    const Outcome outcome = run(one.body, &a, &b);
    check(outcome.code == one.code && outcome.says(one.says) && outcome.says("PTX line") && outcome.says("lane 0"),
          std::string(one.what) + ": " + std::to_string(outcome.code) + " " + outcome.text);
  }
  const std::string constant =
      ".version 9.0\n.target sm_80\n.address_size 64\n.const .align 4 .u32 table[3] = {5, 6, 7};\n"
      ".visible .entry k()\n{\n.reg .b64 %rd<4>;\nmov.u64 %rd1, table;\ncvta.const.u64 %rd1, %rd1;\nst.u32 [%rd1], "
      "1;\nret;\n}\n";
  check(run_kernel(constant, "k", {}, {}, 0, {}).says("constant memory"), "constant memory is not written");
}

void freed() {
  Buffer a = Buffer::of<uint32_t>({1});
  check(run_kernel(kernel_text(".param .u64 a", "ret;"), "k", {}, {}, 0, {&a}).ok(), "a device to try on");
  uint64_t pointer = 0;
  cuMemAlloc_v2(&pointer, 64);
  cuMemFree_v2(pointer);
  LoadedModule* module = nullptr;
  Function* function = nullptr;
  const std::string text = kernel_text(".param .u64 a", "ld.param.u64 %rd0, [a];\nst.global.u32 [%rd0], 1;");
  cuModuleLoadData(&module, text.c_str());
  cuModuleGetFunction(&function, module, "k");
  void* params[] = {&pointer};
  cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr);
  const int code = cuCtxSynchronize();
  check(code == 700 && Driver::get().last_fault.find("freed memory") != std::string::npos,
        "freed memory is not written");
  check(cuMemAlloc_v2(&pointer, 64) == 700, "a fault is sticky");
  cuDevicePrimaryCtxReset_v2(0);
  check(cuMemAlloc_v2(&pointer, 64) == 0, "a reset clears it");
}

}  // namespace

void check_memory() {
  values();
  spaces();
  refusals();
  freed();
}

}  // namespace gpusim
