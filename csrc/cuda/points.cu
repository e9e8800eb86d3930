// Points without the mesh: forward, backward, and the keypoint loss with all its gradients, each
// one launch. A block has 8 people: warp p works on person p, and the products with the basis are
// shared out over all threads, so that the basis is read once for 8 people.
#include "points_evaluation.h"

namespace eft_fast {
namespace {

constexpr int kThreads = kGroup * 32;

enum Mode { kForward, kBackward, kLoss };

// store(n, sums of 8 people) of matrix [count][columns] times values [count][8]; columns are a
// multiple of 4. Of a warp, eight lanes side by side have four columns each, and four of them share
// out the sum; its parts meet in a fixed tree, after which each of the four has one column.
template <typename T, typename Store>
__device__ inline void multiply_group(
    const T* matrix, int columns, int count, const T* values, Store store) {
  constexpr int kParts = 4, kColumns = 4;
  const int part = threadIdx.x % kParts;
  const int warps = (columns + 31) / 32;
  for (int tile = threadIdx.x / 32; tile < warps; tile += blockDim.x / 32) {
    const int first = (tile * 8 + threadIdx.x % 32 / kParts) * kColumns;
    const int column = min(first, columns - kColumns);  // lanes beyond the end repeat others
    T sum[kColumns][kGroup] = {};
#pragma unroll 4
    for (int k = part; k < count; k += kParts) {
      const Four<T> d = load_four(matrix + static_cast<int64_t>(k) * columns + column);
      const Four<T> low = load_four(values + k * kGroup), high = load_four(values + k * kGroup + 4);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          sum[c][p] += d.at[c] * low.at[p];
          sum[c][4 + p] += d.at[c] * high.at[p];
        }
      }
    }
    T own[kGroup];
#pragma unroll
    for (int p = 0; p < kGroup; ++p) {
      // A lane keeps the columns whose lowest bit is that of its part, then the one whose other
      // bit is, and gives away the rest.
      const bool odd = part & 1, high = part & 2;
      T kept[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const T given = odd ? sum[2 * c][p] : sum[2 * c + 1][p];
        kept[c] = (odd ? sum[2 * c + 1][p] : sum[2 * c][p]) + __shfl_xor_sync(kAllLanes, given, 1);
      }
      const T given = high ? kept[0] : kept[1];
      own[p] = (high ? kept[1] : kept[0]) + __shfl_xor_sync(kAllLanes, given, 2);
    }
    if (first < columns) store(first + part, own);
  }
}

constexpr int kColumnsPadded = 224;  // of basis_t

// kShared: the memory of the block is shared memory, which loads of its own serve; otherwise it is
// the workspace.
template <typename T, int mode, bool kShared>
__global__ void __launch_bounds__(kThreads)
    points_kernel(PointsInputs<T> in, LossInputs<T> loss, PointsOutputs<T> out) {
  EFT_DYNAMIC_SHARED(T, shared);
  T* memory = shared;
  if constexpr (!kShared) {
    const int64_t bytes =
        points_arena_bytes(in.rows, in.sources, in.outputs, static_cast<int64_t>(sizeof(T)));
    memory = reinterpret_cast<T*>(in.workspace + blockIdx.x * bytes);
  }
  const PointsArena<T> arena(in, memory);
  const PointsIndex index(in);
  const int p = threadIdx.x / 32, columns = static_cast<int>(3 * in.rows);
  const int64_t groups = divide_up(in.num_bodies, kGroup);
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t b = group * kGroup + p;
    const bool is_person = b < in.num_bodies;
    const int lane = static_cast<int>(threadIdx.x % 32);
    Evaluation<T> evaluation{in, out, arena, index, b, p, lane, {}, {}};
    if (is_person) evaluation.pose();
    __syncthreads();
    multiply_group(
        in.basis, columns, kCoefficients, arena.coefficients, [&](int n, const T(&y)[kGroup]) {
#pragma unroll
          for (int person = 0; person < kGroup; ++person)
            arena.rows[person * columns + n] = y[person];
        });
    __syncthreads();
    if (is_person) {
      evaluation.make_sources();
      if (mode == kForward) evaluation.store_points();
      if (mode == kBackward) evaluation.load_gradients();
      if (mode == kLoss) evaluation.evaluate_loss(loss);
      if (mode != kForward) evaluation.gather_rows();
    }
    __syncthreads();
    if (mode == kForward) continue;
    multiply_group(
        in.basis_t, kColumnsPadded, columns, arena.g_rows, [&](int k, const T(&g)[kGroup]) {
          if (k >= kCoefficients) return;
#pragma unroll
          for (int person = 0; person < kGroup; ++person) {
            arena.coefficients[person * kCoefficients + k] = g[person];
          }
        });
    __syncthreads();
    if (is_person) {
      evaluation.finish(mode == kLoss ? loss.beta_weight * T(2) / T(kBetas) : T(0));
    }
    __syncthreads();  // the next group overwrites the arena
  }
}

