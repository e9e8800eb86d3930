// Three forms of a joint's rotation to its 3x3 matrix (row-major), and the adjoints.
#pragma once

#include "scalar.h"

namespace eft_fast {
namespace math {

// The number of values per joint names the form.
enum PoseForm : int { kAxisAngle = 3, kRot6d = 6, kMatrix = 9 };

// Coefficients of R = cos(t) I + a K + b r r^T with t = |r|, K = hat(r):
// a = sin(t)/t, b = (1 - cos t)/t^2, and their derivatives over t: a' = (da/dt)/t, b' = (db/dt)/t.
// The closed forms cancel near zero, so the series takes over there; nothing divides by sin t, so
// an angle near pi is ordinary.
template <typename T>
struct RodriguesTerms {
  T c, a, b, da, db;
};

template <typename T>
EFT_HD RodriguesTerms<T> rodrigues_terms(const T* r) {
  const T t2 = dot3(r, r);
  const auto is_small = t2 < T(Real<T>::kSeriesLimit);
  const T safe = select(is_small, T(1), t2);
  const T t = square_root(safe);
  T s, c;
  sine_cosine(t, s, c);
  const T inv2 = T(1) / safe;
  const T a = s / t;
  const T b = (T(1) - c) * inv2;
  // Taylor series, Horner form: sin(t)/t, (1-cos t)/t^2, cos t, and the two derivatives.
  const T sa =
      T(1) -
      t2 / T(6) *
          (T(1) - t2 / T(20) * (T(1) - t2 / T(42) * (T(1) - t2 / T(72) * (T(1) - t2 / T(110)))));
  const T sb =
      T(0.5) *
      (T(1) -
       t2 / T(12) *
           (T(1) - t2 / T(30) * (T(1) - t2 / T(56) * (T(1) - t2 / T(90) * (T(1) - t2 / T(132))))));
  const T sda =
      T(-1.0 / 3) *
      (T(1) - t2 / T(10) * (T(1) - t2 / T(28) * (T(1) - t2 / T(54) * (T(1) - t2 / T(88)))));
  const T sdb =
      T(-1.0 / 12) *
      (T(1) -
       t2 / T(15) * (T(1) - t2 / T(112.0 / 3) * (T(1) - t2 / T(67.5) * (T(1) - t2 / T(105.6)))));
  RodriguesTerms<T> out;
  out.c = select(is_small, T(1) - t2 * sb, c);
  out.a = select(is_small, sa, a);
  out.b = select(is_small, sb, b);
  out.da = select(is_small, sda, (c - a) * inv2);
  out.db = select(is_small, sdb, (a - b - b) * inv2);
  return out;
}

template <typename T>
EFT_HD void axis_angle_to_matrix(const T* r, T* R) {
  const RodriguesTerms<T> q = rodrigues_terms(r);
  const T x = r[0], y = r[1], z = r[2];
  const T bx = q.b * x, by = q.b * y, bz = q.b * z;
  const T ax = q.a * x, ay = q.a * y, az = q.a * z;
  R[0] = q.c + bx * x;
  R[1] = bx * y - az;
  R[2] = bx * z + ay;
  R[3] = bx * y + az;
  R[4] = q.c + by * y;
  R[5] = by * z - ax;
  R[6] = bx * z - ay;
  R[7] = by * z + ax;
  R[8] = q.c + bz * z;
}

// g = dL/dr. With v the axial vector of gR and S = gR + gR^T:
// g = a v + b S r + r (-a tr(gR) + a' (r.v) + b' (r.gR r)).  At r = 0 this is v, the exact
// generator.
template <typename T>
EFT_HD void axis_angle_to_matrix_backward(const T* r, const T* gR, T* g) {
  const RodriguesTerms<T> q = rodrigues_terms(r);
  const T v[3] = {gR[7] - gR[5], gR[2] - gR[6], gR[3] - gR[1]};
  const T xy = gR[1] + gR[3], xz = gR[2] + gR[6], yz = gR[5] + gR[7];
  const T Sr[3] = {(gR[0] + gR[0]) * r[0] + xy * r[1] + xz * r[2],
                   xy * r[0] + (gR[4] + gR[4]) * r[1] + yz * r[2],
                   xz * r[0] + yz * r[1] + (gR[8] + gR[8]) * r[2]};
  const T trace = gR[0] + gR[4] + gR[8];
  const T along = q.da * dot3(r, v) + T(0.5) * q.db * dot3(r, Sr) - q.a * trace;
  for (int i = 0; i < 3; ++i) g[i] = q.a * v[i] + q.b * Sr[i] + along * r[i];
}

// Gram-Schmidt of the 6D form in the SPIN layout: x is a flattened [3,2], a1 = x[0,2,4], a2 =
// x[1,3,5]; b1, b2, b1 x b2 are the columns of R. Without a direction (zero or parallel columns) R
// is the identity.
template <typename T>
struct GramSchmidt {
  T b1[3], b2[3], a2[3], inv1, inv2, dot;
};

template <typename T, typename Mask>
EFT_HD GramSchmidt<T> gram_schmidt(const T* x, Mask& is_degenerate) {
  GramSchmidt<T> q;
  const T a1[3] = {x[0], x[2], x[4]};
  for (int i = 0; i < 3; ++i) q.a2[i] = x[2 * i + 1];
  const T n1 = dot3(a1, a1);
  const auto no_first = n1 <= T(Real<T>::kTiny);
  q.inv1 = T(1) / square_root(select(no_first, T(1), n1));
  for (int i = 0; i < 3; ++i) q.b1[i] = a1[i] * q.inv1;
  q.dot = dot3(q.b1, q.a2);
  T u[3];
  for (int i = 0; i < 3; ++i) u[i] = q.a2[i] - q.dot * q.b1[i];
  const T n2 = dot3(u, u);
  const T limit = dot3(q.a2, q.a2) * T(Real<T>::kParallelLimit) + T(Real<T>::kTiny);
  const auto no_second = n2 <= limit;
  q.inv2 = T(1) / square_root(select(no_second, T(1), n2));
  for (int i = 0; i < 3; ++i) q.b2[i] = u[i] * q.inv2;
  is_degenerate = no_first | no_second;
  return q;
}

template <typename T>
EFT_HD void rot6d_to_matrix(const T* x, T* R) {
  auto is_degenerate = x[0] <= x[0];
  const GramSchmidt<T> q = gram_schmidt(x, is_degenerate);
  T b3[3];
  cross3(q.b1, q.b2, b3);
  for (int i = 0; i < 3; ++i) {
    R[3 * i] = select(is_degenerate, T(i == 0), q.b1[i]);
    R[3 * i + 1] = select(is_degenerate, T(i == 1), q.b2[i]);
    R[3 * i + 2] = select(is_degenerate, T(i == 2), b3[i]);
  }
}

template <typename T>
EFT_HD void rot6d_to_matrix_backward(const T* x, const T* gR, T* g) {
  auto is_degenerate = x[0] <= x[0];
  const GramSchmidt<T> q = gram_schmidt(x, is_degenerate);
  const T g1[3] = {gR[0], gR[3], gR[6]};
  const T g2[3] = {gR[1], gR[4], gR[7]};
  const T g3[3] = {gR[2], gR[5], gR[8]};
  // b3 = b1 x b2: g(b1) += b2 x g3, g(b2) += g3 x b1.
  T from3[3], gb1[3], gb2[3];
  cross3(q.b2, g3, from3);
  for (int i = 0; i < 3; ++i) gb1[i] = g1[i] + from3[i];
  cross3(g3, q.b1, from3);
  for (int i = 0; i < 3; ++i) gb2[i] = g2[i] + from3[i];
  // b2 = u / |u|, u = a2 - (b1.a2) b1.
  const T along2 = dot3(gb2, q.b2);
  T gu[3];
  for (int i = 0; i < 3; ++i) gu[i] = (gb2[i] - along2 * q.b2[i]) * q.inv2;
  const T across = dot3(gu, q.b1);
  for (int i = 0; i < 3; ++i) gb1[i] = gb1[i] - q.dot * gu[i] - across * q.a2[i];
  const T along1 = dot3(gb1, q.b1);
  for (int i = 0; i < 3; ++i) {
    g[2 * i] = select(is_degenerate, T(0), (gb1[i] - along1 * q.b1[i]) * q.inv1);
    g[2 * i + 1] = select(is_degenerate, T(0), gu[i] - across * q.b1[i]);
  }
}

// One joint of a pose in any form.
template <typename T>
EFT_HD void pose_to_matrix(int form, const T* pose, T* R) {
  if (form == kAxisAngle) {
    axis_angle_to_matrix(pose, R);
  } else if (form == kRot6d) {
    rot6d_to_matrix(pose, R);
  } else {
    for (int i = 0; i < 9; ++i) R[i] = pose[i];
  }
}

template <typename T>
EFT_HD void pose_to_matrix_backward(int form, const T* pose, const T* gR, T* g) {
  if (form == kAxisAngle) {
    axis_angle_to_matrix_backward(pose, gR, g);
  } else if (form == kRot6d) {
    rot6d_to_matrix_backward(pose, gR, g);
  } else {
    for (int i = 0; i < 9; ++i) g[i] = gR[i];
  }
}

}  // namespace math
}  // namespace eft_fast
