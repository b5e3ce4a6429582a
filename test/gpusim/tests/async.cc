// Asynchronous copies and wgmma: right when they are waited for, reported when they are not.
#include <algorithm>

#include "memory/tensor_map.h"
#include "ops/rounding.h"
#include "tests/check.h"

extern "C" int cuTensorMapEncodeTiled(void*, int, unsigned, void*, const uint64_t*, const uint64_t*, const unsigned*,
                                      const unsigned*, int, int, int, int);

namespace gpusim {
namespace {

struct Case {
  const char* what;
  const char* body;
  const char* says;  // empty: it is right
};

const char* const kStart =
    ".shared .align 128 .b8 s[4096];\n.shared .align 8 .b8 bar[8];\nld.param.u64 %rd0, [a];\nmov.u32 %r0, "
    "%tid.x;\nmul.wide.u32 %rd1, %r0, 16;\n"
    "add.u64 %rd2, %rd0, %rd1;\nmov.u32 %r10, s;\nshl.b32 %r1, %r0, 4;\nadd.u32 %r11, %r10, %r1;\nsetp.eq.u32 %p1, "
    "%r0, 0;\n";
#define COPY "cp.async.cg.shared.global [%r11], [%rd2], 16;\ncp.async.commit_group;\n"
#define INIT "@%p1 mbarrier.init.shared.b64 [bar], 1;\nbar.sync 0;\n"
#define LOAD                                                         \
  "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 1024;\n@%p1 " \
  "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%rd0], 1024, [bar];\n"
#define WAIT "again:\nmbarrier.try_wait.parity.shared.b64 %p2, [bar], 0;\n@!%p2 bra again;\n"
const Case kCases[] = {
    {"cp.async with its wait", COPY "cp.async.wait_group 0;\nld.shared.u32 %r2, [%r11];", ""},
    {"cp.async without wait", COPY "ld.shared.u32 %r2, [%r11];", "before it was waited for"},
    {"cp.async, waited for all but one", COPY "cp.async.wait_group 1;\nld.shared.u32 %r2, [%r11];",
     "before it was waited for"},
    {"cp.async without commit",
     "cp.async.cg.shared.global [%r11], [%rd2], 16;\ncp.async.wait_group 0;\nld.shared.u32 %r2, [%r11];",
     "before it was waited for"},
    {"cp.async.wait_all needs no commit",
     "cp.async.cg.shared.global [%r11], [%rd2], 16;\ncp.async.wait_all;\nld.shared.u32 %r2, [%r11];", ""},
    {"the neighbour's cp.async without barrier",
     COPY "cp.async.wait_group 0;\nxor.b32 %r3, %r1, 512;\nadd.u32 %r3, %r3, %r10;\nld.shared.u32 %r2, [%r3];",
     "nobody wrote|before it was|races"},
    {"the neighbour's cp.async after a barrier",
     COPY
     "cp.async.wait_group 0;\nbar.sync 0;\nxor.b32 %r3, %r1, 512;\nadd.u32 %r3, %r3, %r10;\nld.shared.u32 %r2, [%r3];",
     ""},
    {"a store to the destination on its way", COPY "st.shared.u32 [%r11], 1;", "before it was waited for"},
    {"a source that changes on the way", COPY "st.global.u32 [%rd2], 99;\ncp.async.wait_group 0;",
     "changed before the copy"},
    {"zero fill",
     "cp.async.cg.shared.global [%r11], [%rd2], 16, 4;\ncp.async.commit_group;\ncp.async.wait_group "
     "0;\nld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r11];\nsetp.ne.u32 %p3, %r5, 0;\n@%p3 trap;",
     ""},
    {"cp.async that an mbarrier completes",
     "@%p1 mbarrier.init.shared.b64 [bar], 64;\nbar.sync 0;\ncp.async.cg.shared.global [%r11], [%rd2], "
     "16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n" WAIT
     "xor.b32 %r3, %r1, 512;\nadd.u32 %r3, %r3, %r10;\nld.shared.u32 %r2, [%r3];",
     ""},
    {"a bulk load with its wait", INIT LOAD WAIT "ld.shared.u32 %r2, [%r11];", ""},
    {"a bulk load without wait", INIT LOAD "bar.sync 0;\nld.shared.u32 %r2, [%r11];", "before it was waited for|races"},
    {"a bulk load, waited for by one warp only",
     INIT LOAD "setp.ge.u32 %p3, %r0, 32;\n@%p3 bra skip;\n" WAIT "skip:\nld.shared.u32 %r2, [%r11];",
     "nobody wrote|before it was waited for|races"},
    {"too few bytes expected",
     INIT "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 2048;\n@%p1 "
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%rd0], 1024, [bar];\n" WAIT,
     "deadlock"},
    {"too many arrivals", INIT "mbarrier.arrive.shared.b64 _, [bar], 2;", "more arrivals"},
    {"no mbarrier", LOAD, "no initialised mbarrier"},
    {"an mbarrier as data", INIT "ld.shared.u32 %r2, [bar];", "mbarrier object"},
    {"a token of an arrival",
     INIT "@!%p1 bra end;\nmbarrier.arrive.shared.b64 %rd3, [bar];\nagain:\nmbarrier.test_wait.shared.b64 %p2, [bar], "
          "%rd3;\n@!%p2 bra again;\nend:",
     ""},
    {"a bulk store with its waits",
     "st.shared.v4.u32 [%r11], {%r0, %r0, %r0, %r0};\nfence.proxy.async.shared::cta;\nbar.sync 0;\n@!%p1 bra "
     "end;\ncp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r10], "
     "1024;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\nst.shared.u32 [%r10], 5;\nend:",
     ""},
    {"a source of a bulk store written too early",
     "st.shared.v4.u32 [%r11], {%r0, %r0, %r0, %r0};\nbar.sync 0;\n@!%p1 bra "
     "end;\ncp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r10], "
     "1024;\ncp.async.bulk.commit_group;\nst.shared.u32 [%r10], 5;\nend:",
     "still reads"},
    {"an exit before a bulk store has read",
     "st.shared.v4.u32 [%r11], {%r0, %r0, %r0, %r0};\nbar.sync 0;\n@!%p1 bra "
     "end;\ncp.async.bulk.global.shared::cta.bulk_group [%rd0], [%r10], 1024;\ncp.async.bulk.commit_group;\nend:",
     "exits while a bulk copy"},
    {"a bulk store before the barrier",
     "st.shared.v4.u32 [%r11], {%r0, %r0, %r0, %r0};\n@!%p1 bra end;\ncp.async.bulk.global.shared::cta.bulk_group "
     "[%rd0], [%r10], 1024;\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\nend:",
     "nobody wrote|races"},
};
#undef COPY
#undef INIT
#undef LOAD
#undef WAIT

bool says_one_of(const Outcome& outcome, const std::string& alternatives) {
  for (size_t at = 0; at <= alternatives.size();) {
    const size_t end = std::min(alternatives.find('|', at), alternatives.size());
    if (outcome.says(alternatives.substr(at, end - at))) return true;
    at = end + 1;
  }
  return false;
}

void copies() {
  for (const Case& one : kCases)
    for (uint64_t seed = 0; seed < 4; seed++) {
      const With settings([&](Options& options) { options.seed = seed; });
      Buffer a = Buffer::of(std::vector<uint32_t>(256, 7));
      const Outcome outcome = run_kernel(kernel_text(".param .u64 a", std::string(kStart) + one.body), "k", {}, {64}, 0,
                                         {&a});
      const bool right = one.says[0] == '\0' ? outcome.ok() : !outcome.ok() && says_one_of(outcome, one.says);
      check(right, std::string(one.what) + ", seed " + std::to_string(seed) + ": " + outcome.text);
    }
}

/// A box of 1 to 5 dimensions from a corner that lies partly outside, against plain loops; and the way back. `rank` boxes
/// are 16 (swizzled: as wide as the swizzle) x 2 x 2 ... elements of float32.
void tensors(int rank, int swizzle) {
  const unsigned inner = swizzle == 0 ? 16 : 8u << (swizzle - 1);
  uint64_t dims[5], strides[4];
  unsigned box[5], ones[5] = {1, 1, 1, 1, 1};
  int32_t corner[5];
  size_t total = 1, boxed = 1;
  for (int d = 0; d < rank; d++) {
    dims[d] = d == 0 ? 44 : 5;
    box[d] = d == 0 ? inner : 2;
    corner[d] = d == 0 ? 36 : d % 2 == 1 ? -1 : 4;
    total *= dims[d];
    boxed *= box[d];
    if (d > 0) strides[d - 1] = d == 1 ? 44 * 4 : strides[d - 2] * dims[d - 1];
  }
  std::vector<float> values(total);
  for (size_t i = 0; i < total; i++) values[i] = static_cast<float>(i + 1);
  Buffer out = Buffer::unwritten(boxed * 4);
  // The map needs the device's address, so the tensor is allocated here.
  run_kernel(kernel_text("", ""), "k", {}, {}, 0, {});
  uint64_t tensor = 0, result = 0;
  cuMemAlloc_v2(&tensor, total * 4);
  cuMemAlloc_v2(&result, boxed * 4);
  cuMemcpyHtoD_v2(tensor, values.data(), total * 4);
  alignas(64) uint8_t map[128];
  const int code = cuTensorMapEncodeTiled(map, 7, static_cast<unsigned>(rank), reinterpret_cast<void*>(tensor), dims,
                                          strides, box, ones, 0, swizzle, 0, 0);
  check(code == 0, "cuTensorMapEncodeTiled");
  std::string coordinates;
  for (int d = 0; d < rank; d++) coordinates += (d == 0 ? "" : ", ") + std::to_string(corner[d]);
  const std::string dim = std::to_string(rank) + "d";
  const std::string bytes = std::to_string(boxed * 4);
  const std::string text = kernel_text(
      ".param .align 64 .b8 map[128], .param .u64 out",
      ".shared .align 1024 .b8 s[8192];\n.shared .align 8 .b8 bar[8];\nmov.u64 %rd0, map;\ncvta.param.u64 %rd0, "
      "%rd0;\nld.param.u64 %rd1, [out];\n"
      "mov.u32 %r10, s;\nmbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.expect_tx.shared.b64 _, [bar], " +
          bytes +
          ";\n"
          "cp.async.bulk.tensor." +
          dim + ".shared::cluster.global.mbarrier::complete_tx::bytes [%r10], [%rd0, {" + coordinates +
          "}], [bar];\n"
          "again:\nmbarrier.try_wait.parity.shared.b64 %p2, [bar], 0;\n@!%p2 bra again;\n"
          "mov.u32 %r1, 0;\nloop:\nadd.u32 %r2, %r10, %r1;\nld.shared.u32 %r3, [%r2];\ncvt.u64.u32 %rd2, %r1;\nadd.u64 "
          "%rd2, %rd2, %rd1;\nst.global.u32 [%rd2], %r3;\n"
          "add.u32 %r1, %r1, 4;\nsetp.lt.u32 %p3, %r1, " +
          bytes +
          ";\n@%p3 bra loop;\n"
          "cp.async.bulk.tensor." +
          dim + ".global.shared::cta.bulk_group [%rd0, {" + coordinates +
          "}], [%r10];\ncp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;");
  LoadedModule* module = nullptr;
  Function* function = nullptr;
  check(cuModuleLoadData(&module, text.c_str()) == 0 && cuModuleGetFunction(&function, module, "k") == 0,
        "a kernel with a tensor map");
  void* params[] = {map, &result};
  cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr);
  const int ran = cuCtxSynchronize();
  std::vector<float> got(boxed), back(total);
  if (ran == 0) {
    cuMemcpyDtoH_v2(got.data(), result, boxed * 4);
    cuMemcpyDtoH_v2(back.data(), tensor, total * 4);
  }
  bool right = ran == 0;
  for (size_t i = 0; i < boxed && right; i++) {
    // Undo the swizzle by hand: 16-byte chunk c of row r of the pattern lies at chunk c ^ (r mod 2, 4, 8).
    size_t byte = i * 4;
    const size_t width = inner * 4, row = byte / 128;
    const size_t mask = swizzle == 3 ? 7 : swizzle == 2 ? 3 : swizzle == 1 ? 1 : 0;
    byte ^= (row & mask) * 16;
    (void)width;
    size_t element = 0;
    bool inside = true;
    for (int d = 0, rest = static_cast<int>(i); d < rank; rest /= static_cast<int>(box[d]), d++) {
      const int64_t x = corner[d] + rest % static_cast<int>(box[d]);
      inside &= x >= 0 && x < static_cast<int64_t>(dims[d]);
      element += static_cast<size_t>(x) * (d == 0 ? 1 : strides[d - 1] / 4);
    }
    right &= got[byte / 4] == (inside ? values[element] : 0.0f);
  }
  check(right, "tensor load " + dim + ", swizzle " + std::to_string(swizzle) + ": " + Driver::get().last_fault);
  check(ran == 0 && back == values, "tensor store " + dim + ", swizzle " + std::to_string(swizzle));
}

