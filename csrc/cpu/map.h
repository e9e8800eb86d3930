// What the CPU side of the MAP solver takes. Raw pointers, contiguous, row-major; shapes as in the
// schemas of csrc/map_ops.cpp.
#pragma once

#include <cstdint>

namespace eft_fast {
namespace cpu {

// Rotations [B,24,3,3], betas [B,10] and weak cameras [B,3].
template <typename S>
struct MapState {
  const S *rotmat, *betas, *cam;
};

template <typename S>
struct MapProblem {
  int64_t people;
  MapState<S> centre, begin;
  const S* keypoints;           // [B,K,3] u, v, weight
  const S* precision;           // [85,85]
  const S* frame;               // [B]
  const S *pinhole, *points3d;  // [B,4], [B,K,4], or null
  const bool* free;             // [85], or null: all
  const S* skeleton;            // [24,3,11]
  const int32_t* parents;       // [24]
  int64_t rows, terms, joint_terms, sources, outputs;
  const S* row_data;            // [R,3,240], math/map.h
  const int32_t* term_index;    // [N,3] row, joint, source
  const S* term_weight;         // [N,2]
  const int32_t* joint_index;   // [M,2] joint, source
  const S* joint_weight;        // [M]
  const int32_t* output_index;  // [K]
};

template <typename S>
struct MapEvaluate {
  Pool pool;
  MapProblem<S> in;
  S *energy, *data, *gradient, *hessian;  // [B], [B], [B,85], [B,85,85]
};

template <typename S>
struct MapSolve {
  Pool pool;
  MapProblem<S> in;
  int64_t steps;
  double damping, tolerance;
  S *rotmat, *betas, *cam, *energy, *data;
  int32_t* count;
  bool *converged, *finite;
  S* hessian;  // or null: not kept
};

}  // namespace cpu
}  // namespace eft_fast
