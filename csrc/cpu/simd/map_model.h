// The Gauss-Newton model of one person's energy: rows of the Jacobian, each a whitened residual,
// and the prior. map_reference.py has the derivations.
#pragma once

#include "map_body.h"

namespace eft_fast {
namespace EFT_ISA {

// Rows are squared into H when so many are full: 18 kB in float32, which stay in the first cache.
constexpr int kRowBlock = 48;

template <typename S>
struct MapModel {
  alignas(64) S H[kSystemRows * kMapPadded];
  alignas(64) S gradient[kMapPadded];
  alignas(64) S rows[kRowBlock * kMapPadded];
  int count;
  // Joints and skinning translations by betas: lanes = betas.
  alignas(64) S place[kJoints][3][kShapePadded], shift[kJoints][3][kShapePadded];
  alignas(64) S arm[3 * kStride<S>];
  alignas(64) S spread[3][kMapRow + kSpill];
  alignas(64) S right[kMapUnknowns * kMapPadded + kSpill];  // P A
  alignas(64) S A[9 * kStride<S>];
  S* pulled;  // [N,9]: a source's rows by its terms
};

template <typename S>
void shape_chain(const MapPerson<S>& person, const MapBody<S>& body, MapModel<S>& model) {
  using V = Vec<S>;
  for (int j = 0; j < kJoints; ++j) {
    const int p = person.in.parents[j];
    for (int l = 0; l < kShapePadded; l += kLanes<S>) {
      V own[3], bone[3], moved[3];
      for (int i = 0; i < 3; ++i) {
        own[i] = V::load(person.shared.directions[j][i] + l);
        bone[i] = p < 0 ? own[i] : own[i] - V::load(person.shared.directions[p][i] + l);
      }
      for (int i = 0; i < 3; ++i) {
        moved[i] = bone[i];
        if (p >= 0) {
          moved[i] = V::load(model.place[p][i] + l);
          for (int k = 0; k < 3; ++k) moved[i] += V(body.G[p][3 * i + k]) * bone[k];
        }
        moved[i].store(model.place[j][i] + l);
      }
      for (int i = 0; i < 3; ++i) {
        V turned(0);
        for (int k = 0; k < 3; ++k) turned += V(body.G[j][3 * i + k]) * own[k];
        (moved[i] - turned).store(model.shift[j][i] + l);
      }
    }
  }
}

// arm of joint m: the source's part at and below m, seen from m. Turned by w it moves by w x arm.
template <typename S>
void reach(const MapPerson<S>& person, const MapBody<S>& body, int64_t source, MapModel<S>& model) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  const cpu::MapProblem<S>& in = person.in;
  const MapShared<S>& shared = person.shared;
  for (int l = 0; l < T; l += W) {
    V arm[3] = {V(0), V(0), V(0)}, at[3];
    for (int i = 0; i < 3; ++i) at[i] = V::load(body.place + i * T + l);
    for (int n = shared.term_begin[source]; n < shared.term_begin[source + 1]; ++n) {
      const int t = shared.term[n];
      const V counts = V::load(shared.below[in.term_index[3 * t + 1]] + l);
      const V omega(in.term_weight[2 * t + 1]);
      for (int i = 0; i < 3; ++i) arm[i] += counts * (V(body.moved[3 * t + i]) - omega * at[i]);
    }
    for (int n = shared.joint_begin[source]; n < shared.joint_begin[source + 1]; ++n) {
      const int m = shared.joint[n], j = in.joint_index[2 * m];
      const V counts = V::load(shared.below[j] + l) * V(in.joint_weight[m]);
      for (int i = 0; i < 3; ++i) arm[i] += counts * (V(body.g[j][i]) - at[i]);
    }
    for (int i = 0; i < 3; ++i) arm[i].store(model.arm + i * T + l);
  }
}

// spread[i] = sum over the source's terms of alpha n_i^T G_j D_r: N rows n through the plan.
template <typename S, int N>
void pull_rows(const MapPerson<S>& person,
               const MapBody<S>& body,
               int64_t source,
               const S (*n)[3],
               MapModel<S>& model) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, kBlock = N == 3 ? 3 : 5;
  static_assert(kMapRow % (kBlock * W) == 0);
  const cpu::MapProblem<S>& in = person.in;
  const int first = person.shared.term_begin[source];
  const int count = person.shared.term_begin[source + 1] - first;
  const int32_t* terms = person.shared.term + first;
  for (int m = 0; m < count; ++m) {
    const int t = terms[m];
    const S* G = body.G[in.term_index[3 * t + 1]];
    for (int i = 0; i < N; ++i) {
      math::rotate_transposed(G, n[i], model.pulled + 9 * m + 3 * i);
      for (int k = 0; k < 3; ++k) model.pulled[9 * m + 3 * i + k] *= in.term_weight[2 * t];
    }
  }
  for (int first_lane = 0; first_lane < kMapRow; first_lane += kBlock * W) {
    V sum[N][kBlock];
#pragma GCC unroll 3
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 5
      for (int v = 0; v < kBlock; ++v) sum[i][v] = V(0);
    for (int m = 0; m < count; ++m) {
      const int64_t row = in.term_index[3 * terms[m]];
      for (int k = 0; k < 3; ++k) {
        const S* data = in.row_data + (3 * row + k) * kMapRow + first_lane;
#pragma GCC unroll 5
        for (int v = 0; v < kBlock; ++v) {
          const V value = V::load(data + v * W);
#pragma GCC unroll 3
          for (int i = 0; i < N; ++i) sum[i][v] += V(model.pulled[9 * m + 3 * i + k]) * value;
        }
      }
    }
#pragma GCC unroll 3
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 5
      for (int v = 0; v < kBlock; ++v) sum[i][v].store(model.spread[i] + first_lane + v * W);
  }
}

