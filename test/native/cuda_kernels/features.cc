// The kernels over the rows of the batch.
#include <algorithm>

#include "test/native/cuda_kernels/check.h"

namespace marginfc::check {
namespace {

constexpr int64_t kRows[] = {1, 2, 31, 33, 131};
// Addresses of features: as an allocation gives them, and aligned to one float only.
constexpr int64_t kSkews[] = {0, 1};

std::vector<double> norms_of(const std::vector<float>& rows, int64_t dim) {
  std::vector<double> norms(rows.size() / dim);
  for (size_t i = 0; i < norms.size(); i++) norms[i] = norm_of(rows.data() + i * dim, dim);
  return norms;
}

std::vector<double> scaled(const float* row, int64_t dim, double factor) {
  std::vector<double> out(dim);
  for (int64_t d = 0; d < dim; d++) out[d] = row[d] * factor;
  return out;
}

template <typename Body>
void for_sizes(const Body& body) {
  for (const int64_t rows : kRows)
    for (const int64_t dim : kDims)
      for (const int64_t skew : kSkews)
        // An odd address is of interest where rows could otherwise be read four columns at a time.
        if (skew == 0 || dim % 4 == 0) body(rows, dim, skew);
}

}  // namespace

void check_prepare_features(const Device& device) {
  for_sizes([&](int64_t rows, int64_t dim, int64_t skew) {
    Random random(rows * 10007 + dim);
    const std::vector<float> x = make_rows(random, rows, dim, true);
    const Buffer<float> features(x, skew);
    const std::vector<double> want = norms_of(x, dim);
    for (const OperandKind kind : kOperands) {
      const OperandBuffer operand(padded_rows(rows), dim, kind);
      const Buffer<double> norm(rows);
      const double scale = kind == OperandKind::split ? 64 * kLog2E / 16 : 64 * kLog2E;
      PrepareFeaturesParameters p{};
      p.features = features.get();
      p.operand = operand.memory.get();
      p.low = operand.low;
      p.norm = norm.get();
      p.operand_scale = scale;
      p.rows = static_cast<int32_t>(rows);
      p.dim = static_cast<int32_t>(dim);
      p.depth = operand.depth;
      p.kind = kind;
      device.launch("prepare_features", p, operand.rows / kRowWarps, 32 * kRowWarps);
      Values norms(size_text("norms", rows, dim)),
          values(size_text("prepare_features", rows, dim) + ", " + name_of(kind));
      const std::vector<double> got = norm.read();
      for (int64_t i = 0; i < rows; i++) norms.near(got[i], want[i], 1e-14 * want[i], i);
      const OperandValues operands(operand);
      for (int64_t i = 0; i < rows; i++)
        operands.compare(values, i, scaled(x.data() + i * dim, dim, scale / floored(want[i])));
      for (int64_t i = rows; i < operand.rows; i++) operands.same(values, i, 0);
    }
  });

  // Bad rows show in their norms; without an operand nothing else is written.
  std::vector<float> x(3 * 33, 1.0f);
  x[5] = std::nanf("");
  x[33 + 32] = -std::numeric_limits<float>::infinity();
  const Buffer<float> features(x);
  const Buffer<double> norm(3);
  PrepareFeaturesParameters p{};
  p.features = features.get();
  p.norm = norm.get();
  p.rows = 3;
  p.dim = 33;
  p.depth = 64;
  device.launch("prepare_features", p, 16, 32 * kRowWarps);
  const std::vector<double> got = norm.read();
  check(std::isnan(got[0]) && std::isinf(got[1]) && std::fabs(got[2] - std::sqrt(33)) < 1e-14, "norms of bad rows");
}

void check_weight_features(const Device& device) {
  for_sizes([&](int64_t rows, int64_t dim, int64_t skew) {
    Random random(rows * 10009 + dim);
    const std::vector<float> x = make_rows(random, rows, dim, true);
    const std::vector<double> norms = norms_of(x, dim);
    std::vector<double> factors(rows);
    for (int64_t i = 0; i < rows; i++) factors[i] = i % 5 == 4 ? 0 : std::ldexp(random.normal(), kWeightedExponent);
    const Buffer<float> features(x, skew);
    const Buffer<double> norm(norms), factor(factors);
    for (const OperandKind kind : kOperands) {
      const OperandBuffer operand(padded_rows(rows), dim, kind);
      WeightFeaturesParameters p{};
      p.features = features.get();
      p.norm = norm.get();
      p.factor = factor.get();
      p.operand = operand.memory.get();
      p.low = operand.low;
      p.rows = static_cast<int32_t>(rows);
      p.dim = static_cast<int32_t>(dim);
      p.depth = operand.depth;
      p.kind = kind;
      device.launch("weight_features", p, operand.rows / kRowWarps, 32 * kRowWarps);
      Values values(size_text("weight_features", rows, dim) + ", " + name_of(kind));
      const OperandValues operands(operand);
      for (int64_t i = 0; i < rows; i++)
        operands.compare(values, i, scaled(x.data() + i * dim, dim, factors[i] / floored(norms[i])));
      for (int64_t i = rows; i < operand.rows; i++) operands.same(values, i, 0);
    }
  });
}

namespace {

// B rows, some of them at the poles of a row of their class, and C classes of `centers` rows of which some are bad or short.
struct TargetProblem {
  TargetProblem(int64_t row_count, int64_t width, StorageKind storage, int64_t skew, int32_t of_centers)
      : random(row_count * 10037 + width),
        rows(row_count),
        dim(width),
        classes(row_count / 2 + 1),
        centers(of_centers),
        w(make_rows(random, classes * centers, dim, true), storage, skew),
        x(make_rows(random, rows, dim, true)) {
    for (int64_t i = 0; i < rows; i++) {
      labels.push_back(i % 7 == 6 ? -1 : random.below(static_cast<int32_t>(classes)));
      // theta = 0, pi, and almost 0.
      const double factor = i % 9 == 1 ? 0.5 : i % 9 == 3 ? -2.0 : i % 9 == 5 ? 1.0 : 0.0;
      if (labels[i] < 0 || factor == 0) continue;
      for (int64_t d = 0; d < dim; d++) {
        const double almost = i % 9 == 5 ? 1 + 1e-5 * random.normal() : 1.0;
        x[i * dim + d] = static_cast<float>(w.values[(labels[i] * centers + i % centers) * dim + d] * factor * almost);
      }
    }
    norms = norms_of(x, dim);
    labels.resize(padded_rows(rows), -1);
  }
  const float* class_row(int64_t i, int32_t center) const {
    return w.values.data() + (labels[i] * centers + center) * dim;
  }
  // Which of its class's rows is nearest, of equal ones the first.
  int32_t center_of(int64_t i) const {
    int32_t best = 0;
    double largest = -std::numeric_limits<double>::infinity();
    for (int32_t k = 0; k < centers; k++) {
      const double along = dot(x.data() + i * dim, class_row(i, k), dim) / floored(norm_of(class_row(i, k), dim));
      if (along <= largest) continue;
      largest = along;
      best = k;
    }
    return best;
  }
  const float* class_of(int64_t i) const { return class_row(i, center_of(i)); }

