// What the kernels of the mesh share: the order of the sum over coefficients, and the joints that
// move a vertex.
#pragma once

#include "../math/blend.h"
#include "mesh.h"
#include "warp_chain.h"

namespace eft_fast {

constexpr int kTileRow = 3 * 16;  // values of one coefficient in one tile of the plan
constexpr int kBlockVertices = 32;
constexpr int kChunk = 16;  // coefficients per stage of a pipeline
constexpr int kChunks = (kCoefficients + kChunk - 1) / kChunk;

// The sum over coefficients is four sums, added in order, in both float32 kernels: a person's bits
// do not depend on how many people there are. A quarter starts at chunk 0, 4, 8 and 11.
constexpr int kQuarters = 4;
EFT_HD constexpr int quarter_start(int quarter) {
  return quarter == kQuarters ? kChunks : quarter * 4 - (quarter == 3);
}

// The joints that move one vertex, read once for all people; bodies with more than four per vertex
// read the rest each time. index runs over all padded vertices; A holds the 24 transforms of a
// person and starts at a multiple of 16 bytes.
template <typename T>
struct VertexBones {
  static constexpr int kHeld = 4;
  int64_t first;
  T weight[kHeld];
  int bone[kHeld];

  __device__ VertexBones(const MeshInputs<T>& in, int64_t index)
      : first(index / 16 * in.slots * 16 + index % 16) {
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      const bool is_there = s < in.slots;
      weight[s] = is_there ? in.slot_weight[first + s * 16] : T(0);
      bone[s] = is_there ? in.slot_idx[first + s * 16] * kTransform : 0;
    }
  }

  static __device__ void add(const T* bone, T weight, T (&blended)[kTransform]) {
#pragma unroll
    for (int i = 0; i < kTransform; i += 4) {
      const Four<T> row = load_four(bone + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) blended[i + e] += weight * row.at[e];
    }
  }

  // All lanes of the warp come here together; a slot that none of them uses costs nothing.
  __device__ void blend(const MeshInputs<T>& in, const T* A, T (&blended)[kTransform]) const {
#pragma unroll
    for (int s = 0; s < kHeld; ++s) {
      if (__any_sync(kAllLanes, weight[s] != T(0))) add(A + bone[s], weight[s], blended);
    }
    for (int64_t s = kHeld; s < in.slots; ++s) {
      add(A + in.slot_idx[first + s * 16] * kTransform, in.slot_weight[first + s * 16], blended);
    }
  }

  __device__ void skin(const MeshInputs<T>& in,
                       const T* A,
                       const T (&posed)[3],
                       T (&out)[3]) const {
    T blended[kTransform] = {};
    blend(in, A, blended);
    math::apply_transform(blended, posed, out);
  }
};

template <typename T>
struct MeshOutputs {
  const T* transforms;    // [B][24][12]
  const T* coefficients;  // [ceil(B/16)][218][16]
  T* posed;               // [B][tiles][3][16] or null
  T* vertices;            // [B][V][3]
};

// Transforms of `count` people from `first` on, to shared memory.
template <typename T>
__device__ inline void load_transforms(
    const MeshInputs<T>& in, const MeshOutputs<T>& out, int64_t first, int count, T* target) {
  const int64_t values = kJoints * kTransform;
  const int64_t known = min(static_cast<int64_t>(count), in.num_bodies - first) * values;
  for (int64_t i = threadIdx.x; i < count * values; i += blockDim.x) {
    target[i] = i < known ? out.transforms[first * values + i] : T(0);
  }
}

// mesh_tiles.cu. For many people; both take any number.
void launch_float32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream);
void launch_three_tf32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream);

}  // namespace eft_fast
