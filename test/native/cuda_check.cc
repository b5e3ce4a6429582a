// The CUDA engine without Node, on the GPUs that MARGINFC_LIBCUDA's driver has: the checks of every engine in all operand
// types, one device and several, and heads that agree with the CPU engine's. Prints "N passed, N failed".
#include <dlfcn.h>

#include <cstdlib>

#include "cpu/cpu_engine.h"
#include "cuda/cuda_engine.h"
#include "test/native/triplet_checks.h"

using namespace marginfc;

namespace {

// Steps on both engines from the same start end at the same weights.
void heads_agree(const std::vector<Engine*>& engines, Optimizer::Kind kind) {
  CpuEngine cpu(choose_kernels(), 1);
  const Size size{33, 37, 700, 3, 64};
  const Problem problem = make_problem(size, 7);
  Optimizer optimizer;
  optimizer.kind = kind;
  optimizer.momentum = 0.9;
  optimizer.weight_decay = 5e-4;
  std::vector<float> weights[2], nearest[2];
  std::vector<int32_t> ids[2];
  for (int e = 0; e < 2; e++) {
    std::unique_ptr<Head> head;
    check(Head::create(e ? engines : std::vector<Engine*>{&cpu}, size.classes, {0, size.classes}, size.dim, size.shards,
                       optimizer, &head)
              .ok(),
          "create");
    check(head->initialize(0.1, 11, {0, size.classes}).ok(), "initialize");
    const float* rows = problem.weights.data();
    check(head->write(40, 100, rows + 40 * size.dim).ok(), "write");
    for (int step = 0; step < 6; step++) {
      const auto sink = step % 3 ? WeightSink::Kind::update : WeightSink::Kind::accumulate;
      check(take_step(*head, size, problem, sink, 0.01).ok(), "step");
    }
    weights[e].resize(size.classes * size.dim);
    check(head->read(0, size.classes, weights[e].data()).ok(), "read");
    nearest[e].resize(size.rows * 7);
    ids[e].resize(size.rows * 7);
    check(head->nearest(make_batch(size, problem, Workspace::recompute), 7, ids[e].data(), nearest[e].data()).ok(),
          "nearest");
  }
  double error = 0, apart = 0;
  for (size_t n = 0; n < weights[0].size(); n++)
    error = std::max<double>(error, std::fabs(weights[0][n] - weights[1][n]));
  for (size_t n = 0; n < nearest[0].size(); n++)
    apart = std::max<double>(apart, std::fabs(nearest[0][n] - nearest[1][n]));
  // AdamW divides by the root of gradients that may be rounding alone.
  check(error < (kind == Optimizer::Kind::adamw ? 2e-2 : 1e-4), "weights after steps as on the CPU");
  check(apart < 1e-3, "nearest as on the CPU");
  if (kind == Optimizer::Kind::sgd) check(ids[0] == ids[1], "nearest classes as on the CPU");
}

// Loss and gradients of a batch, and its triplets, or how that failed.
Status run_once(Engine& engine) {
  const Size size{33, 64, 300, 1, 64};
  const Problem problem = make_problem(size, 3);
  std::unique_ptr<ClassShard> shard;
  MARGINFC_TRY(engine.borrow({0, size.classes}, static_cast<int32_t>(size.dim), {problem.weights.data()}, &shard));
  Evaluation evaluation({shard.get()}, make_batch(size, problem, Workspace::recompute), {});
  std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows);
  std::vector<float> dx(size.rows * size.dim), dw(size.classes * size.dim);
  ForwardResult result;
  Gradients gradients;
  gradients.features.gradient = dx.data();
  gradients.weights.kind = WeightSink::Kind::write;
  gradients.weights.gradient = dw.data();
  MARGINFC_TRY(evaluation.forward(arcface(), gradients.plan(), {loss.data(), lse.data(), cosine.data()}, &result));
  MARGINFC_TRY(evaluation.backward(gradients));
  Triplets triplets;
  return engine.triplets(triplet_batch(size, problem), {0.3, true, 0, size.rows}, std::vector<double>(size.rows, 1),
                         true, &triplets);
}

