// The kinematic chain: rest joints, one step down the tree and back, and the transforms that move
// vertices.
//
// Letters: R_j local rotation, J_j rest joint, G_j and g_j world rotation and place of joint j, p
// its parent, a_j = g_j - G_j J_j the translation that skinning uses. 3x3 row-major; a 3x4
// transform is [G | a].
#pragma once

#include "scalar.h"

namespace eft_fast {

constexpr int kJoints = 24;
constexpr int kBetas = 10;
constexpr int kPoseFeatures = 207;                         // 9 entries of R_j - I, j = 1..23
constexpr int kCoefficients = 1 + kBetas + kPoseFeatures;  // c = [1, beta, vec(R_1 - I), ...]
constexpr int kSkeletonRow = 1 + kBetas;  // skeleton [24][3][11]: template, directions

namespace math {

// J_j = J_t + J_d beta; row points at the 3 x 11 values of the joint.
template <typename T, typename S>
EFT_HD void rest_joint(const S* row, const T* betas, T* J) {
  for (int c = 0; c < 3; ++c) {
    T sum = T(row[c * kSkeletonRow]);
    for (int k = 0; k < kBetas; ++k) sum += T(row[c * kSkeletonRow + 1 + k]) * betas[k];
    J[c] = sum;
  }
}

// g_betas += J_d^T gJ.
template <typename T, typename S>
EFT_HD void rest_joint_backward(const S* row, const T* gJ, T* g_betas) {
  for (int k = 0; k < kBetas; ++k)
    for (int c = 0; c < 3; ++c) g_betas[k] += T(row[c * kSkeletonRow + 1 + k]) * gJ[c];
}

// G_j = G_p R_j; g_j = g_p + G_p (J_j - J_p). offset = J_j - J_p.
template <typename T>
EFT_HD void chain_step(const T* Gp, const T* gp, const T* R, const T* offset, T* G, T* g) {
  multiply3x3(Gp, R, G);
  rotate(Gp, offset, g);
  for (int i = 0; i < 3; ++i) g[i] += gp[i];
}

// gR_j = G_p^T gG_j; gG_p += gG_j R_j^T + gg_j offset^T; gg_p += gg_j; g_offset = G_p^T gg_j.
template <typename T>
EFT_HD void chain_step_backward(const T* Gp,
                                const T* R,
                                const T* offset,
                                const T* gG,
                                const T* gg,
                                T* gR,
                                T* gGp,
                                T* ggp,
                                T* g_offset) {
  for (int i = 0; i < 3; ++i)
    for (int k = 0; k < 3; ++k) {
      gR[3 * i + k] = Gp[i] * gG[k] + Gp[3 + i] * gG[3 + k] + Gp[6 + i] * gG[6 + k];
      gGp[3 * i + k] += gG[3 * i] * R[3 * k] + gG[3 * i + 1] * R[3 * k + 1] +
                        gG[3 * i + 2] * R[3 * k + 2] + gg[i] * offset[k];
    }
  for (int i = 0; i < 3; ++i) ggp[i] += gg[i];
  rotate_transposed(Gp, gg, g_offset);
}

// a = g - G J.
template <typename T>
EFT_HD void skin_translation(const T* G, const T* g, const T* J, T* a) {
  rotate(G, J, a);
  for (int i = 0; i < 3; ++i) a[i] = g[i] - a[i];
}

// Gradients that arrive at the skinning transform, moved to the chain: gG = gA - ga J^T, gJ = -G^T
// ga. gA is 3x3, ga the gradient of a; the joint's own gradient is added to ga afterwards by the
// caller.
template <typename T>
EFT_HD void skin_translation_backward(
    const T* G, const T* J, const T* gA, const T* ga, T* gG, T* gJ) {
  for (int i = 0; i < 3; ++i)
    for (int k = 0; k < 3; ++k) gG[3 * i + k] = gA[3 * i + k] - ga[i] * J[k];
  rotate_transposed(G, ga, gJ);
  for (int i = 0; i < 3; ++i) gJ[i] = T(0) - gJ[i];
}

// One body's chain, joints in index order; parents[j] < j, parents[0] = -1.
template <typename T>
struct Chain {
  T R[kJoints][9], G[kJoints][9], g[kJoints][3], J[kJoints][3];
};

template <typename T>
EFT_HD void forward_kinematics(const int32_t* parents, Chain<T>& q) {
  for (int i = 0; i < 9; ++i) q.G[0][i] = q.R[0][i];
  for (int i = 0; i < 3; ++i) q.g[0][i] = q.J[0][i];
  for (int j = 1; j < kJoints; ++j) {
    const int p = parents[j];
    const T offset[3] = {q.J[j][0] - q.J[p][0], q.J[j][1] - q.J[p][1], q.J[j][2] - q.J[p][2]};
    chain_step(q.G[p], q.g[p], q.R[j], offset, q.G[j], q.g[j]);
  }
}

// In: gG, gg (gradients of G and g), gJ (what already reached the rest joints). Out: gR; gJ
// complete. Joints in descending order, so children come before their parents.
template <typename T>
EFT_HD void forward_kinematics_backward(
    const int32_t* parents, const Chain<T>& q, T (*gG)[9], T (*gg)[3], T (*gJ)[3], T (*gR)[9]) {
  for (int j = kJoints - 1; j > 0; --j) {
    const int p = parents[j];
    const T offset[3] = {q.J[j][0] - q.J[p][0], q.J[j][1] - q.J[p][1], q.J[j][2] - q.J[p][2]};
    T g_offset[3];
    chain_step_backward(q.G[p], q.R[j], offset, gG[j], gg[j], gR[j], gG[p], gg[p], g_offset);
    for (int i = 0; i < 3; ++i) {
      gJ[j][i] += g_offset[i];
      gJ[p][i] -= g_offset[i];
    }
  }
  for (int i = 0; i < 9; ++i) gR[0][i] = gG[0][i];
  for (int i = 0; i < 3; ++i) gJ[0][i] += gg[0][i];
}

}  // namespace math
}  // namespace eft_fast
