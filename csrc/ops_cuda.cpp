// The CUDA side of the SMPL operators: tensors in, tensors out, no arithmetic. Same checks as
// ops_cpu.cpp, so both say the same words.
//
// Everything runs on torch's current stream of the tensors' device. That stream is asked of
// libtorch_cuda at run time, so that the library also loads beside a torch without CUDA. Outputs
// and workspaces come from torch's allocator before a launch, so a call can be captured in a CUDA
// graph.
#ifdef EFT_FAST_WITH_CUDA

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstring>
#include <tuple>

#include "check.h"
#include "cuda/launchers.h"

namespace eft_fast {
namespace {

using torch::stable::accelerator::DeviceGuard;
using OptionalTensor = std::optional<Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

std::atomic<int64_t> mesh_arithmetic{kThreeTf32};

void* current_stream(const char* op, const Tensor& like) {
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

void check_launch(const char* op, int code) {
  if (code != 0)
    refuse(std::string(op) + ": the CUDA kernels did not start (error " + std::to_string(code) +
           ": " + eft_cuda_error(code) + ")");
}

template <typename S>
const S* read(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

template <typename S>
const S* read(const OptionalTensor& t) {
  return t.has_value() ? read<S>(*t) : nullptr;
}

template <typename S>
S* write(const Tensor& t) {
  return static_cast<S*>(t.mutable_data_ptr());
}

Tensor make(const Tensor& like, std::initializer_list<int64_t> shape) {
  return torch::stable::new_empty(like, shape);
}

Gradients make_gradients(const BodyArgs& body) {
  return {torch::stable::empty_like(body.betas),
          torch::stable::empty_like(body.pose),
          make(body.betas, {body.people, 3})};
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
  const Tensor workspace = make(body.betas, {bytes / static_cast<int64_t>(sizeof(S))});
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

Gradients smpl_mesh(const Tensor& betas,
                    const Tensor& pose,
                    const OptionalTensor& transl,
                    const Tensor& skeleton,
                    const Tensor& parents,
                    const Tensor& basis,
                    const Tensor& slot_idx,
                    const Tensor& slot_weight,
                    const Tensor& run_ptr,
                    const Tensor& run_joint,
                    const Tensor& run_weight,
                    int64_t num_vertices,
                    bool keep_posed) {
  const char* op = "smpl_mesh";
  const BodyArgs body = check_body(op, betas, pose, transl, skeleton, parents);
  const MeshArgs mesh = check_mesh(
      Alike(op, betas), basis, slot_idx, slot_weight, run_ptr, run_joint, run_weight, num_vertices);
  const DeviceGuard guard(betas.get_device_index());
  const Tensor vertices = make(betas, {body.people, mesh.vertices, 3});
  const Tensor joints = make(betas, {body.people, kJoints, 3});
  const Tensor posed =
      keep_posed ? make(betas, {body.people, mesh.tiles, 3, 16}) : make(betas, {0});
  const Tensor transforms = make(betas, {transforms_size(body.people)});
  const Tensor coefficients = make(betas, {coefficients_size(body.people)});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const int code = call_mesh<S>(Launchers<S>::mesh,
                                  body,
                                  mesh,
                                  mesh_arithmetic.load(),
                                  write<S>(transforms),
                                  write<S>(coefficients),
                                  keep_posed ? write<S>(posed) : nullptr,
                                  write<S>(vertices),
                                  write<S>(joints),
                                  current_stream(op, betas));
    check_launch(op, code);
  });
  return {vertices, joints, posed};
}

Gradients smpl_mesh_backward(const Tensor& g_vertices,
                             const Tensor& g_joints,
                             const Tensor& posed,
                             const Tensor& betas,
                             const Tensor& pose,
                             const OptionalTensor& transl,
                             const Tensor& skeleton,
                             const Tensor& parents,
                             const Tensor& basis,
                             const Tensor& slot_idx,
                             const Tensor& slot_weight,
                             const Tensor& run_ptr,
                             const Tensor& run_joint,
                             const Tensor& run_weight,
                             int64_t num_vertices) {
  const char* op = "smpl_mesh_backward";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(op, betas, pose, transl, skeleton, parents);
  const MeshArgs mesh =
      check_mesh(alike, basis, slot_idx, slot_weight, run_ptr, run_joint, run_weight, num_vertices);
  check_shape(op, "g_vertices", g_vertices, {body.people, mesh.vertices, 3});
  alike.floating("g_vertices", g_vertices);
  check_shape(op, "g_joints", g_joints, {body.people, kJoints, 3});
  alike.floating("g_joints", g_joints);
  check_shape(op, "posed", posed, {body.people, mesh.tiles, 3, 16});
  alike.floating("posed", posed);
  const DeviceGuard guard(betas.get_device_index());
  const Tensor gv = dense(g_vertices), gj = dense(g_joints), kept = dense(posed);
  const Gradients out = make_gradients(body);
  const Tensor transforms = make(betas, {transforms_size(body.people)});
  const Tensor coefficients = make(betas, {coefficients_size(body.people)});
  const Tensor joints = make(betas, {body.people, kJoints, 3});
  const Tensor posed_gradient = make(betas, {posed_gradient_size(body.people, mesh.vertices)});
  const Tensor chunk_sums = make(betas, {chunk_sums_size(body.people, mesh.vertices)});
  const Tensor split_sums = make(betas, {split_sums_size(body.people, mesh.vertices)});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const int code = call_mesh<S>(Launchers<S>::mesh_backward,
                                  body,
                                  mesh,
                                  read<S>(kept),
                                  read<S>(gv),
                                  read<S>(gj),
                                  write<S>(transforms),
                                  write<S>(coefficients),
                                  write<S>(joints),
                                  write<S>(posed_gradient),
                                  write<S>(chunk_sums),
                                  write<S>(split_sums),
                                  write<S>(std::get<0>(out)),
                                  write<S>(std::get<1>(out)),
                                  write<S>(std::get<2>(out)),
                                  current_stream(op, betas));
    check_launch(op, code);
  });
  return out;
}

Tensor smpl_points(const Tensor& betas,
                   const Tensor& pose,
                   const OptionalTensor& transl,
                   const Tensor& skeleton,
                   const Tensor& parents,
                   const Tensor& basis,
                   const Tensor& basis_t,
                   const Tensor& term_index,
                   const Tensor& term_weight,
                   const Tensor& joint_index,
                   const Tensor& joint_weight,
                   const Tensor& transl_weight,
                   const Tensor& output_index) {
  const char* op = "smpl_points";
  const BodyArgs body = check_body(op, betas, pose, transl, skeleton, parents);
  const PointsArgs plan = check_points(Alike(op, betas),
                                       basis,
                                       basis_t,
                                       term_index,
                                       term_weight,
                                       joint_index,
                                       joint_weight,
                                       transl_weight,
                                       output_index);
  const DeviceGuard guard(betas.get_device_index());
  const Tensor points = make(betas, {body.people, plan.outputs, 3});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const int code = call_points<S>(
        Launchers<S>::points, body, plan, write<S>(points), current_stream(op, betas));
    check_launch(op, code);
  });
  return points;
}

