// What a block of the MAP solver reads, and its shared memory.
#pragma once

#include "../math/map.h"
#include "../math/transform.h"
#include "launch.h"
#include "map_launchers.h"

namespace eft_fast {

template <typename T>
struct MapInputs {
  int64_t people, rows, terms, joint_terms, sources, outputs;
  const T *rotmat0, *betas0, *cam0, *rotmat, *betas, *cam;
  const T *keypoints, *precision, *frame, *pinhole, *points3d;
  const bool* free;
  const T* skeleton;
  const int32_t* parents;
  const T* row_data;
  const int32_t* term_index;
  const T* term_weight;
  const int32_t* joint_index;
  const T* joint_weight;
  const int32_t* output_index;
};

constexpr int kMapThreads = 128;
// Entries of the upper triangle, row by row.
constexpr int kMapTriangle = kMapUnknowns * (kMapUnknowns + 1) / 2;
// Columns of a row of the Jacobian: the unknowns as they come, and zeros up to whole tiles.
constexpr int kMapColumns = 88;

EFT_HD int map_entry(int i, int j) { return i * kMapUnknowns - i * (i - 1) / 2 + j - i; }

template <typename T>
struct MapDeviceBody {
  T *turn, *betas, *cam;  // quaternions since the start
  T *R, *G, *g, *rest, *shift, *omega, *slope, *x, *pull, *y, *moved, *points;
  double *energy, *data;
};

// The shared memory of a block, cut to pieces.
template <typename T>
struct MapArena {
  MapDeviceBody<T> bodies[2];
  T *start, *q, *c, *A, *place, *shift, *target;
  T *rows, *spread, *arm, *normal, *by_camera, *residual;
  T *H, *U, *inverse, *gradient, *step;
  double *spare, *part, *prior_part, *scalars;
  int32_t *depth, *row_of, *sizes;

  __device__ MapArena(const MapInputs<T>& in, unsigned char* memory) {
    auto* doubles = reinterpret_cast<double*>(memory);
    const auto take_double = [&](int64_t count) {
      double* piece = doubles;
      doubles += count;
      return piece;
    };
    spare = take_double(in.sources);
    part = take_double(in.sources);
    prior_part = take_double(kMapUnknowns);
    scalars = take_double(8);
    auto* values = reinterpret_cast<T*>(doubles);
    const auto take = [&](int64_t count) {
      T* piece = values;
      values += count;
      return piece;
    };
    for (int i = 0; i < 2; ++i) {
      MapDeviceBody<T>& body = bodies[i];
      T* const first = values;
      body.turn = take(4 * kJoints);
      body.betas = take(kBetas);
      body.cam = take(3);
      body.R = take(9 * kJoints);
      body.G = take(9 * kJoints);
      body.g = take(3 * kJoints);
      body.rest = take(3 * kJoints);
      body.shift = take(3 * kJoints);
      body.omega = take(3 * kJoints);
      body.slope = take(kJoints);
      body.x = take(kMapUnknowns);
      body.pull = take(kMapUnknowns);
      values = first + 1024;
      body.y = take(3 * in.rows);
      body.moved = take(3 * in.terms);
      body.points = take(3 * in.sources);
      body.energy = scalars + 2 * i;
      body.data = scalars + 2 * i + 1;
    }
    const int64_t batch = map_row_batch(sizeof(T));
    start = take(9 * kJoints);
    q = take(4 * kJoints);
    c = take(kMapRow);
    A = take(9 * kJoints);
    place = take(3 * kBetas * kJoints);
    shift = take(3 * kBetas * kJoints);
    target = take(7 * in.sources);
    rows = take(batch * kMapColumns);
    spread = take(batch * kMapRow);
    arm = take(batch * 3 * kJoints);
    normal = take(batch * 3);
    by_camera = take(batch * 3);
    residual = take(batch);
    H = take(kMapTriangle);
    U = take(kMapTriangle);
    inverse = take(kMapColumns);
    gradient = take(kMapColumns);
    step = take(kMapColumns);
    depth = reinterpret_cast<int32_t*>(values);
    sizes = depth + kJoints;
    row_of = sizes + 4;
  }
};

}  // namespace eft_fast