// Device memory of a step beyond weights, optimiser state, features and dX: 64 MiB and a chunk the size of the L2 cache at
// most, whatever the number of classes. Launches do nothing, so results mean nothing.
void steps_need_little_memory(void* driver) {
  auto* idle = reinterpret_cast<void (*)(bool)>(dlsym(driver, "idle_driver"));
  auto* most_memory = reinterpret_cast<size_t (*)()>(dlsym(driver, "most_driver_memory"));
  idle(true);
  for (const Size& size : {Size{512, 512, 20'000, 1, 64}, Size{512, 512, 100'000, 1, 64},
                           Size{4096, 512, 20'000, 1, 64}, Size{256, 1024, 50'000, 1, 64}})
    for (const Precision operands : {Precision::float16, Precision::float32}) {
      std::shared_ptr<cuda::CudaEngine> engine;
      check(cuda::CudaEngine::create(0, &engine).ok(), "create");
      std::unique_ptr<Head> head;
      Optimizer optimizer;
      optimizer.momentum = 0.9;
      check(Head::create({engine.get()}, size.classes, {0, size.classes}, static_cast<int32_t>(size.dim), 1, optimizer,
                         &head)
                .ok(),
            "head");
      Problem problem;
      problem.features.resize(size.rows * size.dim);
      for (int64_t i = 0; i < size.rows; i++) problem.labels.push_back(static_cast<int32_t>(i));
      (void)most_memory();
      check(take_step(*head, size, problem, WeightSink::Kind::update, 0.1, nullptr, operands).ok(), "step");
      const int64_t shadows = operands == Precision::float32 ? 2 : 1;  // of 16 bits
      const int64_t held = size.classes * size.dim * (2 * 4 + 2 * shadows) + 2 * size.rows * size.dim * 4;
      const int64_t extra = static_cast<int64_t>(most_memory()) - held;
      std::printf("  B = %lld, D = %lld, C = %lld, %s: %.1f MiB beyond weights and features\n",
                  static_cast<long long>(size.rows), static_cast<long long>(size.dim),
                  static_cast<long long>(size.classes), operands == Precision::float32 ? "float32" : "float16",
                  static_cast<double>(extra) / (1 << 20));
      check(extra > 0 && extra < (int64_t{64} << 20) + engine->device().l2_bytes(), "memory of a step");
    }
  idle(false);
}

// Weights after steps of two heads by turns in many chunks, or how that failed.
Status train_two(cuda::CudaEngine& engine, std::vector<float>* weights) {
  const Size size{33, 37, 700, 1, 64};
  const Problem problem = make_problem(size, 7);
  Optimizer optimizer;
  optimizer.momentum = 0.9;
  std::unique_ptr<Head> heads[2];
  for (const int64_t of : {0, 1}) {
    MARGINFC_TRY(Head::create({&engine}, size.classes, {0, size.classes}, size.dim, 1, optimizer, &heads[of]));
    MARGINFC_TRY(heads[of]->initialize(0.1, 11 + of, {0, size.classes}));
  }
  for (int step = 0; step < 10; step++) {
    const auto sink = step % 5 == 4 ? WeightSink::Kind::accumulate : WeightSink::Kind::update;
    for (const auto& head : heads) MARGINFC_TRY(take_step(*head, size, problem, sink, 0.01 + 0.001 * step));
  }
  const int64_t values = size.classes * size.dim;
  weights->resize(2 * values);
  for (const int64_t of : {0, 1}) MARGINFC_TRY(heads[of]->read(0, size.classes, weights->data() + of * values));
  return {};
}

// Steps by graphs have the bits of those without. With test/native/failing_driver.cc as the driver also where it refuses them.
void graphs_change_nothing(bool (*fail)(const char*, int, int)) {
  std::printf("graphs\n");
  std::shared_ptr<cuda::CudaEngine> engine;
  check(cuda::CudaEngine::create(0, &engine).ok(), "create");
  engine->device().assume_l2_bytes(1 << 16);
  std::vector<float> without, with;
  check(engine->device().use_graphs(false).ok() && train_two(*engine, &without).ok(), "steps without graphs");
  check(engine->device().use_graphs(true).ok() && train_two(*engine, &with).ok(), "steps with graphs");
  check(with == without, "the same weights");
  if (!fail) return;
  for (const char* symbol : {"cuGraphCreate", "cuGraphAddKernelNode", "cuGraphInstantiateWithFlags",
                             "cuGraphExecKernelNodeSetParams", "cuGraphLaunch"})
    for (const int call : {1, 2}) {
      check(engine->device().use_graphs(true).ok(), "again");
      fail(symbol, call, 1);
      check(train_two(*engine, &with).ok() && with == without, "the same weights where a driver refuses");
      check(fail("", 0, 0), symbol);
    }
}

