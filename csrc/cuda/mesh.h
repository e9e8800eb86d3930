// What the kernels of the mesh share: the inputs of an evaluation and the steps between files.
#pragma once

#include "launch.h"
#include "launchers.h"

namespace eft_fast {

// The arguments of EFT_MESH_INPUTS, in their order.
template <typename T>
struct MeshInputs {
  int64_t num_bodies, num_vertices, slots, form;
  const int32_t* parents;
  const T* skeleton;
  const T* basis;
  const uint8_t* slot_idx;
  const T* slot_weight;
  const int32_t *run_ptr, *run_joint;
  const T* run_weight;
  const T *betas, *pose, *transl;
};

#define EFT_MESH_PACK \
  {num_bodies,        \
   num_vertices,      \
   slots,             \
   form,              \
   parents,           \
   skeleton,          \
   basis,             \
   slot_idx,          \
   slot_weight,       \
   run_ptr,           \
   run_joint,         \
   run_weight,        \
   betas,             \
   pose,              \
   transl}

// chain.cu. transforms [B][24][12]; coefficients [ceil(B/16)][218][16]; joints [B][24][3].
template <typename T>
void launch_chain(const MeshInputs<T>& in, T* transforms, T* coefficients, T* joints, void* stream);

// chain.cu. The end of the backward: adds up the sums of the blocks, then walks the tree.
template <typename T>
void launch_chain_backward(const MeshInputs<T>& in,
                           const T* g_joints,
                           const T* chunk_sums,
                           const T* split_sums,
                           T* g_betas,
                           T* g_pose,
                           T* g_transl,
                           void* stream);

}  // namespace eft_fast
