// What the kernels of the mesh forward share: the order of the sum, and the skinning of a result.
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

// The blended transform of one vertex moves it; a slot that no lane of the warp uses costs nothing.
// index runs over all padded vertices; A holds the 24 transforms of the person.
template <typename T>
__device__ inline void skin(const MeshInputs<T>& in,
                            int64_t index,
                            const T* A,
                            const T* transl,
                            const T (&posed)[3],
                            T (&out)[3]) {
  const int64_t first = index / 16 * in.slots * 16 + index % 16;
  T blended[kTransform] = {};
  for (int s = 0; s < in.slots; ++s) {
    const T weight = in.slot_weight[first + s * 16];
    if (!__any_sync(kAllLanes, weight != T(0))) continue;
    const T* bone = A + in.slot_idx[first + s * 16] * kTransform;
#pragma unroll
    for (int i = 0; i < kTransform; ++i) blended[i] += weight * bone[i];
  }
  math::apply_transform(blended, posed, out);
#pragma unroll
  for (int i = 0; i < 3; ++i) out[i] += transl[i];
}

template <typename T>
struct MeshOutputs {
  const T* transforms;    // [B][24][12]
  const T* coefficients;  // [ceil(B/16)][218][16]
  T* posed;               // [B][tiles][3][16] or null
  T* vertices;            // [B][V][3]
};

// Skins and stores one vertex of one person. All lanes of the warp come here together.
template <typename T>
__device__ inline void finish_vertex(const MeshInputs<T>& in,
                                     const MeshOutputs<T>& out,
                                     int64_t person,
                                     int64_t index,
                                     const T* A,
                                     const T (&posed)[3]) {
  const int64_t padded = tiles_of(in.num_vertices) * kTileVertices;
  const bool is_person = person < in.num_bodies;
  T transl[3] = {}, place[3];
  if (is_person && in.transl) {
#pragma unroll
    for (int i = 0; i < 3; ++i) transl[i] = in.transl[person * 3 + i];
  }
  skin(in, index < padded ? index : 0, A, transl, posed, place);
  if (!is_person || index >= padded) return;
  if (out.posed) {
    T* target = out.posed + (person * padded + index / 16 * 16) * 3 + index % 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) target[c * 16] = posed[c];
  }
  if (index >= in.num_vertices) return;
#pragma unroll
  for (int c = 0; c < 3; ++c) out.vertices[(person * in.num_vertices + index) * 3 + c] = place[c];
}

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
