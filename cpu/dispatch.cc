// Which instruction set's kernels run.
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "cpu/kernels.h"

namespace marginfc {
namespace {

struct InstructionSet {
  const char* name;
  bool (*here)();   // whether this CPU has it
  bool (*worth)();  // whether to choose it without being asked
  const Kernels* (*plain)();
  const Kernels* (*paired)();
};

bool always() { return true; }
const Kernels* none() { return nullptr; }

// Those of this architecture, the best last.
#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
// Intel's pairs of bfloat16 run at half the rate of float32.
bool has_fast_bf16() { return !__builtin_cpu_is("intel"); }
// Linux gives a process AMX's large registers on request only, and refuses where a thread's signal stack is too small
// for them.
bool has_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_bf16() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
constexpr InstructionSet kInstructionSets[] = {
    {"baseline", always, always, baseline_kernels, none},
    {"avx2", has_avx2, always, avx2_kernels, none},
    {"avx512", has_avx512, always, avx512_kernels, none},
    {"avx512bf16", has_bf16, has_fast_bf16, avx512_kernels, avx512bf16_kernels},
    {"amx", has_amx, always, avx512_kernels, amx_kernels},
};
constexpr char kUnknown[] = "MARGINFC_ISA must be baseline, avx2, avx512, avx512bf16 or amx";
#elif defined(__aarch64__)
// Every arm64 CPU has NEON, so it is the baseline too.
constexpr InstructionSet kInstructionSets[] = {
    {"baseline", always, always, neon_kernels, none},
    {"neon", always, always, neon_kernels, none},
};
constexpr char kUnknown[] = "MARGINFC_ISA must be baseline or neon";
#else
constexpr InstructionSet kInstructionSets[] = {{"baseline", always, always, baseline_kernels, none}};
constexpr char kUnknown[] = "MARGINFC_ISA must be baseline";
#endif

}  // namespace

KernelChoice choose_kernels() {
  const char* asked = std::getenv("MARGINFC_ISA");
  const bool best = !asked || !*asked;
  KernelChoice choice{nullptr, nullptr, kUnknown, nullptr};
  for (const InstructionSet& set : kInstructionSets) {
    if (best ? !set.worth() : std::strcmp(asked, set.name) != 0) continue;
    if (set.here())
      choice = {set.plain(), set.paired(), nullptr, set.name};
    else if (!best)
      choice.why = "MARGINFC_ISA names an instruction set that this CPU does not have";
  }
  return choice;
}

}  // namespace marginfc
