// One person's state, body and energy. Vectors run over joints, or over the numbers of a row.
#pragma once

#include "map_system.h"
//
#include "../../math/transform.h"
#include "../kernels.h"

namespace eft_fast {
namespace EFT_ISA {

EFT_INLINE Vec<float> arc_tangent(Vec<float> y, Vec<float> x) {
  Vec<float> out;
  for (int i = 0; i < kLanes<float>; ++i) out.v[i] = __builtin_atan2f(y.v[i], x.v[i]);
  return out;
}

EFT_INLINE Vec<double> arc_tangent(Vec<double> y, Vec<double> x) {
  Vec<double> out;
  for (int i = 0; i < kLanes<double>; ++i) out.v[i] = __builtin_atan2(y.v[i], x.v[i]);
  return out;
}

// Joints side by side, number e of joint j at e * kStride + j; the padding belongs to nobody.
template <typename S>
constexpr int kStride = (kJoints + kLanes<S> - 1) / kLanes<S> * kLanes<S>;
// A vector that begins at joint 16 of a tight row of 24 reaches this far beyond it.
constexpr int kSpill = 16;
constexpr int kShapePadded = 16;

// What all people share, made once per call.
template <typename S>
struct MapShared {
  alignas(64) S precision[kMapUnknowns * kMapPadded];  // in the solver's order
  alignas(64) S below[kJoints][kStride<S>];            // 1 where the column is the row or above it
  alignas(64) S skeleton[kSkeletonRow][3 * kStride<S>];
  alignas(64) S directions[kJoints][3][kShapePadded];
  bool is_fixed[kMapPadded];
  bool has_fixed;
  // Terms and joint terms by source: those of s at begin[s]..begin[s + 1].
  int32_t *term, *term_begin, *joint, *joint_begin;
};

template <typename S>
struct MapBody {
  alignas(64) S turn[4 * kStride<S>];  // quaternions since the start
  S betas[kShapePadded], cam[4];
  alignas(64) S R[9 * kStride<S>], world[9 * kStride<S>], place[3 * kStride<S>],
      rest[3 * kStride<S>], omega[3 * kStride<S>], slope[kStride<S>];
  S G[kJoints][9], g[kJoints][3], shift[kJoints][3];
  alignas(64) S c[kMapRow + kSpill];
  alignas(64) S x[kMapPadded + kSpill], pull[kMapPadded];  // place about the centre, P x
  S *y, *moved, *points;                                   // [R,3], [N,3], [S,3]
  double energy, data;
};

// What a source should be: the outputs of one source share a weight and a mean target.
template <typename S>
struct MapTarget {
  S weight, u[2], weight3d, X[3];
};

template <typename S>
struct MapPerson {
  const cpu::MapProblem<S>& in;
  const MapShared<S>& shared;
  int64_t b;
  S frame;
  const S* pinhole;
  MapTarget<S>* target;                                // [S]
  double spread;                                       // what the means of the targets leave out
  alignas(64) S R[9 * kStride<S>], q[4 * kStride<S>];  // of the start; q about the centre
};

// Weighted means of the outputs of each source, and the energy about them.
template <typename S>
void gather_targets(MapPerson<S>& person) {
  const cpu::MapProblem<S>& in = person.in;
  for (int64_t s = 0; s < in.sources; ++s) person.target[s] = {};
  person.spread = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t k = 0; k < in.outputs; ++k) {
      MapTarget<S>& target = person.target[in.output_index[k]];
      const S* uv = in.keypoints + (person.b * in.outputs + k) * 3;
      const S* xyz = in.points3d ? in.points3d + (person.b * in.outputs + k) * 4 : nullptr;
      if (uv[2] > S(0)) {
        if (pass == 0) target.weight += uv[2];
        for (int i = 0; i < 2; ++i) {
          if (pass == 0) target.u[i] += uv[2] * uv[i];
          const double off = uv[i] - target.u[i];
          if (pass == 1) person.spread += uv[2] * off * off;
        }
      }
      if (xyz && xyz[3] > S(0)) {
        if (pass == 0) target.weight3d += xyz[3];
        for (int i = 0; i < 3; ++i) {
          if (pass == 0) target.X[i] += xyz[3] * xyz[i];
          const double off = xyz[i] - target.X[i];
          if (pass == 1) person.spread += xyz[3] * off * off;
        }
      }
    }
    for (int64_t s = 0; pass == 0 && s < in.sources; ++s) {
      MapTarget<S>& target = person.target[s];
      if (target.weight > S(0))
        for (int i = 0; i < 2; ++i) target.u[i] = target.u[i] / target.weight;
      if (target.weight3d > S(0))
        for (int i = 0; i < 3; ++i) target.X[i] = target.X[i] / target.weight3d;
    }
  }
}

