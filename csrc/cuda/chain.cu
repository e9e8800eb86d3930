// Forward kinematics and its backward for the mesh: one warp per body.
#include "mesh.h"
#include "warp_chain.h"

namespace eft_fast {
namespace {

constexpr int kBodies = 4;  // warps per block

template <typename T>
__global__ void chain_kernel(int64_t num_bodies,
                             int form,
                             const int32_t* parents,
                             const T* skeleton,
                             const T* betas,
                             const T* pose,
                             const T* transl,
                             T* transforms,
                             T* coefficients,
                             T* joints) {
  const int lane = threadIdx.x % 32;
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBodies + threadIdx.x / 32;
  if (b >= num_bodies) return;
  JointLane<T> q;
  chain_forward(parents, skeleton, betas + b * kBetas, pose + b * kJoints * form, form, q);
  if (lane == 0) coefficients[coefficient_index(b, 0)] = T(1);
  if (lane < kBetas) coefficients[coefficient_index(b, 1 + lane)] = betas[b * kBetas + lane];
  if (!q.is_joint) return;
  if (lane > 0) {
#pragma unroll
    for (int i = 0; i < 9; ++i) {
      const int k = 1 + kBetas + 9 * (lane - 1) + i;
      coefficients[coefficient_index(b, k)] = q.R[i] - T(i % 4 == 0);
    }
  }
  T a[3];
  math::skin_translation(q.G, q.g, q.J, a);
  T* A = transforms + (b * kJoints + lane) * kTransform;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
#pragma unroll
    for (int k = 0; k < 3; ++k) A[4 * i + k] = q.G[3 * i + k];
    A[4 * i + 3] = a[i];
    joints[(b * kJoints + lane) * 3 + i] = q.g[i] + (transl ? transl[b * 3 + i] : T(0));
  }
}

template <typename T>
__global__ void chain_backward_kernel(int64_t num_bodies,
                                      int64_t chunks,
                                      int64_t splits,
                                      int form,
                                      const int32_t* parents,
                                      const T* skeleton,
                                      const T* betas,
                                      const T* pose,
                                      const T* g_joints,
                                      const T* chunk_sums,
                                      const T* split_sums,
                                      T* g_betas,
                                      T* g_pose,
                                      T* g_transl) {
  EFT_SHARED(T, gc_all, kBodies * kCoefficients);
  EFT_SHARED(T, scratch_all, kBodies * kChainScratch);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kBodies + warp;
  if (b >= num_bodies) return;
  JointLane<T> q;
  chain_forward(parents, skeleton, betas + b * kBetas, pose + b * kJoints * form, form, q);

  // Second halves of the sums over vertices, in the order of the splits and of the chunks.
  T* gc = gc_all + warp * kCoefficients;
  constexpr int kPerLane = (kCoefficients + 31) / 32;
  const T* const parts = split_sums + b * splits * kCoefficients;
  T total[kPerLane] = {};
#pragma unroll 3
  for (int64_t s = 0; s < splits; ++s) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int k = lane + 32 * j;
      if (k < kCoefficients) total[j] += parts[s * kCoefficients + k];
    }
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (lane + 32 * j < kCoefficients) gc[lane + 32 * j] = total[j];
  }
  __syncwarp();
  const T* const sums = chunk_sums + b * chunks * kChunkSums;
  T gA[kTransform] = {}, g_joint[3] = {};
  for (int64_t chunk = 0; chunk < chunks && q.is_joint; ++chunk) {
#pragma unroll
    for (int i = 0; i < kTransform; i += 4) {
      const Four<T> more = load_four(sums + chunk * kChunkSums + lane * kTransform + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) gA[i + e] += more.at[e];
    }
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (q.is_joint && g_joints) g_joint[i] = g_joints[(b * kJoints + lane) * 3 + i];
    T sum = sum_lanes(g_joint[i]);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      sum += sums[chunk * kChunkSums + kJoints * kTransform + i];
    }
    if (lane == i) g_transl[b * 3 + i] = sum;
  }
  finish_backward(
      q,
      scratch_all + warp * kChainScratch,
      skeleton,
      pose + b * kJoints * form,
      form,
      gA,
      g_joint,
      [gc](int k) { return gc[k]; },
      g_betas + b * kBetas,
      g_pose + b * kJoints * form);
}

unsigned blocks_for(int64_t num_bodies) { return grid_of(divide_up(num_bodies, kBodies)); }

}  // namespace

template <typename T>
void launch_chain(
    const MeshInputs<T>& in, T* transforms, T* coefficients, T* joints, void* stream) {
  EFT_LAUNCH((chain_kernel<T>),
             blocks_for(in.num_bodies),
             kBodies * 32,
             0,
             stream,
             in.num_bodies,
             static_cast<int>(in.form),
             in.parents,
             in.skeleton,
             in.betas,
             in.pose,
             in.transl,
             transforms,
             coefficients,
             joints);
}

template <typename T>
void launch_chain_backward(const MeshInputs<T>& in,
                           const T* g_joints,
                           const T* chunk_sums,
                           const T* split_sums,
                           T* g_betas,
                           T* g_pose,
                           T* g_transl,
                           void* stream) {
  EFT_LAUNCH((chain_backward_kernel<T>),
             blocks_for(in.num_bodies),
             kBodies * 32,
             0,
             stream,
             in.num_bodies,
             chunks_of(in.num_vertices),
             splits_of(in.num_vertices),
             static_cast<int>(in.form),
             in.parents,
             in.skeleton,
             in.betas,
             in.pose,
             g_joints,
             chunk_sums,
             split_sums,
             g_betas,
             g_pose,
             g_transl);
}

template void launch_chain(const MeshInputs<float>&, float*, float*, float*, void*);
template void launch_chain(const MeshInputs<double>&, double*, double*, double*, void*);
template void launch_chain_backward(const MeshInputs<float>&,
                                    const float*,
                                    const float*,
                                    const float*,
                                    float*,
                                    float*,
                                    float*,
                                    void*);
template void launch_chain_backward(const MeshInputs<double>&,
                                    const double*,
                                    const double*,
                                    const double*,
                                    double*,
                                    double*,
                                    double*,
                                    void*);

}  // namespace eft_fast
