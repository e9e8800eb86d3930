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

// ---- the end of both tile kernels -------------------------------------------------------------
// In two passes, each with the transforms of half of the people in shared memory, so that a
// multiprocessor holds four blocks. A person's transforms are padded, so that eight people lie in
// different banks; a bone is three moves of 16 bytes.
constexpr int kPersonStride = kJoints * kTransform + 4;
constexpr int kPassPeople = kManyPeople / 2;

// of_place(i): which of the block's people has place i.
template <typename F>
__device__ inline void load_half(const MeshInputs<float>& in,
                                 const MeshOutputs<float>& out,
                                 int64_t first,
                                 float* target,
                                 F of_place) {
  constexpr int kMoves = kJoints * kTransform / 4;
  for (int i = threadIdx.x; i < kPassPeople * kMoves; i += blockDim.x) {
    const int place = i / kMoves, move = i % kMoves;
    const int64_t person = first + of_place(place);
    if (person >= in.num_bodies) continue;
    const float4 values =
        *reinterpret_cast<const float4*>(out.transforms + (person * kMoves + move) * 4);
    *reinterpret_cast<float4*>(target + place * kPersonStride + move * 4) = values;
  }
}

// Vertices of some people of one warp, on their way to memory: people_of_warp rows of `vertices`
// vertices, written as whole lines.
template <int kPeopleOfWarp, int kVertices>
struct WarpVertices {
  static constexpr int kRow = 3 * kVertices + 1;
  static constexpr int kSize = kPeopleOfWarp * kRow;

  // person(i): the person of row i in the batch; first: the first vertex.
  template <typename F>
  static __device__ void flush(const MeshInputs<float>& in,
                               const MeshOutputs<float>& out,
                               int64_t first,
                               const float* staged,
                               F person_of) {
    const int64_t values = (in.num_vertices - first) * 3;
#pragma unroll 2
    for (int i = threadIdx.x % 32; i < kPeopleOfWarp * 3 * kVertices; i += 32) {
      const int row = i / (3 * kVertices), column = i % (3 * kVertices);
      const int64_t person = person_of(row);
      if (person >= in.num_bodies || column >= values) continue;
      out.vertices[(person * in.num_vertices + first) * 3 + column] = staged[row * kRow + column];
    }
  }
};

// Two neighbouring vertices of one person: skins them, puts them to `staged` and stores v_posed.
__device__ inline void finish_pair(const MeshInputs<float>& in,
                                   const MeshOutputs<float>& out,
                                   int64_t person,
                                   int64_t index,
                                   const float* A,
                                   const VertexBones<float> (&bones)[2],
                                   const float (&posed)[2][3],
                                   float* staged) {
  const bool is_person = person < in.num_bodies;
  const int64_t padded = tiles_of(in.num_vertices) * kTileVertices;
  if (is_person && index < padded && out.posed) {
    float* target = out.posed + (person * padded + index / 16 * 16) * 3 + index % 16;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      *reinterpret_cast<float2*>(target + c * 16) = make_float2(posed[0][c], posed[1][c]);
    }
  }
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    float place[3];
    bones[v].skin(in, A, posed[v], place);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float shift = is_person && in.transl ? in.transl[person * 3 + c] : 0.0f;
      staged[3 * v + c] = place[c] + shift;
    }
  }
}

template <typename Stage, typename Staged>
constexpr int many_shared_bytes() {
  const int stages = kStages * Stage::kSize;
  const int end = kPassPeople * kPersonStride + 4 * Staged::kSize;
  return (stages > end ? stages : end) * int{sizeof(float)};
}

// ---- float32 ----------------------------------------------------------------------------------
// Four warps, 16 people each; a lane has 8 people (by half warp) and 2 neighbouring vertices.
using PlainStage = Stage<kManyPeople, kTileRow, kChunk * kTileRow + 16>;
using PlainStaged = WarpVertices<2, kBlockVertices>;

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

__global__ void __launch_bounds__(128, 3)
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
        bool ends_quarter = false;
#pragma unroll
        for (int quarter = 1; quarter <= kQuarters; ++quarter) {
          ends_quarter |= chunk + 1 == quarter_start(quarter);
        }
        if (ends_quarter) add_quarter(acc, total);
      });
  const int64_t padded = tiles_of(in.num_vertices) * kTileVertices;
  const int64_t index = (first_tile + half) * 16 + pair, there = index < padded ? index : 0;
  const VertexBones<float> bones[2] = {VertexBones<float>(in, there),
                                       VertexBones<float>(in, there + 1)};
  float* const staged = shared + kPassPeople * kPersonStride + warp * PlainStaged::kSize;