// Start rotations and their quaternions about the centre of the prior.
template <typename S>
void load_person(MapPerson<S>& person, MapBody<S>& body) {
  const cpu::MapProblem<S>& in = person.in;
  const S* start = in.begin.rotmat + person.b * kJoints * 9;
  const S* centre = in.centre.rotmat + person.b * kJoints * 9;
  for (int j = 0; j < kStride<S>; ++j) {
    const bool is_joint = j < kJoints;
    S q[4] = {S(1), S(0), S(0), S(0)};
    if (is_joint && start != centre) {
      S between[9];
      for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k) {
          S sum(0);
          for (int e = 0; e < 3; ++e) sum += centre[9 * j + 3 * e + i] * start[9 * j + 3 * e + k];
          between[3 * i + k] = sum;
        }
      math::matrix_to_quaternion(between, q);
    }
    for (int e = 0; e < 4; ++e) {
      person.q[e * kStride<S> + j] = q[e];
      body.turn[e * kStride<S> + j] = S(e == 0);
    }
    for (int e = 0; e < 9; ++e) person.R[e * kStride<S> + j] = is_joint ? start[9 * j + e] : S(0);
  }
  for (int k = 0; k < kShapePadded; ++k)
    body.betas[k] = k < kBetas ? in.begin.betas[person.b * kBetas + k] : S(0);
  for (int i = 0; i < 3; ++i) body.cam[i] = in.begin.cam[3 * person.b + i];
  person.frame = in.frame[person.b];
  person.pinhole = in.pinhole ? in.pinhole + 4 * person.b : nullptr;
  gather_targets(person);
}

// Rotations, their place about the centre, and rest joints: lanes = joints.
template <typename S>
void turn_joints(const MapPerson<S>& person, MapBody<S>& body) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  for (int l = 0; l < T; l += W) {
    V turn[4], q[4], both[4], R[9], step[9], out[9], omega[3];
    for (int e = 0; e < 4; ++e) {
      turn[e] = V::load(body.turn + e * T + l);
      q[e] = V::load(person.q + e * T + l);
    }
    for (int e = 0; e < 9; ++e) R[e] = V::load(person.R + e * T + l);
    math::quaternion_to_matrix(turn, step);
    math::multiply3x3(R, step, out);
    for (int e = 0; e < 9; ++e) out[e].store(body.R + e * T + l);
    math::multiply_quaternions(q, turn, both);
    math::quaternion_log(both, omega).store(body.slope + l);
    for (int e = 0; e < 3; ++e) omega[e].store(body.omega + e * T + l);
    for (int i = 0; i < 3; ++i) {
      V sum = V::load(person.shared.skeleton[0] + i * T + l);
      for (int k = 0; k < kBetas; ++k)
        sum += V(body.betas[k]) * V::load(person.shared.skeleton[1 + k] + i * T + l);
      sum.store(body.rest + i * T + l);
    }
  }
}

// The chain, joint by joint, and its numbers again with the joints side by side.
template <typename S>
void run_chain(const MapPerson<S>& person, MapBody<S>& body) {
  constexpr int T = kStride<S>;
  for (int j = 0; j < kJoints; ++j) {
    const int p = person.in.parents[j];
    S R[9], rest[3], offset[3];
    for (int e = 0; e < 9; ++e) R[e] = body.R[e * T + j];
    for (int i = 0; i < 3; ++i) rest[i] = body.rest[i * T + j];
    if (p < 0) {
      for (int e = 0; e < 9; ++e) body.G[j][e] = R[e];
      for (int i = 0; i < 3; ++i) body.g[j][i] = rest[i];
    } else {
      for (int i = 0; i < 3; ++i) offset[i] = rest[i] - body.rest[i * T + p];
      math::chain_step(body.G[p], body.g[p], R, offset, body.G[j], body.g[j]);
    }
    S turned[3];
    math::rotate(body.G[j], rest, turned);
    for (int i = 0; i < 3; ++i) body.shift[j][i] = body.g[j][i] - turned[i];
    for (int e = 0; e < 9; ++e) body.world[e * T + j] = body.G[j][e];
    for (int i = 0; i < 3; ++i) body.place[i * T + j] = body.g[j][i];
  }
}

// c in the order of the plan's rows.
template <typename S>
void fill_coefficients(MapBody<S>& body) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>;
  for (int e = 0; e < 9; ++e)
    for (int l = 0; l < T; l += W)
      (V::load(body.R + e * T + l) - V(e % 4 == 0 ? 1 : 0)).store(body.c + e * kJoints + l);
  for (int k = 0; k < kBetas; ++k) body.c[kMapShape + k] = body.betas[k];
  body.c[kMapTemplate] = S(1);
  for (int k = kMapTemplate + 1; k < kMapRow; ++k) body.c[k] = S(0);
}

