// The mesh backward, without atomics: every sum has a fixed order.
//
//   1. transform_gradient_kernel   a block has one person and 32 tiles of vertices: the gradient of
//                                  v_posed, and its share of the gradients of the 24 transforms
//   2. coefficient_gradient        gradient of v_posed times basis^T, split over the vertices
//   3. chain_backward_kernel       adds the shares in order and walks the tree (chain.cu)
#include "../math/blend.h"
#include "mesh.h"
#include "warp_chain.h"

namespace eft_fast {
namespace {

constexpr int kTileRow = 3 * 16;
constexpr int kChunkVertices = static_cast<int>(kChunkTiles) * 16;
// Rows of the chunk's vertices, padded so that the three coordinates lie in different banks.
constexpr int kRowStride = kChunkVertices + 4;
constexpr int kTransformThreads = 256;

template <typename T>
constexpr int transform_shared_bytes() {
  const int results = static_cast<int>(kChunkTiles) * kJoints * kTransform;
  return (6 * kRowStride + results + kJoints * kTransform) * int{sizeof(T)};
}

// Gradient of v_posed of one vertex: the blended rotation, transposed, times g.
template <typename T>
__device__ inline void posed_gradient(
    const MeshInputs<T>& in, int64_t index, const T* A, const T (&g)[3], T (&out)[3]) {
  const int64_t first = index / 16 * in.slots * 16 + index % 16;
  T blended[kTransform] = {};
  for (int s = 0; s < in.slots; ++s) {
    const T weight = in.slot_weight[first + s * 16];
    const T* bone = A + in.slot_idx[first + s * 16] * kTransform;
#pragma unroll
    for (int i = 0; i < kTransform; ++i) blended[i] += weight * bone[i];
  }
  math::apply_transform_backward_point(blended, g, out);
}

// Tile of a run within the chunk: the last one that starts at or before it.
__device__ inline int tile_of_run(const int* starts, int tiles, int run) {
  int low = 0, high = tiles;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts[middle] <= run ? low : high) = middle;
  }
  return low;
}

// A run is one joint of one tile with 16 weights. Thread = one row of one run: 16 terms of
// w [g v^T | g]. The runs of a joint meet in shared memory and are added in tile order.
template <typename T>
__global__ void __launch_bounds__(kTransformThreads) transform_gradient_kernel(MeshInputs<T> in,
                                                                               int64_t chunks,
                                                                               const T* transforms,
                                                                               const T* posed,
                                                                               const T* g_vertices,
                                                                               T* g_posed,
                                                                               T* chunk_sums) {
  EFT_DYNAMIC_SHARED(T, shared);
  EFT_SHARED(int, starts, kChunkTiles + 1);
  T* g = shared;                                        // [3][kRowStride]
  T* v = g + 3 * kRowStride;                            // [3][kRowStride]
  T* results = v + 3 * kRowStride;                      // [32][24][12]
  T* A = results + kChunkTiles * kJoints * kTransform;  // [24][12]
  const int64_t b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t all_tiles = tiles_of(in.num_vertices), first_tile = chunk * kChunkTiles;
  const int tiles = static_cast<int>(min(kChunkTiles, all_tiles - first_tile));

  for (int i = threadIdx.x; i < kJoints * kTransform; i += blockDim.x) {
    A[i] = transforms[b * kJoints * kTransform + i];
  }
  for (int i = threadIdx.x; i <= tiles; i += blockDim.x) starts[i] = in.run_ptr[first_tile + i];
  for (int i = threadIdx.x; i < tiles * kJoints * kTransform; i += blockDim.x) results[i] = T(0);
  for (int i = threadIdx.x; i < tiles * kTileRow; i += blockDim.x) {
    const int c = i / 16 % 3, n = i / kTileRow * 16 + i % 16;
    const int64_t index = first_tile * 16 + n;
    v[c * kRowStride + n] = posed[(b * all_tiles + first_tile) * kTileRow + i];
    const bool is_vertex = index < in.num_vertices;
    g[c * kRowStride + n] = is_vertex ? g_vertices[(b * in.num_vertices + index) * 3 + c] : T(0);
  }
  __syncthreads();

  for (int n = threadIdx.x; n < tiles * 16; n += blockDim.x) {
    const T gn[3] = {g[n], g[kRowStride + n], g[2 * kRowStride + n]};
    T out[3];
    posed_gradient(in, first_tile * 16 + n, A, gn, out);
    T* target = g_posed + (b * all_tiles + first_tile + n / 16) * kTileRow + n % 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) target[c * 16] = out[c];
  }
  const int runs = starts[tiles] - starts[0];
  for (int task = threadIdx.x; task < runs * 3; task += blockDim.x) {
    const int run = starts[0] + task / 3, row = task % 3;
    const int tile = tile_of_run(starts, tiles, run);
    const T* weight = in.run_weight + static_cast<int64_t>(run) * 16;
    const T* gn = g + row * kRowStride + tile * 16;
    const T* vn = v + tile * 16;
    T sum[4] = {};
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const T wg = weight[n] * gn[n];
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += wg * vn[c * kRowStride + n];
      sum[3] += wg;
    }
    T* target = results + (tile * kJoints + in.run_joint[run]) * kTransform + row * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) target[i] = sum[i];
  }
  __syncthreads();

  T* sums = chunk_sums + blockIdx.x * kChunkSums;
  for (int i = threadIdx.x; i < kChunkSums; i += blockDim.x) {
    T sum = T(0);
    if (i < kJoints * kTransform) {
      for (int tile = 0; tile < tiles; ++tile) sum += results[tile * kJoints * kTransform + i];
    } else {
      const T* row = g + (i - kJoints * kTransform) * kRowStride;
      for (int n = 0; n < tiles * 16; ++n) sum += row[n];
    }
    sums[i] = sum;
  }
}

