// Malformed input: mutated PTX and fatbins go through the loader, which must answer with a code. Run under the sanitizers.
#include <chrono>
#include <cstdio>
#include <random>

#include "driver/fatbin.h"
#include "machine/assemble.h"
#include "ptx/parser.h"
#include "tests/check.h"
#include "tests/programs.h"
#include "tests/ptx_cases.h"

namespace gpusim {
namespace {

std::string mutate(std::string text, std::mt19937_64* random) {
  static const char* const words[] = {
      "%r1",   "[",    "]",       "{",          "}",     ";", ",",   "0xffffffffffffffff",
      "-1",    ".reg", ".shared", "<99999999>", "@!%p1", "|", "bra", "0f",
      "wgmma", ".b32", "\"",      "/*",         "::",    "%", "!"};
  for (uint64_t edits = 1 + (*random)() % 4; edits > 0; edits--) {
    const size_t at = text.empty() ? 0 : (*random)() % text.size();
    switch ((*random)() % 5) {
      case 0: text.erase(at, 1 + (*random)() % 12); break;
      case 1: text.insert(at, words[(*random)() % (sizeof words / sizeof *words)]); break;
      case 2: text.insert(at, text.substr((*random)() % (text.size() + 1), (*random)() % 60)); break;
      case 3: text.resize(at); break;
      default:
        if (!text.empty()) text[at] = static_cast<char>((*random)());
    }
  }
  return text;
}

/// Parses and assembles; the outcome does not matter, only that there is one.
bool load(const std::string& text) {
  try {
    const Module module = parse_ptx(text);
    Symbols symbols;
    uint64_t address = 1 << 20;
    for (const Variable& variable : module.variables)
      if (variable.space == Space::global || variable.space == Space::constant)
        symbols[variable.name] = address += 4096;
    for (const Kernel& kernel : module.kernels) assemble(module, kernel, symbols);
    return true;
  } catch (const ModuleError&) {
    return false;
  }
}

}  // namespace

int fuzz_parsers(double seconds) {
  std::vector<std::string> texts = {read_file(source_folder() + "/tests/fixtures/gemm.ptx")};
  for (const PtxCase& one : load_ptx_cases()) texts.push_back(one.ptx);
  // Short kernels are mutated to more purpose than long ones.
  texts.push_back(kernel_text(".param .u64 a",
                              "ld.param.u64 %rd0, [a];\nmov.b64 %rd1, {%r1, %r2};\n@!%p1 bra end;\nst.global.v2.u32 "
                              "[%rd0+4], {%r1, %r2};\nend:\nbar.sync 0;\n"
                              "setp.lt.and.u32 %p1|%p2, %r1, 5, !%p3;\ncp.async.ca.shared.global [%r1], [%rd0], 4, "
                              "%r2;\nshfl.sync.up.b32 %r1|%p1, %r2, 1, 0, -1;"));
  texts.push_back(read_file(source_folder() + "/tests/fixtures/float64_functions.ptx"));
  texts.push_back(
      ".version 9.0\n.target sm_80\n.func (.param .b32 r) f(.param .b32 a)\n{\n.reg .b32 %r<3>;\n.local .b32 l;\n"
      "ld.param.b32 %r1, [a];\nst.local.b32 [l], %r1;\nst.param.b32 [r], %r1;\nret;\n}\n.func (.param .b32 r) g(.param "
      ".b32 a)\n{\n.reg .pred %p<2>;\n.reg .b32 %r<3>;\n{\n.param .b32 x;\n.param .b32 y;\nst.param.b32 [x], "
      "5;\n@%p1 call.uni (y), f, (x);\nld.param.b32 %r1, [y];\ncall (r), f, (a);\n}\n}\n.entry k()\n{\n.reg .b32 "
      "%r<3>;\n.param .b32 x;\n.param .b32 y;\nst.param.b32 [x], 5;\ncall (y), g, (x);\ncall (y), f, (x);\nret;\n}\n");
  const std::string fatbins[] = {read_file(source_folder() + "/tests/fixtures/plain.fatbin"),
                                 read_file(source_folder() + "/tests/fixtures/zstd.fatbin")};
  std::mt19937_64 random(1);
  const auto start = std::chrono::steady_clock::now();
  uint64_t loaded = 0, refused = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    (load(mutate(texts[random() % texts.size()], &random)) ? loaded : refused)++;
    std::string bytes = fatbins[random() % 2];
    for (uint64_t edits = 1 + random() % 6; edits > 0 && !bytes.empty(); edits--) {
      const size_t at = random() % 3 != 0 ? random() % std::min<size_t>(bytes.size(), 256) : random() % bytes.size();
      bytes[at] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
    }
    if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 1));
    const CodeImage image = read_fatbin(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), 80);
    (image.ptx.empty() ? refused : loaded)++;
  }
  std::printf("fuzzed: %llu loaded, %llu refused\n", static_cast<unsigned long long>(loaded),
              static_cast<unsigned long long>(refused));
  std::printf("%d passed, %d failed\n", loaded > 0 && refused > 0 ? 1 : 0, loaded > 0 && refused > 0 ? 0 : 1);
  return loaded > 0 && refused > 0 ? 0 : 1;
}

}  // namespace gpusim
