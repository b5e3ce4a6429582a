// What becomes of dW: written, added, or used up by an optimiser.
#include <algorithm>
#include <numeric>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

// A chunk of a shard's classes with its raw product, and a batch of which every class has none, one or many rows.
struct WeightProblem {
  WeightProblem(int64_t class_count, int64_t row_count, int64_t width, StorageKind storage, int64_t skew)
      : random(class_count * 1019 + width),
        classes(class_count),
        rows(row_count),
        dim(width),
        padded(padded_width(dim)),
        first_class(classes > 2 ? 37 : 0),
        weights(make_rows(random, classes, dim, true)),
        w(weights, storage, skew),
        x(make_rows(random, rows, dim, true)),
        raw(padded_rows(classes) * padded, std::nanf("")) {
    for (int64_t c = 0; c < classes; c++)
      for (int64_t d = 0; d < dim; d++) raw[c * padded + d] = static_cast<float>(1e6 * random.normal());
    // Labels around the chunk, most of them of few classes.
    std::vector<std::pair<int32_t, int32_t>> owners;
    for (int32_t i = 0; i < rows; i++) {
      const int32_t label = first_class + (i % 3 ? random.below(3) : random.below(static_cast<int32_t>(classes)) - 2);
      if (label >= 0 && i % 5 != 4) owners.push_back({label, i});
      norms.push_back(norm_of(x.data() + i * dim, dim));
      gammas.push_back(10 * random.normal());
      cosines.push_back(0);
    }
    std::sort(owners.begin(), owners.end());
    for (const auto& [label, row] : owners) {
      owner_class.push_back(label);
      owner_row.push_back(row);
      const int64_t c = label - first_class;
      if (c < 0 || c >= classes) continue;
      const float* own = w.values.data() + c * dim;
      // Every second one at its pole, where a large gamma shows what is not cancelled.
      if (row % 2) gammas[row] *= 1e5;
      for (int64_t d = 0; d < dim && row % 2; d++) x[row * dim + d] = own[d] * 0.5f;
      norms[row] = norm_of(x.data() + row * dim, dim);
      cosines[row] = dot(own, x.data() + row * dim, dim) / floored(norms[row]) / floored(norm_of(own, dim));
    }
  }

  // dW of class c in float64, and the size of what was added and subtracted for each column.
  void reference(int64_t c, std::vector<double>* gradient, std::vector<double>* size) const {
    const float* row = w.values.data() + c * dim;
    const double norm = norm_of(row, dim), inverse = 1 / floored(norm);
    const bool direction = !(norm < kNormFloor);
    double along = 0, terms = 0;
    for (int64_t d = 0; d < dim && direction; d++) {
      along += raw[c * padded + d] * unscale * row[d] * inverse;
      terms += std::fabs(raw[c * padded + d] * unscale * row[d] * inverse);
    }
    for (int64_t d = 0; d < dim; d++) {
      const double g = raw[c * padded + d] * unscale, wh = row[d] * inverse;
      (*gradient)[d] = (g - along * wh) * inverse;
      (*size)[d] = (std::fabs(g) + terms * std::fabs(wh)) * inverse;
    }
    for (size_t o = 0; o < owner_class.size(); o++) {
      if (owner_class[o] != first_class + c) continue;
      const int32_t i = owner_row[o];
      for (int64_t d = 0; d < dim; d++) {
        const double xh = x[i * dim + d] / floored(norms[i]), wh = direction ? cosines[i] * row[d] * inverse : 0;
        (*gradient)[d] += gammas[i] * (xh - wh) * inverse;
        // In float64.
        (*size)[d] += 1e-7 * std::fabs(gammas[i]) * (std::fabs(xh) + std::fabs(wh)) * inverse;
      }
    }
  }

  Random random;
  int64_t classes, rows, dim, padded;
  int32_t first_class;
  double unscale = 0x1p-17;
  std::vector<float> weights;
  StoredRows w;
  std::vector<float> x, raw;
  std::vector<int32_t> owner_class, owner_row;
  std::vector<double> norms, cosines, gammas;
};

// A problem's arrays on the device; weights are another copy each time, for a sink to move.
struct WeightBuffers {
  WeightBuffers(const WeightProblem& problem, int64_t skew)
      : raw(problem.raw),
        x(problem.x, skew),
        norm(problem.norms),
        cosine(problem.cosines),
        gamma(problem.gammas),
        owner_class(problem.owner_class),
        owner_row(problem.owner_row) {}

