// Priors on pose: terms of one number each, with their derivatives.
#pragma once

#include "scalar.h"

namespace eft_fast {
namespace math {

EFT_HD float log_one_plus(float x) { return ::log1pf(x); }
EFT_HD double log_one_plus(double x) { return ::log1p(x); }

// exp(sign * angle)^2, large where an elbow or a knee is overstretched; slope = its derivative.
template <typename T>
EFT_HD T bending_term(T angle, T sign, T& slope) {
  const T value = exponential(sign * (angle + angle));
  slope = (sign + sign) * value;
  return value;
}

// softplus(excess)^2 and its derivative over the excess; the range ends where the excess is 0. Far
// inside the range both are 0.
template <typename T>
EFT_HD T limit_term(T excess, T& slope) {
  const T small = exponential(select(excess < T(0), excess, T(0) - excess));
  const T rest = log_one_plus(small);
  const T soft = select(excess < T(0), rest, excess + rest);
  const T sigmoid = select(excess < T(0), small, T(1)) / (T(1) + small);
  slope = (soft + soft) * sigmoid;
  return soft * soft;
}

}  // namespace math
}  // namespace eft_fast
