// The mesh backward, without atomics: every sum has a fixed order.
//
//   1. transform_gradient_kernel   a block has one person and 32 tiles of vertices: the gradient of
//                                  v_posed, and its share of the gradients of the 24 transforms
//   2. coefficient_gradient        gradient of v_posed times basis^T, split over the vertices
//   3. chain_backward_kernel       adds the shares in order and walks the tree (chain.cu)
#include "mesh_skin.h"

namespace eft_fast {
namespace {

constexpr int kChunkVertices = static_cast<int>(kChunkTiles) * 16;
// Rows of the chunk's vertices, padded so that the three coordinates lie in different banks, also
// where four of a row are moved at once.
constexpr int kRowStride = kChunkVertices + 12;
constexpr int kJointSums = kJoints * kTransform;
constexpr int kTransformThreads = 256;

template <typename T>
constexpr int transform_shared_bytes() {
  const int results = static_cast<int>(kChunkTiles) * kJointSums;
  return (6 * kRowStride + results + kJointSums) * int{sizeof(T)};
}
// What a block may have on compute capability 8.6 and 8.9, less what the kernel has beside it.
static_assert(transform_shared_bytes<double>() + 144 <= 99 << 10);

// Tile of a run within the chunk: the last one that starts at or before it.
__device__ inline int tile_of_run(const int* starts, int tiles, int run) {
  int low = 0, high = tiles;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts[middle] <= run ? low : high) = middle;
  }
  return low;
}

// A run is one joint of one tile with 16 weights. Thread = one run: 16 terms of w [g v^T | g]. The
// runs of a joint meet in shared memory and are added in tile order.
// Blocks are numbered person first, so that those in flight share a chunk's weights in the cache.
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
  T* g = shared;                              // [3][kRowStride]
  T* v = g + 3 * kRowStride;                  // [3][kRowStride]
  T* results = v + 3 * kRowStride;            // [32][24][12]
  T* A = results + kChunkTiles * kJointSums;  // [24][12]
  const int64_t b = blockIdx.x % in.num_bodies, chunk = blockIdx.x / in.num_bodies;
  const int64_t all_tiles = tiles_of(in.num_vertices), first_tile = chunk * kChunkTiles;
  const int tiles = static_cast<int>(min(kChunkTiles, all_tiles - first_tile));

  const T* const given = g_vertices + (b * in.num_vertices + first_tile * 16) * 3;
  const int64_t values = (in.num_vertices - first_tile * 16) * 3;
#pragma unroll
  for (int i = 0; i < 3 * kChunkVertices; i += kTransformThreads) {
    const int at = i + static_cast<int>(threadIdx.x);
    if (at < tiles * kTileRow) g[at % 3 * kRowStride + at / 3] = at < values ? given[at] : T(0);
  }
  const T* const kept = posed + (b * all_tiles + first_tile) * kTileRow;
  for (int i = threadIdx.x; i < tiles * kTileRow / 4; i += blockDim.x) {
    const int tile = i / 12, c = i / 4 % 3, part = i % 4;
    store_four(v + c * kRowStride + tile * 16 + part * 4, load_four(kept + 4 * i));
  }
  for (int i = threadIdx.x; i < kJointSums / 4; i += blockDim.x) {
    store_four(A + 4 * i, load_four(transforms + b * kJointSums + 4 * i));
  }
  for (int i = threadIdx.x; i < tiles * kJointSums / 4; i += blockDim.x) {
    store_four(results + 4 * i, Four<T>{});
  }
  for (int i = threadIdx.x; i <= tiles; i += blockDim.x) starts[i] = in.run_ptr[first_tile + i];
  __syncthreads();

  // Gradient of v_posed: the blended rotation, transposed, times g.
