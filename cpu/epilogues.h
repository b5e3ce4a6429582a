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
