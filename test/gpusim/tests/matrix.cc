// Fragment layouts, by tables copied by hand from the figures of ISA 9.7.14.5, and products against plain loops.
#include <cmath>

#include "ops/rounding.h"
#include "tests/check.h"

namespace gpusim {
namespace {

// Figures of mma.m16n8k16 (A, B, C): element (row, column) of the first four lanes and of lane 31, as printed there.
struct Place16 {
  int lane, index, row, column;
};
const Place16 kFragmentA[] = {{0, 0, 0, 0},   {0, 1, 0, 1},   {1, 0, 0, 2},    {3, 1, 0, 7},   {4, 0, 1, 0},
                              {0, 2, 8, 0},   {0, 3, 8, 1},   {0, 4, 0, 8},    {0, 5, 0, 9},   {3, 5, 0, 15},
                              {0, 6, 8, 8},   {31, 0, 7, 6},  {31, 1, 7, 7},   {31, 2, 15, 6}, {31, 3, 15, 7},
                              {31, 4, 7, 14}, {31, 5, 7, 15}, {31, 6, 15, 14}, {31, 7, 15, 15}};
const Place16 kFragmentB[] = {{0, 0, 0, 0}, {0, 1, 1, 0}, {1, 0, 2, 0},  {3, 1, 7, 0},  {4, 0, 0, 1},
                              {0, 2, 8, 0}, {0, 3, 9, 0}, {31, 0, 6, 7}, {31, 3, 15, 7}};
const Place16 kFragmentC[] = {{0, 0, 0, 0}, {0, 1, 0, 1}, {1, 0, 0, 2},  {3, 1, 0, 7},  {4, 0, 1, 0},
                              {0, 2, 8, 0}, {0, 3, 8, 1}, {31, 0, 7, 6}, {31, 3, 15, 7}};

/// The same rules as formulas (groupID = lane / 4, threadID_in_group = lane % 4).
void place_a(int lane, int i, int* row, int* k) {
  *row = lane / 4 + (((i / 2) % 2) != 0 ? 8 : 0);
  *k = lane % 4 * 2 + (i & 1) + (i >= 4 ? 8 : 0);
}
void place_b(int lane, int i, int* k, int* column) {
  *k = lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0);
  *column = lane / 4;
}
void place_c(int lane, int i, int* row, int* column) {
  *row = lane / 4 + (i >= 2 ? 8 : 0);
  *column = lane % 4 * 2 + (i & 1);
}

template <size_t n, class F>
bool agrees(const Place16 (&table)[n], F place) {
  for (const Place16& p : table) {
    int row, column;
    place(p.lane, p.index, &row, &column);
    if (row != p.row || column != p.column) return false;
  }
  return true;
}

float value(int i, int j, int salt) { return static_cast<float>((i * 7 + j * 3 + salt) % 13 - 6) * 0.25f; }

/// Runs d = a b + c on fragments that are laid out by the rules above.
void multiply(const std::string& types, bool brain) {
  std::vector<uint32_t> a(32 * 4), b(32 * 2);
  std::vector<float> c(32 * 4);
  const auto narrow = [&](float x) { return brain ? f32_to_bf16(x) : f32_to_f16(x); };
  for (int lane = 0; lane < 32; lane++) {
    int row, column;
    for (int i = 0; i < 8; i++) {
      place_a(lane, i, &row, &column);
      a[static_cast<size_t>(lane * 4 + i / 2)] |= static_cast<uint32_t>(narrow(value(row, column, 1))) << (i % 2 * 16);
    }
    for (int i = 0; i < 4; i++) {
      place_b(lane, i, &row, &column);
      b[static_cast<size_t>(lane * 2 + i / 2)] |= static_cast<uint32_t>(narrow(value(row, column, 2))) << (i % 2 * 16);
      place_c(lane, i, &row, &column);
      c[static_cast<size_t>(lane * 4 + i)] = value(row, column, 3);
    }
  }
  Buffer buffers[] = {Buffer::of(a), Buffer::of(b), Buffer::of(c)};
  const Outcome outcome = run_kernel(
      kernel_text(".param .u64 a, .param .u64 b, .param .u64 c",
                  "ld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nld.param.u64 %rd2, [c];\nmov.u32 %r0, "
                  "%tid.x;\nmul.wide.u32 %rd3, %r0, 16;\n"
                  "mul.wide.u32 %rd4, %r0, 8;\nadd.u64 %rd0, %rd0, %rd3;\nadd.u64 %rd1, %rd1, %rd4;\nadd.u64 %rd2, "
                  "%rd2, %rd3;\n"
                  "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];\nld.global.v2.b32 {%r5, %r6}, "
                  "[%rd1];\nld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2];\n"
                  "mma.sync.aligned.m16n8k16.row.col.f32." +
                      types +
                      ".f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4};\n"
                      "st.global.v4.f32 [%rd2], {%f1, %f2, %f3, %f4};"),
      "k", {}, {32}, 0, {&buffers[0], &buffers[1], &buffers[2]});
  const auto got = buffers[2].as<float>();
  bool right = outcome.ok();
  for (int lane = 0; lane < 32 && right; lane++)
    for (int i = 0; i < 4; i++) {
      int row, column;
      place_c(lane, i, &row, &column);
      double want = value(row, column, 3);
      for (int k = 0; k < 16; k++) want += double{value(row, k, 1)} * value(k, column, 2);
      right &= std::fabs(got[static_cast<size_t>(lane * 4 + i)] - want) < 1e-5;
    }
  check(right, "mma.m16n8k16 " + types + ": " + outcome.text);
}

/// m16n8k8 and m16n8k16 with .f16 accumulators, of which a register has columns 2t and 2t+1 (ISA 9.7.14.5.7, 9.7.14.5.8).
/// All sums are exact in float16.
void multiply_half(int depth) {
  const auto parts = static_cast<size_t>(depth / 8);
  std::vector<uint32_t> a(32 * 4), b(32 * 2), c(32 * 2);
  const auto put = [](uint32_t* word, int i, float x) {
    *word |= static_cast<uint32_t>(f32_to_f16(x)) << (i % 2 * 16);
  };
  for (int lane = 0; lane < 32; lane++) {
    const auto l = static_cast<size_t>(lane);
    int row, column;
    for (int i = 0; i < depth / 2; i++) {
      place_a(lane, i, &row, &column);
      put(&a[l * 4 + static_cast<size_t>(i / 2)], i, value(row, column, 1));
    }
    for (int i = 0; i < depth / 4; i++) {
      place_b(lane, i, &row, &column);
      put(&b[l * 2 + static_cast<size_t>(i / 2)], i, value(row, column, 2));
    }
    for (int i = 0; i < 4; i++) {
      place_c(lane, i, &row, &column);
      put(&c[l * 2 + static_cast<size_t>(i / 2)], i, value(row, column, 3));
    }
  }
  Buffer buffers[] = {Buffer::of(a), Buffer::of(b), Buffer::of(c)};
  const Outcome outcome = run_kernel(
      kernel_text(".param .u64 a, .param .u64 b, .param .u64 c",
                  "ld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nld.param.u64 %rd2, [c];\nmov.u32 %r0, "
                  "%tid.x;\nmul.wide.u32 %rd3, %r0, 16;\nmul.wide.u32 %rd4, %r0, 8;\nadd.u64 %rd0, %rd0, "
                  "%rd3;\nadd.u64 %rd1, %rd1, %rd4;\nadd.u64 %rd2, %rd2, %rd4;\n"
                  "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];\nld.global.v2.b32 {%r5, %r6}, [%rd1];\n"
                  "ld.global.v2.b32 {%r7, %r8}, [%rd2];\nmma.sync.aligned.m16n8k" +
                      std::to_string(depth) + ".row.col.f16.f16.f16.f16 {%r7, %r8}, " +
                      (parts == 1 ? "{%r1, %r2}, {%r5}" : "{%r1, %r2, %r3, %r4}, {%r5, %r6}") +
                      ", {%r7, %r8};\nst.global.v2.b32 [%rd2], {%r7, %r8};"),
      "k", {}, {32}, 0, {&buffers[0], &buffers[1], &buffers[2]});
  const auto got = buffers[2].as<uint16_t>();
  bool right = outcome.ok();
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      int row, column;
      place_c(lane, i, &row, &column);
      float want = value(row, column, 3);
      for (int k = 0; k < depth; k++) want += value(row, k, 1) * value(k, column, 2);
      right &= f16_to_f32(got[static_cast<size_t>(lane * 4 + i)]) == want;
    }
  check(right, "mma.m16n8k" + std::to_string(depth) + " with f16 accumulators: " + outcome.text);
}

