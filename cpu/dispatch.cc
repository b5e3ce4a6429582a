// Which instruction set's kernels run.
#include <cstdlib>
#include <cstring>

#include "cpu/kernels.h"

namespace marginfc {
namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
const Kernels* avx2_or_null() { return has_avx2() ? avx2_kernels() : nullptr; }
const Kernels* avx512_or_null() { return has_avx512() ? avx512_kernels() : nullptr; }
#else
const Kernels* avx2_or_null() { return nullptr; }
const Kernels* avx512_or_null() { return nullptr; }
#endif

}  // namespace

const Kernels* choose_kernels(const char** why) {
  *why = nullptr;
  const char* asked = std::getenv("MARGINFC_ISA");
  if (asked && *asked) {
    if (std::strcmp(asked, "baseline") == 0) return baseline_kernels();
    const bool avx2 = std::strcmp(asked, "avx2") == 0, avx512 = std::strcmp(asked, "avx512") == 0;
    const Kernels* kernels = avx2 ? avx2_or_null() : avx512 ? avx512_or_null() : nullptr;
    if (!kernels)
      *why = avx2 || avx512 ? "MARGINFC_ISA names an instruction set that this CPU does not have"
                            : "MARGINFC_ISA must be baseline, avx2 or avx512";
    return kernels;
  }
  if (const Kernels* kernels = avx512_or_null()) return kernels;
  if (const Kernels* kernels = avx2_or_null()) return kernels;
  return baseline_kernels();
}

}  // namespace marginfc
