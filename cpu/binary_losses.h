// The epilogue of BinaryReduction: of each logit z its own cross-entropy, with softplus and sigmoid instead of exp. Included by
// cpu/kernels.cc only, inside its anonymous namespace.
//
// With E = 2^-|z|, z in log2 units, which neither overflows nor needs an offset:
//
//   log2(1 + 2^z) = max(z, 0) + log2(1 + E),   sigmoid = 1 / (1 + E) where z > 0, else E / (1 + E)
//
// and the logarithms of all classes are that of the product of 1 + E, kept as the product less 1, in which no small E is lost:
// (1 + product) (1 + E) - 1 = product (1 + E) + E. One logarithm is taken of it in cpu/sweep.cc.

// From this on a product gives 2^64 away, and `excess` gets the logarithm: a tile of 32 classes cannot reach float32's end.
constexpr float kLargestProduct = 0x1p64f;

struct BinaryExponents {
  static constexpr bool kSame = false;
};

// exponents [count] in: products; out: E as of binary_negatives.
template <>
void masked_exponentials<BinaryExponents>(const NegativesTask& task, int32_t first, int32_t count, int64_t lane,
                                          Vector* exponents) {
  const BinaryElements& binary = task.binary;
  const Integers label = load(task.labels + lane);
  Vector product = load(task.sums + lane), excess = load(binary.excess + lane), slopes = load(binary.slopes + lane);
  Vector hardest = task.hardest ? load(task.hardest + lane) : Vector{};
  if (task.above) count_negatives_above(task, first, count, lane, exponents);
  const Vector one = splat(1.0f);
  for (int32_t h = 0; h < count; h++) {
    const Vector inverse_norm = splat(task.inverse_norm[first + h]);
    const Vector exponent = exponents[h] * inverse_norm;
    const auto own = label == splat(task.first_class + first + h);
    if (task.hardest) hardest = own ? hardest : larger(hardest, exponent);
    // ((c + 1) / 2)^(t - 1)
    Vector power = one;
    Vector z = exponent + binary.constant;
    if (binary.power > 1) {
      const Vector half = exponent * binary.half_unit + 0.5f;
      power = half;
      for (int32_t n = 2; n < binary.power; n++) power *= half;
      z = power * half * binary.factor + binary.constant;
    }
    const Vector e = own ? Vector{} : exp2(-absolute(z));
    const Vector bounded = own ? Vector{} : larger(Vector{}, z);
    const Vector above = e + 1.0f;
    product = product * above + e;
    excess += bounded;
    const Vector sigmoid = (bounded > Vector{} ? one : e) / above;
    slopes += sigmoid;
    exponents[h] = sigmoid * (power * binary.slope_factor + binary.slope_constant) * inverse_norm;
  }
  const auto large = product >= splat(kLargestProduct);
  store(task.sums + lane, large ? product * (1 / kLargestProduct) - 1.0f : product);
  store(binary.excess + lane, large ? excess + 64.0f : excess);
  store(binary.slopes + lane, slopes);
  if (task.hardest) store(task.hardest + lane, hardest);
}
