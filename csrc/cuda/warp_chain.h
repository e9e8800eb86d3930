// The kinematic chain of one body in one warp: lane j holds joint j, lanes 24..31 only take part in
// the exchanges. Joints of one depth move together, so SMPL takes 8 steps instead of 23.
#pragma once

#include "../math/rotation.h"
#include "../math/transform.h"
#include "launch.h"

namespace eft_fast {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kTransform = 12;               // values of one joint's [G | a], row-major 3x4
constexpr int kPerson = 16;                  // people per tile of the coefficients
constexpr int kChainScratch = kJoints * 15;  // values of shared memory that the backward wants

// Coefficient k of person b: tiles of 16 people, so that kernels load 16 neighbours at once.
__device__ inline int64_t coefficient_index(int64_t b, int k) {
  return ((b / kPerson) * kCoefficients + k) * kPerson + b % kPerson;
}

template <typename T, int n>
__device__ inline void read_lane(const T (&in)[n], int lane, T (&out)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) out[i] = __shfl_sync(kAllLanes, in[i], lane);
}

// Sum over the lanes, the same bits in each: a fixed tree.
template <typename T>
__device__ inline T sum_lanes(T x) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) x += __shfl_xor_sync(kAllLanes, x, flip);
  return x;
}

// What a lane knows of its joint; R, G 3x3 row-major, g and J in metres.
template <typename T>
struct JointLane {
  bool is_joint;
  int parent;   // the lane itself at the root and beyond the joints
  int depth;    // 0 at the root, -1 beyond the joints
  int deepest;  // of the body
  T R[9], G[9], g[3], J[3], offset[3];
};

// G_j, g_j and J_j of one body. pose: 24 joints in one of the three forms.
template <typename T>
__device__ void chain_forward(const int32_t* parents,
                              const T* skeleton,
                              const T* betas,
                              const T* pose,
                              int form,
                              JointLane<T>& q) {
  const int lane = threadIdx.x % 32;
  q.is_joint = lane < kJoints;
  const int joint = q.is_joint ? lane : 0;
  const int parent = parents[joint];
  q.parent = q.is_joint && parent >= 0 ? parent : lane;
  q.depth = q.is_joint ? 0 : -1;
  // One step towards the root per round; the root steps onto itself.
  for (int at = q.parent, before = lane;;) {
    const bool moves = q.is_joint && at != before;
    q.depth += moves;
    if (!__any_sync(kAllLanes, moves)) break;
    before = at;
    at = __shfl_sync(kAllLanes, q.parent, at);
  }
  q.deepest = q.depth;
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) {
    q.deepest = max(q.deepest, __shfl_xor_sync(kAllLanes, q.deepest, flip));
  }

  math::pose_to_matrix(form, pose + joint * form, q.R);
  math::rest_joint(skeleton + joint * 3 * kSkeletonRow, betas, q.J);
  T Jp[3];
  read_lane(q.J, q.parent, Jp);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    q.offset[i] = q.J[i] - Jp[i];
    q.g[i] = q.J[i];
  }
#pragma unroll
  for (int i = 0; i < 9; ++i) q.G[i] = q.R[i];
  for (int level = 1; level <= q.deepest; ++level) {
    T Gp[9], gp[3];
    read_lane(q.G, q.parent, Gp);
    read_lane(q.g, q.parent, gp);
    if (q.depth == level) math::chain_step(Gp, gp, q.R, q.offset, q.G, q.g);
  }
}

// In: gG, gg (gradients of G and g), gJ (what already reached the rest joints). Out: gR; gJ
// complete. A parent adds its children in index order. scratch: kChainScratch values of this warp.
template <typename T>
__device__ void chain_backward(
    const JointLane<T>& q, T* scratch, T (&gG)[9], T (&gg)[3], T (&gJ)[3], T (&gR)[9]) {
  const int lane = threadIdx.x % 32;
  unsigned children = 0;
#pragma unroll
  for (int j = 1; j < kJoints; ++j) {
    children |= static_cast<unsigned>(__shfl_sync(kAllLanes, q.parent, j) == lane) << j;
  }
  T Gp[9];
  read_lane(q.G, q.parent, Gp);
  for (int level = q.deepest; level >= 1; --level) {
    if (q.depth == level) {
      T up[15] = {};  // gG, gg and gJ for the parent
      T g_offset[3];
      math::chain_step_backward(Gp, q.R, q.offset, gG, gg, gR, up, up + 9, g_offset);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        gJ[i] += g_offset[i];
        up[12 + i] = -g_offset[i];
      }
#pragma unroll
      for (int i = 0; i < 15; ++i) scratch[lane * 15 + i] = up[i];
    }
    __syncwarp();
    if (q.depth == level - 1) {
      for (int j = 1; j < kJoints; ++j) {
        if (!(children >> j & 1)) continue;
        const T* up = scratch + j * 15;
#pragma unroll
        for (int i = 0; i < 9; ++i) gG[i] += up[i];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          gg[i] += up[9 + i];
          gJ[i] += up[12 + i];
        }
      }
    }
    __syncwarp();
  }
  if (q.depth == 0) {
#pragma unroll
    for (int i = 0; i < 9; ++i) gR[i] = gG[i];
#pragma unroll
    for (int i = 0; i < 3; ++i) gJ[i] += gg[i];
  }
}

// From the gradients of the lane's transform [G | a], of its joint g and of the coefficients to
// those of betas and pose. gA is 3x4 row-major and ends up used as scratch.
template <typename T, typename Coefficient>
__device__ void finish_backward(const JointLane<T>& q,
                                T* scratch,
                                const T* skeleton,
                                const T* pose,
                                int form,
                                const T (&gA)[kTransform],
                                const T (&g_joint)[3],
                                Coefficient gc,
                                T* g_betas,
                                T* g_pose) {
  const int lane = threadIdx.x % 32;
  const int joint = q.is_joint ? lane : 0;
  T g3[9], ga[3], gG[9], gg[3], gJ[3], gR[9];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
#pragma unroll
    for (int k = 0; k < 3; ++k) g3[3 * i + k] = gA[4 * i + k];
    ga[i] = gA[4 * i + 3];
    gg[i] = ga[i] + g_joint[i];
  }
  math::skin_translation_backward(q.G, q.J, g3, ga, gG, gJ);
  chain_backward(q, scratch, gG, gg, gJ, gR);
  T from_rest[kBetas] = {};
  if (q.is_joint) {
    if (lane > 0) {
#pragma unroll
      for (int i = 0; i < 9; ++i) gR[i] += gc(1 + kBetas + 9 * (lane - 1) + i);
    }
    T g[9];
    math::pose_to_matrix_backward(form, pose + joint * form, gR, g);
#pragma unroll
    for (int i = 0; i < 9; ++i) {
      if (i < form) g_pose[joint * form + i] = g[i];
    }
    math::rest_joint_backward(skeleton + joint * 3 * kSkeletonRow, gJ, from_rest);
  }
#pragma unroll
  for (int k = 0; k < kBetas; ++k) {
    const T sum = sum_lanes(from_rest[k]);
    if (lane == k) g_betas[k] = sum + gc(1 + k);
  }
}

}  // namespace eft_fast
