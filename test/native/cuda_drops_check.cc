// Every launch, copy and fill, all that graphs are told, and every wait between host and streams of the CUDA engine is needed, and
// a comparison with float64 sees where one is missing: with test/native/dropping_driver.cc as the driver each launch, copy, fill
// and call for a graph of a batch or a step is left out once, and all waits and records of a kind are, in orders of the streams in
// which that may show; on memory that is full of poison. Prints "N passed, N failed".
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>

#include "cuda/cuda_engine.h"
#include "test/native/triplet_checks.h"

using namespace marginfc;

namespace {

// Everything differs from everything: no class without direction, whose update would be all there is to see.
Problem plain_problem(const Size& size) {
  Problem problem = make_problem(size, 21);
  for (int64_t d = 0; d < size.dim; d++) {
    problem.weights[2 * size.dim + d] *= 1e-20f;
    problem.weights[3 * size.dim + d] = 0.3f - 0.01f * static_cast<float>(d);
  }
  return problem;
}

double reference_accuracy(const Size& size, const Problem& problem) {
  int64_t right = 0, counted = 0;
  for (int64_t i = 0; i < size.rows; i++) {
    if (problem.labels[i] < 0) continue;
    const float* x = problem.features.data() + i * size.dim;
    double own = 0, most = -2;
    for (int64_t j = 0; j < size.classes; j++) {
      const float* w = problem.weights.data() + j * size.dim;
      double product = 0, square = 0;
      for (int64_t d = 0; d < size.dim; d++) {
        product += static_cast<double>(x[d]) * w[d];
        square += static_cast<double>(w[d]) * w[d];
      }
      const double cosine = product / std::max(std::sqrt(square), kNormFloor);
      (j == problem.labels[i] ? own : most) = j == problem.labels[i] ? cosine : std::max(most, cosine);
    }
    counted++;
    right += own > most;
  }
  return static_cast<double>(right) / static_cast<double>(counted);
}

struct Setting {
  Size size;
  Precision operands;
};

// Memory of the first GPU, as a caller has it.
class CallersMemory {
 public:
  explicit CallersMemory(size_t bytes) : bytes_(bytes) {
    cuda::ContextHandle* context;
    (void)driver_->context_retain(&context, 0);
    (void)driver_->context_push(context);
    if (driver_->memory_allocate(&address_, bytes) != cuda::Result::success) address_ = 0;
  }
  ~CallersMemory() {
    if (address_) (void)driver_->memory_free(address_);
    cuda::ContextHandle* context;
    (void)driver_->context_pop(&context);
    (void)driver_->context_release(0);
  }
  float* floats() const { return reinterpret_cast<float*>(address_); }
  // In a stream that waits for none of the engine's.
  bool read(void* to) const { return driver_->copy_to_host(to, address_, bytes_, nullptr) == cuda::Result::success; }

