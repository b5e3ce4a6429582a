// Norms of class rows. Included by cpu/kernels.cc only, inside its anonymous namespace.

// Lane sums of x * x over one row, in four parts.
MARGINFC_INLINE Vector squares(const float* row, int32_t dim) {
  Vector part[4] = {};
  int32_t d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes)
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) {
      const Vector x = load(row + d + u * kLanes);
      part[u] += x * x;
    }
  for (; d + kLanes <= dim; d += kLanes) {
    const Vector x = load(row + d);
    part[0] += x * x;
  }
  if (d < dim) {
    const Vector x = load_first(row + d, dim - d);
    part[1] += x * x;
  }
  return (part[0] + part[1]) + (part[2] + part[3]);
}

// 1 / |w| of the first `count` of four class rows, of which lane sums of squares are known. False as inverse_norms().
MARGINFC_INLINE bool inverse_roots(const Vector (&squares)[4], int32_t count, float* inverse_norm) {
  float sums[4], inverse[4];
  four_sums(squares, sums);
  // Together: a root and a division of vectors.
  for (int n = 0; n < 4; n++) inverse[n] = 1.0f / __builtin_sqrtf(sums[n]);
  bool ordinary = true;
  for (int32_t n = 0; n < 4 && n < count; n++) {
    ordinary &= sums[n] >= kShortestSquare && sums[n] <= kLongestSquare;
    inverse_norm[n] = inverse[n];
  }
  return ordinary;
}

bool inverse_norms(const float* weights, int32_t classes, int32_t dim, float* inverse_norm) {
  if (is_short(dim)) return read_short_rows<false>(weights, classes, dim, nullptr, inverse_norm);
  bool ordinary = true;
  for (int32_t c = 0; c < classes; c += 4) {
    Vector parts[4] = {};
    const int32_t count = classes - c < 4 ? classes - c : 4;
    for (int32_t n = 0; n < count; n++) parts[n] = squares(weights + static_cast<int64_t>(c + n) * dim, dim);
    ordinary &= inverse_roots(parts, count, inverse_norm + c);
  }
  return ordinary;
}
