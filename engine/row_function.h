// The end of phase 3: a function of the probability p that a row has of its own class, loss_i = phi(p_i), instead of -log p_i.
// Every gradient of -log p_i is multiplied with one number a row,
//
//   slope = dphi / d(-log p) = -p phi'(p)
//
// so nothing changes where all classes are looked at. Both are formed from -log p and from 1 - p, neither of which loses digits
// where p is near 0 or 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace marginfc {

struct RowValue {
  double loss;
  double slope;
};

struct RowFunction {
  // Bin j of n has the p in (j / n, (j + 1) / n], and the first one 0 too.
  enum class Kind {
    none,
    focal,      // -(1 - p)^gamma log p, values [gamma]
    search,     // -log(p / (a_j p + 1 - a_j)), values [n] a
    piecewise,  // -log(a_j p + b_j), values [2 n] a and b
  };
  Kind kind = Kind::none;
  std::vector<double> values;

  // `loss` = -log p >= 0, `shortfall` = 1 - p.
  RowValue operator()(double loss, double shortfall) const {
    switch (kind) {
      case Kind::none: break;
      case Kind::focal: {
        const double power = std::pow(shortfall, values[0]);
        // -log p / (1 - p), which is 1 where p is.
        const double ratio = shortfall > 0 ? loss / shortfall : 1.0;
        return {power * loss, power * (1 + values[0] * std::exp(-loss) * ratio)};
      }
      case Kind::search: {
        const double a = values[bin(loss, values.size())];
        return {loss + std::log1p(-a * shortfall), (1 - a) / (1 - a * shortfall)};
      }
      case Kind::piecewise: {
        const size_t bins = values.size() / 2, j = bin(loss, bins);
        const double a = values[j], b = values[bins + j];
        if (b == 0) return {loss - std::log(a), 1};
        const double scaled = a * std::exp(-loss), line = scaled + b;
        // By 1 - p where p is near 1, and so the line's value may be.
        return {shortfall < 0.5 ? -std::log1p(a + b - 1 - a * shortfall) : -std::log(line), scaled / line};
      }
    }
    return {loss, 1};
  }

 private:
  static size_t bin(double loss, size_t bins) {
    const double place = std::exp(-loss) * static_cast<double>(bins);
    // A NaN that was let through on request has a bin, too.
    return place > 1 ? std::min(static_cast<size_t>(std::ceil(place)) - 1, bins - 1) : 0;
  }
};

}  // namespace marginfc