// ---- gradient of the coefficients, float32 ----------------------------------------------------
// A block has 64 people, all coefficients and the tiles of one split. A warp has 8 people, a lane
// the coefficients lane, lane + 32, ...: 56 sums in registers. The basis passes in half tiles of 24
// values; a row stride of 28 keeps 16-byte reads of neighbouring lanes in different banks.
constexpr int kHalf = kTileRow / 2;
constexpr int kHalfStride = kHalf + 4;
constexpr int kPeople = 64;
constexpr int kWarpPeople = 8;
constexpr int kPerLane = 7;
constexpr int kBasisStage = kCoefficients * kHalfStride;
constexpr int kCoefficientStage = kBasisStage + kPeople * kHalf;
constexpr int kCoefficientBytes = 2 * kCoefficientStage * int{sizeof(float)};

// Asks for half a tile: its basis, and the gradients of the block's people. Without such a person
// the place keeps what it has, and nobody stores what comes of it.
__device__ inline void load_half(const MeshInputs<float>& in,
                                 const float* g_posed,
                                 int64_t first_person,
                                 int64_t half,
                                 float* stage) {
  const int64_t row_length = tiles_of(in.num_vertices) * kTileRow;
  constexpr int pieces = kHalf / 4;
  const int64_t tile = half / 2, offset = half % 2 * kHalf;
  for (int i = threadIdx.x; i < kCoefficients * pieces; i += blockDim.x) {
    const int k = i / pieces, column = i % pieces * 4;
    cp_async_16(stage + k * kHalfStride + column,
                in.basis + (tile * kCoefficients + k) * kTileRow + offset + column);
  }
  for (int i = threadIdx.x; i < kPeople * pieces; i += blockDim.x) {
    const int person = i / pieces, column = i % pieces * 4;
    if (first_person + person >= in.num_bodies) continue;
    cp_async_16(stage + kBasisStage + person * kHalf + column,
                g_posed + (first_person + person) * row_length + half * kHalf + column);
  }
  cp_async_commit();
}