 private:
  const cuda::Driver& driver_ = cuda::driver();
  const size_t bytes_;
  cuda::DevicePointer address_ = 0;
};

// Loss, accuracy, dX, dW and dBias of borrowed weights; dX in the host's memory or in a GPU's.
bool gradients_are_right(Engine& engine, const Setting& setting, Place place = Place::host,
                         const NegativesOptions& negatives = {}) {
  const Size& size = setting.size;
  const Problem problem = plain_problem(size);
  const Result expected = reference(size, problem, negatives);
  std::unique_ptr<ClassShard> shard;
  if (!engine.borrow({0, size.classes}, static_cast<int32_t>(size.dim), {problem.weights.data()}, &shard).ok())
    return false;
  Batch batch = make_batch(size, problem, Workspace::recompute);
  batch.operands = setting.operands;
  batch.transforms = negatives.transform || negatives.binary;
  LossOptions options;
  options.diagnostics = true;
  Evaluation evaluation({shard.get()}, batch, options);
  std::vector<float> loss(size.rows), lse(size.rows), cosine(size.rows);
  std::vector<double> bias(size.rows);
  RowResults rows{loss.data(), lse.data(), cosine.data()};
  rows.bias_gradient = bias.data();
  std::vector<float> dx(size.rows * size.dim, NAN), dw(size.classes * size.dim, NAN);
  const CallersMemory there(dx.size() * sizeof(float));
  Gradients gradients;
  gradients.features = {place == Place::host ? dx.data() : there.floats(), place};
  gradients.weights.kind = WeightSink::Kind::write;
  gradients.weights.gradient = dw.data();
  ForwardResult result;
  if (!evaluation.negatives(gradients.plan(), negatives).ok() || !evaluation.epilogue(arcface(), rows, &result).ok() ||
      !evaluation.backward(gradients).ok() || (place == Place::device && !there.read(dx.data())))
    return false;
  const Limits limits = limits_of(setting.operands, negatives);
  return std::fabs(result.loss - expected.loss) <= limits.loss * expected.loss &&
         result.accuracy == reference_accuracy(size, problem) &&
         biases_are_right(bias, expected.bias_gradient, limits.gradient) &&
         close(dx, expected.feature_gradient, problem.features, size.dim, limits.gradient) &&
         close(dw, expected.weight_gradient, problem.weights, size.dim, limits.gradient);
}

// Three steps of a head, of which one launches kernels, one makes a graph of them and one tells it what changed; each compared
// with the optimiser's rule in float64 from where the weights were.
bool steps_are_right(Engine& engine, const Setting& setting, Optimizer::Kind kind, bool accumulate) {
  const Size& size = setting.size;
  Problem problem = plain_problem(size);
  Optimizer optimizer;
  optimizer.kind = kind;
  optimizer.momentum = 0.5;
  optimizer.epsilon = 0.1;  // far from a sign, which rounding would decide
  const bool adamw = kind == Optimizer::Kind::adamw;

  std::unique_ptr<Head> head;
  if (!Head::create({&engine}, size.classes, {0, size.classes}, static_cast<int32_t>(size.dim), size.shards, optimizer,
                    &head)
           .ok() ||
      !head->write(0, size.classes, problem.weights.data()).ok())
    return false;
  const Limits limits = limits_of(setting.operands);
  const size_t count = problem.weights.size();
  std::vector<double> momentum(count), variance(count);
  for (int step = 1; step <= 3; step++) {
    const double rate = 0.25 * step;
    std::vector<double> gradient(count);
    for (int round = 0; round < (accumulate ? 2 : 1); round++) {
      // Another batch each time, so that none can use what an earlier one left.
      for (float& x : problem.features) x = 1.25f * x + 0.5f;
      std::rotate(problem.labels.begin(), problem.labels.begin() + 1, problem.labels.end());
      // No kernel has the arguments of another batch.
      const double loss_gradient = 1 + 0.25 * step + 0.1 * round;
      Result expected = reference(size, problem);
      for (double& g : expected.feature_gradient) g *= loss_gradient;
      for (size_t e = 0; e < count; e++) gradient[e] += loss_gradient * expected.weight_gradient[e];
      const auto sink = accumulate ? WeightSink::Kind::accumulate : WeightSink::Kind::update;
      Batch batch = make_batch(size, problem, Workspace::recompute);
      batch.operands = setting.operands;
      Evaluation evaluation(head->shards(), batch, {});
      std::vector<float> row_loss(size.rows), lse(size.rows), cosine(size.rows), dx(size.rows * size.dim, NAN);
      Gradients gradients;
      gradients.loss_gradient = loss_gradient;
      gradients.features.gradient = dx.data();
      gradients.weights.kind = sink;
      gradients.weights.learning_rate = rate;
      gradients.weights.step = head->step_count() + 1;
      ForwardResult result;
      if (!evaluation.forward(arcface(), gradients.plan(), {row_loss.data(), lse.data(), cosine.data()}, &result)
               .ok() ||
          !evaluation.backward(gradients).ok())
        return false;
      if (!close(dx, expected.feature_gradient, problem.features, size.dim, limits.gradient) ||
          !(std::fabs(result.loss - expected.loss) <= limits.loss * expected.loss))
        return false;
    }
    if (accumulate && !head->apply(rate).ok()) return false;
    if (!accumulate) head->count_step();

    std::vector<float> moved(count), change(count);
    if (!head->read(0, size.classes, moved.data()).ok()) return false;
    std::vector<double> want(count);
    for (size_t e = 0; e < count; e++) {
      const double g = gradient[e];
      change[e] = static_cast<float>((static_cast<double>(problem.weights[e]) - moved[e]) / rate);
      if (adamw) {
        momentum[e] = optimizer.beta1 * momentum[e] + (1 - optimizer.beta1) * g;
        variance[e] = optimizer.beta2 * variance[e] + (1 - optimizer.beta2) * g * g;
        want[e] = momentum[e] / (1 - std::pow(optimizer.beta1, step)) /
                  (std::sqrt(variance[e] / (1 - std::pow(optimizer.beta2, step))) + optimizer.epsilon);
      } else {
        momentum[e] = optimizer.momentum * momentum[e] + g;
        want[e] = momentum[e];
      }
    }
    if (!close(change, want, problem.weights, size.dim, 2 * limits.gradient)) return false;
    problem.weights = moved;
  }
  return true;
}

// The five nearest classes of each row, of weights that the device initialised.
bool nearest_are_right(Engine& engine, const Setting& setting) {
  const Size& size = setting.size;
  constexpr int64_t kNearest = 5;
  Problem problem = plain_problem(size);
  std::unique_ptr<Head> head;
  if (!Head::create({&engine}, size.classes, {0, size.classes}, static_cast<int32_t>(size.dim), size.shards, {}, &head)
           .ok() ||
      !head->initialize(0.5, 3, {0, size.classes}).ok() || !head->read(0, size.classes, problem.weights.data()).ok())
    return false;
  double square = 0;
  for (const float w : problem.weights) square += static_cast<double>(w) * w;
  if (!(std::fabs(std::sqrt(square / static_cast<double>(problem.weights.size())) - 0.5) < 0.02)) return false;
  std::vector<int32_t> ids(size.rows * kNearest, -7);
  std::vector<float> cosines(size.rows * kNearest, NAN);
  Batch batch = make_batch(size, problem, Workspace::recompute);
  batch.operands = setting.operands;
  if (!head->nearest(batch, kNearest, ids.data(), cosines.data()).ok()) return false;
  for (int64_t i = 0; i < size.rows; i++) {
    const float* x = problem.features.data() + i * size.dim;
    std::vector<double> all(size.classes);
    for (int64_t j = 0; j < size.classes; j++) {
      const float* w = problem.weights.data() + j * size.dim;
      double product = 0, of_w = 0, of_x = 0;
      for (int64_t d = 0; d < size.dim; d++) {
        product += static_cast<double>(x[d]) * w[d];
        of_w += static_cast<double>(w[d]) * w[d];
        of_x += static_cast<double>(x[d]) * x[d];
      }
      all[j] = product / std::sqrt(of_w * of_x);
    }
    std::vector<double> sorted = all;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (int64_t n = 0; n < kNearest; n++) {
      const int32_t id = ids[i * kNearest + n];
      // Of classes that are as near as rounding any may come first.
      if (id < 0 || id >= size.classes || std::fabs(all[id] - sorted[n]) > 1e-3) return false;
      if (!(std::fabs(cosines[i * kNearest + n] - sorted[n]) <= 1e-3)) return false;
    }
  }
  return true;
}

// Weights of a head are read as they were written: by way of more pieces of pinned memory than there are.
bool weights_are_kept(Engine& engine) {
  constexpr int64_t kClasses = 30'000, kDim = 200;  // 24 MB
  std::unique_ptr<Head> head;
  std::vector<float> written(kClasses * kDim), got(written.size(), NAN);
  for (size_t n = 0; n < written.size(); n++) written[n] = static_cast<float>(n);
  return Head::create({&engine}, kClasses, {0, kClasses}, kDim, 1, {}, &head).ok() &&
         head->write(0, kClasses, written.data()).ok() && head->read(0, kClasses, got.data()).ok() && got == written;
}

// Calls without which results are right all the same.
struct Exception {
  const char* scenario;  // begins like this
  const char* call;      // begins like this
  const char* reason;
};
constexpr Exception kExceptions[] = {
    {"", "fill of 512 bytes",
     "what may be read behind an operand is never used; kept for tools that report such reads"},
    {"", "fill of 1056 bytes", "norms and cosines of rows without a class here, which nothing uses"},
    {"", "fill of 288 bytes", "the same"},
    {"nearest", "upload of 1240 bytes", "labels, which it does not use"},
    {"triplets", "fill of 4800 bytes", "norms and cosines of rows without a class, as above"},
    {"triplets", "upload of 2048 bytes", "labels, which it does not use"},
    {"triplets", "fill of 4 bytes", "the first row that is not finite, which nobody asks for"},
    {"gradients, transformed", "download of 264 bytes",
     "sums of a first try, without which offsets are searched for all the same"},
    {"sgd, wide", "order of finish_features", "it needs nothing of the kernels before it"},
    {"sgd, wide", "fill of 240000 bytes", "weights of a new head, all of which are written before they are used"},
    {"", "fill of 24000 bytes", "the same"},
};

// Kinds of waits and records without which results are right in every order.
constexpr Exception kExceptedWaits[] = {
    {"", "compute records pace", "bounds how much is queued, and orders nothing"},
    {"", "host waits for pace", "the same"},
    {"", "downloads records read, other",
     "nobody waits for it: what these downloads read is settled before it is written again"},
};

bool used[std::size(kExceptions)] = {};

bool excepted(const std::string& scenario, const std::string& call) {
  for (size_t n = 0; n < std::size(kExceptions); n++)
    if (scenario.rfind(kExceptions[n].scenario, 0) == 0 && call.rfind(kExceptions[n].call, 0) == 0)
      return used[n] = true;
  return false;
}

struct Driver {
  int (*drop)(int);
  const char* (*dropped)();
  bool (*poison)();
  int (*drop_kind)(const char*);
  const char* (*kind)(int);
  void (*set_seed)(uint64_t);
};

// Orders of the streams (test/gpusim/driver/order.cc): each pair of paces of the engine's two.
constexpr uint64_t kSeeds = 9;

struct Scenario {
  std::string name;
  std::function<bool(Engine&)> right;
};

struct Totals {
  int seen = 0, excepted = 0;
};

// Memory full of poison. A kernel that read poison may have taken the device along.
void prepare(const Driver& driver, std::shared_ptr<cuda::CudaEngine>* engine) {
  if (!*engine || !driver.poison()) {
    engine->reset();
    check(cuda::CudaEngine::create(0, engine).ok(), "another engine");
    // A cache of a few tiles: several chunks of classes.
    (*engine)->device().assume_l2_bytes(1 << 16);
  }
  // Without those of earlier runs.
  check((*engine)->device().use_graphs(true).ok(), "graphs");
}

void drop_each(const Driver& driver, const Scenario& scenario, std::shared_ptr<cuda::CudaEngine>* engine,
               Totals* totals) {
  const auto run_without = [&](int call) {
    prepare(driver, engine);
    driver.drop(call);
    return scenario.right(**engine);
  };
  check(run_without(0), (scenario.name + " is right").c_str());
  for (int call = 1;; call++) {
    const bool right = run_without(call);
    const std::string what = driver.dropped();
    driver.drop(0);
    // There are no more.
    if (what.empty()) break;
    totals->seen += !right;
    if (right) {
      totals->excepted++;
      check(excepted(scenario.name, what),
            (scenario.name + " is right without call " + std::to_string(call) + ", " + what).c_str());
    }
  }
}

// Without the waits and records of one kind after the other some scenario is wrong in some order of the streams.
void drop_kinds(const Driver& driver, const std::vector<Scenario>& scenarios,
                std::shared_ptr<cuda::CudaEngine>* engine) {
  const auto all_right = [&] {
    for (uint64_t seed = 0; seed < kSeeds; seed++)
      for (const Scenario& scenario : scenarios) {
        driver.set_seed(seed);
        prepare(driver, engine);
        if (scenario.right(**engine)) continue;
        std::printf("  seen in %s with seed %d\n", scenario.name.c_str(), static_cast<int>(seed));
        return false;
      }
    return true;
  };
  check(all_right(), "scenarios are right in all orders of the streams");
  std::vector<std::string> kinds;
  for (int n = 0; const char* kind = driver.kind(n); n++) kinds.push_back(kind);
  for (const std::string& kind : kinds) {
    const auto exception = std::find_if(std::begin(kExceptedWaits), std::end(kExceptedWaits),
                                        [&](const Exception& one) { return kind == one.call; });
    const bool excepted = exception != std::end(kExceptedWaits);
    std::printf("%s, %d calls%s\n", kind.c_str(), driver.drop_kind(kind.c_str()), excepted ? ", excepted" : "");
    check(all_right() == excepted, (kind + (excepted ? " is needed after all" : " is not needed")).c_str());
    driver.drop_kind("");
  }
  for (const Exception& one : kExceptedWaits)
    check(std::count(kinds.begin(), kinds.end(), one.call) == 1,
          (std::string("an exception for nothing: ") + one.call).c_str());
  driver.set_seed(0);
}

std::vector<Scenario> scenarios_in(Precision operands) {
  const std::string kind = operands == Precision::float32 ? ", float32" : ", float16";
  const Setting one{{33, 64, 300, 1, 64}, operands}, far{{33, 64, 200, 1, 128}, operands},
      head{{33, 40, 150, 1, 64}, operands}, wide{{9, 600, 100, 1, 64}, operands};
  const auto steps = [&](const Setting& setting, Optimizer::Kind optimizer, bool accumulate) {
    return [=](Engine& on) { return steps_are_right(on, setting, optimizer, accumulate); };
  };
  return {
      {"gradients" + kind, [=](Engine& on) { return gradients_are_right(on, one); }},
      {"gradients, s = 128" + kind, [=](Engine& on) { return gradients_are_right(on, far); }},
      {"gradients, transformed, s = 128" + kind,
       [=](Engine& on) { return gradients_are_right(on, far, Place::host, curricular()); }},
      {"gradients, binary" + kind,
       [=](Engine& on) { return gradients_are_right(on, one, Place::host, binary_losses(1)); }},
      {"sgd" + kind, steps(head, Optimizer::Kind::sgd, false)},
      {"sgd, wide" + kind, steps(wide, Optimizer::Kind::sgd, false)},
      {"sgd, accumulated" + kind, steps(head, Optimizer::Kind::sgd, true)},
      {"adamw" + kind, steps(head, Optimizer::Kind::adamw, false)},
      {"nearest" + kind, [=](Engine& on) { return nearest_are_right(on, head); }},
  };
}

// What needs no operand of a kind.
std::vector<Scenario> scenarios_of_features() {
  return {{"triplets", [](Engine& on) { return triplets_are_right(on, {150, 40, 3, 1, 1}, true, true); }}};
}

// Those in which two streams and the host wait for each other.
std::vector<Scenario> waiting_scenarios() {
  const Setting one{{33, 64, 1500, 1, 64}, Precision::float16}, head{{33, 40, 150, 1, 64}, Precision::float16};
  return {
      {"gradients", [=](Engine& on) { return gradients_are_right(on, one); }},
      {"gradients, dX on the GPU", [=](Engine& on) { return gradients_are_right(on, one, Place::device); }},
      {"sgd", [=](Engine& on) { return steps_are_right(on, head, Optimizer::Kind::sgd, false); }},
      {"nearest", [=](Engine& on) { return nearest_are_right(on, head); }},
      {"weights", weights_are_kept},
  };
}

}  // namespace