#pragma unroll
  for (int first = 0; first < kChunkVertices; first += kTransformThreads) {
    const int n = first + static_cast<int>(threadIdx.x);
    const bool is_there = n < tiles * 16;
    const VertexBones<T> bones(in, first_tile * 16 + (is_there ? n : 0));
    T blended[kTransform] = {};
    bones.blend(in, A, blended);
    if (!is_there) continue;
    const T gn[3] = {g[n], g[kRowStride + n], g[2 * kRowStride + n]};
    T out[3];
    math::apply_transform_backward_point(blended, gn, out);
    T* target = g_posed + (b * all_tiles + first_tile + n / 16) * kTileRow + n % 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) target[c * 16] = out[c];
  }
  for (int run = starts[0] + threadIdx.x; run < starts[tiles]; run += blockDim.x) {
    const int tile = tile_of_run(starts, tiles, run), joint = in.run_joint[run];
    const T* weight = in.run_weight + static_cast<int64_t>(run) * 16;
    Four<T> sums[3] = {};
#pragma unroll
    for (int n = 0; n < 16; n += 4) {
      const Four<T> w = load_four(weight + n);
      Four<T> vs[3];
#pragma unroll
      for (int c = 0; c < 3; ++c) vs[c] = load_four(v + c * kRowStride + tile * 16 + n);
#pragma unroll
      for (int row = 0; row < 3; ++row) {
        const Four<T> gs = load_four(g + row * kRowStride + tile * 16 + n);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const T wg = w.at[e] * gs.at[e];
#pragma unroll
          for (int c = 0; c < 3; ++c) sums[row].at[c] += wg * vs[c].at[e];
          sums[row].at[3] += wg;
        }
      }
    }
    T* const target = results + (tile * kJoints + joint) * kTransform;
#pragma unroll
    for (int row = 0; row < 3; ++row) store_four(target + row * 4, sums[row]);
  }
  __syncthreads();

  // The first warps add up the transforms, three others the coordinates of g.
  T* const sums = chunk_sums + (b * chunks + chunk) * kChunkSums;
  constexpr int kFours = kJointSums / 4, kFirstWarp = (kFours + 31) / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, i = 4 * threadIdx.x;
  if (i < kJointSums) {
    Four<T> sum = {};
#pragma unroll 8
    for (int tile = 0; tile < tiles; ++tile) {
      const Four<T> more = load_four(results + tile * kJointSums + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum.at[e] += more.at[e];
    }
    store_four(sums + i, sum);
  } else if (warp >= kFirstWarp && warp < kFirstWarp + 3) {
    T sum = T(0);
    for (int n = lane; n < tiles * 16; n += 32) sum += g[(warp - kFirstWarp) * kRowStride + n];
    sum = sum_lanes(sum);
    if (lane == 0) sums[kJointSums + warp - kFirstWarp] = sum;
  }
}

// ---- gradient of the coefficients, float32 ----------------------------------------------------
// A block has four warps, all coefficients and the tiles of one split. A warp has kPeople people, a
// lane the coefficients lane, lane + 32, ...: 7 x kPeople sums in registers. The basis passes in
// half tiles of 24 values; a row stride of 28 keeps 16-byte reads of neighbouring lanes in
// different banks.
constexpr int kHalf = kTileRow / 2;
constexpr int kHalfStride = kHalf + 4;
constexpr int kWarps = 4;
constexpr int kPerLane = (kCoefficients + 31) / 32;
constexpr int kBasisStage = kCoefficients * kHalfStride;

template <int kPeople>
struct CoefficientStage {
  static constexpr int kBlockPeople = kWarps * kPeople;
  static constexpr int kSize = kBasisStage + kBlockPeople * kHalf;
  static constexpr int kBytes = 2 * kSize * int{sizeof(float)};
};

// Asks for one half tile after the other: its basis, and the gradients of the block's people.
// Without such a person the place keeps what it has, and nobody stores what comes of it. A thread
// keeps its column, so that its addresses grow by constants; two threads have nothing to do.
template <int kPeople>
struct CoefficientLoader {
  static constexpr int kPieces = kHalf / 4, kRows = kWarps * 32 / kPieces;
  static constexpr int kSteps = kCoefficients / kRows;
  static constexpr int kPeopleSteps = (kWarps * kPeople + kRows - 1) / kRows;
  const float *basis, *g;
  int people;  // how many of them are this thread's

  __device__ CoefficientLoader(const MeshInputs<float>& in,
                               const float* g_posed,
                               int64_t first_person,
                               int64_t tile) {
    const int column = threadIdx.x % kPieces * 4;
    basis = in.basis + (tile * kCoefficients + row()) * kTileRow + column;
    g = g_posed + (first_person + row()) * row_length(in) + tile * kTileRow + column;
    const int64_t left = min(in.num_bodies - first_person, int64_t{kWarps * kPeople}) - row();
    people = left > 0 ? static_cast<int>(left + kRows - 1) / kRows : 0;
  }

  static __device__ int row() { return threadIdx.x / kPieces; }

  static __device__ int64_t row_length(const MeshInputs<float>& in) {
    return tiles_of(in.num_vertices) * kTileRow;
  }