// With test/native/failing_driver.cc as the driver: every allocation fails once, every launch loses the device once.
void failures_of_the_driver() {
  void* library = dlopen(std::getenv("MARGINFC_LIBCUDA"), RTLD_NOW | RTLD_NOLOAD);
  auto* fail = reinterpret_cast<bool (*)(const char*, int, int)>(library ? dlsym(library, "fail_driver") : nullptr);
  graphs_change_nothing(fail);
  if (!fail) return;
  std::printf("memory\n");
  steps_need_little_memory(library);
  std::printf("a failing driver\n");
  std::shared_ptr<cuda::CudaEngine> engine;
  int memory_failures = 0, losses = 0;
  check(cuda::CudaEngine::create(0, &engine).ok(), "create");
  for (int call = 1;; call++) {
    engine->trim();
    fail("cuMemAlloc_v2", call, 2);
    const Status status = run_once(*engine);
    if (!fail("", 0, 0)) break;
    memory_failures++;
    // The pool is empty, so there is nothing to give back and try again.
    check(status.ok() || (status.code == Code::out_of_memory &&
                          status.message.find("CUDA_ERROR_OUT_OF_MEMORY (2)") != std::string::npos),
          "out of memory by name");
    check(run_once(*engine).ok(), "the engine goes on after it was out of memory");
  }
  check(memory_failures > 5, "allocations failed");

  // A step that finds no memory leaves the weights as they were.
  const Size size{33, 64, 300, 2, 64};
  const Problem problem = make_problem(size, 3);
  std::unique_ptr<Head> head;
  check(Head::create({engine.get()}, size.classes, {0, size.classes}, static_cast<int32_t>(size.dim), size.shards, {},
                     &head)
            .ok(),
        "head");
  check(head->write(0, size.classes, problem.weights.data()).ok(), "write");
  std::vector<float> weights(problem.weights.size());
  for (int call = 1;; call++) {
    engine->trim();
    fail("cuMemAlloc_v2", call, 2);
    const Status status = take_step(*head, size, problem, WeightSink::Kind::update, 0.1);
    if (!fail("", 0, 0)) break;
    check(head->read(0, size.classes, weights.data()).ok(), "read");
    if (!status.ok()) check(weights == problem.weights, "no half step");
    check(head->write(0, size.classes, problem.weights.data()).ok(), "write back");
  }
  head.reset();

  for (int call = 1;; call++) {
    fail("cuLaunchKernel", call, 700);
    const Status status = run_once(*engine);
    const Status later = run_once(*engine);
    if (!fail("", 0, 0)) break;
    losses++;
    const auto says_so = [](const Status& of) {
      return of.code == Code::unavailable &&
             of.message.find("cuda:0 was lost: cuLaunchKernel said CUDA_ERROR_ILLEGAL_ADDRESS (700)") == 0;
    };
    // The first run may come through before that many launches.
    check(status.ok() || says_so(status), "a lost device says so, by name");
    check(says_so(later), "a lost device says so from then on");
    check(says_so(run_once(*engine)), "even if the driver comes back");
    check(cuda::CudaEngine::create(0, &engine).ok(), "another engine");
  }
  check(losses > 5, "launches failed");
}

}  // namespace

int main() {
  std::vector<std::shared_ptr<cuda::CudaEngine>> owned;
  std::vector<Engine*> all;
  for (const EngineRow& row : cuda::cuda_devices()) {
    std::printf("%s: %s\n", row.name.c_str(), (row.available ? row.detail : row.reason).c_str());
    if (!row.available) return 1;
    std::shared_ptr<cuda::CudaEngine> engine;
    check(cuda::CudaEngine::create(static_cast<int32_t>(owned.size()), &engine).ok(), "create");
    all.push_back(engine.get());
    owned.push_back(engine);
  }
  const std::vector<Engine*> one{all[0]};
  for (Precision operands : {Precision::float32, Precision::float16, Precision::bfloat16}) {
    if (!owned[0]->multiplies(operands)) continue;
    std::printf("operands %d\n", static_cast<int>(operands));
    for (const Size& size : {Size{1, 1, 1, 1, 64}, Size{2, 31, 33, 2, 30}, Size{33, 65, 131, 3, 64},
                             Size{131, 33, 300, 1, 64}, Size{5, 40, 1009, 3, 128}, Size{0, 8, 16, 1, 64},
                             Size{33, 65, 131, 2, 64, 3}, Size{131, 33, 200, 1, 128, 5}}) {
      gradients_match(all, size, Workspace::recompute, operands);
      if (size.dim == 1) continue;
      for (const NegativesOptions& negatives : {curricular(), binary_losses(0), binary_losses(1)})
        // 16 bits may take another of a class's rows for the nearest, and each class has a gradient.
        if (!negatives.binary || size.sub_centers == 1 || operands == Precision::float32)
          gradients_match(all, size, Workspace::recompute, operands, negatives);
    }
  }
  // A cache of a few tiles: many chunks, whose last is not whole.
  const int64_t l2_bytes = owned[0]->device().l2_bytes();
  for (const auto& engine : owned) engine->device().assume_l2_bytes(1 << 17);
  std::printf("chunks\n");
  for (Precision operands : {Precision::float32, Precision::float16})
    for (const Size& size : {Size{40, 130, 1500, 1, 64}, Size{40, 33, 500, 1, 64, 3}, Size{140, 24, 1025, 2, 100},
                             Size{9, 600, 200, 1, 64}, Size{520, 200, 260, 1, 64}})
      gradients_match(all, size, Workspace::recompute, operands);
  for (Optimizer::Kind kind : {Optimizer::Kind::sgd, Optimizer::Kind::adamw}) heads_agree(one, kind);
  triplets_work(all);
  for (const auto& engine : owned) engine->device().assume_l2_bytes(l2_bytes);
  std::printf("heads\n");
  for (Optimizer::Kind kind : {Optimizer::Kind::sgd, Optimizer::Kind::adamw}) {
    heads_work(all, kind);
    heads_agree(one, kind);
  }
  std::printf("failures\n");
  failures_are_values(all);
  failures_of_the_driver();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
