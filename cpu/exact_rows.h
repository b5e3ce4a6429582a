// Rows of the batch in float64, of which there are few. Included by cpu/kernels.cc only, inside its anonymous namespace.

constexpr int kWideLanes = kLanes / 2;
typedef double Wide __attribute__((vector_size(kLanes * 4)));
typedef double UnalignedWide __attribute__((vector_size(kLanes * 4), aligned(8), may_alias));
typedef float Narrow __attribute__((vector_size(kLanes * 2), aligned(4), may_alias));

MARGINFC_INLINE Wide load_wide(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), Wide);
}
MARGINFC_INLINE Wide load_wide(const double* p) { return *reinterpret_cast<const UnalignedWide*>(p); }
MARGINFC_INLINE double sum(Wide v) {
  double total = 0;
  for (int l = 0; l < kWideLanes; l++) total += v[l];
  return total;
}

// Sum over a row of term(d): of a vector of columns, then of those behind the last whole vector. Four sums side by side:
// one would wait for itself.
template <typename Term, typename Rest>
MARGINFC_INLINE double sum_of(int32_t count, const Term& term, const Rest& rest) {
  Wide part[4] = {};
  int32_t d = 0;
  for (; d + 4 * kWideLanes <= count; d += 4 * kWideLanes)
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) part[u] += term(d + u * kWideLanes);
  for (; d + kWideLanes <= count; d += kWideLanes) part[0] += term(d);
  double total = sum((part[0] + part[1]) + (part[2] + part[3]));
  for (; d < count; d++) total += rest(d);
  return total;
}

double exact_dot(const float* a, const float* b, int32_t count) {
  return sum_of(
      count, [&](int32_t d) { return load_wide(a + d) * load_wide(b + d); },
      [&](int32_t d) { return static_cast<double>(a[d]) * b[d]; });
}

double exact_product(const double* a, const float* b, int32_t count) {
  return sum_of(
      count, [&](int32_t d) { return load_wide(a + d) * load_wide(b + d); }, [&](int32_t d) { return a[d] * b[d]; });
}

double exact_distance(const float* a, double a_scale, const float* b, double b_scale, int32_t count) {
  const double square = sum_of(
      count,
      [&](int32_t d) {
        const Wide apart = load_wide(a + d) * a_scale - load_wide(b + d) * b_scale;
        return apart * apart;
      },
      [&](int32_t d) {
        const double apart = a[d] * a_scale - b[d] * b_scale;
        return apart * apart;
      });
  return __builtin_sqrt(square);
}

void exact_scale(const float* from, double scale, int32_t count, float* to) {
  int32_t d = 0;
  for (; d + kWideLanes <= count; d += kWideLanes)
    *reinterpret_cast<Narrow*>(to + d) = __builtin_convertvector(load_wide(from + d) * scale, Narrow);
  for (; d < count; d++) to[d] = static_cast<float>(from[d] * scale);
}

void exact_add(const float* a, double a_scale, const float* b, double b_scale, int32_t count, double* to) {
  int32_t d = 0;
  for (; d + kWideLanes <= count; d += kWideLanes)
    *reinterpret_cast<UnalignedWide*>(to + d) = load_wide(to + d) +
                                                (load_wide(a + d) * a_scale + load_wide(b + d) * b_scale);
  for (; d < count; d++) to[d] += a[d] * a_scale + b[d] * b_scale;
}
