// The engine and the CPU kernels without Node, for sanitizers and emulators: every instruction set, odd sizes, several
// threads at once, cancelled and failing calls. Prints "N passed, N failed".
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cpu/cpu_engine.h"
#include "test/native/triplet_checks.h"

using namespace marginfc;

int main() {
#if defined(__aarch64__)
  const auto instruction_sets = {"baseline", "neon"};
#else
  const auto instruction_sets = {"baseline", "avx2", "avx512", "avx512bf16", "amx"};
#endif
  const char* best = "";
  for (const char* isa : instruction_sets) {
    setenv("MARGINFC_ISA", isa, 1);
    const KernelChoice kernels = choose_kernels();
    if (!kernels.plain) {
      std::printf("%s skipped: %s\n", isa, kernels.why);
      continue;
    }
    best = isa;
    for (int threads : {1, 3}) {
      CpuEngine engine(kernels, threads);
      for (const Size& size : {Size{1, 1, 1, 1, 64}, Size{2, 31, 33, 2, 30}, Size{33, 65, 131, 7, 64},
                               Size{131, 33, 300, 1, 64}, Size{5, 40, 1009, 3, 128}, Size{0, 8, 16, 1, 64},
                               // More features than dW's tiles read one by one.
                               Size{1030, 129, 131, 1, 64},
                               // Classes of several rows.
                               Size{33, 65, 131, 2, 64, 3}, Size{131, 33, 40, 3, 128, 17}})
        for (Workspace workspace : {Workspace::keep, Workspace::recompute}) {
          gradients_match({&engine}, size, workspace);
          if (size.dim == 65) gradients_match({&engine}, size, workspace, Precision::bfloat16);
          // Of one column and class the gradient is 0, but for what a projection leaves of the target's.
          if (size.dim == 1) continue;
          gradients_match({&engine}, size, workspace, Precision::float32, curricular());
          for (const int which : {0, 1})
            gradients_match({&engine}, size, workspace, Precision::float32, binary_losses(which));
        }
      for (Precision storage : {Precision::float32, Precision::bfloat16}) {
        heads_work({&engine}, Optimizer::Kind::sgd, storage);
        heads_work({&engine}, Optimizer::Kind::adamw, storage);
      }
      for (const bool updates_all : {false, true}) sampled_heads_work({&engine}, updates_all);
      triplets_work({&engine});
      failures_are_values({&engine});
    }
    // Several callers share one engine, as synchronous and asynchronous calls do.
    CpuEngine engine(kernels, 2);
    const Size size{33, 64, 300, 2, 64};
    std::vector<std::thread> callers;
    std::atomic<int> right{0};
    for (int c = 0; c < 3; c++)
      callers.emplace_back([&, c] {
        const Problem problem = make_problem(size, c);
        std::vector<std::unique_ptr<ClassShard>> shards(1);
        if (!engine.borrow({0, size.classes}, size.dim, {problem.weights.data()}, &shards[0]).ok()) return;
        for (int round = 0; round < 3; round++) {
          Evaluation evaluation(pointers(shards), make_batch(size, problem, Workspace::recompute), {});
          std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows);
          ForwardResult result;
          if (evaluation.forward(arcface(), {}, {loss.data(), lse.data(), cosine.data()}, &result).ok() &&
              std::fabs(result.loss - reference(size, problem).loss) < 1e-4)
            right++;
        }
      });
    for (std::thread& caller : callers) caller.join();
    check(right == 9, "concurrent callers");
  }
  unsetenv("MARGINFC_ISA");
  check(std::strcmp(choose_kernels().name, best) == 0, "the best instruction set by default");
  setenv("MARGINFC_ISA", "sse9", 1);
  check(!choose_kernels().plain, "an unknown instruction set");
  std::printf("best instruction set: %s\n%d passed, %d failed\n", best, passed, failed);
  return failed != 0;
}
