// A transform of negatives as the tile loops have it, host and device: of exponents, s * log2(e) times a cosine.
#pragma once

namespace marginfc {

// Of an exponent x: value[0] + value[1] x + value[2] x^2, and slope[0] + slope[1] x.
struct ExponentQuadratic {
  float value[3];
  float slope[2];
};

}  // namespace marginfc