// Row by the rotations: the chain turns the arm, and the blendshapes take R_m [d]x.
template <typename S>
void row_by_turns(
    const MapBody<S>& body, const MapModel<S>& model, const S* n, const S* D, S* row) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  V out[3][T / W];
  for (int l = 0; l < T; l += W) {
    V arm[3], normal[3] = {V(n[0]), V(n[1]), V(n[2])}, moment[3];
    for (int i = 0; i < 3; ++i) arm[i] = V::load(model.arm + i * T + l);
    math::cross3(arm, normal, moment);
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {
      const int next = (c + 1) % 3, last = (c + 2) % 3;
      V sum(0);
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        sum += V::load(body.world + (3 * i + c) * T + l) * moment[i];
        sum += V::load(body.R + (3 * i + last) * T + l) * V::load(D + (3 * i + next) * kJoints + l);
        sum -= V::load(body.R + (3 * i + next) * T + l) * V::load(D + (3 * i + last) * kJoints + l);
      }
      out[c][l / W] = sum;
    }
  }
  // In this order what spills over a block of 24 is written again.
  for (int c = 0; c < 3; ++c)
    for (int l = 0; l < T; l += W) out[c][l / W].store(row + c * kJoints + l);
}

// Row by betas, after the rotations.
template <typename S>
void row_by_shape(const MapPerson<S>& person,
                  int64_t source,
                  const MapModel<S>& model,
                  const S* n,
                  const S* D,
                  S* row) {
  using V = Vec<S>;
  const cpu::MapProblem<S>& in = person.in;
  const MapShared<S>& shared = person.shared;
  const V normal[3] = {V(n[0]), V(n[1]), V(n[2])};
  for (int l = 0; l < kShapePadded; l += kLanes<S>) {
    V sum = V::load(D + kMapShape + l);
    for (int m = shared.term_begin[source]; m < shared.term_begin[source + 1]; ++m) {
      const int t = shared.term[m];
      const V omega(in.term_weight[2 * t + 1]);
      for (int i = 0; i < 3; ++i)
        sum += omega * normal[i] * V::load(model.shift[in.term_index[3 * t + 1]][i] + l);
    }
    for (int m = shared.joint_begin[source]; m < shared.joint_begin[source + 1]; ++m) {
      const V weight(in.joint_weight[shared.joint[m]]);
      const int j = in.joint_index[2 * shared.joint[m]];
      for (int i = 0; i < 3; ++i) sum += weight * normal[i] * V::load(model.place[j][i] + l);
    }
    sum.store(row + kMapTurns + l);
  }
}

template <typename S>
void square_rows(MapModel<S>& model) {
  add_squares(model.rows, model.count, model.H);
  model.count = 0;
}

// Appends N rows n_i of one source with residuals, and their slopes by the camera.
template <typename S, int N>
void append_rows(const MapPerson<S>& person,
                 const MapBody<S>& body,
                 int64_t source,
                 const S (*n)[3],
                 const S (*by_camera)[3],
                 const S* residual,
                 MapModel<S>& model) {
  using V = Vec<S>;
  if (model.count + N > kRowBlock) square_rows(model);
  pull_rows<S, N>(person, body, source, n, model);
  for (int i = 0; i < N; ++i) {
    S* row = model.rows + (model.count + i) * kMapPadded;
    row_by_turns(body, model, n[i], model.spread[i], row);
    row_by_shape(person, source, model, n[i], model.spread[i], row);
    for (int k = 0; k < 3; ++k) row[kMapScale + k] = by_camera[i][k];
    for (int k = kMapUnknowns; k < kMapPadded; ++k) row[k] = S(0);
    const V factor(residual[i]);
    for (int j = 0; j < kMapPadded; j += kLanes<S>)
      (V::load(model.gradient + j) + factor * V::load(row + j)).store(model.gradient + j);
  }
  model.count += N;
}

