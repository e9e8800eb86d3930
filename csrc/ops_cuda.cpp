// The CUDA side of the SMPL operators: tensors in, tensors out, no arithmetic. Same checks as
// ops_cpu.cpp, so both say the same words.
//
// Everything runs on torch's current stream of the tensors' device. That stream is asked of
// libtorch_cuda at run time, so that the library also loads beside a torch without CUDA. Outputs
// and workspaces come from torch's allocator before a launch, so a call can be captured in a CUDA
// graph.
#ifdef EFT_FAST_WITH_CUDA

#include "ops_cuda.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstring>

namespace eft_fast {
namespace {

std::atomic<int64_t> mesh_arithmetic{kFloat32};

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
  const Tensor vertices = empty_as(betas, {body.people, mesh.vertices, 3});
  const Tensor joints = empty_as(betas, {body.people, kJoints, 3});
  const Tensor posed =
      keep_posed ? empty_as(betas, {body.people, mesh.tiles, 3, 16}) : empty_as(betas, {0});
  const Tensor transforms = empty_as(betas, {transforms_size(body.people)});
  const Tensor coefficients = empty_as(betas, {coefficients_size(body.people)});
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
  const Tensor transforms = empty_as(betas, {transforms_size(body.people)});
  const Tensor coefficients = empty_as(betas, {coefficients_size(body.people)});
  const Tensor joints = empty_as(betas, {body.people, kJoints, 3});
  const Tensor posed_gradient = empty_as(betas, {posed_gradient_size(body.people, mesh.vertices)});
  const Tensor chunk_sums = empty_as(betas, {chunk_sums_size(body.people, mesh.vertices)});
  const Tensor split_sums = empty_as(betas, {split_sums_size(body.people, mesh.vertices)});
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
  const Tensor points = empty_as(betas, {body.people, plan.outputs, 3});
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
  const Tensor loss = empty_as(betas, {body.people});
  const Tensor parts = empty_as(betas, {body.people, 4});
  const Tensor g_camera = empty_as(in.camera, {body.people, camera.size(1)});
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

#ifdef EFT_FAST_CUDA_EMULATOR
STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(eft_fast, CUDA, m) {
#endif
  m.impl("smpl_mesh", TORCH_BOX(&eft_fast::smpl_mesh));
  m.impl("smpl_mesh_raw", TORCH_BOX(&eft_fast::smpl_mesh));
  m.impl("smpl_mesh_backward", TORCH_BOX(&eft_fast::smpl_mesh_backward));
  m.impl("smpl_mesh_backward_raw", TORCH_BOX(&eft_fast::smpl_mesh_backward));
  m.impl("smpl_points", TORCH_BOX(&eft_fast::smpl_points));
  m.impl("smpl_points_raw", TORCH_BOX(&eft_fast::smpl_points));
  m.impl("smpl_points_backward", TORCH_BOX(&eft_fast::smpl_points_backward));
  m.impl("smpl_points_backward_raw", TORCH_BOX(&eft_fast::smpl_points_backward));
  m.impl("keypoint_loss", TORCH_BOX(&eft_fast::keypoint_loss));
  m.impl("keypoint_loss_raw", TORCH_BOX(&eft_fast::keypoint_loss));
}

#endif  // EFT_FAST_WITH_CUDA
