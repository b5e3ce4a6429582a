// What follows a product on vectors whatever multiplied: shared by products.h and amx_products.h. Included by
// cpu/kernels.cc only, inside its anonymous namespace.

// The epilogue of classes first .. first + count - 1 where a lane's own class may be among them, or exponents have an
// offset. exponents [count] in: products; out: E.
void masked_exponentials(const NegativesTask& task, int32_t first, int32_t count, int64_t lane, Vector* exponents) {
  const Integers label = load(task.labels + lane);
  const Vector offset = task.offset ? load(task.offset + lane) : Vector{};
  Vector total = load(task.sums + lane);
  Vector hardest = task.hardest ? load(task.hardest + lane) : Vector{};
  for (int32_t h = 0; h < count; h++) {
    const Vector inverse_norm = splat(task.inverse_norm[first + h]);
    const Vector exponent = exponents[h] * inverse_norm;
    const auto own = label == splat(task.first_class + first + h);
    const Vector e = own ? Vector{} : exp2(exponent - offset);
    if (task.hardest) hardest = own ? hardest : larger(hardest, exponent);
    total += e;
    exponents[h] = e * inverse_norm;
  }
  store(task.sums + lane, total);
  if (task.hardest) store(task.hardest + lane, hardest);
}

// Whether that epilogue is the one to take.
MARGINFC_INLINE bool needs_mask(const NegativesTask& task, int32_t first, int32_t count, int64_t lane) {
  return __builtin_expect(task.offset || any_within(load(task.labels + lane), task.first_class + first, count), 0);
}

// The dots of a weight gradient's rows with their class rows. In a pass of its own: sums kept from panel to panel beside
// the accumulators would live in memory.
MARGINFC_INLINE void class_dots(const WeightGradientTask& task, int32_t classes) {
  const int32_t panels = (task.dim + kPanel - 1) / kPanel;
  const int64_t width = static_cast<int64_t>(panels) * kPanel;
  for (int32_t h = 0; h < classes; h += 4) {
    Vector dots[4] = {};
    for (int32_t n = 0; n < 4 && h + n < classes; n++) {
      const float* row = task.gradient + (h + n) * width;
      const float* weights = task.weights + (h + n) * task.stride;
      Vector dot[2] = {};
      for (int32_t panel = 0; panel < panels; panel++) {
        const bool tail = (panel + 1) * kPanel > task.dim;
        const float* w = tail ? task.tail + (h + n) * kPanel : weights + static_cast<int64_t>(panel) * kPanel;
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
          dot[v] += load(row + static_cast<int64_t>(panel) * kPanel + v * kLanes) * load(w + v * kLanes);
      }
      dots[n] = dot[0] + dot[1];
    }
    four_sums(dots, task.dots + h);
  }
}
