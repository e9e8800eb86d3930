// Cameras and the per-point terms of the keypoint loss, each with its derivative.
#pragma once

#include "scalar.h"

namespace eft_fast {
namespace math {

// Weak perspective, camera = (s, tx, ty): u = s X + t. Lengths of u: half crop sides.
template <typename T>
EFT_HD void project_weak(const T* camera, const T* X, T* u) {
  u[0] = camera[0] * X[0] + camera[1];
  u[1] = camera[0] * X[1] + camera[2];
}

// gX = dL/dX (z does not matter); g_camera += dL/dcamera.
template <typename T>
EFT_HD void project_weak_backward(const T* camera, const T* X, const T* gu, T* gX, T* g_camera) {
  gX[0] = camera[0] * gu[0];
  gX[1] = camera[0] * gu[1];
  gX[2] = T(0);
  g_camera[0] += gu[0] * X[0] + gu[1] * X[1];
  g_camera[1] += gu[0];
  g_camera[2] += gu[1];
}

// Full perspective, camera = 21 values: K (9), R (9), t (3), row-major. Y = R X + t, u = K[:2] Y /
// Y_z. The third row of K is taken as (0, 0, 1). Depth is held at kMinDepth metres or more: a point
// at or behind the camera stays finite, and its depth has no gradient.
constexpr int kWeakCamera = 3;
constexpr int kFullCamera = 21;
constexpr double kMinDepth = 1e-3;

template <typename T>
EFT_HD void project_full(const T* camera, const T* X, T* u) {
  const T* K = camera;
  const T* t = camera + 18;
  T Y[3];
  rotate(camera + 9, X, Y);
  for (int i = 0; i < 3; ++i) Y[i] += t[i];
  const T z = select(Y[2] < T(kMinDepth), T(kMinDepth), Y[2]);
  const T x = Y[0] / z, y = Y[1] / z;
  u[0] = K[0] * x + K[1] * y + K[2];
  u[1] = K[3] * x + K[4] * y + K[5];
}

template <typename T>
EFT_HD void project_full_backward(const T* camera, const T* X, const T* gu, T* gX, T* g_camera) {
  const T* K = camera;
  const T* R = camera + 9;
  const T* t = camera + 18;
  T Y[3];
  rotate(R, X, Y);
  for (int i = 0; i < 3; ++i) Y[i] += t[i];
  const auto is_held = Y[2] < T(kMinDepth);
  const T inv = T(1) / select(is_held, T(kMinDepth), Y[2]);
  const T x = Y[0] * inv, y = Y[1] * inv;
  for (int i = 0; i < 2; ++i) {
    g_camera[3 * i] += gu[i] * x;
    g_camera[3 * i + 1] += gu[i] * y;
    g_camera[3 * i + 2] += gu[i];
  }
  const T gx = K[0] * gu[0] + K[3] * gu[1], gy = K[1] * gu[0] + K[4] * gu[1];
  const T gY[3] = {gx * inv, gy * inv, select(is_held, T(0), (T(0) - (gx * x + gy * y)) * inv)};
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) g_camera[9 + 3 * i + k] += gY[i] * X[k];
    g_camera[18 + i] += gY[i];
  }
  rotate_transposed(R, gY, gX);
}

// Penalty of one coordinate's error e; slope = d penalty / d e.
enum Robustness : int { kSquared = 0, kGemanMcClure = 1 };

// e^2.
template <typename T>
EFT_HD T squared_error(T e, T& slope) {
  slope = e + e;
  return e * e;
}

// sigma^2 e^2 / (sigma^2 + e^2): behaves like e^2 near zero, levels off at sigma^2.
template <typename T>
EFT_HD T geman_mcclure(T e, T sigma, T& slope) {
  const T s2 = sigma * sigma, e2 = e * e;
  const T q = s2 / (s2 + e2);
  slope = (e + e) * q * q;
  return q * e2;
}

// weight * (1 - cos) between the projected limb d = end - start and a unit direction n of the
// image. A limb without length counts as cos = 0 and has no gradient. gd = gradient of d.
template <typename T>
EFT_HD T direction_term(const T* d, const T* n, T weight, T* gd) {
  const T n2 = d[0] * d[0] + d[1] * d[1];
  const auto has_none = n2 <= T(Real<T>::kTiny);
  const T inv = select(has_none, T(0), T(1) / square_root(select(has_none, T(1), n2)));
  const T e[2] = {d[0] * inv, d[1] * inv};
  const T cosine = e[0] * n[0] + e[1] * n[1];
  const T f = weight * inv;
  for (int i = 0; i < 2; ++i) gd[i] = f * (cosine * e[i] - n[i]);
  return weight * (T(1) - cosine);
}

// exp(-10 s)^2 keeps the scale of a weak camera positive; slope = its derivative over s.
template <typename T>
EFT_HD T camera_term(T s, T& slope) {
  const T value = exponential(T(-20) * s);
  slope = T(-20) * value;
  return value;
}

}  // namespace math
}  // namespace eft_fast
