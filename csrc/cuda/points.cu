// Points without the mesh: forward, backward, and the keypoint loss with all its gradients, each
// one launch. A block has 8 people: warp p works on person p, and the products with the basis are
// shared out over all threads, so that the basis is read once for 8 people.
#include "points_evaluation.h"

namespace eft_fast {
namespace {

constexpr int kThreads = kGroup * 32;

enum Mode { kForward, kBackward, kLoss };

// out(n, sums of 8 people) of matrix [count][columns] times values [count][8]: a thread per column.
template <typename T, typename Store>
__device__ inline void multiply_group(
    const T* matrix, int64_t columns, int64_t used, int count, const T* values, Store store) {
  for (int64_t n = threadIdx.x; n < used; n += blockDim.x) {
    T sum[kGroup] = {};
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      const T d = __ldg(matrix + k * columns + n);
#pragma unroll
      for (int p = 0; p < kGroup; ++p) sum[p] += d * values[k * kGroup + p];
    }
#pragma unroll
    for (int p = 0; p < kGroup; ++p) store(n, p, sum[p]);
  }
}

constexpr int kColumnsPadded = 224;  // of basis_t

template <typename T, int mode>
__global__ void __launch_bounds__(kThreads)
    points_kernel(PointsInputs<T> in, LossInputs<T> loss, PointsOutputs<T> out) {
  EFT_DYNAMIC_SHARED(unsigned char, shared);
  const int64_t bytes = points_arena_bytes(
      in.rows, in.terms, in.sources, in.outputs, static_cast<int64_t>(sizeof(T)));
  PointsArena<T> arena(in, in.workspace ? in.workspace + blockIdx.x * bytes : shared);
  arena.prepare(in, mode != kForward);
  __syncthreads();
  const int p = threadIdx.x / 32;
  const int64_t groups = divide_up(in.num_bodies, kGroup);
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t b = group * kGroup + p;
    const bool is_person = b < in.num_bodies;
    Evaluation<T> evaluation{in, out, arena, b, p, static_cast<int>(threadIdx.x % 32), {}, {}};
    if (is_person) evaluation.pose();
    __syncthreads();
    multiply_group(in.basis,
                   3 * in.rows,
                   3 * in.rows,
                   kCoefficients,
                   arena.coefficients,
                   [&](int64_t n, int person, T y) { arena.rows[person * 3 * in.rows + n] = y; });
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
        in.basis_t,
        kColumnsPadded,
        kCoefficients,
        static_cast<int>(3 * in.rows),
        arena.g_rows,
        [&](int64_t k, int person, T g) { arena.coefficients[person * kCoefficients + k] = g; });
    __syncthreads();
    if (is_person) {
      evaluation.finish(mode == kLoss ? loss.beta_weight * T(2) / T(kBetas) : T(0));
    }
    __syncthreads();  // the next group overwrites the arena
  }
}

template <typename T, int mode>
int run(const PointsInputs<T>& in,
        const LossInputs<T>& loss,
        const PointsOutputs<T>& out,
        void* stream) {
  if (in.num_bodies == 0) return cudaSuccess;
  const int64_t bytes = points_arena_bytes(
      in.rows, in.terms, in.sources, in.outputs, static_cast<int64_t>(sizeof(T)));
  const int shared = in.workspace ? 0 : static_cast<int>(bytes);
  if (allow_shared(points_kernel<T, mode>, shared) != cudaSuccess) return cudaGetLastError();
  EFT_LAUNCH((points_kernel<T, mode>),
             grid_of(points_blocks(in.num_bodies)),
             kThreads,
             shared,
             stream,
             in,
             loss,
             out);
  return cudaGetLastError();
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
