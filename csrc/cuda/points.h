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
  const int32_t* output_index;
  const T *betas, *pose, *transl;
  unsigned char* workspace;
};

#define EFT_POINTS_PACK                       \
  {num_bodies,    rows,         terms,        \
   joint_terms,   sources,      outputs,      \
   form,          parents,      skeleton,     \
   basis,         basis_t,      term_index,   \
   term_weight,   joint_index,  joint_weight, \
   transl_weight, output_index, betas,        \
   pose,          transl,       static_cast<unsigned char*>(workspace)}

// Items grouped by a key, in their own order within a key: items of key x are
// order[start[x]] ... order[start[x + 1] - 1].
struct Grouping {
  int *start, *order;
};

// Sorts `count` items by keys[i * step]; all threads of the block together, no order of arrival.
__device__ inline void group_by(
    const int32_t* keys, int step, int count, int num_keys, Grouping out) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int key = keys[i * step];
    int rank = 0;
    for (int u = 0; u < count; ++u) {
      const int other = keys[u * step];
      rank += other < key || (other == key && u < i);
    }
    out.order[rank] = i;
  }
  for (int key = threadIdx.x; key <= num_keys; key += blockDim.x) {
    int before = 0;
    for (int u = 0; u < count; ++u) before += keys[u * step] < key;
    out.start[key] = before;
  }
}

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
  Grouping terms_of_source, terms_of_row, outputs_of_source;
  int* joint_start;  // [25], terms of a joint: they ascend by joint

  __device__ PointsArena(const PointsInputs<T>& in, unsigned char* memory) {
    T* at = reinterpret_cast<T*>(memory);
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
    int* index = reinterpret_cast<int*>(at);
    const auto take_index = [&index](int64_t count) {
      int* const piece = index;
      index += count;
      return piece;
    };
    terms_of_source = {take_index(in.sources + 1), take_index(in.terms)};
    terms_of_row = {take_index(in.rows + 1), take_index(in.terms)};
    outputs_of_source = {take_index(in.sources + 1), take_index(in.outputs)};
    joint_start = take_index(kJoints + 1);
  }

  // Everything that does not depend on the people; followed by a barrier.
  __device__ void prepare(const PointsInputs<T>& in, bool backward) {
    const int terms = static_cast<int>(in.terms);
    const int sources_count = static_cast<int>(in.sources);
    group_by(in.term_index + 2, 3, terms, sources_count, terms_of_source);
    if (!backward) return;
    group_by(in.term_index, 3, terms, static_cast<int>(in.rows), terms_of_row);
    group_by(in.output_index, 1, static_cast<int>(in.outputs), sources_count, outputs_of_source);
    for (int j = threadIdx.x; j <= kJoints; j += blockDim.x) {
      int before = 0;
      for (int u = 0; u < terms; ++u) before += in.term_index[3 * u + 1] < j;
      joint_start[j] = before;
    }
  }
};

}  // namespace eft_fast
