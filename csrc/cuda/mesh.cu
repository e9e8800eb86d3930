// The mesh forward: coefficients times basis, and skinning on the result while it is in registers.
//
// Three kernels for one product C [B,218] x basis [218, 3V]:
//   few people, or double   one pass over the basis, which is all the time there is;
//   float32                 register tiles of 8 people x 2 vertices;
//   3xTF32                  tensor cores on x = hi + lo, dropping lo * lo: float32-grade.
// A block serves 32 vertices (two tiles of the plan). Blocks are numbered vertex block first, so
// that those in flight share the people's data and the basis streams through the L2 cache.
#include "../math/blend.h"
#include "mesh.h"
#include "warp_chain.h"

namespace eft_fast {
namespace {

constexpr int kTileRow = 3 * 16;  // values of one coefficient in one tile of the plan
constexpr int kBlockVertices = 32;
constexpr int kChunk = 16;  // coefficients per stage of the pipeline
constexpr int kStages = 3;
constexpr int kChunks = (kCoefficients + kChunk - 1) / kChunk;

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

// ---- few people -------------------------------------------------------------------------------
// Four warps serve the same 32 vertices and 8 people, a quarter of the coefficients each, so that
// enough loads are in flight; their sums meet in shared memory in the order of the warps.
constexpr int kFewPeople = 8;
constexpr int kQuarters = 4;

template <typename T>
constexpr int few_shared_bytes() {
  const int sums = kQuarters * kFewPeople * 3 * kBlockVertices;
  return (kFewPeople * kCoefficients + sums + kFewPeople * kJoints * kTransform) * int{sizeof(T)};
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
  const int begin = quarter * kCoefficients / kQuarters;
  const int end = (quarter + 1) * kCoefficients / kQuarters;
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
    finish_vertex(in, out, first + p, index, A + p * kJoints * kTransform, posed);
  }
}

// ---- the pipeline of both tile kernels --------------------------------------------------------
// A stage holds kChunk coefficients of 64 people and of two basis tiles. Row strides are padded so
// that the lanes of a warp read from different banks.
constexpr int kManyPeople = 64;

template <int people_stride, int row_stride, int tile_stride>
struct Stage {
  static constexpr int kBasis = kChunk * people_stride;
  static constexpr int kSize = kBasis + 2 * tile_stride;

  // Asks for one chunk; rows past the last coefficient are zero.
  static __device__ void load(const MeshInputs<float>& in,
                              const MeshOutputs<float>& out,
                              int64_t first_person,
                              int64_t first_tile,
                              int chunk,
                              float* stage) {
    const int64_t groups = divide_up(in.num_bodies, kPerson);
    const int64_t tiles = tiles_of(in.num_vertices);
    for (int i = threadIdx.x; i < kChunk * kManyPeople / 4; i += blockDim.x) {
      const int row = i / (kManyPeople / 4), column = i % (kManyPeople / 4) * 4;
      const int64_t group = first_person / kPerson + column / kPerson;
      const int k = chunk * kChunk + row;
      float* target = stage + row * people_stride + column;
      const int64_t source = (group * kCoefficients + k) * kPerson + column % kPerson;
      copy_or_zero(k < kCoefficients && group < groups, target, out.coefficients, source);
    }
    constexpr int pieces = kTileRow / 4;
    for (int i = threadIdx.x; i < 2 * kChunk * pieces; i += blockDim.x) {
      const int half = i / (kChunk * pieces), row = i / pieces % kChunk, column = i % pieces * 4;
      const int k = chunk * kChunk + row;
      float* target = stage + kBasis + half * tile_stride + row * row_stride + column;
      const int64_t source = ((first_tile + half) * kCoefficients + k) * kTileRow + column;
      copy_or_zero(k < kCoefficients && first_tile + half < tiles, target, in.basis, source);
    }
    cp_async_commit();
  }