// y[r] = D_r c for every row, two rows at a time so that no sum waits for its last addition.
template <typename S>
void multiply_rows(const cpu::MapProblem<S>& in, MapBody<S>& body) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>;
  const int64_t count = 3 * in.rows;
  for (int64_t first = 0; first < count; first += 6) {
    const int n = count - first < 6 ? 3 : 6;
    const S* data = in.row_data + first * kMapRow;
    V sum[6];
    for (int i = 0; i < 6; ++i) sum[i] = V(0);
    if (n == 6) {
      for (int k = 0; k < kMapRow; k += W) {
        const V c = V::load(body.c + k);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) sum[i] += c * V::load(data + i * kMapRow + k);
      }
    } else {
      for (int k = 0; k < kMapRow; k += W) {
        const V c = V::load(body.c + k);
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) sum[i] += c * V::load(data + i * kMapRow + k);
      }
    }
    for (int i = 0; i < n; ++i) body.y[first + i] = lane_sum(sum[i]);
  }
}

// Sources from their terms and joints, each term kept for the derivatives.
template <typename S>
void place_points(const MapPerson<S>& person, MapBody<S>& body) {
  const cpu::MapProblem<S>& in = person.in;
  for (int64_t i = 0; i < 3 * in.sources; ++i) body.points[i] = S(0);
  for (int64_t t = 0; t < in.terms; ++t) {
    const int32_t* index = in.term_index + 3 * t;
    const S alpha = in.term_weight[2 * t], omega = in.term_weight[2 * t + 1];
    S turned[3];
    math::rotate(body.G[index[1]], body.y + 3 * index[0], turned);
    for (int i = 0; i < 3; ++i) {
      body.moved[3 * t + i] = alpha * turned[i] + omega * body.shift[index[1]][i];
      body.points[3 * index[2] + i] += body.moved[3 * t + i];
    }
  }
  for (int64_t m = 0; m < in.joint_terms; ++m) {
    const int32_t* index = in.joint_index + 2 * m;
    for (int i = 0; i < 3; ++i)
      body.points[3 * index[1] + i] += in.joint_weight[m] * body.g[index[0]][i];
  }
}

// Sums of squares are kept in double: an energy is compared with one that differs by 1e-5 of it.
template <typename S>
double data_energy(const MapPerson<S>& person, const MapBody<S>& body) {
  double sum = person.spread;
  for (int64_t s = 0; s < person.in.sources; ++s) {
    const MapTarget<S>& target = person.target[s];
    if (target.weight != S(0)) {
      const math::MapImage<S> image =
          math::map_project(body.cam, person.frame, person.pinhole, body.points + 3 * s);
      for (int i = 0; i < 2; ++i) {
        const double error = image.u[i] - target.u[i];
        sum += target.weight * error * error;
      }
    }
    if (target.weight3d != S(0)) {
      for (int i = 0; i < 3; ++i) {
        const double error = body.points[3 * s + i] - target.X[i];
        sum += target.weight3d * error * error;
      }
    }
  }
  return sum;
}

// x, P x and x^T P x.
template <typename S>
double prior_energy(const MapPerson<S>& person, MapBody<S>& body) {
  using V = Vec<S>;
  constexpr int W = kLanes<S>, T = kStride<S>, kStep = 6;
  const cpu::MapProblem<S>& in = person.in;
  const S* cam0 = in.centre.cam + 3 * person.b;
  for (int c = 0; c < 3; ++c)
    for (int l = 0; l < T; l += W) V::load(body.omega + c * T + l).store(body.x + c * kJoints + l);
  for (int k = 0; k < kBetas; ++k)
    body.x[kMapTurns + k] = body.betas[k] - in.centre.betas[person.b * kBetas + k];
  body.x[kMapScale] = math::logarithm(body.cam[0] / cam0[0]);
  for (int i = 1; i < 3; ++i) body.x[kMapScale + i] = (body.cam[i] - cam0[i]) / person.frame;
  for (int k = kMapUnknowns; k < kMapPadded; ++k) body.x[k] = S(0);
  for (int first = 0; first < kMapPadded; first += kStep * W) {
    V sum[kStep];
    for (int v = 0; v < kStep; ++v) sum[v] = V(0);
    for (int i = 0; i < kMapUnknowns; ++i) {
      const S* row = person.shared.precision + i * kMapPadded + first;
      const V factor(body.x[i]);
#pragma GCC unroll 6
      for (int v = 0; v < kStep; ++v) sum[v] += factor * V::load(row + v * W);
    }
    for (int v = 0; v < kStep; ++v) sum[v].store(body.pull + first + v * W);
  }
  double energy = 0;
  for (int i = 0; i < kMapUnknowns; ++i) energy += static_cast<double>(body.x[i]) * body.pull[i];
  return energy;
}

// From a state to its body and energies.
template <typename S>
void measure_body(const MapPerson<S>& person, MapBody<S>& body) {
  turn_joints(person, body);
  run_chain(person, body);
  fill_coefficients(body);
  multiply_rows(person.in, body);
  place_points(person, body);
  body.data = data_energy(person, body);
  body.energy = body.data + prior_energy(person, body);
}

}  // namespace EFT_ISA
}  // namespace eft_fast