__global__ void __launch_bounds__(kPeople / kWarpPeople * 32) coefficient_gradient_kernel(
    MeshInputs<float> in, int64_t splits, const float* g_posed, float* split_sums) {
  EFT_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, people = threadIdx.x / 32 * kWarpPeople;
  const int64_t split = blockIdx.x % splits;
  const int64_t first_person = blockIdx.x / splits * kPeople;
  const int64_t begin = split * kSplitTiles * 2;
  const int64_t end = min((split + 1) * kSplitTiles, tiles_of(in.num_vertices)) * 2;
  const bool has_people = first_person + people < in.num_bodies;
  float acc[kWarpPeople][kPerLane] = {};
  load_half(in, g_posed, first_person, begin, shared);
  for (int64_t half = begin; half < end; ++half) {
    const int64_t at = half - begin;
    const float* stage = shared + at % 2 * kCoefficientStage;
    cp_async_wait<0>();
    __syncthreads();
    if (half + 1 < end) {
      load_half(in, g_posed, first_person, half + 1, shared + (at + 1) % 2 * kCoefficientStage);
    }
    if (!has_people) continue;
    const float* g = stage + kBasisStage + people * kHalf;
#pragma unroll 1
    for (int n = 0; n < kHalf; n += 4) {
      float4 rows[kWarpPeople];
#pragma unroll
      for (int p = 0; p < kWarpPeople; ++p) {
        rows[p] = *reinterpret_cast<const float4*>(g + p * kHalf + n);
      }
#pragma unroll
      for (int q = 0; q < kPerLane; ++q) {
        // Lanes past the last coefficient repeat it; their sums are not stored.
        const int k = min(lane + 32 * q, kCoefficients - 1);
        const float4 d = *reinterpret_cast<const float4*>(stage + k * kHalfStride + n);
#pragma unroll
        for (int p = 0; p < kWarpPeople; ++p) {
          acc[p][q] += rows[p].x * d.x;
          acc[p][q] += rows[p].y * d.y;
          acc[p][q] += rows[p].z * d.z;
          acc[p][q] += rows[p].w * d.w;
        }
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kWarpPeople; ++p) {
    const int64_t person = first_person + people + p;
    if (person >= in.num_bodies) continue;
#pragma unroll
    for (int q = 0; q < kPerLane; ++q) {
      const int k = lane + 32 * q;
      if (k < kCoefficients) split_sums[(person * splits + split) * kCoefficients + k] = acc[p][q];
    }
  }
}

// ---- gradient of the coefficients, double -----------------------------------------------------
// A block has one person and one split, a thread one coefficient.
__global__ void simple_coefficient_gradient_kernel(MeshInputs<double> in,
                                                   int64_t splits,
                                                   const double* g_posed,
                                                   double* split_sums) {
  const int64_t b = blockIdx.x / splits, split = blockIdx.x % splits;
  const int64_t tiles = tiles_of(in.num_vertices);
  const int64_t end = min((split + 1) * kSplitTiles, tiles);
  for (int k = threadIdx.x; k < kCoefficients; k += blockDim.x) {
    double sum = 0;
    for (int64_t tile = split * kSplitTiles; tile < end; ++tile) {
      const double* g = g_posed + (b * tiles + tile) * kTileRow;
      const double* row = in.basis + (tile * kCoefficients + k) * kTileRow;
      for (int n = 0; n < kTileRow; ++n) sum += g[n] * row[n];
    }
    split_sums[blockIdx.x * kCoefficients + k] = sum;
  }
}

void launch_coefficient_gradient(const MeshInputs<float>& in,
                                 const float* g_posed,
                                 float* split_sums,
                                 void* stream) {
  const int64_t splits = splits_of(in.num_vertices);
  const int64_t blocks = splits * divide_up(in.num_bodies, kPeople);
  allow_shared(coefficient_gradient_kernel, kCoefficientBytes);
  EFT_LAUNCH(coefficient_gradient_kernel,
             grid_of(blocks),
             kPeople / kWarpPeople * 32,
             kCoefficientBytes,
             stream,
             in,
             splits,
             g_posed,
             split_sums);
}

void launch_coefficient_gradient(const MeshInputs<double>& in,
                                 const double* g_posed,
                                 double* split_sums,
                                 void* stream) {
  const int64_t splits = splits_of(in.num_vertices);
  EFT_LAUNCH(simple_coefficient_gradient_kernel,
             grid_of(splits * in.num_bodies),
             224,
             0,
             stream,
             in,
             splits,
             g_posed,
             split_sums);
}

template <typename T>
struct MeshGradients {
  const T *posed, *g_vertices, *g_joints;
  T *transforms, *coefficients, *joints, *posed_gradient, *chunk_sums, *split_sums;
  T *g_betas, *g_pose, *g_transl;
};

template <typename T>
int mesh_backward(const MeshInputs<T>& in, const MeshGradients<T>& out, void* stream) {
  if (in.num_bodies == 0) return cudaSuccess;
  launch_chain(in, out.transforms, out.coefficients, out.joints, stream);
  const int64_t chunks = chunks_of(in.num_vertices);
  if (chunks > 0) {
    constexpr int bytes = transform_shared_bytes<T>();
    allow_shared(transform_gradient_kernel<T>, bytes);
    EFT_LAUNCH((transform_gradient_kernel<T>),
               grid_of(in.num_bodies * chunks),
               kTransformThreads,
               bytes,
               stream,
               in,
               chunks,
               out.transforms,
               out.posed,
               out.g_vertices,
               out.posed_gradient,
               out.chunk_sums);
    launch_coefficient_gradient(in, out.posed_gradient, out.split_sums, stream);
  }
  launch_chain_backward(in,
                        out.g_joints,
                        out.chunk_sums,
                        out.split_sums,
                        out.g_betas,
                        out.g_pose,
                        out.g_transl,
                        stream);
  return cudaGetLastError();
}

}  // namespace
}  // namespace eft_fast

#define EFT_MESH_GRADIENTS \
  {posed,                  \
   g_vertices,             \
   g_joints,               \
   transforms,             \
   coefficients,           \
   joints,                 \
   posed_gradient,         \
   chunk_sums,             \
   split_sums,             \
   g_betas,                \
   g_pose,                 \
   g_transl}

EFT_MESH_BACKWARD(eft_mesh_backward_f32, float) {
  return eft_fast::mesh_backward<float>(EFT_MESH_PACK, EFT_MESH_GRADIENTS, stream);
}

EFT_MESH_BACKWARD(eft_mesh_backward_f64, double) {
  return eft_fast::mesh_backward<double>(EFT_MESH_PACK, EFT_MESH_GRADIENTS, stream);
}
