// The launchers of csrc/cuda, as csrc/<family>_ops.cpp and the tests call them.
//
// Raw pointers to contiguous memory on one device, sizes in elements, and the stream to run on.
// Each returns the CUDA error code, 0 for success; 0 people start nothing. None allocates, waits or
// reads results, so all of them may be captured in a CUDA graph. Floating pointers are float in
// _f32 and double in _f64. Layouts of the plans: eft_fast/ops/plans.py.
#pragma once

#include <cstdint>

#include "../math/scalar.h"

namespace eft_fast {

// How the mesh kernel multiplies in float32. Both are float32-exact within the same tolerance.
enum MeshArithmetic : int64_t { kFloat32 = 0, kThreeTf32 = 1 };

constexpr int64_t kTileVertices = 16;  // of the plan
constexpr int64_t kTilePeople = 16;    // of the coefficients
constexpr int64_t kChunkTiles = 32;    // tiles whose transform gradients one block adds up
// Gradients of the transforms, then of transl, padded so that the next ones can be moved in fours.
constexpr int64_t kChunkSums = 24 * 12 + 4;

EFT_HD constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
EFT_HD constexpr int64_t tiles_of(int64_t num_vertices) {
  return divide_up(num_vertices, kTileVertices);
}

// Elements of the workspaces. They depend on the shape alone, and so do the splits of every sum:
// two runs give equal bits on any GPU of one architecture.
constexpr int64_t transforms_size(int64_t num_bodies) { return num_bodies * 24 * 12; }
constexpr int64_t coefficients_size(int64_t num_bodies) {
  return divide_up(num_bodies, kTilePeople) * kTilePeople * 218;
}
constexpr int64_t posed_gradient_size(int64_t num_bodies, int64_t num_vertices) {
  return num_bodies * tiles_of(num_vertices) * 3 * kTileVertices;
}
constexpr int64_t chunks_of(int64_t num_vertices) {
  return divide_up(tiles_of(num_vertices), kChunkTiles);
}
constexpr int64_t chunk_sums_size(int64_t num_bodies, int64_t num_vertices) {
  return num_bodies * chunks_of(num_vertices) * kChunkSums;
}
// The same for any number of people, so that a person's bits do not depend on it.
constexpr int64_t kSplitTiles = 8;
constexpr int64_t splits_of(int64_t num_vertices) {
  return divide_up(tiles_of(num_vertices), kSplitTiles);
}
constexpr int64_t split_sums_size(int64_t num_bodies, int64_t num_vertices) {
  return num_bodies * splits_of(num_vertices) * 218;
}

// The memory of one block of the points kernels: values of 8 people.
EFT_HD constexpr int64_t points_arena_bytes(int64_t rows,
                                            int64_t sources,
                                            int64_t outputs,
                                            int64_t scalar_bytes) {
  const int64_t values = 218 + 24 * 12 + 24 * 3 + 24 * 15 + 6 * rows + 3 * sources + 5 * outputs;
  return 8 * values * scalar_bytes;
}
// Above this the memory of a block lies in the workspace on any device.
constexpr int64_t kPointsArenaLimit = 160 << 10;
// One per 8 people; in the workspace blocks go through the people in turns, so that it stays small.
constexpr int64_t points_blocks(int64_t num_bodies, bool in_workspace) {
  const int64_t groups = divide_up(num_bodies, 8);
  return in_workspace && groups > 528 ? 528 : groups;
}
// 0 where the memory of a block fits into shared memory of `limit` bytes.
constexpr int64_t points_workspace_bytes(int64_t num_bodies,
                                         int64_t rows,
                                         int64_t sources,
                                         int64_t outputs,
                                         int64_t scalar_bytes,
                                         int64_t limit) {
  const int64_t arena = points_arena_bytes(rows, sources, outputs, scalar_bytes);
  return arena <= (limit < kPointsArenaLimit ? limit : kPointsArenaLimit)
             ? 0
             : arena * points_blocks(num_bodies, true);
}

// Bytes that the rasteriser needs: snapped vertices, depth keys, boxes of faces and of groups
// of 32.
constexpr int64_t raster_workspace_bytes(int64_t pictures, int64_t vertices, int64_t faces) {
  const int64_t per_picture[] = {8 * vertices, 4 * vertices, 8 * faces, 8 * divide_up(faces, 32)};
  int64_t bytes = 0;
  for (const int64_t part : per_picture) bytes += divide_up(pictures * part, 16) * 16;
  return bytes;
}

// Shared memory of a block that draws, depth and face of every sub-sample of 16 x 16 pixels, and
// what the kernel has beside it.
constexpr int64_t raster_shared_bytes(int64_t samples) { return samples * samples * 256 * 8; }
constexpr int64_t kRasterStatic = 18 << 10;

struct RasterOutputs {
  float* image;     // [B][H][W][C], averaged over all sub-samples; an empty one counts as 0
  float* coverage;  // [B][H][W]
  float* depth;     // [B][H][W], nearest z; infinity where nothing was drawn
};

}  // namespace eft_fast

// What every mesh launcher takes first. parents [24], skeleton [24][3][11], basis
// [tiles][218][3][16], slot_idx and slot_weight [tiles][slots][16], run_ptr [tiles + 1], run_joint
// [R], run_weight [R][16], betas [B][10], pose [B][24][form], transl [B][3] or null. form: 3
// axis-angle, 6 the 6D form, 9 matrices.
#define EFT_MESH_INPUTS(T)                                                                       \
  int64_t num_bodies, int64_t num_vertices, int64_t slots, int64_t form, const int32_t *parents, \
      const T *skeleton, const T *basis, const uint8_t *slot_idx, const T *slot_weight,          \
      const int32_t *run_ptr, const int32_t *run_joint, const T *run_weight, const T *betas,     \
      const T *pose, const T *transl

