// Operands of class rows. Included by cpu/kernels.cc only, inside its anonymous namespace.

#if defined(__AVX512BF16__)
// The vectors of a row from its beginning on, and nothing around them. kOnLines: it begins on a line of the cache.
template <bool kOnLines>
class RowVectors {
 public:
  MARGINFC_INLINE explicit RowVectors(const float* row) : at_(row) {}
  // One behind which there is another.
  MARGINFC_INLINE Vector next() {
    at_ += kLanes;
    return load(at_ - kLanes);
  }
  MARGINFC_INLINE Vector last() { return load(at_); }

 private:
  const float* at_;
};

// A load across two lines costs as much as two, and a Float32Array mostly begins 16 bytes into a line: lines are read whole, and
// two of them permuted.
template <>
class RowVectors<false> {
 public:
  MARGINFC_INLINE explicit RowVectors(const float* row)
      : before_(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row) / sizeof(float) % kLanes)),
        line_(row - before_),
        order_(_mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                _mm512_set1_epi32(static_cast<int32_t>(before_)))),
        read_(_mm512_maskz_load_ps(static_cast<__mmask16>(0xffffu << before_), line_)) {}
  MARGINFC_INLINE Vector next() { return take(_mm512_load_ps(line_ += kLanes)); }
  MARGINFC_INLINE Vector last() {
    return take(_mm512_maskz_load_ps(static_cast<__mmask16>((1u << before_) - 1), line_ += kLanes));
  }

 private:
  MARGINFC_INLINE Vector take(__m512 following) {
    const __m512 taken = _mm512_permutex2var_ps(read_, order_, following);
    read_ = following;
    return reinterpret_cast<Vector>(taken);
  }

  const uint32_t before_;  // numbers of the first line that are not the row's
  const float* line_;
  const __m512i order_;
  __m512 read_;
};

// Two class rows that are neighbours in k of the feature gradient, and where their words go: nowhere that are not wanted.
struct ClassPair {
  const float *even, *odd;
  float *even_words, *odd_words, *pairs;
};

// A panel of columns from `d` on, of which there are `left`; kWhole: a panel or more. Adds lanes of squares.
template <bool kWhole, bool kPairs>
MARGINFC_INLINE void pair_panel(const ClassPair& rows, int32_t d, int32_t left, const Vector (&even)[2],
                                const Vector (&odd)[2], Vector& even_squares, Vector& odd_squares) {
  even_squares += even[0] * even[0] + even[1] * even[1];
  odd_squares += odd[0] * odd[0] + odd[1] * odd[1];
  const Halves even_halves = to_halves(even[0], even[1]), odd_halves = to_halves(odd[0], odd[1]);
  if (kWhole) {
    store(rows.even_words + d / 2, reinterpret_cast<Vector>(even_halves));
    store(rows.odd_words + d / 2, reinterpret_cast<Vector>(odd_halves));
  } else {
    const auto written = static_cast<__mmask16>((1u << (left + 1) / 2) - 1);
    _mm512_mask_storeu_epi32(rows.even_words + d / 2, written, reinterpret_cast<__m512i>(even_halves));
    _mm512_mask_storeu_epi32(rows.odd_words + d / 2, written, reinterpret_cast<__m512i>(odd_halves));
  }
  if (!kPairs) return;
  const PairedWords both = pair_rows(even_halves, odd_halves);
  store(rows.pairs + d, both.low);
  store(rows.pairs + d + kLanes, both.high);
}

// All panels of two rows.
template <bool kPairs, bool kOnLines>
MARGINFC_INLINE void pair_panels(const ClassPair& rows, int32_t dim, Vector& even_squares, Vector& odd_squares) {
  const int32_t whole = dim / kPanel * kPanel, left = dim - whole;
  if (whole > 0) {
    RowVectors<kOnLines> even_row(rows.even), odd_row(rows.odd);
    int32_t d = 0;
    for (; d + kPanel < whole; d += kPanel) {
      const Vector even[2] = {even_row.next(), even_row.next()}, odd[2] = {odd_row.next(), odd_row.next()};
      pair_panel<true, kPairs>(rows, d, kPanel, even, odd, even_squares, odd_squares);
    }
    const Vector even[2] = {even_row.next(), even_row.last()}, odd[2] = {odd_row.next(), odd_row.last()};
    pair_panel<true, kPairs>(rows, d, kPanel, even, odd, even_squares, odd_squares);
  }
  if (left > 0) {
    const float *even_rest = rows.even + whole, *odd_rest = rows.odd + whole;
    const Vector even[2] = {load_first(even_rest, left), load_first(even_rest + kLanes, left - kLanes)};
    const Vector odd[2] = {load_first(odd_rest, left), load_first(odd_rest + kLanes, left - kLanes)};
    pair_panel<false, kPairs>(rows, whole, left, even, odd, even_squares, odd_squares);
  }
}