  // is_second: of the two halves of a tile.
  __device__ void load(const MeshInputs<float>& in, float* stage, bool is_second) {
    if (row() < kRows) {
      float* const target = stage + row() * kHalfStride + threadIdx.x % kPieces * 4;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        cp_async_16(target + k * kRows * kHalfStride, basis + k * kRows * kTileRow);
      }
      if (row() < kCoefficients - kSteps * kRows) {
        cp_async_16(target + kSteps * kRows * kHalfStride, basis + kSteps * kRows * kTileRow);
      }
      // A row of people is 4 numbers shorter than one of the basis.
      float* const g_target = target + kBasisStage - row() * (kHalfStride - kHalf);
#pragma unroll
      for (int p = 0; p < kPeopleSteps; ++p) {
        if (p < people) cp_async_16(g_target + p * kRows * kHalf, g + p * kRows * row_length(in));
      }
    }
    g += kHalf;
    basis += is_second ? kCoefficients * kTileRow - kHalf : kHalf;
    cp_async_commit();
  }
};

template <int kPeople>
__global__ void __launch_bounds__(kWarps * 32, kPeople > 4 ? 3 : 4) coefficient_gradient_kernel(
    MeshInputs<float> in, int splits, const float* g_posed, float* split_sums) {
  EFT_DYNAMIC_SHARED(float, shared);
  using Stage = CoefficientStage<kPeople>;
  const int lane = threadIdx.x % 32, people = threadIdx.x / 32 * kPeople;
  const int split = static_cast<int>(blockIdx.x) % splits;
  const int64_t first_person = int64_t{static_cast<int>(blockIdx.x) / splits} * Stage::kBlockPeople;
  const int64_t begin = split * kSplitTiles;
  const int halves = 2 * static_cast<int>(min(kSplitTiles, tiles_of(in.num_vertices) - begin));
  const bool has_people = first_person + people < in.num_bodies;
  float acc[kPeople][kPerLane] = {};
  CoefficientLoader<kPeople> loader(in, g_posed, first_person, begin);
  loader.load(in, shared, false);
  for (int half = 0; half < halves; ++half) {
    const float* stage = shared + half % 2 * Stage::kSize;
    cp_async_wait<0>();
    __syncthreads();
    if (half + 1 < halves) loader.load(in, shared + (half + 1) % 2 * Stage::kSize, half % 2 == 0);
    if (!has_people) continue;
    const float* g = stage + kBasisStage + people * kHalf;
#pragma unroll 1
    for (int n = 0; n < kHalf; n += 4) {
      Four<float> basis[kPerLane];
#pragma unroll
      for (int q = 0; q < kPerLane; ++q) {
        // Lanes past the last coefficient repeat it; their sums are not stored.
        basis[q] = load_four(stage + min(lane + 32 * q, kCoefficients - 1) * kHalfStride + n);
      }
#pragma unroll
      for (int p = 0; p < kPeople; ++p) {
        const Four<float> row = load_four(g + p * kHalf + n);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int q = 0; q < kPerLane; ++q) acc[p][q] += row.at[e] * basis[q].at[e];
        }
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPeople; ++p) {
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

// People of a warp. Many read shared memory least; few bring more blocks where there are few
// people, and a person's sums do not depend on it.
constexpr int kMany = 16, kFew = 4;
constexpr int64_t kFewLimit = 128;

template <int kPeople>
void start_coefficient_gradient(const MeshInputs<float>& in,
                                const float* g_posed,
                                float* split_sums,
                                void* stream) {
  using Stage = CoefficientStage<kPeople>;
  const int64_t splits = splits_of(in.num_vertices);
  const int64_t blocks = splits * divide_up(in.num_bodies, Stage::kBlockPeople);
  allow_shared(coefficient_gradient_kernel<kPeople>, Stage::kBytes);
  EFT_LAUNCH((coefficient_gradient_kernel<kPeople>),
             grid_of(blocks),
             kWarps * 32,
             Stage::kBytes,
             stream,
             in,
             static_cast<int>(splits),
             g_posed,
             split_sums);
}

void launch_coefficient_gradient(const MeshInputs<float>& in,
                                 const float* g_posed,
                                 float* split_sums,
                                 void* stream) {
  const auto start = in.num_bodies <= kFewLimit ? start_coefficient_gradient<kFew>
                                                : start_coefficient_gradient<kMany>;
  start(in, g_posed, split_sums, stream);
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