// Forward: vertices [B][V][3], joints [B][24][3]; posed [B][tiles][3][16] is v_posed for the
// backward, or null. Workspaces: transforms, coefficients.
#define EFT_MESH_FORWARD(name, T) \
  int name(EFT_MESH_INPUTS(T),    \
           int64_t arithmetic,    \
           T* transforms,         \
           T* coefficients,       \
           T* posed,              \
           T* vertices,           \
           T* joints,             \
           void* stream)

// Backward: from g_vertices [B][V][3] and g_joints [B][24][3] to the gradients of betas, pose,
// transl. Workspaces: transforms, coefficients (both filled again), joints [B][24][3],
// posed_gradient, chunk_sums, split_sums.
#define EFT_MESH_BACKWARD(name, T) \
  int name(EFT_MESH_INPUTS(T),     \
           const T* posed,         \
           const T* g_vertices,    \
           const T* g_joints,      \
           T* transforms,          \
           T* coefficients,        \
           T* joints,              \
           T* posed_gradient,      \
           T* chunk_sums,          \
           T* split_sums,          \
           T* g_betas,             \
           T* g_pose,              \
           T* g_transl,            \
           void* stream)

// What every points launcher takes first. basis [218][3][R], basis_t [3R][224], term_index [N][3],
// term_weight [N][2], joint_index [M][2], joint_weight [M], transl_weight [S], output_index [K],
// grouping as PointsPlan.grouping; both bases start at a multiple of 16 bytes. workspace:
// points_workspace_bytes, or null where that is 0.
#define EFT_POINTS_INPUTS(T)                                                                    \
  int64_t num_bodies, int64_t rows, int64_t terms, int64_t joint_terms, int64_t sources,        \
      int64_t outputs, int64_t form, const int32_t *parents, const T *skeleton, const T *basis, \
      const T *basis_t, const int32_t *term_index, const T *term_weight,                        \
      const int32_t *joint_index, const T *joint_weight, const T *transl_weight,                \
      const int32_t *output_index, const int32_t *grouping, const T *betas, const T *pose,      \
      const T *transl, void *workspace

// points [B][K][3].
#define EFT_POINTS_FORWARD(name, T) int name(EFT_POINTS_INPUTS(T), T* points, void* stream)

// g_points [B][K][3].
#define EFT_POINTS_BACKWARD(name, T) \
  int name(                          \
      EFT_POINTS_INPUTS(T), const T* g_points, T* g_betas, T* g_pose, T* g_transl, void* stream)

// The terms are those of keypoint_loss in csrc/smpl_ops.cpp. camera [B][camera_size], keypoints
// [B][K][3], limb_index [L][2], limb_target [B][L][3]; loss [B], parts [B][4], g_camera as camera.
#define EFT_KEYPOINT_LOSS(name, T)    \
  int name(EFT_POINTS_INPUTS(T),      \
           int64_t camera_size,       \
           const T* camera,           \
           const T* keypoints,        \
           int64_t limbs,             \
           const int32_t* limb_index, \
           const T* limb_target,      \
           double keypoint_weight,    \
           double beta_weight,        \
           double camera_weight,      \
           double limb_weight,        \
           double unit,               \
           double sigma,              \
           T* loss,                   \
           T* parts,                  \
           T* g_camera,               \
           T* g_betas,                \
           T* g_pose,                 \
           T* g_transl,               \
           void* stream)

extern "C" {
const char* eft_cuda_error(int code);

// Bytes of shared memory that a block of the current device may have: 99 KB of compute capability
// 8.6 and 8.9, 163 of 8.0, 227 of 9.0.
int64_t eft_cuda_shared_limit();

// vertices [B][V][3] (x, y in pixels, z), faces [F][3], attributes [B][V][C]; outputs as in
// RasterOutputs. Faces with an index outside are left out. At most 2^31 - 1 tiles of 16 x 16.
int eft_rasterize_f32(int64_t pictures,
                      int64_t num_vertices,
                      int64_t num_faces,
                      int64_t channels,
                      int64_t height,
                      int64_t width,
                      int64_t samples,
                      int64_t perspective,
                      const float* vertices,
                      const int32_t* faces,
                      const float* attributes,
                      void* workspace,
                      float* image,
                      float* coverage,
                      float* depth,
                      void* stream);

EFT_POINTS_FORWARD(eft_points_forward_f32, float);
EFT_POINTS_FORWARD(eft_points_forward_f64, double);
EFT_POINTS_BACKWARD(eft_points_backward_f32, float);
EFT_POINTS_BACKWARD(eft_points_backward_f64, double);
EFT_KEYPOINT_LOSS(eft_keypoint_loss_f32, float);
EFT_KEYPOINT_LOSS(eft_keypoint_loss_f64, double);
EFT_MESH_FORWARD(eft_mesh_forward_f32, float);
EFT_MESH_FORWARD(eft_mesh_forward_f64, double);
EFT_MESH_BACKWARD(eft_mesh_backward_f32, float);
EFT_MESH_BACKWARD(eft_mesh_backward_f64, double);
}
