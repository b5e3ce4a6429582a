#include "cuda/embedded_kernels.h"

// Written by scripts/lib/kernels.cjs, or by CMake where that has not run: either MARGINFC_KERNELS_IMAGE, the path of the
// fatbin, and MARGINFC_KERNELS_CONTENTS, or MARGINFC_KERNELS_MISSING.
#include <embedded.h>

#ifdef MARGINFC_KERNELS_IMAGE
asm(R"(
  .pushsection .rodata, "a"
  .balign 64
  .local marginfc_kernels_begin
  .local marginfc_kernels_end
marginfc_kernels_begin:
  .incbin ")" MARGINFC_KERNELS_IMAGE R"("
marginfc_kernels_end:
  .byte 0
  .popsection
)");
extern "C" const unsigned char marginfc_kernels_begin[];
extern "C" const unsigned char marginfc_kernels_end[];
#endif

namespace marginfc {

EmbeddedKernels embedded_kernels() {
#ifdef MARGINFC_KERNELS_IMAGE
  const auto size = static_cast<size_t>(marginfc_kernels_end - marginfc_kernels_begin);
  return {marginfc_kernels_begin, size, MARGINFC_KERNELS_CONTENTS, nullptr};
#else
  return {nullptr, 0, nullptr, MARGINFC_KERNELS_MISSING};
#endif
}

}  // namespace marginfc