// Scenarios whose names begin with an argument, or all; `waits` are the waits.
int main(int count, char** arguments) {
  void* library = dlopen(std::getenv("MARGINFC_LIBCUDA"), RTLD_NOW);
  const auto symbol = [&](const char* name) { return library ? dlsym(library, name) : nullptr; };
  const Driver driver{reinterpret_cast<int (*)(int)>(symbol("drop_call")),
                      reinterpret_cast<const char* (*)()>(symbol("dropped_call")),
                      reinterpret_cast<bool (*)()>(symbol("poison_memory")),
                      reinterpret_cast<int (*)(const char*)>(symbol("drop_kind")),
                      reinterpret_cast<const char* (*)(int)>(symbol("kind_of_call")),
                      reinterpret_cast<void (*)(uint64_t)>(symbol("gpusim_set_seed"))};
  if (!driver.drop) {
    std::printf("MARGINFC_LIBCUDA is not test/native/dropping_driver.cc\n");
    return 1;
  }
  const auto wanted = [&](const std::string& name) {
    return count == 1 ||
           std::any_of(arguments + 1, arguments + count, [&](const char* start) { return name.rfind(start, 0) == 0; });
  };
  std::shared_ptr<cuda::CudaEngine> engine;
  Totals totals;
  const std::vector<Scenario> all[] = {scenarios_in(Precision::float32), scenarios_in(Precision::float16),
                                       scenarios_of_features()};
  for (const std::vector<Scenario>& scenarios : all)
    for (const Scenario& scenario : scenarios) {
      if (!wanted(scenario.name)) continue;
      const Totals before = totals;
      drop_each(driver, scenario, &engine, &totals);
      std::printf("%s: %d calls seen, %d excepted\n", scenario.name.c_str(), totals.seen - before.seen,
                  totals.excepted - before.excepted);
    }
  for (size_t n = 0; n < std::size(kExceptions) && count == 1; n++)
    check(used[n], (std::string("an exception for nothing: ") + kExceptions[n].call).c_str());
  if (wanted("waits")) drop_kinds(driver, waiting_scenarios(), &engine);
  check(passed > 10, "calls were left out");
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
