// Angles between unit rows in place of exponentials. Included by cpu/kernels.cc only, inside its anonymous namespace.

void angles(const NegativesTask& task) {
  for (int64_t lane = 0; lane < static_cast<int64_t>(task.panels) * kPanel; lane += kLanes) {
    const Integers label = load(task.labels + lane);
    Vector total = load(task.sums + lane);
    for (int32_t c = 0; c < task.classes; c++) {
      float* e = task.exponentials + c * task.row_stride + lane;
      const Vector cosine = load(e), negative = -cosine;
      // Unlike the product, not above 1.
      const Vector magnitude = -larger(splat(-1.0f), cosine < Vector{} ? cosine : negative);
      const Vector root = square_root(1.0f - magnitude);
      const Vector acute = root * arccos_over_root(magnitude);
      const Vector sine = larger(splat(kLeastSine), root * square_root(1.0f + magnitude));
      const auto own = label == splat(task.first_class + c);
      total += own ? Vector{} : cosine < Vector{} ? 3.14159265f - acute : acute;
      store(e, own ? Vector{} : task.inverse_norm[c] / sine);
    }
    store(task.sums + lane, total);
  }
}
