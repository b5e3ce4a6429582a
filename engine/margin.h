// The margin maths: what happens to the one logit of a row that belongs to its own class.
//
// Shared by every engine, on the host and in CUDA kernels, so it includes nothing but <math.h>. All in
// float64: the cost is per row, not per class. Formulas: ArcFace arXiv 1801.07698, CosFace 1801.09414,
// X2-Softmax 2312.05281, combined margin: the ArcFace paper's equation 4.
#pragma once

#include <math.h>

#ifdef __CUDACC__
#define MARGINFC_HOST_DEVICE __host__ __device__
#else
#define MARGINFC_HOST_DEVICE
#endif

namespace marginfc {

enum class MarginKind { arcface, cosface, x2softmax, combined, softmax, custom };

// What to do where the margin pushes the angle past pi.
enum class Overflow { none, fallback, easy };

constexpr double kPi = 3.14159265358979323846;
// Rows shorter than this are divided by it instead of by their norm.
constexpr double kNormFloor = 1e-12;
// sin(theta) is not taken smaller than this in the quotient of dF/dc.
constexpr double kSineFloor = 1e-6;
constexpr int kMaxMarginParameters = 3;

// One row's margin with its parameters looked up. Order of `p`: arcface m; cosface m; x2softmax a, h, k;
// combined m1, m2, m3.
struct RowMargin {
  MarginKind kind = MarginKind::softmax;
  Overflow overflow = Overflow::none;
  bool straight_through = false;
  double p[kMaxMarginParameters] = {0, 0, 0};
};

// F(theta) and dF/dcos(theta) in cosine units.
struct TargetLogit {
  double value;
  double derivative;
};

// `cosine` in [-1, 1]; `sine` = |wh - cosine * xh| >= 0, from the rows themselves because
// sqrt(1 - cosine^2) has no digits left near the poles.
MARGINFC_HOST_DEVICE inline TargetLogit apply_margin(const RowMargin& margin, double cosine, double sine) {
  const double theta = atan2(sine, cosine);
  const double divisor = sine > kSineFloor ? sine : kSineFloor;
  TargetLogit out{cosine, 1.0};
  switch (margin.kind) {
    case MarginKind::arcface:
    case MarginKind::combined: {
      // arcface is combined with m1 = 1 and m3 = 0.
      const bool arcface = margin.kind == MarginKind::arcface;
      const double m1 = arcface ? 1.0 : margin.p[0];
      const double m2 = arcface ? margin.p[0] : margin.p[1];
      const double m3 = arcface ? 0.0 : margin.p[2];
      // The cosine itself, not cos(acos(cosine)): at 0 the policies ask for its sign.
      const bool plain = m1 == 1.0;
      const double angle = m1 * theta;
      const double base = plain ? cosine : cos(angle);
      const double base_derivative = plain ? 1.0 : m1 * sin(angle) / divisor;
      if (margin.overflow == Overflow::fallback && angle > kPi - m2) {
        out.value = base - m2 * sin(m2) - m3;
        out.derivative = base_derivative;
      } else if (margin.overflow == Overflow::easy && !(base > 0)) {
        out.value = base - m3;
        out.derivative = base_derivative;
      } else {
        out.value = cos(angle + m2) - m3;
        out.derivative = m1 * sin(angle + m2) / divisor;
      }
      break;
    }
    case MarginKind::cosface: out.value = cosine - margin.p[0]; break;
    case MarginKind::x2softmax: {
      const double shifted = theta - margin.p[1];
      out.value = margin.p[0] * shifted * shifted + margin.p[2];
      out.derivative = -2.0 * margin.p[0] * shifted / divisor;
      break;
    }
    case MarginKind::softmax:
    case MarginKind::custom:  // computed elsewhere: never asked for here
      break;
  }
  if (margin.straight_through) out.derivative = 1.0;
  return out;
}

}  // namespace marginfc
