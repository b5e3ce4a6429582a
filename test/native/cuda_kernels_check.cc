// Runs each CUDA kernel of a PTX text or fatbin by itself, on the software GPU or a real one, against the same formula in
// float64 on the host: sizes that fill nothing, rows of every length, every storage, operand and sink.
//
//   cuda_kernels_check kernels.ptx [kernel...]                  all kernels that the device has, or those
//   cuda_kernels_check kernels.ptx --first-failure [kernel...]  no further than the first value that is wrong
//   cuda_kernels_check kernels.ptx --list                       each kernel, and what others its check launches
//
// Prints "N passed, N failed", and before that a number made of all bits that the kernels wrote, which no order of blocks
// and warps may change.
#include <algorithm>
#include <cinttypes>

#include "test/native/cuda_kernels/check.h"

using namespace marginfc::check;

namespace {

KernelChecks all_checks(const Device& device) {
  KernelChecks checks = {
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
      {"draw_classes", check_draw_classes},
      {"list_classes", check_list_classes},
      {"finish_weights_aided", check_finish_weights_aided},
      {"sum_unit_rows", check_sum_unit_rows},
      {"add_unit_sums", check_add_unit_sums},
      {"cosine_sums", check_cosine_sums},
      {"targets_sub_centers", check_targets_sub_centers},
      {"list_sub_centers", check_list_sub_centers},
      {"flag_sub_centers", check_flag_sub_centers},
      {"largest_sub_centers", check_largest_sub_centers},
      {"gather_class_rows", check_gather_class_rows},
      {"add_class_rows", check_add_class_rows},
      {"negatives_angles_float32", check_negatives_angles},
      {"probabilities_angles_float32", check_probabilities_angles},
      {"choose_triplets", check_choose_triplets},
      {"triplet_gradients", check_triplet_gradients},
  };
  for (KernelCheck& check : tile_checks(device)) checks.push_back(std::move(check));
  // Not every architecture has all of them.
  checks.erase(std::remove_if(checks.begin(), checks.end(),
                              [&](const KernelCheck& check) { return !device.has(check.kernel.c_str()); }),
               checks.end());
  return checks;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    std::printf("usage: cuda_kernels_check kernels.ptx [--list | --first-failure] [kernel...]\n");
    return 2;
  }
  std::vector<std::string> wanted(arguments + 2, arguments + count);
  const auto take = [&](const char* option) {
    const auto found = std::find(wanted.begin(), wanted.end(), option);
    if (found == wanted.end()) return false;
    wanted.erase(found);
    return true;
  };
  const bool list = take("--list");
  counts().give_up = take("--first-failure");
  {
    const Device device(arguments[1]);
    const KernelChecks checks = all_checks(device);
    const auto named = [&](const std::string& name) {
      return std::any_of(checks.begin(), checks.end(), [&](const KernelCheck& one) { return one.kernel == name; });
    };
    for (const std::string& name : wanted) check(named(name), "there is no kernel " + name);
    for (const KernelCheck& one : checks) {
      if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), one.kernel) == wanted.end()) continue;
      if (list) {
        std::printf("%s", one.kernel.c_str());
        for (const std::string& other : one.needs) std::printf(" %s", other.c_str());
        std::printf("\n");
        continue;
      }
      const Counts before = counts();
      one.run(device);
      const int passed = counts().passed - before.passed, failed = counts().failed - before.failed;
      std::printf("%-26s %d of %d\n", one.kernel.c_str(), passed, passed + failed);
    }
  }
  if (list) return 0;
  std::printf("bits %016" PRIx64 "\n%d passed, %d failed\n", counts().bits, counts().passed, counts().failed);
  return counts().failed > 0;
}