/// tf32 m16n8k8: a0 (g, t), a1 (g+8, t), a2 (g, t+4), a3 (g+8, t+4); b0 (t, g), b1 (t+4, g).
void multiply_tf32() {
  std::vector<float> a(32 * 4), b(32 * 2), c(32 * 4, 0.0f);
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[static_cast<size_t>(lane * 4 + i)] = value(g + i % 2 * 8, t + i / 2 * 4, 1);
    for (int i = 0; i < 2; i++) b[static_cast<size_t>(lane * 2 + i)] = value(t + i * 4, g, 2);
  }
  Buffer buffers[] = {Buffer::of(a), Buffer::of(b), Buffer::of(c)};
  const Outcome outcome = run_kernel(
      kernel_text(".param .u64 a, .param .u64 b, .param .u64 c",
                  "ld.param.u64 %rd0, [a];\nld.param.u64 %rd1, [b];\nld.param.u64 %rd2, [c];\nmov.u32 %r0, "
                  "%tid.x;\nmul.wide.u32 %rd3, %r0, 16;\n"
                  "mul.wide.u32 %rd4, %r0, 8;\nadd.u64 %rd0, %rd0, %rd3;\nadd.u64 %rd1, %rd1, %rd4;\nadd.u64 %rd2, "
                  "%rd2, %rd3;\n"
                  "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];\nld.global.v2.b32 {%r5, %r6}, [%rd1];\n"
                  "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, "
                  "{%r5, %r6}, {0f00000000, 0f00000000, 0f00000000, 0f00000000};\n"
                  "st.global.v4.f32 [%rd2], {%f1, %f2, %f3, %f4};"),
      "k", {}, {32}, 0, {&buffers[0], &buffers[1], &buffers[2]});
  const auto got = buffers[2].as<float>();
  bool right = outcome.ok();
  for (int lane = 0; lane < 32 && right; lane++)
    for (int i = 0; i < 4; i++) {
      int row, column;
      place_c(lane, i, &row, &column);
      double want = 0;
      for (int k = 0; k < 8; k++) want += double{value(row, k, 1)} * value(k, column, 2);
      right &= std::fabs(got[static_cast<size_t>(lane * 4 + i)] - want) < 1e-5;
    }
  check(right, "mma.m16n8k8 tf32: " + outcome.text);
}

