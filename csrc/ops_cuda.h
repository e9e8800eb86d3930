// How the CUDA side of the operators reaches its launchers: stream, errors, pointers, arguments.
//
// With EFT_FAST_CUDA_EMULATOR the kernels run on the CPU, and so do the operators: for tests
// without a GPU.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "check.h"
#include "cuda/launchers.h"
#include "tensors.h"

namespace eft_fast {
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

#ifdef EFT_FAST_CUDA_EMULATOR

struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};
inline void* current_stream(const char*, const Tensor&) { return nullptr; }

#else

using torch::stable::accelerator::DeviceGuard;

// Of the tensor's device. Asked of libtorch_cuda at run time, so that the library also loads beside
// a torch without CUDA.
inline void* current_stream(const char* op, const Tensor& like) {
  using GetStream = int32_t (*)(int32_t, void**);
  static const auto get_stream = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* const symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<GetStream>(symbol);
  }();
  void* stream = nullptr;
  if (!get_stream || get_stream(like.get_device_index(), &stream) != 0)
    refuse(std::string(op) +
           ": torch's current CUDA stream was not found; use torch>=2.11 with CUDA, or "
           "backend='torch'");
  return stream;
}

#endif

inline void check_launch(const char* op, int code) {
  if (code != 0)
    refuse(std::string(op) + ": the CUDA kernels did not start (error " + std::to_string(code) +
           ": " + eft_cuda_error(code) + ")");
}

inline Gradients make_gradients(const BodyArgs& body) {
  const Tensor pose = body.form == 9 ? empty_as(body.pose, {body.people, kJoints, 3, 3})
                                     : empty_as(body.pose, {body.people, kJoints, body.form});
  return {
      empty_as(body.betas, {body.people, kBetas}), pose, empty_as(body.betas, {body.people, 3})};
}

template <typename S>
struct Launchers;

template <>
struct Launchers<float> {
  static constexpr auto mesh = &eft_mesh_forward_f32;
  static constexpr auto mesh_backward = &eft_mesh_backward_f32;
  static constexpr auto points = &eft_points_forward_f32;
  static constexpr auto points_backward = &eft_points_backward_f32;
  static constexpr auto loss = &eft_keypoint_loss_f32;
};

template <>
struct Launchers<double> {
  static constexpr auto mesh = &eft_mesh_forward_f64;
  static constexpr auto mesh_backward = &eft_mesh_backward_f64;
  static constexpr auto points = &eft_points_forward_f64;
  static constexpr auto points_backward = &eft_points_backward_f64;
  static constexpr auto loss = &eft_keypoint_loss_f64;
};

template <typename F>
void for_type(const Tensor& betas, F f) {
  if (betas.scalar_type() == ScalarType::Float) {
    f(float{});
  } else {
    f(double{});
  }
}

// launch(arguments of EFT_MESH_INPUTS..., rest...)
template <typename S, typename Launch, typename... Rest>
int call_mesh(Launch launch, const BodyArgs& body, const MeshArgs& mesh, Rest... rest) {
  return launch(body.people,
                mesh.vertices,
                mesh.slot_weight.size(1),
                body.form,
                read<int32_t>(body.parents),
                read<S>(body.skeleton),
                read<S>(mesh.basis),
                read<uint8_t>(mesh.slot_idx),
                read<S>(mesh.slot_weight),
                read<int32_t>(mesh.run_ptr),
                read<int32_t>(mesh.run_joint),
                read<S>(mesh.run_weight),
                read<S>(body.betas),
                read<S>(body.pose),
                read<S>(body.transl),
                rest...);
}

// launch(arguments of EFT_POINTS_INPUTS..., rest...); makes the workspace of a large plan.
template <typename S, typename Launch, typename... Rest>
int call_points(Launch launch, const BodyArgs& body, const PointsArgs& plan, Rest... rest) {
  const int64_t bytes = points_workspace_bytes(
      body.people, plan.rows, plan.terms, plan.sources, plan.outputs, sizeof(S));
  const Tensor workspace = empty_as(body.betas, {bytes / static_cast<int64_t>(sizeof(S))});
  return launch(body.people,
                plan.rows,
                plan.terms,
                plan.joint_terms,
                plan.sources,
                plan.outputs,
                body.form,
                read<int32_t>(body.parents),
                read<S>(body.skeleton),
                read<S>(plan.basis),
                read<S>(plan.basis_t),
                read<int32_t>(plan.term_index),
                read<S>(plan.term_weight),
                read<int32_t>(plan.joint_index),
                read<S>(plan.joint_weight),
                read<S>(plan.transl_weight),
                read<int32_t>(plan.output_index),
                read<S>(body.betas),
                read<S>(body.pose),
                read<S>(body.transl),
                bytes ? write<void>(workspace) : nullptr,
                rest...);
}

}  // namespace eft_fast
