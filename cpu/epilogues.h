// What follows a product on vectors whatever multiplied: shared by products.h and amx_products.h. Included by
// cpu/kernels.cc only, inside its anonymous namespace.

// Counts which of a vector's exponents [count], -infinity for a lane's own class, are above its lanes' thresholds.
__attribute__((noinline)) void count_above(const NegativesTask& task, int32_t count, int64_t lane,
                                           const Vector* exponents) {
  const Vector threshold = load(task.threshold + lane);
  Vector above = load(task.above + lane);
  for (int32_t h = 0; h < count; h++) above += exponents[h] > threshold ? splat(1.0f) : Vector{};
  store(task.above + lane, above);
  store(task.threshold + lane, above >= splat(kCountedAbove) ? splat(__builtin_inff()) : threshold);
}

// Whether that is worth while, which it seldom is: a lane stops counting at kCountedAbove.
MARGINFC_INLINE bool counts_above(const NegativesTask& task, int64_t lane, Vector largest) {
  return __builtin_expect(task.above && any_above(largest, load(task.threshold + lane)), 0);
}

// The epilogue of classes first .. first + count - 1 where a lane's own class may be among them, or exponents have an
// offset. exponents [count] in: products; out: E.
void masked_exponentials(const NegativesTask& task, int32_t first, int32_t count, int64_t lane, Vector* exponents) {
  const Integers label = load(task.labels + lane);
  const Vector offset = task.offset ? load(task.offset + lane) : Vector{};
  Vector total = load(task.sums + lane);
  Vector hardest = task.hardest ? load(task.hardest + lane) : Vector{};
  if (task.above) {
    Vector negatives[kHeight];
    for (int32_t h = 0; h < count; h++) {
      const auto own = label == splat(task.first_class + first + h);
      negatives[h] = own ? splat(-__builtin_inff()) : exponents[h] * splat(task.inverse_norm[first + h]);
    }
    count_above(task, count, lane, negatives);
  }
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