  static __device__ void copy_or_zero(bool copies, float* target, const float* from, int64_t at) {
    if (copies) {
      cp_async_16(target, from + at);
    } else {
      *reinterpret_cast<float4*>(target) = make_float4(0, 0, 0, 0);
    }
  }
};

// Runs `multiply(stage)` on every chunk in order, loading kStages - 1 chunks ahead.
template <typename Stage, typename Multiply>
__device__ inline void for_each_chunk(const MeshInputs<float>& in,
                                      const MeshOutputs<float>& out,
                                      int64_t first_person,
                                      int64_t first_tile,
                                      float* shared,
                                      Multiply multiply) {
  for (int chunk = 0; chunk < kStages - 1; ++chunk) {
    Stage::load(in, out, first_person, first_tile, chunk, shared + chunk * Stage::kSize);
  }
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // this chunk is there for all, and nobody reads the one before any more
    const int next = chunk + kStages - 1;
    if (next < kChunks) {
      Stage::load(in, out, first_person, first_tile, next, shared + next % kStages * Stage::kSize);
    } else {
      cp_async_commit();  // an empty group keeps the count of the wait right
    }
    multiply(shared + chunk % kStages * Stage::kSize);
  }
  cp_async_wait<0>();
  __syncthreads();  // the caller reuses the shared memory
}

constexpr int kTransformBytes = kManyPeople * kJoints * kTransform * int{sizeof(float)};

template <typename Stage>
constexpr int many_shared_bytes() {
  const int stages = kStages * Stage::kSize * int{sizeof(float)};
  return stages > kTransformBytes ? stages : kTransformBytes;
}

// ---- float32 ----------------------------------------------------------------------------------
// Four warps, 16 people each; a lane has 8 people (by half warp) and 2 neighbouring vertices.
using PlainStage = Stage<kManyPeople, kTileRow, kChunk * kTileRow + 16>;

__global__ void __launch_bounds__(128)
    float32_kernel(MeshInputs<float> in, MeshOutputs<float> out, int64_t vertex_blocks) {
  EFT_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int people = warp * 16 + lane / 16 * 8;  // first of this lane, within the block
  const int half = lane % 16 / 8, pair = lane % 8 * 2;
  const int64_t first_person = blockIdx.x / vertex_blocks * kManyPeople;
  const int64_t first_tile = blockIdx.x % vertex_blocks * 2;
  float acc[8][3][2] = {};
  for_each_chunk<PlainStage>(in, out, first_person, first_tile, shared, [&](const float* stage) {
    const float* C = stage + people;
    const float* basis = stage + PlainStage::kBasis + half * (kChunk * kTileRow + 16) + pair;
#pragma unroll 4
    for (int row = 0; row < kChunk; ++row) {
      const float4 low = *reinterpret_cast<const float4*>(C + row * kManyPeople);
      const float4 high = *reinterpret_cast<const float4*>(C + row * kManyPeople + 4);
      const float c[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int xyz = 0; xyz < 3; ++xyz) {
        const float2 v = *reinterpret_cast<const float2*>(basis + row * kTileRow + xyz * 16);
#pragma unroll
        for (int p = 0; p < 8; ++p) {
          acc[p][xyz][0] += c[p] * v.x;
          acc[p][xyz][1] += c[p] * v.y;
        }
      }
    }
  });
  load_transforms(in, out, first_person, kManyPeople, shared);
  __syncthreads();
  const int64_t index = (first_tile + half) * 16 + pair;
#pragma unroll
  for (int p = 0; p < 8; ++p) {
    const float* A = shared + (people + p) * kJoints * kTransform;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float posed[3] = {acc[p][0][v], acc[p][1][v], acc[p][2][v]};
      finish_vertex(in, out, first_person + people + p, index + v, A, posed);
    }
  }
}

// ---- 3xTF32 -----------------------------------------------------------------------------------
// Four warps: 2 x 32 people, 2 x one basis tile. A lane ends with 4 people and 4 whole vertices.
constexpr int kTensorPeople = kManyPeople + 8;
constexpr int kTensorRow = kTileRow + 8;
using TensorStage = Stage<kTensorPeople, kTensorRow, kChunk * kTensorRow>;

__device__ inline void split(float x, float& high, float& low) {
  high = to_tf32(x);
  low = to_tf32(x - high);
}