  FinishWeightsParameters parameters(const WeightProblem& problem) const {
    FinishWeightsParameters p{};
    p.raw = raw.get();
    p.unscale = problem.unscale;
    p.weights = problem.w.get();
    p.owner_class = owner_class.get();
    p.owner_row = owner_row.get();
    p.owners = static_cast<int32_t>(problem.owner_class.size());
    p.first_class = problem.first_class;
    p.features = x.get();
    p.norm = norm.get();
    p.cosine = cosine.get();
    p.gamma = gamma.get();
    p.classes = static_cast<int32_t>(problem.classes);
    p.dim = static_cast<int32_t>(problem.dim);
    p.depth = static_cast<int32_t>(padded_depth(problem.dim));
    p.width = static_cast<int32_t>(problem.padded);
    p.storage = problem.w.kind;
    p.clip_scale = 1;
    p.clip_longest = std::numeric_limits<double>::infinity();
    return p;
  }

  Buffer<float> raw, x;
  Buffer<double> norm, cosine, gamma;
  Buffer<int32_t> owner_class, owner_row;
};

struct Step {
  const char* name;
  SinkKind sink;
  bool momentum;
  SgdStep sgd;
  AdamwStep adamw;
};
constexpr Step kSteps[] = {
    {"sgd", SinkKind::sgd, false, {0.1f, 0, 0, false}, {}},
    {"sgd with decay", SinkKind::sgd, false, {0.1f, 0, 0.01f, false}, {}},
    {"sgd with momentum", SinkKind::sgd, true, {0.2f, 0.9f, 5e-4f, false}, {}},
    {"sgd with Nesterov's", SinkKind::sgd, true, {0.2f, 0.9f, 5e-4f, true}, {}},
    {"adamw", SinkKind::adamw, true, {}, {0.01f, 0.9f, 0.999f, 31.6f, 1e-8f, 0.99f}},
};

// One element of an update, in float64, from the gradient in float32; *_size is what rounding errors are measured by.
struct Element {
  double w, momentum, variance, w_size, momentum_size;
};
Element update(const Step& step, double g, double w, double momentum, double variance) {
  if (step.sink == SinkKind::adamw) {
    const AdamwStep& u = step.adamw;
    const double m = momentum + (1.0f - u.beta1) * (g - momentum), v = u.beta2 * variance + (1.0f - u.beta2) * g * g;
    const double rate = u.step_size / (std::sqrt(v) * u.root_correction + u.epsilon);
    const double size = std::fabs(g) + std::fabs(momentum);
    return {w * u.decay - rate * m, m, v, std::fabs(w) + rate * size, size};
  }
  const SgdStep& u = step.sgd;
  g += u.weight_decay * w;
  const double v = step.momentum ? u.momentum * momentum + g : 0;
  const double moved = !step.momentum ? g : u.nesterov ? g + u.momentum * v : v;
  const double size = std::fabs(g) + u.weight_decay * std::fabs(w) + std::fabs(momentum);
  return {w - u.learning_rate * moved, v, 0, std::fabs(w) + u.learning_rate * size, size};
}