template <typename S>
void append_source(const MapPerson<S>& person,
                   const MapBody<S>& body,
                   int64_t source,
                   MapModel<S>& model) {
  const MapTarget<S>& target = person.target[source];
  if (target.weight == S(0) && target.weight3d == S(0)) return;
  const S* X = body.points + 3 * source;
  reach(person, body, source, model);
  if (target.weight != S(0)) {
    const math::MapImage<S> image = math::map_project(body.cam, person.frame, person.pinhole, X);
    const S root = math::square_root(target.weight);
    S n[2][3], by_camera[2][3], residual[2];
    for (int i = 0; i < 2; ++i) {
      for (int k = 0; k < 3; ++k) {
        n[i][k] = root * image.by_point[i][k];
        by_camera[i][k] = root * image.by_camera[i][k];
      }
      residual[i] = root * (image.u[i] - target.u[i]);
    }
    append_rows<S, 2>(person, body, source, n, by_camera, residual, model);
  }
  if (target.weight3d != S(0)) {
    const S root = math::square_root(target.weight3d);
    S n[3][3] = {}, by_camera[3][3] = {}, residual[3];
    for (int i = 0; i < 3; ++i) {
      n[i][i] = root;
      residual[i] = root * (X[i] - target.X[i]);
    }
    append_rows<S, 3>(person, body, source, n, by_camera, residual, model);
  }
}

// right = P A and the rotations' part of A^T P x; A = diag(J_r^-1(omega_j), I).
template <typename S>
void turn_prior(const MapPerson<S>& person, const MapBody<S>& body, MapModel<S>& model) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  for (int l = 0; l < T; l += W) {
    V omega[3], A[9];
    for (int i = 0; i < 3; ++i) omega[i] = V::load(body.omega + i * T + l);
    math::right_jacobian_inverse(omega, V::load(body.slope + l), A);
    for (int e = 0; e < 9; ++e) A[e].store(model.A + e * T + l);
  }
  for (int i = 0; i < kMapUnknowns; ++i) {
    const S* P = person.shared.precision + i * kMapPadded;
    S* out = model.right + i * kMapPadded;
    for (int c = 0; c < 3; ++c)
      for (int l = 0; l < T; l += W) {
        V sum(0);
        for (int a = 0; a < 3; ++a)
          sum += V::load(P + a * kJoints + l) * V::load(model.A + (3 * a + c) * T + l);
        sum.store(out + c * kJoints + l);
      }
    for (int j = kMapTurns; j < kMapPadded; ++j) out[j] = P[j];
  }
  for (int c = 0; c < 3; ++c)
    for (int l = 0; l < T; l += W) {
      V sum(0);
      for (int a = 0; a < 3; ++a)
        sum += V::load(model.A + (3 * a + c) * T + l) * V::load(body.pull + a * kJoints + l);
      sum.store(model.gradient + c * kJoints + l);
    }
  for (int j = kMapTurns; j < kMapPadded; ++j) model.gradient[j] = body.pull[j];
}

// H = A^T P A, rows of the identity below.
template <typename S>
void begin_with_prior(const MapPerson<S>& person, const MapBody<S>& body, MapModel<S>& model) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  turn_prior(person, body, model);
  for (int c = 0; c < 3; ++c)
    for (int m = 0; m < kJoints; ++m) {
      const int row = c * kJoints + m;
      const S* A = model.A + c * kStride<S> + m;
      const V left[3] = {V(A[0]), V(A[3 * kStride<S>]), V(A[6 * kStride<S>])};
      for (int j = row / kPanel * kPanel / W * W; j < kMapPadded; j += W) {
        V sum(0);
        for (int a = 0; a < 3; ++a)
          sum += left[a] * V::load(model.right + (a * kJoints + m) * kMapPadded + j);
        sum.store(model.H + row * kMapPadded + j);
      }
    }
  for (int i = kMapTurns; i < kSystemRows; ++i)
    for (int j = 0; j < kMapPadded; ++j)
      model.H[i * kMapPadded + j] = i < kMapUnknowns ? model.right[i * kMapPadded + j] : S(i == j);
}

// What may not move: a row and a column of the identity, no gradient.
template <typename S>
void hold_fixed(const MapShared<S>& shared, MapModel<S>& model) {
  for (int i = 0; i < kMapUnknowns; ++i) {
    for (int j = i; j < kMapUnknowns; ++j)
      if (shared.is_fixed[i] || shared.is_fixed[j]) model.H[i * kMapPadded + j] = S(i == j);
    if (shared.is_fixed[i]) model.gradient[i] = S(0);
  }
}

// Half the gradient of the energy and its Gauss-Newton Hessian at a measured body.
template <typename S>
void make_model(const MapPerson<S>& person, const MapBody<S>& body, MapModel<S>& model) {
  begin_with_prior(person, body, model);
  shape_chain(person, body, model);
  model.count = 0;
  for (int64_t s = 0; s < person.in.sources; ++s) append_source(person, body, s, model);
  square_rows(model);
  if (person.shared.has_fixed) hold_fixed(person.shared, model);
}

}  // namespace EFT_ISA
}  // namespace eft_fast
