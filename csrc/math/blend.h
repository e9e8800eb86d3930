// Weighted sums of 3x4 transforms [G | a], row-major, and their use on a point.
#pragma once

#include "scalar.h"

namespace eft_fast {
namespace math {

// out = sum_k weight[k] transforms[idx[k]]. Padding slots have weight 0, so no branch is needed.
template <typename T, typename I>
EFT_HD void blend_transform(const T* transforms, const I* idx, const T* weight, int k, T* out) {
  for (int e = 0; e < 12; ++e) out[e] = T(0);
  for (int s = 0; s < k; ++s) {
    const T* A = transforms + 12 * static_cast<int>(idx[s]);
    for (int e = 0; e < 12; ++e) out[e] += weight[s] * A[e];
  }
}

// out = G x + a.
template <typename T>
EFT_HD void apply_transform(const T* A, const T* x, T* out) {
  for (int i = 0; i < 3; ++i)
    out[i] = A[4 * i] * x[0] + A[4 * i + 1] * x[1] + A[4 * i + 2] * x[2] + A[4 * i + 3];
}

// gx = G^T g.
template <typename T>
EFT_HD void apply_transform_backward_point(const T* A, const T* g, T* gx) {
  for (int k = 0; k < 3; ++k) gx[k] = A[k] * g[0] + A[4 + k] * g[1] + A[8 + k] * g[2];
}

// gA += w [g x^T | g].
template <typename T>
EFT_HD void apply_transform_backward_matrix(T w, const T* x, const T* g, T* gA) {
  for (int i = 0; i < 3; ++i) {
    const T wg = w * g[i];
    for (int k = 0; k < 3; ++k) gA[4 * i + k] += wg * x[k];
    gA[4 * i + 3] += wg;
  }
}

}  // namespace math
}  // namespace eft_fast
