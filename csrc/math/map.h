// The MAP solver's formulas: quaternions of joints, the prior's place of a rotation, the two
// cameras with their slopes, and the damping. eft_fast/ops/map_reference.py is their oracle.
#pragma once

#include "projection.h"
#include "scalar.h"

namespace eft_fast {

// Unknowns of a person: 72 of rotations, 10 betas, log s, t_x, t_y. Inside the solver number c of
// joint m's rotation stands at 24 c + m, so that all joints lie side by side; kPadded is the size
// of the systems, a multiple of every vector.
constexpr int kMapTurns = 72;
constexpr int kMapScale = 82;
constexpr int kMapUnknowns = 85;
constexpr int kMapPadded = 96;

// A row of the plan as the solver reads it: nine numbers (row-major) of the pose directions of each
// joint at 24 e + m (zero for the root), ten shape directions, the template, padding.
constexpr int kMapShape = 216;
constexpr int kMapTemplate = 226;
constexpr int kMapRow = 240;

namespace math {

EFT_HD float arc_tangent(float y, float x) { return ::atan2f(y, x); }
EFT_HD double arc_tangent(double y, double x) { return ::atan2(y, x); }
EFT_HD float logarithm(float x) { return ::logf(x); }
EFT_HD double logarithm(double x) { return ::log(x); }

// Column of a rotation's unknown in the solver, from its place 3 m + c among the 85.
EFT_HD int map_column(int unknown) {
  return unknown < kMapTurns ? 24 * (unknown % 3) + unknown / 3 : unknown;
}

// out = a b for unit quaternions w, x, y, z, normalised: the product of many stays a rotation. The
// identity times the identity is the identity, bit by bit.
template <typename T>
EFT_HD void multiply_quaternions(const T* a, const T* b, T* out) {
  const T w = a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3];
  const T x = a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2];
  const T y = a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1];
  const T z = a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0];
  const T scale = T(1) / square_root(w * w + x * x + y * y + z * z);
  out[0] = w * scale;
  out[1] = x * scale;
  out[2] = y * scale;
  out[3] = z * scale;
}

// exp of a rotation vector: (cos(t/2), sin(t/2)/t r).
template <typename T>
EFT_HD void vector_to_quaternion(const T* r, T* q) {
  const T half[3] = {T(0.5) * r[0], T(0.5) * r[1], T(0.5) * r[2]};
  const T h2 = dot3(half, half);
  const auto is_small = h2 < T(Real<T>::kSeriesLimit);
  const T h = square_root(select(is_small, T(1), h2));
  T s, c;
  sine_cosine(h, s, c);
  const T series_s =
      T(1) -
      h2 / T(6) *
          (T(1) - h2 / T(20) * (T(1) - h2 / T(42) * (T(1) - h2 / T(72) * (T(1) - h2 / T(110)))));
  const T series_c =
      T(1) - h2 / T(2) *
                 (T(1) - h2 / T(12) *
                             (T(1) - h2 / T(30) *
                                         (T(1) - h2 / T(56) *
                                                     (T(1) - h2 / T(90) * (T(1) - h2 / T(132))))));
  const T factor = select(is_small, series_s, s / h);
  q[0] = select(is_small, series_c, c);
  for (int i = 0; i < 3; ++i) q[1 + i] = factor * half[i];
}

// Row-major matrix of a unit quaternion; that of the identity exactly.
template <typename T>
EFT_HD void quaternion_to_matrix(const T* q, T* R) {
  const T x = q[1] + q[1], y = q[2] + q[2], z = q[3] + q[3];
  const T wx = q[0] * x, wy = q[0] * y, wz = q[0] * z;
  const T xx = q[1] * x, xy = q[1] * y, xz = q[1] * z;
  const T yy = q[2] * y, yz = q[2] * z, zz = q[3] * z;
  R[0] = T(1) - (yy + zz);
  R[1] = xy - wz;
  R[2] = xz + wy;
  R[3] = xy + wz;
  R[4] = T(1) - (xx + zz);
  R[5] = yz - wx;
  R[6] = xz - wy;
  R[7] = yz + wx;
  R[8] = T(1) - (xx + yy);
}

// Unit quaternion of a rotation matrix by its largest entry, which keeps the division away from
// zero.
template <typename T>
EFT_HD void matrix_to_quaternion(const T* m, T* q) {
  const T four[4] = {T(1) + m[0] + m[4] + m[8],
                     T(1) + m[0] - m[4] - m[8],
                     T(1) - m[0] + m[4] - m[8],
                     T(1) - m[0] - m[4] + m[8]};
  int best = 0;
  for (int i = 1; i < 4; ++i)
    if (four[i] > four[best]) best = i;
  const T x = m[7] - m[5], y = m[2] - m[6], z = m[3] - m[1];
  const T xy = m[1] + m[3], xz = m[2] + m[6], yz = m[5] + m[7];
  const T rows[4][4] = {
      {four[0], x, y, z}, {x, four[1], xy, xz}, {y, xy, four[2], yz}, {z, xz, yz, four[3]}};
  T n2 = T(0);
  for (int i = 0; i < 4; ++i) n2 += rows[best][i] * rows[best][i];
  const T scale = T(1) / square_root(n2);
  for (int i = 0; i < 4; ++i) q[i] = rows[best][i] * scale;
}

