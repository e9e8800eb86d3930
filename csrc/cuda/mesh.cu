// The mesh forward: coefficients times basis, and skinning on the result while it is in registers.
//
// Three kernels for one product C [B,218] x basis [218, 3V]:
//   few people, or double   one pass over the basis, which is all the time there is (here);
//   float32                 register tiles of 8 people x 2 vertices (mesh_tiles.cu);
//   3xTF32                  tensor cores on x = hi + lo, dropping lo * lo: float32-grade
//                           (mesh_tiles.cu).
#include "mesh_skin.h"

namespace eft_fast {
namespace {

// Four warps serve the same 32 vertices and 8 people, a quarter of the coefficients each, so that
// enough loads are in flight; their sums meet in shared memory in the order of the warps.
constexpr int kFewPeople = 8;

template <typename T>
constexpr int few_shared_bytes() {
  const int sums = kQuarters * kFewPeople * 3 * kBlockVertices;
  return (kFewPeople * kCoefficients + sums + kFewPeople * kJoints * kTransform) * int{sizeof(T)};
}

// Stores v_posed and the skinned vertex of one person. All lanes of the warp come here together.
template <typename T>
__device__ inline void finish_vertex(const MeshInputs<T>& in,
                                     const MeshOutputs<T>& out,
                                     int64_t person,
                                     int64_t index,
                                     const T* A,
                                     const VertexBones<T>& bones,
                                     const T (&posed)[3]) {
  const int64_t padded = tiles_of(in.num_vertices) * kTileVertices;
  T place[3];
  bones.skin(in, A, posed, place);
  if (person >= in.num_bodies || index >= padded) return;
  if (out.posed) {
    T* target = out.posed + (person * padded + index / 16 * 16) * 3 + index % 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) target[c * 16] = posed[c];
  }
  if (index >= in.num_vertices) return;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const T shift = in.transl ? in.transl[person * 3 + c] : T(0);
    out.vertices[(person * in.num_vertices + index) * 3 + c] = place[c] + shift;
  }
}

template <typename T>
__global__ void __launch_bounds__(kQuarters * 32)
    few_people_kernel(MeshInputs<T> in, MeshOutputs<T> out, int64_t vertex_blocks) {
  EFT_DYNAMIC_SHARED(T, shared);
  T* C = shared;                                  // [218][8]
  T* sums = C + kFewPeople * kCoefficients;       // [4][8][3][32]
  T* A = sums + kQuarters * kFewPeople * 3 * 32;  // [8][24][12]
  const int lane = threadIdx.x % 32, quarter = threadIdx.x / 32;
  const int64_t index = blockIdx.x % vertex_blocks * kBlockVertices + lane;
  const int64_t first = blockIdx.x / vertex_blocks * kFewPeople;
  for (int i = threadIdx.x; i < kFewPeople * kCoefficients; i += blockDim.x) {
    const int64_t person = first + i % kFewPeople;
    const bool is_person = person < in.num_bodies;
    C[i] = is_person ? out.coefficients[coefficient_index(person, i / kFewPeople)] : T(0);
  }
  load_transforms(in, out, first, kFewPeople, A);
  __syncthreads();

  const int64_t tiles = tiles_of(in.num_vertices);
  const int64_t tile = min(index / 16, tiles - 1);
  const T* basis = in.basis + tile * kCoefficients * kTileRow + lane % 16;
  T acc[kFewPeople][3] = {};
  const int begin = quarter_start(quarter) * kChunk;
  const int end = min(quarter_start(quarter + 1) * kChunk, kCoefficients);
#pragma unroll 8
  for (int k = begin; k < end; ++k) {
    const T* row = basis + k * kTileRow;
    const T x = __ldg(row), y = __ldg(row + 16), z = __ldg(row + 32);
#pragma unroll
    for (int p = 0; p < kFewPeople; ++p) {
      const T c = C[k * kFewPeople + p];
      acc[p][0] += c * x;
      acc[p][1] += c * y;
      acc[p][2] += c * z;
    }
  }
#pragma unroll
  for (int p = 0; p < kFewPeople; ++p) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      sums[((quarter * kFewPeople + p) * 3 + c) * 32 + lane] = acc[p][c];
    }
  }
  __syncthreads();
  const VertexBones<T> bones(in, index < tiles * kTileVertices ? index : 0);
  for (int p = quarter; p < kFewPeople; p += kQuarters) {
    T posed[3];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      posed[c] = T(0);
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) {
        posed[c] += sums[((q * kFewPeople + p) * 3 + c) * 32 + lane];
      }
    }
    finish_vertex(in, out, first + p, index, A + p * kJoints * kTransform, bones, posed);
  }
}

// Up to this many people one pass over the basis costs more than the arithmetic.
constexpr int64_t kFewLimit = 16;

template <typename T>
void launch_few(const MeshInputs<T>& in, const MeshOutputs<T>& out, void* stream) {
  const int64_t vertex_blocks = divide_up(in.num_vertices, kBlockVertices);
  const int64_t blocks = vertex_blocks * divide_up(in.num_bodies, kFewPeople);
  constexpr int bytes = few_shared_bytes<T>();
  allow_shared(few_people_kernel<T>, bytes);
  EFT_LAUNCH((few_people_kernel<T>),
             grid_of(blocks),
             kQuarters * 32,
             bytes,
             stream,
             in,
             out,
             vertex_blocks);
}

void launch_product(const MeshInputs<float>& in,
                    const MeshOutputs<float>& out,
                    int64_t arithmetic,
                    void* stream) {
  if (arithmetic == kThreeTf32) return launch_three_tf32(in, out, stream);
  if (in.num_bodies <= kFewLimit) return launch_few(in, out, stream);
  launch_float32(in, out, stream);
}

void launch_product(const MeshInputs<double>& in,
                    const MeshOutputs<double>& out,
                    int64_t,
                    void* stream) {
  launch_few(in, out, stream);
}

template <typename T>
int mesh_forward(const MeshInputs<T>& in,
                 int64_t arithmetic,
                 T* transforms,
                 T* coefficients,
                 T* posed,
                 T* vertices,
                 T* joints,
                 void* stream) {
  if (in.num_bodies == 0) return cudaSuccess;
  launch_chain(in, transforms, coefficients, joints, stream);
  if (in.num_vertices > 0) {
    const MeshOutputs<T> out{transforms, coefficients, posed, vertices};
    launch_product(in, out, arithmetic, stream);
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace eft_fast

EFT_MESH_FORWARD(eft_mesh_forward_f32, float) {
  return eft_fast::mesh_forward<float>(
      EFT_MESH_PACK, arithmetic, transforms, coefficients, posed, vertices, joints, stream);
}

EFT_MESH_FORWARD(eft_mesh_forward_f64, double) {
  return eft_fast::mesh_forward<double>(
      EFT_MESH_PACK, arithmetic, transforms, coefficients, posed, vertices, joints, stream);
}
