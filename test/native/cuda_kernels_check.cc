// Runs each CUDA kernel of a PTX text or fatbin by itself, on the software GPU or a real one, against the same formula in
// float64 on the host: sizes that fill nothing, rows of every length, every storage, operand and sink.
//
//   cuda_kernels_check kernels.ptx [kernel...]
//
// Prints "N passed, N failed", and before that a number made of all bits that the kernels wrote, which no order of blocks
// and warps may change.
#include <algorithm>
#include <cinttypes>

#include "test/native/cuda_kernels/check.h"

using namespace marginfc::check;

namespace {

constexpr KernelCheck kChecks[] = {
    {"prepare_features", check_prepare_features},
    {"weight_features", check_weight_features},
    {"targets", check_targets},
    {"reduce_negatives", check_reduce_negatives},
    {"add_products", check_add_products},
    {"finish_features", check_finish_features},
    {"prepare_weights", check_prepare_weights},
    {"finish_weights", check_finish_weights},
    {"select_nearest", check_select_nearest},
    {"initialize_weights", check_initialize_weights},
    {"tiles", check_tiles},
    {"hopper_tiles", check_hopper_tiles},
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::printf("usage: cuda_kernels_check kernels.ptx [kernel...]\n");
    return 2;
  }
  {
    const Device device(arguments[1]);
    for (const KernelCheck& check : kChecks) {
      const bool wanted = std::any_of(arguments + 2, arguments + count,
                                      [&](const char* name) { return std::string(name) == check.kernel; });
      if (count > 2 && !wanted) continue;
      const Counts before = counts();
      check.run(device);
      std::printf("%-20s %d of %d\n", check.kernel, counts().passed - before.passed,
                  counts().passed - before.passed + counts().failed - before.failed);
    }
  }
  std::printf("bits %016" PRIx64 "\n%d passed, %d failed\n", counts().bits, counts().passed, counts().failed);
  return counts().failed > 0;
}