// The update of a step, from the raw product or (apply) from its gradient, which the write sink left. `listed`: the rows that
// it touches lie elsewhere, by an index.
void check_step(const Device& device, const char* kernel, const WeightProblem& problem, const WeightBuffers& buffers,
                const Step& step, bool apply, bool listed, OperandKind kind, int64_t skew,
                const std::vector<float>& gradients) {
  const int64_t classes = problem.classes, dim = problem.dim;
  Random random(7);
  std::vector<float> momenta(classes * dim), variances(momenta.size());
  for (size_t e = 0; e < momenta.size(); e++) {
    momenta[e] = static_cast<float>(random.normal());
    variances[e] = static_cast<float>(0.1 + std::fabs(random.normal()));
  }
  std::vector<int32_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  if (listed) order = shuffled(classes);
  const auto is_none = [&](int64_t c) { return listed && c % 3 == 1 && c + 1 < classes; };
  std::vector<int32_t> places = order;
  for (int64_t c = 0; c < classes; c++)
    if (is_none(c)) places[c] = -1;
  const Buffer<int32_t> index(places);
  const StoredRows w(scattered(problem.weights, order), StorageKind::float32, skew);
  const Buffer<float> momentum(scattered(momenta, order), skew), variance(scattered(variances, order), skew),
      gradient(scattered(gradients, order), skew);
  const OperandBuffer operand(padded_rows(classes), dim, kind);
  FinishWeightsParameters p = buffers.parameters(problem);
  p.weights = w.get();
  p.index = listed ? index.get() : nullptr;
  p.sink = step.sink;
  p.sgd_step = step.sgd;
  p.adamw_step = step.adamw;
  p.momentum = step.momentum ? momentum.get() : nullptr;
  p.variance = step.sink == SinkKind::adamw ? variance.get() : nullptr;
  p.operand = operand.memory.get();
  p.low = operand.low;
  p.operand_scale = operand_scale(kind);
  p.padding = static_cast<int32_t>(operand.rows - classes);
  p.kind = kind;
  p.gradient = apply ? gradient.get() : nullptr;
  if (apply) {
    p.raw = nullptr;
    p.owners = 0;
    p.owner_class = p.owner_row = nullptr;
  }
  device.launch(kernel, p, 5, kThreads);

  Values values(size_text(kernel, classes, dim) + ", , " + step.name + (apply ? ", apply, " : ", ") +
                (listed ? "listed, " : "") + name_of(kind));
  const auto read = [&](const Buffer<float>& rows) { return gathered(rows.read(), order); };
  const std::vector<float> got = read(w.wide), got_momentum = read(momentum), got_variance = read(variance);
  const std::vector<float> left = read(gradient);
  for (int64_t e = 0; e < classes * dim; e++) {
    const int64_t c = e / dim, d = e % dim;
    if (is_none(c)) {
      values.equal(got[e], problem.weights[e], c, d);
      values.equal(got_momentum[e], momenta[e], c, d);
      values.equal(left[e], gradients[e], c, d);
      continue;
    }
    const Element want = update(step, gradients[e], problem.weights[e], momenta[e], variances[e]);
    values.near(got[e], want.w, 5e-7 * want.w_size, c, d);
    if (step.momentum) values.near(got_momentum[e], want.momentum, 5e-7 * want.momentum_size, c, d);
    if (p.variance) values.near(got_variance[e], want.variance, 5e-7 * want.variance, c, d);
    if (apply) values.equal(left[e], 0, c, d);
  }
  const OperandValues operands(operand);
  for (int64_t c = 0; c < classes; c++)
    if (!is_none(c)) operands.compare(values, c, unit_row(got.data() + c * dim, dim, operand_scale(kind)));
  for (int64_t c = classes; c < operand.rows; c++) operands.same(values, c, classes - 1);
}

// Classes that rest: those that are flagged, without any gradient, or those that are not, where their gradient is 0.
void check_resting(const Device& device, const char* kernel, int64_t dim, int64_t skew, const Step& step, bool apply) {
  constexpr int64_t kClasses = 131;
  Random random(dim);
  const std::vector<float> weights = make_rows(random, kClasses, dim, true), state(kClasses * dim, 0.5f);
  std::vector<float> gradients(kClasses * dim);
  std::vector<uint8_t> flag(kClasses);
  for (int64_t c = 0; c < kClasses; c++) {
    flag[c] = c % 3 == 0;
    // A single element, anywhere.
    if (c % 2) gradients[c * dim + random.below(static_cast<int32_t>(dim))] = c == 5 ? std::nanf("") : 0.25f;
  }
  const Buffer<float> moved(weights, skew), momentum(state, skew), variance(state, skew), gradient(gradients, skew);
  const Buffer<uint8_t> flags(flag);
  FinishWeightsParameters p{};
  p.weights = moved.get();
  p.momentum = step.momentum ? momentum.get() : nullptr;
  p.variance = step.sink == SinkKind::adamw ? variance.get() : nullptr;
  p.gradient = apply ? gradient.get() : nullptr;
  p.flags = flags.get();
  p.resting = apply ? 0 : 1;
  p.clip_scale = 1;
  p.clip_longest = std::numeric_limits<double>::infinity();
  p.sink = step.sink;
  p.sgd_step = step.sgd;
  p.adamw_step = step.adamw;
  p.classes = kClasses;
  p.dim = static_cast<int32_t>(dim);
  device.launch(kernel, p, 3, kThreads);
  Values values(size_text(kernel, kClasses, dim) + ", , " + step.name + (apply ? ", apply" : "") + ", some rest");
  const std::vector<float> got = moved.read(), got_momentum = momentum.read();
  for (int64_t e = 0; e < kClasses * dim; e++) {
    const int64_t c = e / dim, d = e % dim;
    const bool rests = apply ? !flag[c] && c % 2 == 0 : flag[c];
    const Element want = update(step, apply ? gradients[e] : 0.0, weights[e], 0.5, 0.5);
    values.near(got[e], rests ? weights[e] : want.w, rests ? 0 : 5e-7 * want.w_size, c, d);
    if (step.momentum)
      values.near(got_momentum[e], rests ? 0.5 : want.momentum, rests ? 0 : 5e-7 * want.momentum_size, c, d);
  }
}