__global__ void __launch_bounds__(128)
    three_tf32_kernel(MeshInputs<float> in, MeshOutputs<float> out, int64_t vertex_blocks) {
  EFT_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int g = lane / 4, t = lane % 4;
  const int people = warp / 2 * 32, half = warp % 2;
  const int64_t first_person = blockIdx.x / vertex_blocks * kManyPeople;
  const int64_t first_tile = blockIdx.x % vertex_blocks * 2;
  float acc[2][6][4] = {};  // 16 people each; coordinate and half tile; fragment
  for_each_chunk<TensorStage>(in, out, first_person, first_tile, shared, [&](const float* stage) {
    const float* C = stage + people;
    const float* basis = stage + TensorStage::kBasis + half * kChunk * kTensorRow;
#pragma unroll
    for (int k = 0; k < kChunk; k += 8) {
      float a_high[2][4], a_low[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = k + t + i / 2 * 4, column = m * 16 + g + i % 2 * 8;
          split(C[row * kTensorPeople + column], a_high[m][i], a_low[m][i]);
        }
      }
#pragma unroll
      for (int n = 0; n < 6; ++n) {
        float b_high[2], b_low[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          split(basis[(k + t + i * 4) * kTensorRow + n * 8 + g], b_high[i], b_low[i]);
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_tf32_16x8x8(acc[m][n], a_low[m], b_high);
          mma_tf32_16x8x8(acc[m][n], a_high[m], b_low);
          mma_tf32_16x8x8(acc[m][n], a_high[m], b_high);
        }
      }
    }
  });
  load_transforms(in, out, first_person, kManyPeople, shared);
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int person = people + m * 16 + high * 8 + g;
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        // Columns 2t, 2t + 1 of the two half tiles of each coordinate.
        const int n = v / 2, i = high * 2 + v % 2;
        const float posed[3] = {acc[m][n][i], acc[m][2 + n][i], acc[m][4 + n][i]};
        const int64_t index = (first_tile + half) * 16 + n * 8 + 2 * t + v % 2;
        const float* A = shared + person * kJoints * kTransform;
        finish_vertex(in, out, first_person + person, index, A, posed);
      }
    }
  }
}

// ---- launchers --------------------------------------------------------------------------------
// Up to this many people one pass over the basis costs more than the arithmetic.
constexpr int64_t kFewLimit = 16;

template <typename T>
void launch_few(const MeshInputs<T>& in, const MeshOutputs<T>& out, void* stream) {
  const int64_t vertex_blocks = divide_up(in.num_vertices, kBlockVertices);
  const int64_t blocks = vertex_blocks * divide_up(in.num_bodies, kFewPeople);
  constexpr int bytes = few_shared_bytes<T>();
  allow_shared(few_people_kernel<T>, bytes);
  EFT_LAUNCH((few_people_kernel<T>),
             static_cast<unsigned>(blocks),
             kQuarters * 32,
             bytes,
             stream,
             in,
             out,
             vertex_blocks);
}

template <typename Stage, typename Kernel>
void launch_many(Kernel* kernel,
                 const MeshInputs<float>& in,
                 const MeshOutputs<float>& out,
                 void* stream) {
  const int64_t vertex_blocks = divide_up(in.num_vertices, kBlockVertices);
  const int64_t blocks = vertex_blocks * divide_up(in.num_bodies, kManyPeople);
  constexpr int bytes = many_shared_bytes<Stage>();
  allow_shared(kernel, bytes);
  EFT_LAUNCH(kernel, static_cast<unsigned>(blocks), 128, bytes, stream, in, out, vertex_blocks);
}

void launch_product(const MeshInputs<float>& in,
                    const MeshOutputs<float>& out,
                    int64_t arithmetic,
                    void* stream) {
  if (in.num_bodies <= kFewLimit) return launch_few(in, out, stream);
  if (arithmetic == kThreeTf32) return launch_many<TensorStage>(three_tf32_kernel, in, out, stream);
  launch_many<PlainStage>(float32_kernel, in, out, stream);
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