Gradients smpl_points_backward(const Tensor& g_points,
                               const Tensor& betas,
                               const Tensor& pose,
                               const OptionalTensor& transl,
                               const Tensor& skeleton,
                               const Tensor& parents,
                               const Tensor& basis,
                               const Tensor& basis_t,
                               const Tensor& term_index,
                               const Tensor& term_weight,
                               const Tensor& joint_index,
                               const Tensor& joint_weight,
                               const Tensor& transl_weight,
                               const Tensor& output_index) {
  const char* op = "smpl_points_backward";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(op, betas, pose, transl, skeleton, parents);
  const PointsArgs plan = check_points(alike,
                                       basis,
                                       basis_t,
                                       term_index,
                                       term_weight,
                                       joint_index,
                                       joint_weight,
                                       transl_weight,
                                       output_index);
  check_shape(op, "g_points", g_points, {body.people, plan.outputs, 3});
  alike.floating("g_points", g_points);
  const DeviceGuard guard(betas.get_device_index());
  const Tensor g = dense(g_points);
  const Gradients out = make_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const int code = call_points<S>(Launchers<S>::points_backward,
                                    body,
                                    plan,
                                    read<S>(g),
                                    write<S>(std::get<0>(out)),
                                    write<S>(std::get<1>(out)),
                                    write<S>(std::get<2>(out)),
                                    current_stream(op, betas));
    check_launch(op, code);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> keypoint_loss(
    const Tensor& betas,
    const Tensor& pose,
    const OptionalTensor& transl,
    const Tensor& skeleton,
    const Tensor& parents,
    const Tensor& camera,
    const Tensor& keypoints,
    const OptionalTensor& limb_index,
    const OptionalTensor& limb_target,
    const Tensor& basis,
    const Tensor& basis_t,
    const Tensor& term_index,
    const Tensor& term_weight,
    const Tensor& joint_index,
    const Tensor& joint_weight,
    const Tensor& transl_weight,
    const Tensor& output_index,
    double keypoint_weight,
    double beta_weight,
    double camera_weight,
    double limb_weight,
    double unit,
    double sigma) {
  const char* op = "keypoint_loss";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(op, betas, pose, transl, skeleton, parents);
  const PointsArgs plan = check_points(alike,
                                       basis,
                                       basis_t,
                                       term_index,
                                       term_weight,
                                       joint_index,
                                       joint_weight,
                                       transl_weight,
                                       output_index);
  const LossArgs in =
      check_loss(alike, body.people, plan.outputs, camera, keypoints, limb_index, limb_target);
  const DeviceGuard guard(betas.get_device_index());
  const Tensor loss = make(betas, {body.people});
  const Tensor parts = make(betas, {body.people, 4});
  const Tensor g_camera = torch::stable::empty_like(in.camera);
  const Gradients out = make_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const int code = call_points<S>(Launchers<S>::loss,
                                    body,
                                    plan,
                                    camera.size(1),
                                    read<S>(in.camera),
                                    read<S>(in.keypoints),
                                    in.limbs,
                                    read<int32_t>(in.limb_index),
                                    read<S>(in.limb_target),
                                    keypoint_weight,
                                    beta_weight,
                                    camera_weight,
                                    limb_weight,
                                    unit,
                                    sigma,
                                    write<S>(loss),
                                    write<S>(parts),
                                    write<S>(g_camera),
                                    write<S>(std::get<0>(out)),
                                    write<S>(std::get<1>(out)),
                                    write<S>(std::get<2>(out)),
                                    current_stream(op, betas));
    check_launch(op, code);
  });
  return {loss, parts, std::get<0>(out), std::get<1>(out), std::get<2>(out), g_camera};
}

}  // namespace
}  // namespace eft_fast

// How float32 meshes multiply from now on: "3xtf32" or "float32". 1 for another name.
extern "C" __attribute__((visibility("default"))) int eft_fast_choose_mesh_arithmetic(
    const char* name) {
  const bool is_split = std::strcmp(name, "3xtf32") == 0;
  if (!is_split && std::strcmp(name, "float32") != 0) return 1;
  eft_fast::mesh_arithmetic = is_split ? eft_fast::kThreeTf32 : eft_fast::kFloat32;
  return 0;
}

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CUDA, m) {
  m.impl("smpl_mesh", TORCH_BOX(&eft_fast::smpl_mesh));
  m.impl("smpl_mesh_backward", TORCH_BOX(&eft_fast::smpl_mesh_backward));
  m.impl("smpl_points", TORCH_BOX(&eft_fast::smpl_points));
  m.impl("smpl_points_backward", TORCH_BOX(&eft_fast::smpl_points_backward));
  m.impl("keypoint_loss", TORCH_BOX(&eft_fast::keypoint_loss));
}

#endif  // EFT_FAST_WITH_CUDA