// An infinite weight makes its class's row bad, and nothing else.
void check_bad_class(const Device& device, const char* kernel, int64_t dim, SinkKind sink) {
  WeightProblem problem(3, 2, dim, StorageKind::float32, 0);
  problem.weights = std::vector<float>(3 * dim, 0.5f);
  problem.weights[2 * dim - 1] = std::numeric_limits<float>::infinity();
  const WeightBuffers buffers(problem, 0);
  const Buffer<float> weights(problem.weights), gradient(3 * dim);
  const OperandBuffer operand(padded_rows(3), dim, OperandKind::split);
  FinishWeightsParameters p = buffers.parameters(problem);
  p.weights = weights.get();
  p.gradient = gradient.get();
  p.sink = sink;
  p.sgd_step = {0.1f, 0, 0, false};
  p.operand = operand.memory.get();
  p.low = operand.low;
  p.operand_scale = operand_scale(operand.kind);
  p.kind = operand.kind;
  device.launch(kernel, p, 1, kThreads);
  Values values(size_text(kernel, 3, dim) + ", a bad class");
  const std::vector<float> got = sink == SinkKind::write ? gradient.read() : weights.read();
  for (int64_t e = 0; e < 3 * dim; e++) values.equal(std::isfinite(got[e]), e / dim != 1, e / dim, e % dim);
  if (sink == SinkKind::write) return;
  const OperandValues operands(operand);
  for (int64_t c = 0; c < 3; c++)
    operands.compare(values, c, unit_row(got.data() + c * dim, dim, operand_scale(operand.kind)));
}

void check_finish(const Device& device, const char* kernel, bool listed) {
  struct Size {
    int64_t classes, rows;
  };
  int turn = 0;
  for (const Size size : {Size{1, 1}, {2, 33}, {131, 131}, {1009, 33}})
    for (const int64_t dim : kDims)
      for (const StorageKind storage : kStorages) {
        const int64_t skew = ++turn % 2, classes = size.classes;
        const WeightProblem problem(classes, size.rows, dim, storage, skew);
        const WeightBuffers buffers(problem, skew);
        FinishWeightsParameters p = buffers.parameters(problem);
        const Buffer<float> written(classes * dim, skew);
        p.gradient = written.get();
        p.sink = SinkKind::write;
        device.launch(kernel, p, 3, kThreads);
        const std::vector<float> gradients = written.read();
        {
          Values values(size_text(kernel, classes, dim) + ", write " + name_of(storage));
          std::vector<double> want(dim), room(dim);
          for (int64_t c = 0; c < classes; c++) {
            problem.reference(c, &want, &room);
            for (int64_t d = 0; d < dim; d++)
              values.near(gradients[c * dim + d], want[d], 5e-7 * room[d] + 1e-7 * std::fabs(want[d]) + 1e-45, c, d);
          }
        }

        std::vector<float> before(classes * dim);
        for (size_t e = 0; e < before.size(); e++) before[e] = static_cast<float>(e % 17) * 0.25f;
        const Buffer<float> accumulated(before, skew);
        p.gradient = accumulated.get();
        p.sink = SinkKind::accumulate;
        device.launch(kernel, p, 2, kThreads);
        {
          Values values(size_text(kernel, classes, dim) + ", accumulate " + name_of(storage));
          const std::vector<float> got = accumulated.read();
          for (int64_t e = 0; e < classes * dim; e++)
            values.near(got[e], static_cast<double>(before[e]) + gradients[e],
                        2e-7 * (before[e] + std::fabs(gradients[e])), e / dim, e % dim);
        }
        if (storage != StorageKind::float32) continue;
        for (const Step& step : kSteps)
          for (const bool apply : {false, true}) {
            turn++;
            // Of many long rows some.
            if (classes * dim > 200000 && turn % 4 != 0) continue;
            check_step(device, kernel, problem, buffers, step, apply, listed && turn / 3 % 2, kOperands[turn % 3], skew,
                       gradients);
          }
      }
  for (const int64_t dim : {33, 132})
    for (const SinkKind sink : {SinkKind::write, SinkKind::sgd}) check_bad_class(device, kernel, dim, sink);
}