/// ldmatrix: lane l gets of row l/4 the elements 2(l%4) and 2(l%4)+1; transposed, the same of the transposed matrix. Then
/// stmatrix must write back what was read.
void move_matrices() {
  for (const bool transposed : {false, true}) {
    std::vector<uint16_t> elements(4 * 64);
    for (size_t i = 0; i < elements.size(); i++) elements[i] = static_cast<uint16_t>(i + 100);
    Buffer in = Buffer::of(elements), out = Buffer::unwritten(512), back = Buffer::unwritten(512);
    const std::string trans = transposed ? ".trans" : "";
    const Outcome outcome = run_kernel(
        kernel_text(
            ".param .u64 in, .param .u64 out, .param .u64 back",
            ".shared .align 16 .b8 s[1024];\nld.param.u64 %rd0, [in];\nld.param.u64 %rd1, [out];\nld.param.u64 %rd5, "
            "[back];\nmov.u32 %r0, %tid.x;\n"
            "mul.wide.u32 %rd3, %r0, 16;\nadd.u64 %rd0, %rd0, %rd3;\nadd.u64 %rd1, %rd1, %rd3;\nadd.u64 %rd5, %rd5, "
            "%rd3;\nmov.u32 %r9, s;\nshl.b32 %r8, %r0, 4;\nadd.u32 %r9, %r9, %r8;\n"
            "ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd0];\nst.shared.v4.b32 [%r9], {%r1, %r2, %r3, "
            "%r4};\nbar.warp.sync -1;\n"
            "ldmatrix.sync.aligned.m8n8.x4" +
                trans +
                ".shared.b16 {%r1, %r2, %r3, %r4}, [%r9];\nst.global.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};\n"
                "stmatrix.sync.aligned.m8n8.x4" +
                trans +
                ".shared.b16 [%r9+512], {%r1, %r2, %r3, %r4};\nbar.warp.sync -1;\n"
                "ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r9+512];\nst.global.v4.b32 [%rd5], {%r1, %r2, %r3, %r4};"),
        "k", {}, {32}, 0, {&in, &out, &back});
    const auto got = out.as<uint32_t>();
    bool right = outcome.ok();
    for (size_t lane = 0; lane < 32; lane++)
      for (size_t m = 0; m < 4; m++) {
        const size_t row = lane / 4, column = lane % 4 * 2;
        const auto at = [&](size_t r, size_t c) { return static_cast<uint32_t>(elements[m * 64 + r * 8 + c]); };
        const uint32_t want = transposed ? at(column, row) | at(column + 1, row) << 16
                                         : at(row, column) | at(row, column + 1) << 16;
        right &= got[lane * 4 + m] == want;
      }
    check(right, "ldmatrix.x4" + trans + ": " + outcome.text);
    check(outcome.ok() && back.as<uint16_t>() == elements, "stmatrix.x4" + trans + " is its inverse");
  }
}

/// movmatrix: lane l has elements 2(l%4) and 2(l%4)+1 of row l/4, before and after (ISA 9.7.14.5.17).
void transpose_registers() {
  std::vector<uint16_t> elements(64), want(64);
  for (size_t i = 0; i < 64; i++) {
    elements[i] = static_cast<uint16_t>(i * 1001);
    want[i % 8 * 8 + i / 8] = elements[i];
  }
  Buffer matrix = Buffer::of(elements);
  const Outcome outcome = run_kernel(
      kernel_text(".param .u64 m",
                  "ld.param.u64 %rd0, [m];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd3, %r0, 4;\nadd.u64 "
                  "%rd0, %rd0, %rd3;\nld.global.b32 %r1, [%rd0];\n"
                  "movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\nst.global.b32 [%rd0], %r2;"),
      "k", {}, {32}, 0, {&matrix});
  check(outcome.ok() && matrix.as<uint16_t>() == want, "movmatrix: " + outcome.text);
}

}  // namespace

void check_matrix() {
  check(agrees(kFragmentA, place_a) && agrees(kFragmentB, place_b) && agrees(kFragmentC, place_c),
        "the tables agree with the rules");
  multiply("bf16.bf16", true);
  multiply("f16.f16", false);
  multiply_half(8);
  multiply_half(16);
  multiply_tf32();
  move_matrices();
  transpose_registers();
}

}  // namespace gpusim
