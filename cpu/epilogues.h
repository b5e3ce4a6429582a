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

// What a row's exponents become: nothing else,
struct SameExponents {
  static constexpr bool kSame = true;
  MARGINFC_INLINE SameExponents(const NegativesTask&, int64_t) {}
  MARGINFC_INLINE Vector value(Vector exponent) const { return exponent; }
  MARGINFC_INLINE Vector gradient(Vector, Vector e) const { return e; }
  template <typename Mask>
  MARGINFC_INLINE void note(Vector, Vector, Mask) {}
  MARGINFC_INLINE void finish(int64_t) const {}
};

// or two quadratics of themselves.
class TransformedExponents {
 public:
  static constexpr bool kSame = false;
  MARGINFC_INLINE TransformedExponents(const NegativesTask& task, int64_t lane)
      : transform_(task.transform),
        threshold_(load(task.transform.threshold + lane)),
        largest_(task.transform.largest ? load(task.transform.largest + lane) : Vector{}),
        hard_sum_(task.transform.hard_sum ? load(task.transform.hard_sum + lane) : Vector{}),
        hard_count_(task.transform.hard_sum ? load(task.transform.hard_count + lane) : Vector{}) {}

  MARGINFC_INLINE Vector value(Vector exponent) const {
    const float *low = transform_.below.value, *high = transform_.above.value;
    const auto above = exponent > threshold_;
    const Vector square = above ? splat(high[2]) : splat(low[2]);
    const Vector linear = above ? splat(high[1]) : splat(low[1]);
    const Vector constant = above ? splat(high[0]) : splat(low[0]);
    return (square * exponent + linear) * exponent + constant;
  }
  MARGINFC_INLINE Vector gradient(Vector exponent, Vector e) const {
    const float *low = transform_.below.slope, *high = transform_.above.slope;
    const auto above = exponent > threshold_;
    const Vector linear = above ? splat(high[1]) : splat(low[1]);
    const Vector constant = above ? splat(high[0]) : splat(low[0]);
    return e * (linear * exponent + constant);
  }
  // `own`: lanes whose own class it is.
  template <typename Mask>
  MARGINFC_INLINE void note(Vector exponent, Vector transformed, Mask own) {
    if (transform_.largest) largest_ = own ? largest_ : larger(largest_, transformed);
    if (!transform_.hard_sum) return;
    const auto hard = (exponent > threshold_) & ~own;
    hard_sum_ += hard ? exponent : Vector{};
    hard_count_ += hard ? splat(1.0f) : Vector{};
  }
  MARGINFC_INLINE void finish(int64_t lane) const {
    if (transform_.largest) store(transform_.largest + lane, largest_);
    if (!transform_.hard_sum) return;
    store(transform_.hard_sum + lane, hard_sum_);
    store(transform_.hard_count + lane, hard_count_);
  }

 private:
  const ExponentTransform& transform_;
  const Vector threshold_;
  Vector largest_, hard_sum_, hard_count_;
};

// count_above() of products [count], of which a lane's own class may be one.
__attribute__((noinline)) void count_negatives_above(const NegativesTask& task, int32_t first, int32_t count,
                                                     int64_t lane, const Vector* products) {
  const Integers label = load(task.labels + lane);
  Vector negatives[kHeight];
  for (int32_t h = 0; h < count; h++) {
    const auto own = label == splat(task.first_class + first + h);
    negatives[h] = own ? splat(-__builtin_inff()) : products[h] * splat(task.inverse_norm[first + h]);
  }
  count_above(task, count, lane, negatives);
}

// The epilogue of classes first .. first + count - 1 where a lane's own class may be among them, or exponents have an
// offset. exponents [count] in: products; out: E.
template <typename Exponents>
void masked_exponentials(const NegativesTask& task, int32_t first, int32_t count, int64_t lane, Vector* exponents) {
  const Integers label = load(task.labels + lane);
  const Vector offset = task.offset ? load(task.offset + lane) : Vector{};
  Vector total = load(task.sums + lane);
  Vector hardest = task.hardest ? load(task.hardest + lane) : Vector{};
  if (task.above) count_negatives_above(task, first, count, lane, exponents);
  Exponents of(task, lane);
  for (int32_t h = 0; h < count; h++) {
    const Vector inverse_norm = splat(task.inverse_norm[first + h]);
    const Vector exponent = exponents[h] * inverse_norm;
    const auto own = label == splat(task.first_class + first + h);
    const Vector transformed = of.value(exponent);
    const Vector e = own ? Vector{} : exp2(transformed - offset);
    if (task.hardest) hardest = own ? hardest : larger(hardest, exponent);
    of.note(exponent, transformed, own);
    total += e;
    exponents[h] = of.gradient(exponent, e) * inverse_norm;
  }
  store(task.sums + lane, total);
  if (task.hardest) store(task.hardest + lane, hardest);
  of.finish(lane);
}

// Whether that epilogue is the one to take.
MARGINFC_INLINE bool needs_mask(const NegativesTask& task, int32_t first, int32_t count, int64_t lane) {
  return __builtin_expect(task.offset || any_within(load(task.labels + lane), task.first_class + first, count), 0);
}

// Classes that are stored together.
constexpr int kStored = kPairs ? 2 : 1;

// E of one class, or of a pair of which there may be but the first, and one vector of rows.
MARGINFC_INLINE void store_exponentials(const NegativesTask& task, int32_t c, bool odd_end, int64_t lane,
                                        Vector (&e)[kStored]) {
  if constexpr (kPairs) {
    auto* plain = reinterpret_cast<uint16_t*>(task.exponentials) + c * task.row_stride + lane;
    const Halves both = to_halves(e[0], odd_end ? Vector{} : e[kStored - 1]);
    store_low(plain, both);
    if (!odd_end) store_high(plain + task.row_stride, both);
    if (task.paired) store(task.paired + c / 2 * kRowBlock + lane, interleave(both));
  } else {
    store(task.exponentials + c * task.row_stride + lane, task.round ? round_bfloat16(e[0]) : e[0]);
  }
}
