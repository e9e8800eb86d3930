// W people side by side: inputs into lanes, kinematics, and the way back.
#pragma once

#include "vec.h"
//
#include "../../math/rotation.h"
#include "../../math/transform.h"
#include "../kernels.h"

namespace eft_fast {
namespace EFT_ISA {

// Lane l of out[i] = value i of person b0 + l; lanes without a person hold 0.
template <typename S>
EFT_INLINE void load_lanes(const S* data, int64_t count, int64_t b0, int n, Vec<S>* out) {
  constexpr int W = kLanes<S>;
  if (n < W)
    for (int64_t i = 0; i < count; ++i) out[i] = Vec<S>(0);
  S* lanes = reinterpret_cast<S*>(out);
  for (int l = 0; l < n; ++l) {
    const S* person = data + (b0 + l) * count;
    for (int64_t i = 0; i < count; ++i) lanes[i * W + l] = person[i];
  }
}

template <typename S>
EFT_INLINE void store_lanes(const Vec<S>* in, int64_t count, int64_t b0, int n, S* data) {
  constexpr int W = kLanes<S>;
  const S* lanes = reinterpret_cast<const S*>(in);
  for (int l = 0; l < n; ++l) {
    S* person = data + (b0 + l) * count;
    for (int64_t i = 0; i < count; ++i) person[i] = lanes[i * W + l];
  }
}

template <typename S>
struct Group {
  int64_t b0;
  int n;
  Vec<S> betas[kBetas], transl[3], pose[kJoints * 9];
  math::Chain<Vec<S>> chain;
};

constexpr int kColumnsPadded = 224;  // columns of basis_t: kCoefficients, padded

// Gradients that the chain's users collect: of G and a in the skinning, of the posed joints, of c.
template <typename S>
struct GroupGradients {
  Vec<S> G[kJoints][9], a[kJoints][3], joints[kJoints][3], transl[3];
  Vec<S> c[kColumnsPadded];  // kCoefficients of them count
};

template <typename S>
EFT_INLINE int group_size(int64_t people, int64_t b0) {
  const int64_t left = people - b0;
  return left < kLanes<S> ? static_cast<int>(left) : kLanes<S>;
}

template <typename S>
void pose_group(const cpu::BodyInputs<S>& in, int64_t b0, Group<S>& q) {
  q.b0 = b0;
  q.n = group_size<S>(in.people, b0);
  load_lanes(in.betas, kBetas, b0, q.n, q.betas);
  load_lanes(in.pose, kJoints * in.form, b0, q.n, q.pose);
  if (in.transl) {
    load_lanes(in.transl, 3, b0, q.n, q.transl);
  } else {
    for (int i = 0; i < 3; ++i) q.transl[i] = Vec<S>(0);
  }
  for (int j = 0; j < kJoints; ++j) {
    math::pose_to_matrix(in.form, q.pose + j * in.form, q.chain.R[j]);
    math::rest_joint(in.skeleton + j * 3 * kSkeletonRow, q.betas, q.chain.J[j]);
  }
  math::forward_kinematics(in.parents, q.chain);
}

// c = [1, betas, vec(R_j - I)].
template <typename S>
void coefficients(const Group<S>& q, Vec<S>* c) {
  c[0] = Vec<S>(1);
  for (int k = 0; k < kBetas; ++k) c[1 + k] = q.betas[k];
  for (int j = 1; j < kJoints; ++j)
    for (int e = 0; e < 9; ++e)
      c[1 + kBetas + 9 * (j - 1) + e] = q.chain.R[j][e] - Vec<S>(e % 4 == 0 ? 1 : 0);
}

// From the collected gradients to those of betas, pose and transl, written for the group's people.
template <typename S>
void pose_group_backward(const cpu::BodyInputs<S>& in,
                         const Group<S>& q,
                         const GroupGradients<S>& g,
                         const cpu::BodyGradients<S>& out) {
  using V = Vec<S>;
  V gG[kJoints][9], gg[kJoints][3], gJ[kJoints][3], gR[kJoints][9];
  for (int j = 0; j < kJoints; ++j) {
    math::skin_translation_backward(q.chain.G[j], q.chain.J[j], g.G[j], g.a[j], gG[j], gJ[j]);
    for (int i = 0; i < 3; ++i) gg[j][i] = g.a[j][i] + g.joints[j][i];
  }
  math::forward_kinematics_backward(in.parents, q.chain, gG, gg, gJ, gR);
  V g_betas[kBetas], g_pose[kJoints * 9];
  for (int k = 0; k < kBetas; ++k) g_betas[k] = g.c[1 + k];
  for (int j = 0; j < kJoints; ++j) {
    math::rest_joint_backward(in.skeleton + j * 3 * kSkeletonRow, gJ[j], g_betas);
    for (int e = 0; j > 0 && e < 9; ++e) gR[j][e] += g.c[1 + kBetas + 9 * (j - 1) + e];
    math::pose_to_matrix_backward(in.form, q.pose + j * in.form, gR[j], g_pose + j * in.form);
  }
  store_lanes(g_betas, kBetas, q.b0, q.n, out.betas);
  store_lanes(g_pose, kJoints * in.form, q.b0, q.n, out.pose);
  if (out.transl) store_lanes(g.transl, 3, q.b0, q.n, out.transl);
}

// Groups whose kinematics are worth a thread.
constexpr int64_t kKinematicsGrain = 16;

// Calls f(item) for items begin..end of a pool's share.
template <typename F>
void for_each_item(const cpu::Pool& pool, int64_t count, int64_t grain, F& f) {
  pool.run(
      count,
      grain,
      [](void* context, int64_t begin, int64_t end) {
        F& call = *static_cast<F*>(context);
        for (int64_t i = begin; i < end; ++i) call(i);
      },
      &f);
}

}  // namespace EFT_ISA
}  // namespace eft_fast