#pragma unroll
  for (int pass = 0; pass < 2; ++pass) {
    load_half(
        in, out, first_person, shared, [pass](int i) { return i / 4 * 8 + pass * 4 + i % 4; });
    __syncthreads();
#pragma unroll
    for (int p = 4 * pass; p < 4 * pass + 4; ++p) {
      const float posed[2][3] = {{total[p][0][0], total[p][1][0], total[p][2][0]},
                                 {total[p][0][1], total[p][1][1], total[p][2][1]}};
      finish_pair(in,
                  out,
                  first_person + people + p,
                  index,
                  shared + (people / 2 + p % 4) * kPersonStride,
                  bones,
                  posed,
                  staged + lane / 16 * PlainStaged::kRow + (half * 16 + pair) * 3);
      __syncwarp();
      PlainStaged::flush(in, out, first_tile * 16, staged, [&](int row) {
        return first_person + warp * 16 + row * 8 + p;
      });
      __syncwarp();  // the next person's vertices take the place
    }
    __syncthreads();  // the second half of the people takes the place of the first
  }
}

// ---- 3xTF32 -----------------------------------------------------------------------------------
// Four warps: 2 x 32 people, 2 x one basis tile. A lane ends with 4 people and 4 whole vertices.
constexpr int kTensorPeople = kManyPeople + 8;
constexpr int kTensorRow = kTileRow + 8;
using TensorStage = Stage<kTensorPeople, kTensorRow, kChunk * kTensorRow>;
using TensorStaged = WarpVertices<16, kTileVertices>;

__global__ void __launch_bounds__(128, 3)
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
              split_tf32(C[row * kTensorPeople + column], a_high[m][i], a_low[m][i]);
            }
          }
#pragma unroll
          for (int n = 0; n < 6; ++n) {
            float b_high[2], b_low[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              split_tf32(basis[(k + t + i * 4) * kTensorRow + n * 8 + g], b_high[i], b_low[i]);
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
  const int64_t padded = tiles_of(in.num_vertices) * kTileVertices;
  const int64_t first = (first_tile + half) * 16, index = first + 2 * t;
  const int64_t there = first < padded ? index : 2 * t;
  float* const staged = shared + kPassPeople * kPersonStride + warp * TensorStaged::kSize;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    load_half(in, out, first_person, shared, [m](int i) { return i / 16 * 32 + m * 16 + i % 16; });
    __syncthreads();
    const int64_t person = first_person + people + m * 16;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      // Columns 2t, 2t + 1 of a half tile of each coordinate.
      const VertexBones<float> bones[2] = {VertexBones<float>(in, there + n * 8),
                                           VertexBones<float>(in, there + n * 8 + 1)};
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int i = high * 2, row = high * 8 + g;
        const float posed[2][3] = {{acc[m][n][i], acc[m][2 + n][i], acc[m][4 + n][i]},
                                   {acc[m][n][i + 1], acc[m][2 + n][i + 1], acc[m][4 + n][i + 1]}};
        finish_pair(in,
                    out,
                    person + row,
                    index + n * 8,
                    shared + (people / 2 + row) * kPersonStride,
                    bones,
                    posed,
                    staged + row * TensorStaged::kRow + (n * 8 + 2 * t) * 3);
      }
    }
    __syncwarp();
    TensorStaged::flush(in, out, first, staged, [&](int row) { return person + row; });
    __syncthreads();  // the second half of the people takes the place of the first
  }
}

template <typename Stage, typename Staged, typename Kernel>
void launch_many(Kernel* kernel,
                 const MeshInputs<float>& in,
                 const MeshOutputs<float>& out,
                 void* stream) {
  const int64_t vertex_blocks = divide_up(in.num_vertices, kBlockVertices);
  const int64_t blocks = vertex_blocks * divide_up(in.num_bodies, kManyPeople);
  constexpr int bytes = many_shared_bytes<Stage, Staged>();
  allow_shared(kernel, bytes);
  EFT_LAUNCH(kernel, grid_of(blocks), 128, bytes, stream, in, out, vertex_blocks);
}

}  // namespace

void launch_float32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream) {
  launch_many<PlainStage, PlainStaged>(float32_kernel, in, out, stream);
}

void launch_three_tf32(const MeshInputs<float>& in, const MeshOutputs<float>& out, void* stream) {
  launch_many<TensorStage, TensorStaged>(three_tf32_kernel, in, out, stream);
}

}  // namespace eft_fast