// What all classes have in common or each has more, clipping and measuring; of a chunk, and (apply) of a gradient that is there.
void check_aids(const Device& device, int64_t dim, bool apply, double longest, int64_t skew) {
  constexpr int64_t classes = 131, rows = 33;
  const WeightProblem problem(classes, rows, dim, StorageKind::float32, skew);
  const WeightBuffers buffers(problem, skew);
  Random random(3);
  std::vector<float> uniforms(problem.padded);
  for (float& value : uniforms) value = static_cast<float>(1e6 * random.normal());
  std::vector<float> more(classes * dim);
  for (float& value : more) value = static_cast<float>(random.normal());
  // The problem with the uniform part in its product.
  WeightProblem whole(classes, rows, dim, StorageKind::float32, skew);
  for (int64_t c = 0; c < classes && !apply; c++)
    for (int64_t d = 0; d < dim; d++) whole.raw[c * problem.padded + d] += uniforms[d];
  std::vector<float> given(classes * dim);
  for (float& value : given) value = static_cast<float>(random.normal());
  const Buffer<float> uniform(uniforms), added(more, skew), gradient(given, skew);
  const StoredRows w(problem.weights, StorageKind::float32, skew);
  constexpr int64_t kBlocks = 3;
  const Buffer<double> squares(std::vector<double>(kBlocks * kRowWarps, 0.5));
  FinishWeightsParameters p = buffers.parameters(problem);
  p.weights = w.get();
  p.sgd_step = {1, 0, 0, false};
  p.uniform = uniform.get();
  p.added = added.get();
  p.clip_scale = 0.5;
  p.clip_longest = longest;
  p.squares = squares.get();
  p.gradient = gradient.get();
  if (apply) {
    p.raw = nullptr;
    p.owners = 0;
  }
  const std::string name = size_text("finish_weights_aided", classes, dim) + (apply ? ", apply, " : ", ");
  std::vector<double> want(dim), room(dim), lengths;
  const auto reference = [&](int64_t c) {
    whole.reference(c, &want, &room);
    for (int64_t d = 0; d < dim; d++) want[d] += more[c * dim + d];
  };
  double square = 0;
  for (int64_t c = 0; c < classes; c++) {
    double own = 0;
    if (!apply) reference(c);
    for (int64_t d = 0; d < dim; d++)
      own += apply ? static_cast<double>(given[c * dim + d]) * given[c * dim + d] : want[d] * want[d];
    lengths.push_back(std::sqrt(own));
    square += own;
  }
  {
    p.sink = SinkKind::measure;
    device.launch("finish_weights_aided", p, kBlocks, kThreads);
    Values values(name + "measure");
    double got = 0;
    for (const double part : squares.read()) got += part - 0.5;
    values.near(got, square, 1e-5 * square, 0);
    const std::vector<float> left = gradient.read(), same = w.wide.read();
    for (int64_t e = 0; e < classes * dim; e++) {
      values.equal(left[e], given[e], e / dim, e % dim);
      values.equal(same[e], problem.weights[e], e / dim, e % dim);
    }
  }
  p.sink = SinkKind::sgd;
  device.launch("finish_weights_aided", p, kBlocks, kThreads);
  Values values(name + "clip");
  const std::vector<float> got = w.wide.read(), left = gradient.read();
  for (int64_t c = 0; c < classes; c++) {
    if (!apply) reference(c);
    const double factor = 0.5 * std::min(1.0, longest / (0.5 * lengths[c]));
    for (int64_t d = 0; d < dim; d++) {
      const double before = problem.weights[c * dim + d], g = apply ? given[c * dim + d] : want[d];
      const double size = apply ? std::fabs(g) : 5 * room[d] + std::fabs(g);
      values.near(got[c * dim + d], before - factor * g,
                  5e-7 * (std::fabs(before) + factor * size) + 1e-5 * factor * (apply ? 0 : std::fabs(g)) + 1e-45, c,
                  d);
      values.equal(left[c * dim + d], apply ? 0 : given[c * dim + d], c, d);
    }
  }
}

}  // namespace

void check_finish_weights(const Device& device) { check_finish(device, "finish_weights", false); }

void check_finish_weights_aided(const Device& device) {
  constexpr const char* kKernel = "finish_weights_aided";
  check_finish(device, kKernel, true);
  for (const int64_t dim : {1, 33, 131, 132, 300})
    for (const Step& step : kSteps)
      for (const bool apply : {false, true}) check_resting(device, kKernel, dim, dim % 2, step, apply);
  for (const int64_t dim : {1, 33, 132, 300})
    for (const int64_t skew : {0, 1})
      for (const bool apply : {false, true})
        for (const double longest : {1e-3, std::numeric_limits<double>::infinity()})
          check_aids(device, dim, apply, longest, skew);
}

}  // namespace marginfc::check
