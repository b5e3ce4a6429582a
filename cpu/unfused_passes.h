// Passes over a stored [classes, stride] matrix of logits, a vector of batch rows at a time; see unfused.h. Included by
// cpu/kernels.cc only, inside its anonymous namespace. `lanes` is a multiple of a vector.

// largest[i] = max(largest[i], z[c, i])
void unfused_maxima(const float* z, int64_t stride, int32_t classes, int32_t lanes, float* largest) {
  for (int32_t c = 0; c < classes; c++)
    for (int32_t i = 0; i < lanes; i += kLanes) store(largest + i, larger(load(z + c * stride + i), load(largest + i)));
}

// z[c, i] = exp(z[c, i] - largest[i]); sums[i] += that
void unfused_exponentials(float* z, int64_t stride, int32_t classes, int32_t lanes, const float* largest, float* sums) {
  for (int32_t c = 0; c < classes; c++)
    for (int32_t i = 0; i < lanes; i += kLanes) {
      float* at = z + c * stride + i;
      const Vector e = exp2((load(at) - load(largest + i)) * 1.44269504f);
      store(at, e);
      store(sums + i, load(sums + i) + e);
    }
}

// z[c, i] *= factors[i]
void unfused_scale(float* z, int64_t stride, int32_t classes, int32_t lanes, const float* factors) {
  for (int32_t c = 0; c < classes; c++)
    for (int32_t i = 0; i < lanes; i += kLanes) store(z + c * stride + i, load(z + c * stride + i) * load(factors + i));
}
