// What a kernel takes, one record each, and the table of one instruction set. Raw pointers,
// contiguous, row-major. Operators fill the same record for a CPU and for a GPU, where
// <family>_ops.cpp takes it apart for a launcher of cuda/launchers.h.
//
// cpu/simd/*.cpp is compiled once per instruction set. Those sources use no standard library
// templates and no inline functions of others: the linker would keep one copy of such a function,
// perhaps one that the processor at hand cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace eft_fast {
namespace cpu {

// Splits items 0..count over torch's threads, at least `grain` items each: about 0.1 ms of work,
// less than which a thread is not worth waking. How it splits never changes a result.
struct Pool {
  void (*run)(int64_t count,
              int64_t grain,
              void (*body)(void* context, int64_t begin, int64_t end),
              void* context);
};

// Memory that a thread keeps between calls; slot 0 for the calling thread's shared data, 1 for a
// worker's own.
void* scratch(int slot, size_t bytes);

template <typename S>
struct BodyInputs {
  int64_t people;
  int form;                        // math::PoseForm
  const S *betas, *pose, *transl;  // [B,10], [B,24,form], [B,3] or null
  const S* skeleton;               // [24,3,11]
  const int32_t* parents;          // [24]
};

template <typename S>
struct BodyGradients {
  S *betas, *pose, *transl;  // transl may be null
};

template <typename S>
struct MeshData {
  int64_t vertices, tiles, slots;
  const S* basis;                      // [T,218,3,16]
  const uint8_t* slot_idx;             // [T,slots,16]; these two for the CUDA kernels alone
  const S* slot_weight;                // [T,slots,16]
  const int32_t *run_ptr, *run_joint;  // [T+1], [R]
  const S* run_weight;                 // [R,16]
};

template <typename S>
struct MeshForward {
  Pool pool;
  BodyInputs<S> body;
  MeshData<S> mesh;
  S *vertices, *joints;  // [B,V,3], [B,24,3]
  S* posed;              // [B,T,3,16], or null: not kept
};

template <typename S>
struct MeshBackward {
  Pool pool;
  BodyInputs<S> body;
  MeshData<S> mesh;
  const S *posed, *g_vertices, *g_joints;
  BodyGradients<S> out;
};

template <typename S>
struct PointsData {
  int64_t rows;  // R, a multiple of 16
  int64_t terms, joint_terms, sources, outputs;
  const S *basis, *basis_t;     // [218,3,R], [3R,224]
  const int32_t* term_index;    // [N,3] row, joint, source
  const S* term_weight;         // [N,2]
  const int32_t* joint_index;   // [M,2] joint, source
  const S* joint_weight;        // [M]
  const S* transl_weight;       // [S]
  const int32_t* output_index;  // [K]
};

template <typename S>
struct PointsForward {
  Pool pool;
  BodyInputs<S> body;
  PointsData<S> data;
  S* points;  // [B,K,3]
};

template <typename S>
struct PointsBackward {
  Pool pool;
  BodyInputs<S> body;
  PointsData<S> data;
  const S* g_points;
  BodyGradients<S> out;
};

template <typename S>
struct LossInputs {
  int camera_size;              // 3 weak, 21 full (math/projection.h)
  const S *camera, *keypoints;  // [B,camera_size], [B,K,3] x, y, confidence
  int64_t limbs;
  const int32_t* limb_index;  // [L,2] start, end among the outputs
  const S* limb_target;       // [B,L,3] unit direction, weight
  S keypoint_weight, beta_weight, camera_weight, limb_weight;
  S unit;   // errors are multiplied by this before the penalty
  S sigma;  // of the Geman-McClure penalty; 0: squared error
};

template <typename S>
struct KeypointLoss {
  Pool pool;
  BodyInputs<S> body;
  PointsData<S> data;
  LossInputs<S> in;
  S *loss, *parts, *g_camera;  // [B], [B,4], [B,camera_size]
  BodyGradients<S> out;
};

// Numbers of a body pose: 23 joints below the root.
constexpr int kBodyPose = 69;

template <typename S>
struct BodyPriors {
  Pool pool;
  int64_t people;
  const S *pose, *betas;  // [B,69], [B,10]
  // M Gaussians over the first D numbers: means [M,D], factors [D,M*D] (Cholesky factors of the
  // precisions, lower triangles side by side), offset [M].
  int64_t gaussians, dims;
  const S *means, *factors, *offset;
  const S *lower, *upper;               // [69]
  const S *anchor_pose, *anchor_betas;  // [B,69], [B,10], or null
  S softness;
  S pose_weight, angle_weight, limits_weight, shape_weight, anchor_weight;  // 0: left out
  S *loss, *parts, *g_pose, *g_betas;  // [B], [B,5], [B,69], [B,10]
};

// Depthwise convolution with the channels last: each channel by its own kernel, the input padded
// with zeros. Maps [B,H,W,C].
struct DepthwiseMaps {
  Pool pool;
  int64_t images, channels, height, width, out_height, out_width;
  int kernel, stride;  // 3 or 5, 1 or 2
  int64_t pad;         // rows above and columns to the left; the output's size tells the others
  bool clamp_in;       // the input goes through a clamp to [0, 6]
  const float *x, *weight;  // weight [C,k,k]
};

struct Depthwise : DepthwiseMaps {
  bool clamp_out;     // the output does, too
  const float* bias;  // [C] or null
  float* y;
};

struct DepthwiseBackward : DepthwiseMaps {
  const float *y, *g_y;            // y: the clamped output, or null where it was not clamped
  float *g_x, *g_weight, *g_bias;  // g_x, or g_weight and g_bias, may be null: not wanted
};

}  // namespace cpu
}  // namespace eft_fast

#include "map.h"

namespace eft_fast {
namespace cpu {

// Every kernel: its name, and its record. BOTH: for float and double; ONE: for its record alone. A
// new kernel is one line here.
#define EFT_CPU_KERNELS(BOTH, ONE)      \
  BOTH(mesh_forward, MeshForward)       \
  BOTH(mesh_backward, MeshBackward)     \
  BOTH(points_forward, PointsForward)   \
  BOTH(points_backward, PointsBackward) \
  BOTH(keypoint_loss, KeypointLoss)     \
  BOTH(body_priors, BodyPriors)         \
  BOTH(map_solve, MapSolve)             \
  BOTH(map_evaluate, MapEvaluate)       \
  ONE(depthwise, Depthwise)             \
  ONE(depthwise_backward, DepthwiseBackward)

struct Kernels {
  const char* name;
#define EFT_BOTH(name, Record)                   \
  void (*name##_f32)(const cpu::Record<float>&); \
  void (*name##_f64)(const cpu::Record<double>&);
#define EFT_ONE(name, Record) void (*name)(const cpu::Record&);
  EFT_CPU_KERNELS(EFT_BOTH, EFT_ONE)
#undef EFT_BOTH
#undef EFT_ONE
};

// The table in use: the best set that this processor runs, unless eft_fast_choose_simd chose
// another.
const Kernels& kernels();

}  // namespace cpu
}  // namespace eft_fast
