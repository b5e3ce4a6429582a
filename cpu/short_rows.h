// Norms and words of class rows that are short enough for those of a tile, and of the next, to stay in the first-level cache: a
// product makes them of its tile, whose rows it then has there. Included by cpu/kernels.cc only, inside its anonymous namespace.

bool is_short(int32_t dim) { return dim <= kShortRow && dim % kPanel == 0; }

#if defined(__AVX512F__) && !defined(__AMX_BF16__)
// Lane n: sum of the lanes of v[n].
MARGINFC_INLINE Vector lane_sums(const Vector (&v)[kLanes]) {
  const auto eight = [&](int n) {  // in each half: two quarters' sums of v[n] to v[n + 3], then of v[n + 4] to v[n + 7]
    const __m512 first = quarter_sums(v[n], v[n + 1], v[n + 2], v[n + 3]);
    const __m512 second = quarter_sums(v[n + 4], v[n + 5], v[n + 6], v[n + 7]);
    return _mm512_add_ps(_mm512_shuffle_f32x4(first, second, 0x44), _mm512_shuffle_f32x4(first, second, 0xee));
  };
  const __m512 low = eight(0), high = eight(8);
  return reinterpret_cast<Vector>(
      _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd)));
}

// The lanes behind the first `count`, fewer than all, with zeros for these, which are not read.
MARGINFC_INLINE Vector load_behind(const float* p, int32_t count) {
  return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(0xffffu << count), p));
}
MARGINFC_INLINE Vector behind(Vector v, int32_t count) {
  return reinterpret_cast<Vector>(
      _mm512_maskz_mov_ps(static_cast<__mmask16>(0xffffu << count), reinterpret_cast<__m512>(v)));
}
// Lane i: v[(i + by) % kLanes].
MARGINFC_INLINE Vector turned(Vector v, int32_t by) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return reinterpret_cast<Vector>(
      _mm512_permutexvar_ps(_mm512_add_epi32(lanes, _mm512_set1_epi32(by)), reinterpret_cast<__m512>(v)));
}

MARGINFC_INLINE void add_squares(Vector low, Vector high, Vector& sums) {
  sums += low * low;
  sums += high * high;
}

// A panel of columns of rows that begin behind `before` other numbers of a line; kFirst: with these, which are the end of another
// row, but before the first row nobody's.
template <int H, bool kWords, bool kFirst>
MARGINFC_INLINE void read_panel(const RowPointers<H, const char>& from, const RowPointers<H, char>& to, int32_t before,
                                Vector (&sums)[H]) {
#pragma GCC unroll 16
  for (int h = 0; h < H; h++) {
    const auto* row = reinterpret_cast<const float*>(from[h]);
    const bool alone = kFirst && h == 0;
    const Vector low = alone ? load_behind(row, before) : load(row), high = load(row + kLanes);
    if (kWords && alone) store_halves(to[h], to_halves(low, high), before / 2, kLanes);
    if (kWords && !alone) store_halves(to[h], to_halves(low, high));
    add_squares(kFirst ? behind(low, before) : low, high, sums[h]);
  }
}

// Lane sums of squares of rows [H, dim], to the bit the same wherever they begin, and with kWords the rows as words of pairs
// [H, dim / 2]. A load across two lines of the cache costs as much as two, and a Float32Array mostly begins 16 bytes into a line:
// lines are read whole, and lanes turned back in the end.
template <int H, bool kWords>
MARGINFC_INLINE void read_lines(const float* rows, int32_t dim, float* words, Vector* squares) {
  const auto place = static_cast<int32_t>(reinterpret_cast<uintptr_t>(rows) / sizeof(float) % kLanes);
  // Words have two numbers each.
  const int32_t before = kWords && place % 2 != 0 ? 0 : place;
  RowPointers<H, const char> from(rows - before, dim * int64_t{sizeof(float)});
  RowPointers<H, char> to(words - before / 2, dim / 2 * int64_t{sizeof(float)});
  Vector sums[H] = {};
  for (int32_t d = 0; d < dim; d += kPanel) {
    from.hide();
    if (kWords) to.hide();
    if (d == 0)
      read_panel<H, kWords, true>(from, to, before, sums);
    else
      read_panel<H, kWords, false>(from, to, before, sums);
    from.advance(kPanel * sizeof(float));
    if (kWords) to.advance(kPanel * sizeof(float) / 2);
  }
#pragma GCC unroll 16
  for (int h = 0; h < H; h++) {
    const Vector low = load_first(reinterpret_cast<const float*>(from[h]), before);
    if (kWords && h == H - 1) store_halves(to[h], to_halves(low, Vector{}), 0, before / 2);
    squares[h] = turned(sums[h] + low * low, before);
  }
}

// 1 / |w| of the first `count` of kLanes rows, of which lane sums of squares are known. False as inverse_norms().
MARGINFC_INLINE bool many_inverse_roots(const Vector (&squares)[kLanes], int32_t count, float* inverse_norm) {
  const Vector sums = lane_sums(squares), inverse = 1.0f / square_root(sums);
  const auto asked = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(inverse_norm, asked, reinterpret_cast<__m512>(inverse));
  const auto ordinary = (sums >= splat(kShortestSquare)) & (sums <= splat(kLongestSquare));
  return (_mm512_movepi32_mask(reinterpret_cast<__m512i>(ordinary)) & asked) == asked;
}

// As pair_classes, without words inverse_norms.
template <bool kWords>
bool read_short_rows(const float* rows, int32_t classes, int32_t dim, float* words, float* inverse_norm) {
  static_assert(kHeight <= kLanes, "norms of a tile are taken together");
  const int64_t depth = kWords ? dim / 2 : 0;
  bool ordinary = true;
  int32_t c = 0;
  for (; c + kHeight <= classes; c += kHeight, rows += int64_t{kHeight} * dim, words += kHeight * depth) {
    // Apart from the rest, so that all of them are in registers.
    Vector squares[kLanes];
#pragma GCC unroll 16
    for (int n = kHeight; n < kLanes; n++) squares[n] = Vector{};
    read_lines<kHeight, kWords>(rows, dim, words, squares);
    if (inverse_norm) ordinary &= many_inverse_roots(squares, kHeight, inverse_norm + c);
  }
  if (c == classes) return ordinary;
  Vector squares[kLanes] = {};
  for (int32_t n = 0; n < classes - c; n++, rows += dim, words += depth)
    read_lines<1, kWords>(rows, dim, words, squares + n);
  if (inverse_norm) ordinary &= many_inverse_roots(squares, classes - c, inverse_norm + c);
  return ordinary;
}
#else
// Asked for where rows are short.
template <bool>
bool read_short_rows(const float*, int32_t, int32_t, float*, float*) {
  return false;
}
#endif