template <bool kPairs, bool kOnLines>
bool pair_classes(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                  float* inverse_norm) {
  const int32_t depth = (dim + 1) / 2, width = (dim + kPanel - 1) / kPanel * kPanel;
  bool ordinary = true;
  for (int32_t c = 0; c < classes; c += 4) {
    Vector squares[4] = {};
#pragma GCC unroll 2
    for (int n = 0; n < 4; n += 2) {
      if (c + n >= classes) break;
      ClassPair rows;
      rows.even = weights + static_cast<int64_t>(c + n) * dim;
      rows.even_words = product + static_cast<int64_t>(c + n) * depth;
      rows.pairs = kPairs ? gradient + static_cast<int64_t>((c + n) / 2) * width : nullptr;
      // Behind an odd last row that one again, in its own place: E that multiplies it is 0.
      const bool alone = c + n + 1 == classes;
      rows.odd = rows.even + (alone ? 0 : dim);
      rows.odd_words = rows.even_words + (alone ? 0 : depth);
      pair_panels<kPairs, kOnLines>(rows, dim, squares[n], squares[n + 1]);
    }
    if (inverse_norm) ordinary &= inverse_roots(squares, classes - c, inverse_norm + c);
  }
  return ordinary;
}

// Words [classes, depth] of whole vectors as words of two neighbouring classes, [ceil(classes / 2), 2 depth].
MARGINFC_INLINE void pair_neighbours(const float* words, int32_t classes, int32_t depth, float* pairs) {
  for (int32_t c = 0; c < classes; c += 2, words += 2 * depth, pairs += 2 * depth) {
    // Behind an odd last row that one again: E that multiplies it is 0.
    const float* next = words + (c + 1 < classes ? depth : 0);
    for (int32_t k = 0; k < depth; k += kLanes) {
      const PairedWords both = pair_rows(reinterpret_cast<Halves>(load(words + k)),
                                         reinterpret_cast<Halves>(load(next + k)));
      store(pairs + 2 * k, both.low);
      store(pairs + 2 * k + kLanes, both.high);
    }
  }
}

// Words [classes, ceil(dim / 2)], and where they are wanted [ceil(classes / 2), width] with zero columns behind dim.
bool pair_classes(const float* weights, int32_t classes, int32_t dim, float* product, float* gradient,
                  float* inverse_norm) {
  if (is_short(dim)) {
    const bool ordinary = read_short_rows<true>(weights, classes, dim, product, inverse_norm);
    if (gradient) pair_neighbours(product, classes, dim / 2, gradient);
    return ordinary;
  }
  const bool on_lines = (reinterpret_cast<uintptr_t>(weights) / sizeof(float) | static_cast<uintptr_t>(dim)) % kLanes ==
                        0;
  const auto pair = on_lines ? (gradient ? pair_classes<true, true> : pair_classes<false, true>)
                             : (gradient ? pair_classes<true, false> : pair_classes<false, false>);
  return pair(weights, classes, dim, product, gradient, inverse_norm);
}
#else
// Asked for with pairs alone.
constexpr bool (*pair_classes)(const float*, int32_t, int32_t, float*, float*, float*) = nullptr;
#endif

// Of short rows first .. first + count - 1, in pairs from an even one on; false as inverse_norms().
MARGINFC_INLINE bool make_operands(const UnmadeOperands& of, int32_t first, int32_t count) {
  const int64_t start = static_cast<int64_t>(first) * of.dim;
  float* inverse_norm = of.inverse_norm + first;
  if (!kPairs) return inverse_norms(of.rows + start, count, of.dim, inverse_norm);
  return pair_classes(of.rows + start, count, of.dim, of.product + start / 2,
                      of.gradient ? of.gradient + start / 2 : nullptr, inverse_norm);
}
