// What the kernels of the points share: inputs, and the memory of a block.
#pragma once

#include "launch.h"
#include "launchers.h"
#include "warp_chain.h"

namespace eft_fast {

constexpr int kGroup = 8;  // people per block, one warp each

// The arguments of EFT_POINTS_INPUTS, in their order.
template <typename T>
struct PointsInputs {
  int64_t num_bodies, rows, terms, joint_terms, sources, outputs, form;
  const int32_t* parents;
  const T *skeleton, *basis, *basis_t;
  const int32_t* term_index;
  const T* term_weight;
  const int32_t* joint_index;
  const T *joint_weight, *transl_weight;
  const int32_t *output_index, *grouping;
  const T *betas, *pose, *transl;
  unsigned char* workspace;
};

#define EFT_POINTS_PACK         \
  {num_bodies,   rows,          \
   terms,        joint_terms,   \
   sources,      outputs,       \
   form,         parents,       \
   skeleton,     basis,         \
   basis_t,      term_index,    \
   term_weight,  joint_index,   \
   joint_weight, transl_weight, \
   output_index, grouping,      \
   betas,        pose,          \
   transl,       static_cast<unsigned char*>(workspace)}

// Items grouped by a key, in their own order within a key: items of key x are
// order[start[x]] ... order[start[x + 1] - 1].
struct Grouping {
  const int32_t *start, *order;
};

// The lists of PointsPlan.grouping.
struct PointsIndex {
  Grouping terms_of_source, terms_of_row, outputs_of_source, joints_of_source, sources_of_joint;
  const int32_t* joint_start;  // [25], terms of a joint: they ascend by joint

  template <typename T>
  __device__ explicit PointsIndex(const PointsInputs<T>& in) {
    const int32_t* at = in.grouping;
    const auto take = [&at](int64_t count) {
      const int32_t* const piece = at;
      at += count;
      return piece;
    };
    const auto take_list = [&take](int64_t keys, int64_t items) {
      const int32_t* const start = take(keys + 1);
      return Grouping{start, take(items)};
    };
    terms_of_source = take_list(in.sources, in.terms);
    terms_of_row = take_list(in.rows, in.terms);
    outputs_of_source = take_list(in.sources, in.outputs);
    joints_of_source = take_list(in.sources, in.joint_terms);
    sources_of_joint = take_list(kJoints, in.joint_terms);
    joint_start = at;
  }
};

// The memory of a block, in shared memory or, for large plans, in the workspace. [p] is the person.
template <typename T>
struct PointsArena {
  T* coefficients;  // [218][p]; later their gradient, [p][218]
  T* transforms;    // [p][24][12]
  T* joints;        // [p][24][3]
  T* scratch;       // [p][kChainScratch]
  T* rows;          // [p][3][R] y
  T* g_rows;        // [3][R][p]
  T* sources;       // [p][S][3]; later their gradient
  T* outputs;       // [p][K][3], gradient of the outputs
  T* image;         // [p][K][2], projected outputs

  __device__ PointsArena(const PointsInputs<T>& in, T* at) {
    const auto take = [&at](int64_t count) {
      T* const piece = at;
      at += count * kGroup;
      return piece;
    };
    coefficients = take(kCoefficients);
    transforms = take(kJoints * kTransform);
    joints = take(kJoints * 3);
    scratch = take(kChainScratch);
    rows = take(3 * in.rows);
    g_rows = take(3 * in.rows);
    sources = take(3 * in.sources);
    outputs = take(3 * in.outputs);
    image = take(2 * in.outputs);
  }
};

}  // namespace eft_fast
