// The launchers of the MAP solver. Rules are those of launchers.h.
#pragma once

#include <cstdint>

#include "launchers.h"

namespace eft_fast {

// Rows of the Jacobian that a block holds at a time.
EFT_HD constexpr int64_t map_row_batch(int64_t scalar_bytes) { return scalar_bytes == 4 ? 16 : 8; }

// Shared memory of one block, which solves one person.
EFT_HD constexpr int64_t map_arena_bytes(int64_t rows,
                                         int64_t terms,
                                         int64_t sources,
                                         int64_t scalar_bytes) {
  const int64_t batch = map_row_batch(scalar_bytes);
  const int64_t body = 1024 + 3 * (rows + terms + sources);
  const int64_t values = 2 * body + 2208 + 7 * sources + batch * 408 + 2 * 3656 + 3 * 88;
  const int64_t doubles = 2 * sources + 85 + 8;
  return divide_up(values * scalar_bytes + 8 * doubles + 4 * (5 * sources + 32), 16) * 16;
}

}  // namespace eft_fast

// What both take first: sizes, then centre and start (rotmat [B][24][3][3], betas [B][10], cam
// [B][3]), keypoints [B][K][3], precision [85][85], frame [B], pinhole [B][4], points3d [B][K][4]
// and free [85] or null, and the plan as in csrc/cpu/map.h.
#define EFT_MAP_INPUTS(T)                                                                         \
  int64_t people, int64_t rows, int64_t terms, int64_t joint_terms, int64_t sources,              \
      int64_t outputs, const T *rotmat0, const T *betas0, const T *cam0, const T *rotmat,         \
      const T *betas, const T *cam, const T *keypoints, const T *precision, const T *frame,       \
      const T *pinhole, const T *points3d, const bool *free, const T *skeleton,                   \
      const int32_t *parents, const T *row_data, const int32_t *term_index, const T *term_weight, \
      const int32_t *joint_index, const T *joint_weight, const int32_t *output_index

#define EFT_MAP_SOLVE(name, T) \
  int name(EFT_MAP_INPUTS(T),  \
           int64_t steps,      \
           double damping,     \
           double tolerance,   \
           T* out_rotmat,      \
           T* out_betas,       \
           T* out_cam,         \
           T* energy,          \
           T* data,            \
           int32_t* count,     \
           bool* converged,    \
           bool* finite,       \
           T* hessian,         \
           void* stream)

#define EFT_MAP_EVALUATE(name, T) \
  int name(EFT_MAP_INPUTS(T), T* energy, T* data, T* gradient, T* hessian, void* stream)

extern "C" {
EFT_MAP_SOLVE(eft_map_solve_f32, float);
EFT_MAP_SOLVE(eft_map_solve_f64, double);
EFT_MAP_EVALUATE(eft_map_evaluate_f32, float);
EFT_MAP_EVALUATE(eft_map_evaluate_f64, double);
}
