// The mesh forward for many people: register tiles of a matrix product, fed by a pipeline of
// asynchronous copies, in plain float32 or on the tensor cores.
//
// A block serves 64 people and 32 vertices. Blocks are numbered vertex block first, so that those
// in flight share the people's data and the basis streams through the L2 cache.
#include "mesh_skin.h"

namespace eft_fast {
namespace {

constexpr int kStages = 3;

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

// Runs `multiply(stage, chunk)` on every chunk in order, loading kStages - 1 chunks ahead.
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
    multiply(shared + chunk % kStages * Stage::kSize, chunk);
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

__device__ inline void add_quarter(float (&acc)[8][3][2], float (&total)[8][3][2]) {
#pragma unroll
  for (int p = 0; p < 8; ++p) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        total[p][c][v] += acc[p][c][v];
        acc[p][c][v] = 0;
      }
    }
  }
}

__global__ void __launch_bounds__(128)
    float32_kernel(MeshInputs<float> in, MeshOutputs<float> out, int64_t vertex_blocks) {
  EFT_DYNAMIC_SHARED(float, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int people = warp * 16 + lane / 16 * 8;  // first of this lane, within the block
  const int half = lane % 16 / 8, pair = lane % 8 * 2;
  const int64_t first_person = blockIdx.x / vertex_blocks * kManyPeople;
  const int64_t first_tile = blockIdx.x % vertex_blocks * 2;
  float acc[8][3][2] = {}, total[8][3][2] = {};  // of a quarter; of those before it
  for_each_chunk<PlainStage>(
      in, out, first_person, first_tile, shared, [&](const float* stage, int chunk) {
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
#pragma unroll
        for (int quarter = 1; quarter <= kQuarters; ++quarter) {
          if (chunk + 1 == quarter_start(quarter)) add_quarter(acc, total);
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
      const float posed[3] = {total[p][0][v], total[p][1][v], total[p][2][v]};
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
  for_each_chunk<TensorStage>(
      in, out, first_person, first_tile, shared, [&](const float* stage, int) {
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

template <typename Stage, typename Kernel>
void launch_many(Kernel* kernel,
                 const MeshInputs<float>& in,
                 const MeshOutputs<float>& out,
                 void* stream) {
  const int64_t vertex_blocks = divide_up(in.num_vertices, kBlockVertices);
  const int64_t blocks = vertex_blocks * divide_up(in.num_bodies, kManyPeople);
  constexpr int bytes = many_shared_bytes<Stage>();
  allow_shared(kernel, bytes);
  EFT_LAUNCH(kernel, grid_of(blocks), 128, bytes, stream, in, out, vertex_blocks);
}

}  // namespace

void launch_float32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream) {
  launch_many<PlainStage>(float32_kernel, in, out, stream);
}

void launch_three_tf32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream) {
  launch_many<TensorStage>(three_tf32_kernel, in, out, stream);
}

}  // namespace eft_fast