  Random random;
  int64_t rows, dim, classes;
  int32_t centers;
  StoredRows w;
  std::vector<float> x;
  std::vector<int32_t> labels;
  std::vector<double> norms;
};

// Three rows, the classes of the first two of which are infinite and NaN in one place.
struct BadClasses {
  explicit BadClasses(int64_t dim)
      : features(std::vector<float>(3 * dim, 0.5f)),
        weights([&] {
          std::vector<float> rows(3 * dim, 0.25f);
          rows[dim - 1] = std::numeric_limits<float>::infinity();
          rows[dim] = std::nanf("");
          return rows;
        }()),
        labels({0, 1, 2}),
        norm(std::vector<double>(3, 0.5 * std::sqrt(dim))) {}
  Buffer<float> features, weights;
  Buffer<int32_t> labels;
  Buffer<double> norm;
};

// Of one row a class, or with `centers` [B] by the kernel of several.
void launch_targets(const Device& device, const TargetsParameters& p, int32_t centers, int32_t* center) {
  const int64_t blocks = (p.rows + kRowWarps - 1) / kRowWarps;
  if (!center) return device.launch("targets", p, blocks, 32 * kRowWarps);
  device.launch("targets_sub_centers", SubCenterTargetsParameters{p, center, centers}, blocks, 32 * kRowWarps);
}

void check_targets_of(const Device& device, const std::string& kernel, int32_t centers) {
  const bool several = kernel != "targets";
  for_sizes([&](int64_t rows, int64_t dim, int64_t skew) {
    for (const StorageKind storage : kStorages) {
      TargetProblem problem(rows, dim, storage, skew, centers);
      const Buffer<float> features(problem.x, skew), own_rows(std::vector<float>(rows * dim, 7.0f), skew);
      // With an index rows know their classes' places.
      const std::vector<int32_t> order = shuffled(problem.classes);
      std::vector<int32_t> places = problem.labels;
      for (int32_t& label : places)
        if (skew && label >= 0)
          label = static_cast<int32_t>(std::find(order.begin(), order.end(), label) - order.begin());
      const Buffer<int32_t> labels(places), index(order), center(std::vector<int32_t>(rows, 7));
      const Buffer<double> norm(problem.norms), cosine(std::vector<double>(rows, 7)),
          sine(std::vector<double>(rows, 7)), weight_norm(std::vector<double>(rows, 7));
      TargetsParameters p{};
      p.features = features.get();
      p.weights = problem.w.get();
      p.index = skew ? index.get() : nullptr;
      p.labels = labels.get();
      p.norm = norm.get();
      p.cosine = cosine.get();
      p.sine = sine.get();
      p.weight_norm = weight_norm.get();
      p.own_rows = skew ? nullptr : own_rows.get();
      p.rows = static_cast<int32_t>(rows);
      p.dim = static_cast<int32_t>(dim);
      p.storage = storage;
      launch_targets(device, p, centers, several ? center.get() : nullptr);

      Values values(size_text(kernel, rows, dim) + ", " + name_of(storage));
      const std::vector<double> cosines = cosine.read(), sines = sine.read(), weight_norms = weight_norm.read();
      const std::vector<float> kept = own_rows.read();
      const std::vector<int32_t> picked = center.read();
      for (int64_t i = 0; i < rows; i++) {
        double want_cosine = 7, want_sine = 7, want_norm = 7;
        if (problem.labels[i] >= 0) {
          const float *x = problem.x.data() + i * dim, *w = problem.class_of(i);
          want_norm = norm_of(w, dim);
          const double x_inverse = 1 / floored(problem.norms[i]), inverse = 1 / floored(want_norm);
          want_cosine = std::max(-1.0, std::min(1.0, dot(x, w, dim) * x_inverse * inverse));
          double distance = 0;
          for (int64_t d = 0; d < dim; d++) {
            const double apart = w[d] * inverse - want_cosine * x[d] * x_inverse;
            distance += apart * apart;
          }
          const bool direction = problem.norms[i] >= kNormFloor && want_norm >= kNormFloor;
          want_sine = direction ? std::sqrt(distance) : std::sqrt(1 - want_cosine * want_cosine);
        }
        if (several) values.equal(picked[i], problem.labels[i] >= 0 ? problem.center_of(i) : 7, i, 3);
        values.near(cosines[i], want_cosine, 1e-14, i, 0);
        if (problem.labels[i] >= 0) values.equal(std::fabs(cosines[i]) > 1, false, i, 0);
        values.near(sines[i], want_sine, 1e-13, i, 1);
        values.near(weight_norms[i], want_norm, 1e-14 * want_norm, i, 2);
        for (int64_t d = 0; d < dim; d++)
          values.equal(kept[i * dim + d], p.own_rows && problem.labels[i] >= 0 ? problem.class_of(i)[d] : 7, i, d);
      }
    }
  });

  for (const int64_t dim : {33, 132}) {
    const BadClasses bad(dim);
    const Buffer<double> cosine(3), sine(3), weight_norm(3);
    TargetsParameters p{};
    p.features = bad.features.get();
    p.weights = bad.weights.get();
    p.labels = bad.labels.get();
    p.norm = bad.norm.get();
    p.cosine = cosine.get();
    p.sine = sine.get();
    p.weight_norm = weight_norm.get();
    p.rows = 3;
    p.dim = static_cast<int32_t>(dim);
    p.storage = StorageKind::float32;
    const Buffer<int32_t> center(3);
    launch_targets(device, p, 1, several ? center.get() : nullptr);
    Values values(size_text(kernel, 3, dim) + ", bad classes");
    const std::vector<double> cosines = cosine.read(), norms = weight_norm.read();
    for (int64_t i = 0; i < 3; i++) values.equal(std::isfinite(norms[i]) && std::isfinite(cosines[i]), i == 2, i);
  }
}

}  // namespace

void check_targets(const Device& device) { check_targets_of(device, "targets", 1); }
void check_targets_sub_centers(const Device& device) { check_targets_of(device, "targets_sub_centers", 3); }

void check_finish_features(const Device& device) {
  for_sizes([&](int64_t rows, int64_t dim, int64_t skew) {
    for (const StorageKind storage : kStorages) {
      TargetProblem problem(rows, dim, storage, skew, 1);
      Random& random = problem.random;
      const int64_t width = padded_width(dim);
      // What the products left behind the last column may be anything.
      std::vector<double> totals(padded_rows(rows) * width, std::nan("")), scales, cosines, weight_norms, gammas,
          radials;
      for (int64_t i = 0; i < rows; i++) {
        for (int64_t d = 0; d < dim; d++) totals[i * width + d] = 1e4 * random.normal();
        const bool owned = problem.labels[i] >= 0;
        const float* w = problem.class_of(owned ? i : 0);
        scales.push_back(i % 11 == 10 ? 0 : random.normal());
        weight_norms.push_back(owned ? norm_of(w, dim) : std::nan(""));
        cosines.push_back(owned ? dot(problem.x.data() + i * dim, w, dim) / floored(problem.norms[i]) /
                                      floored(weight_norms[i])
                                : std::nan(""));
        gammas.push_back(owned ? 1e3 * random.normal() : std::nan(""));
        radials.push_back(owned ? random.normal() : std::nan(""));
      }
      std::vector<double> uniforms(rows), class_sums(dim);
      for (double& uniform : uniforms) uniform = random.normal();
      for (double& sum : class_sums) sum = 1e4 * random.normal();
      const Buffer<double> total(totals), scale(scales), norm(problem.norms), cosine(cosines),
          weight_norm(weight_norms), gamma(gammas), radial(radials), uniform(uniforms), class_sum(class_sums);
      const Buffer<float> features(problem.x, skew), gradient(rows * dim, skew);
      const Buffer<int32_t> labels(problem.labels);
      FinishFeaturesParameters p{};
      p.total = total.get();
      p.scale = scale.get();
      p.features = features.get();
      p.norm = norm.get();
      p.weights = problem.w.get();
      p.labels = labels.get();
      p.cosine = cosine.get();
      p.weight_norm = weight_norm.get();
      p.gamma = gamma.get();
      p.radial = storage == StorageKind::bfloat16 ? nullptr : radial.get();
      p.uniform = storage == StorageKind::float16 ? nullptr : uniform.get();
      p.class_sum = p.uniform ? class_sum.get() : nullptr;
      p.gradient = gradient.get();
      p.rows = static_cast<int32_t>(rows);
      p.dim = static_cast<int32_t>(dim);
      p.width = static_cast<int32_t>(width);
      p.storage = storage;
      device.launch("finish_features", p, (rows + kRowWarps - 1) / kRowWarps, 32 * kRowWarps);

      Values values(size_text("finish_features", rows, dim) + ", " + name_of(storage));
      const std::vector<float> got = gradient.read();
      for (int64_t i = 0; i < rows; i++) {
        const float *x = problem.x.data() + i * dim, *w = problem.class_of(problem.labels[i] < 0 ? 0 : i);
        const double inverse = 1 / floored(problem.norms[i]);
        const bool projected = problem.norms[i] >= kNormFloor, owned = problem.labels[i] >= 0;
        double along = 0;
        const auto sum = [&](int64_t d) {
          return totals[i * width + d] * scales[i] + (p.uniform ? class_sums[d] * uniforms[i] : 0);
        };
        for (int64_t d = 0; d < dim; d++) along += sum(d) * x[d] * inverse;
        for (int64_t d = 0; d < dim; d++) {
          const double g = sum(d), xh = x[d] * inverse;
          double want = (g - (projected ? along * xh : 0)) * inverse, size = std::fabs(g * inverse);
          if (projected) size += std::fabs(along * xh * inverse);
          if (owned) {
            const double wh = w[d] / floored(weight_norms[i]), off = projected ? cosines[i] * xh : 0;
            want += gammas[i] * (wh - off) * inverse + (p.radial ? radials[i] : 0) * xh;
            size += std::fabs(gammas[i] * inverse) * (std::fabs(wh) + std::fabs(off));
          }
          // One rounding to float32; float64's along the way; numbers below 2^-126 have fewer digits.
          values.near(got[i * dim + d], want, 6e-8 * std::fabs(want) + 1e-13 * size + 1e-45, i, d);
        }
      }
    }
  });

  for (const int64_t dim : {33, 132}) {
    const BadClasses bad(dim);
    const double infinity = std::numeric_limits<double>::infinity();
    const Buffer<double> total(std::vector<double>(padded_rows(3) * padded_width(dim), 1)), ones({1, 1, 1}),
        weight_norm({infinity, std::nan(""), 0.25 * std::sqrt(dim)});
    const Buffer<float> gradient(3 * dim);
    FinishFeaturesParameters p{};
    p.total = total.get();
    p.scale = p.cosine = p.gamma = ones.get();
    p.features = bad.features.get();
    p.norm = bad.norm.get();
    p.weights = bad.weights.get();
    p.labels = bad.labels.get();
    p.weight_norm = weight_norm.get();
    p.gradient = gradient.get();
    p.rows = 3;
    p.dim = static_cast<int32_t>(dim);
    p.width = static_cast<int32_t>(padded_width(dim));
    p.storage = StorageKind::float32;
    device.launch("finish_features", p, 1, 32 * kRowWarps);
    Values values(size_text("finish_features", 3, dim) + ", bad classes");
    const std::vector<float> got = gradient.read();
    for (int64_t e = 0; e < 3 * dim; e++) values.equal(std::isfinite(got[e]), e >= 2 * dim, e / dim, e % dim);
  }
}

}  // namespace marginfc::check