// r = log of a unit quaternion, angle t at most pi. Returns c of the inverse right Jacobian
// d log(q exp(d)) / dd = I + K/2 + c K^2, K = hat(r): c = (1 - (t/2) cot(t/2)) / t^2.
template <typename T>
EFT_HD T quaternion_log(const T* q, T* r) {
  const auto is_flipped = q[0] < T(0);
  const T w = select(is_flipped, T(0) - q[0], q[0]);
  T v[3];
  for (int i = 0; i < 3; ++i) v[i] = select(is_flipped, T(0) - q[1 + i], q[1 + i]);
  const T n2 = dot3(v, v);
  const auto is_short = n2 < T(1e-4);
  const T n = square_root(select(is_short, T(1), n2));
  const T safe_w = select(is_short, w, T(1));
  const T u = select(is_short, n2, T(0)) / (safe_w * safe_w);
  // 2 atan(n/w)/n = (2/w)(1 - u/3 + u^2/5 - ...), u = (n/w)^2.
  const T series = T(2) / safe_w * (T(1) - u * (T(1.0 / 3) - u * (T(1.0 / 5) - u * T(1.0 / 7))));
  const T half = arc_tangent(n, w);
  const T factor = select(is_short, series, (half + half) / n);
  for (int i = 0; i < 3; ++i) r[i] = factor * v[i];
  const T t2 = dot3(r, r);
  const auto is_small = t2 < T(Real<T>::kSeriesLimit);
  const T safe = select(is_small, T(1), t2);
  const T near =
      T(1.0 / 12) *
      (T(1) + t2 / T(60) * (T(1) + t2 / T(42) * (T(1) + t2 / T(40) * (T(1) + t2 * T(10.0 / 396)))));
  return select(is_small, near, (T(1) - half * w / n) / safe);
}

// Inverse right Jacobian (row-major) of a rotation vector and its c.
template <typename T>
EFT_HD void right_jacobian_inverse(const T* r, T c, T* A) {
  const T xx = r[0] * r[0], yy = r[1] * r[1], zz = r[2] * r[2];
  const T xy = c * r[0] * r[1], xz = c * r[0] * r[2], yz = c * r[1] * r[2];
  const T h[3] = {T(0.5) * r[0], T(0.5) * r[1], T(0.5) * r[2]};
  A[0] = T(1) - c * (yy + zz);
  A[1] = xy - h[2];
  A[2] = xz + h[1];
  A[3] = xy + h[2];
  A[4] = T(1) - c * (xx + zz);
  A[5] = yz - h[0];
  A[6] = xz - h[1];
  A[7] = yz + h[0];
  A[8] = T(1) - c * (xx + yy);
}

// A projected point, and its slopes by the point and by a step of (log s, t_x, t_y).
template <typename T>
struct MapImage {
  T u[2], by_point[2][3], by_camera[2][3];
};

// camera = (s, t_x, t_y): u = s X + t, and t moves in units of frame. With a pinhole (f_x, f_y,
// c_x, c_y) the body stands at z = f_x / s, where the weak camera agrees; depth is held at
// kMinDepth or more, without a slope by it.
template <typename T>
EFT_HD MapImage<T> map_project(const T* camera, T frame, const T* pinhole, const T* X) {
  MapImage<T> out;
  const T s = camera[0];
  if (!pinhole) {
    project_weak(camera, X, out.u);
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < 3; ++k) {
        out.by_point[i][k] = i == k ? s : T(0);
        out.by_camera[i][k] = i + 1 == k ? frame : T(0);
      }
      out.by_camera[i][0] = s * X[i];
    }
    return out;
  }
  const T depth = pinhole[0] / s;
  const T at = X[2] + depth;
  const bool is_held = at < T(kMinDepth);
  const T inverse = T(1) / (is_held ? T(kMinDepth) : at);
  for (int i = 0; i < 2; ++i) {
    const T f = pinhole[i];
    const T per_shift = depth / f;  // metres per unit of t in the plane of the root
    const T shift = (camera[1 + i] - pinhole[2 + i]) * per_shift;
    const T flat = (X[i] + shift) * inverse, direct = f * inverse;
    const T deep = is_held ? T(0) : T(0) - direct * flat;
    out.u[i] = f * flat + pinhole[2 + i];
    for (int k = 0; k < 2; ++k) {
      out.by_point[i][k] = i == k ? direct : T(0);
      out.by_camera[i][1 + k] = i == k ? direct * per_shift * frame : T(0);
    }
    out.by_point[i][2] = deep;
    // A step of log s moves the translation by minus itself.
    out.by_camera[i][0] = T(0) - (direct * shift + deep * depth);
  }
  return out;
}

// Levenberg-Marquardt: the next damping. A failed step multiplies it by 4; a success by .3, 1 or 2
// as the gain (true decrease over promised) is above .75, .25 or neither.
EFT_HD double map_next_damping(double damping, bool is_better, double gain) {
  const double factor = !is_better ? 4.0 : gain > 0.75 ? 0.3 : gain > 0.25 ? 1.0 : 2.0;
  const double next = damping * factor;
  return next < 1e-9 ? 1e-9 : next > 1e10 ? 1e10 : next;
}

}  // namespace math
}  // namespace eft_fast