template <typename T, int mode, bool kShared>
int launch(const PointsInputs<T>& in,
           const LossInputs<T>& loss,
           const PointsOutputs<T>& out,
           void* stream) {
  const int64_t bytes =
      points_arena_bytes(in.rows, in.sources, in.outputs, static_cast<int64_t>(sizeof(T)));
  const int shared = kShared ? static_cast<int>(bytes) : 0;
  if (allow_shared(points_kernel<T, mode, kShared>, shared) != cudaSuccess) {
    return cudaGetLastError();
  }
  EFT_LAUNCH((points_kernel<T, mode, kShared>),
             grid_of(points_blocks(in.num_bodies, !kShared)),
             kThreads,
             shared,
             stream,
             in,
             loss,
             out);
  return cudaGetLastError();
}

template <typename T, int mode>
int run(const PointsInputs<T>& in,
        const LossInputs<T>& loss,
        const PointsOutputs<T>& out,
        void* stream) {
  if (in.num_bodies == 0) return cudaSuccess;
  return in.workspace ? launch<T, mode, false>(in, loss, out, stream)
                      : launch<T, mode, true>(in, loss, out, stream);
}

}  // namespace
}  // namespace eft_fast

#define EFT_POINTS(suffix, T)                                                       \
  EFT_POINTS_FORWARD(eft_points_forward_##suffix, T) {                              \
    eft_fast::PointsOutputs<T> out{};                                               \
    out.points = points;                                                            \
    return eft_fast::run<T, eft_fast::kForward>(EFT_POINTS_PACK, {}, out, stream);  \
  }                                                                                 \
  EFT_POINTS_BACKWARD(eft_points_backward_##suffix, T) {                            \
    const eft_fast::PointsOutputs<T> out{                                           \
        g_points, nullptr, nullptr, nullptr, nullptr, g_betas, g_pose, g_transl};   \
    return eft_fast::run<T, eft_fast::kBackward>(EFT_POINTS_PACK, {}, out, stream); \
  }                                                                                 \
  EFT_KEYPOINT_LOSS(eft_keypoint_loss_##suffix, T) {                                \
    const eft_fast::LossInputs<T> in{static_cast<int>(camera_size),                 \
                                     camera,                                        \
                                     keypoints,                                     \
                                     limbs,                                         \
                                     limb_index,                                    \
                                     limb_target,                                   \
                                     static_cast<T>(keypoint_weight),               \
                                     static_cast<T>(beta_weight),                   \
                                     static_cast<T>(camera_weight),                 \
                                     static_cast<T>(limb_weight),                   \
                                     static_cast<T>(unit),                          \
                                     static_cast<T>(sigma)};                        \
    const eft_fast::PointsOutputs<T> out{                                           \
        nullptr, nullptr, loss, parts, g_camera, g_betas, g_pose, g_transl};        \
    return eft_fast::run<T, eft_fast::kLoss>(EFT_POINTS_PACK, in, out, stream);     \
  }
EFT_POINTS(f32, float)
EFT_POINTS(f64, double)