/// m64n32k16 from shared memory in each swizzle and both orders of A and B, against plain loops. Operands are written
/// through the layout of ISA 9.7.15.5.1, spelled out once more here.
uint32_t operand_offset(int swizzle, bool mn_major, uint32_t mn, uint32_t k, uint32_t extent) {
  uint32_t byte;
  if (swizzle == 0) {
    // Core matrices of 128 bytes: the contiguous direction is inside a 16-byte row. Leading 128 along k for both.
    const uint32_t core = (mn / 8) * 2 + k / 8;
    byte = core * 128 + (mn_major ? k % 8 * 16 + mn % 8 * 2 : mn % 8 * 16 + k % 8 * 2);
    return byte;
  }
  const uint32_t span = 16u << swizzle;  // bytes of a row: 32, 64, 128
  if (mn_major) {
    const uint32_t per = span / 2, blocks = extent / per;
    (void)blocks;
    byte = mn / per * (16 * span) + k / 8 * (8 * span) + k % 8 * span + mn % per * 2;
  } else {
    byte = mn / 8 * (8 * span) + mn % 8 * span + k * 2;
  }
  const uint32_t mask = span / 16 - 1;
  return byte ^ ((byte / 128 & mask) * 16);
}

void warpgroup_products(int swizzle, bool a_mn, bool b_mn) {
  constexpr uint32_t kM = 64, kN = 64, kK = 16;
  std::vector<uint8_t> a(16384, 0), b(16384, 0);
  const auto value = [](uint32_t i, uint32_t j, uint32_t salt) {
    return static_cast<float>((i * 5 + j * 3 + salt) % 11) - 5;
  };
  const auto put = [&](std::vector<uint8_t>* to, bool mn_major, uint32_t mn, uint32_t k, float x, uint32_t extent) {
    const uint16_t bits = f32_to_bf16(x);
    std::memcpy(&(*to)[operand_offset(swizzle, mn_major, mn, k, extent)], &bits, 2);
  };
  for (uint32_t i = 0; i < kM; i++)
    for (uint32_t k = 0; k < kK; k++) {
      put(&a, a_mn, i, k, value(i, k, 1), kM);
      put(&b, b_mn, i, k, value(i, k, 2), kN);
    }
  Buffer in_a = Buffer::of(a), in_b = Buffer::of(b), out = Buffer::unwritten(kM * kN * 4);
  const uint64_t span = 16u << swizzle;
  const auto descriptor = [&](bool mn_major) {
    uint64_t leading = 1, stride = 1;
    if (swizzle == 0) {
      leading = 128;
      stride = 256;
    } else {
      leading = mn_major ? 16 * span : 16;
      stride = 8 * span;
    }
    const uint64_t mode = swizzle == 0 ? 0 : static_cast<uint64_t>(4 - swizzle);
    return std::to_string(static_cast<int64_t>(leading / 16 << 16 | stride / 16 << 32 | mode << 62));
  };
  std::string registers, stores;
  for (int i = 0; i < 32; i++) {
    registers += (i == 0 ? "" : ", ") + std::string("%f") + std::to_string(i);
    // d[4j+r]: row lane/4 + 8(r/2) of the warp's 16, column 8j + 2(lane%4) + r%2
    const int offset = (i / 4 * 8 + i % 2 + i % 4 / 2 * 8 * static_cast<int>(kN)) * 4;
    stores += "st.global.f32 [%rd9+" + std::to_string(offset) + "], %f" + std::to_string(i) + ";\n";
  }
  const std::string text = kernel_text(
      ".param .u64 a, .param .u64 b, .param .u64 out",
      ".shared .align 1024 .b8 s[32768];\nld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nld.param.u64 %rd2, "
      "[out];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, s;\n"
      "shl.b32 %r2, %r0, 4;\nmov.u32 %r3, %r2;\ncopy:\ncvt.u64.u32 %rd3, %r3;\nadd.u64 %rd4, %rd0, %rd3;\nadd.u64 "
      "%rd5, %rd1, %rd3;\nadd.u32 %r4, %r1, %r3;\n"
      "ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%rd4];\nst.shared.v4.b32 [%r4], {%r5, %r6, %r7, %r8};\nld.global.v4.b32 "
      "{%r5, %r6, %r7, %r8}, [%rd5];\n"
      "st.shared.v4.b32 [%r4+16384], {%r5, %r6, %r7, %r8};\nadd.u32 %r3, %r3, 2048;\nsetp.lt.u32 %p1, %r3, "
      "16384;\n@%p1 bra copy;\nfence.proxy.async;\nbar.sync 0;\n"
      "shr.u32 %r9, %r1, 4;\ncvt.u64.u32 %rd6, %r9;\nadd.u64 %rd7, %rd6, " +
          descriptor(a_mn) + ";\nadd.u64 %rd8, %rd6, " + descriptor(b_mn) +
          ";\nadd.u64 %rd8, %rd8, 1024;\n"
          "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" +
          registers + "}, %rd7, %rd8, 0, 1, 1, " + (a_mn ? "1" : "0") + ", " + (b_mn ? "1" : "0") +
          ";\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
          "and.b32 %r10, %r0, 31;\nshr.u32 %r11, %r10, 2;\nshr.u32 %r12, %r0, 5;\nmad.lo.u32 %r11, %r12, 16, "
          "%r11;\nand.b32 %r13, %r10, 3;\nshl.b32 %r13, %r13, 1;\n"
          "mad.lo.u32 %r11, %r11, 64, %r13;\nmul.wide.u32 %rd9, %r11, 4;\nadd.u64 %rd9, %rd9, %rd2;\n" +
          stores);
  const Outcome outcome = run_kernel(text, "k", {}, {128}, 0, {&in_a, &in_b, &out});
  const auto got = out.as<float>();
  bool right = outcome.ok();
  for (uint32_t i = 0; i < kM; i++)
    for (uint32_t j = 0; j < kN; j++) {
      float want = 0;
      for (uint32_t k = 0; k < kK; k++) want += value(i, k, 1) * value(j, k, 2);
      right &= got[i * kN + j] == want;
    }
  check(right, "wgmma with swizzle " + std::to_string(swizzle) + (a_mn ? ", A transposed" : "") +
                   (b_mn ? ", B transposed" : "") + ": " + outcome.text);
  if (swizzle != 3 || a_mn || b_mn) return;
  // What wgmma demands.
  const auto without = [&](const std::string& line) {
    std::string changed = text;
    changed.erase(changed.find(line), line.size());
    return run_kernel(changed, "k", {}, {128}, 0, {&in_a, &in_b, &out});
  };
  check(without("wgmma.wait_group.sync.aligned 0;\n").says("was not waited for"), "wgmma without wait_group");
  check(without("wgmma.commit_group.sync.aligned;\n").says("was not waited for"), "wgmma without commit_group");
  check(without("wgmma.fence.sync.aligned;\n").says("wgmma.fence"), "wgmma without fence");
  check(!without("bar.sync 0;\n").ok(), "wgmma of operands without barrier");
}

}  // namespace

void check_async() {
  copies();
  for (int rank = 1; rank <= 5; rank++)
    for (int swizzle = 0; swizzle <= 3; swizzle++) tensors(rank, swizzle);
  for (int swizzle = 0; swizzle <= 3; swizzle++)
    for (const bool a_mn : {false, true})
      for (const bool b_mn : {false, true}) warpgroup_products(swizzle, a_mn, b_mn);
}

}  // namespace gpusim
