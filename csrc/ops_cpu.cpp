// The CPU side of the SMPL operators: tensors in, tensors out, no arithmetic.
#include "ops_cpu.h"

#include <sys/mman.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "check.h"

namespace eft_fast {
namespace {

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

template <typename S>
cpu::BodyInputs<S> body_inputs(const BodyArgs& body) {
  return {body.people,
          body.form,
          read<S>(body.betas),
          read<S>(body.pose),
          read<S>(body.transl),
          read<S>(body.skeleton),
          read<int32_t>(body.parents)};
}

template <typename S>
cpu::MeshData<S> mesh_data(const MeshArgs& mesh) {
  return {mesh.vertices,
          mesh.tiles,
          read<S>(mesh.basis),
          read<int32_t>(mesh.run_ptr),
          read<int32_t>(mesh.run_joint),
          read<S>(mesh.run_weight)};
}

template <typename S>
cpu::PointsData<S> points_data(const PointsArgs& p) {
  return {p.rows,
          p.terms,
          p.joint_terms,
          p.sources,
          p.outputs,
          read<S>(p.basis),
          read<S>(p.basis_t),
          read<int32_t>(p.term_index),
          read<S>(p.term_weight),
          read<int32_t>(p.joint_index),
          read<S>(p.joint_weight),
          read<S>(p.transl_weight),
          read<int32_t>(p.output_index)};
}

// Asks for large pages under a big fresh tensor: a first touch costs up to 6 us per 4 kB page
// (virtual machine, B = 32: 48 of 158 us a person), and every mesh is a first touch. A hint only;
// the kernel may ignore it.
Tensor empty_large(const Tensor& like, std::initializer_list<int64_t> shape) {
  const Tensor t = empty_as(like, shape);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const size_t bytes = t.numel() * (like.scalar_type() == ScalarType::Float ? 4 : 8);
  const auto begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage,
                  last = (begin + bytes) / kPage * kPage;
  if (bytes >= 2 * kPage && last > first)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return t;
}

Gradients empty_gradients(const BodyArgs& body) {
  const Tensor pose = body.form == 9 ? empty_as(body.pose, {body.people, kJoints, 3, 3})
                                     : empty_as(body.pose, {body.people, kJoints, body.form});
  return {
      empty_as(body.betas, {body.people, kBetas}), pose, empty_as(body.betas, {body.people, 3})};
}

template <typename S>
cpu::BodyGradients<S> gradients(const Gradients& g) {
  return {write<S>(std::get<0>(g)), write<S>(std::get<1>(g)), write<S>(std::get<2>(g))};
}

template <typename F>
void for_type(const Tensor& betas, F f) {
  if (betas.scalar_type() == ScalarType::Float) {
    f(float{});
  } else {
    f(double{});
  }
}

// Overloads pick the table's entry by type.
void call(const cpu::MeshForward<float>& a) { cpu::kernels().mesh_forward_f32(a); }
void call(const cpu::MeshForward<double>& a) { cpu::kernels().mesh_forward_f64(a); }
void call(const cpu::MeshBackward<float>& a) { cpu::kernels().mesh_backward_f32(a); }
void call(const cpu::MeshBackward<double>& a) { cpu::kernels().mesh_backward_f64(a); }
void call(const cpu::PointsForward<float>& a) { cpu::kernels().points_forward_f32(a); }
void call(const cpu::PointsForward<double>& a) { cpu::kernels().points_forward_f64(a); }
void call(const cpu::PointsBackward<float>& a) { cpu::kernels().points_backward_f32(a); }
void call(const cpu::PointsBackward<double>& a) { cpu::kernels().points_backward_f64(a); }
void call(const cpu::KeypointLoss<float>& a) { cpu::kernels().keypoint_loss_f32(a); }
void call(const cpu::KeypointLoss<double>& a) { cpu::kernels().keypoint_loss_f64(a); }

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
  const Tensor vertices = empty_large(betas, {body.people, mesh.vertices, 3});
  const Tensor joints = empty_as(betas, {body.people, kJoints, 3});
  const Tensor posed =
      keep_posed ? empty_large(betas, {body.people, mesh.tiles, 3, 16}) : empty_as(betas, {0});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      call(cpu::MeshForward<S>{kPool,
                               body_inputs<S>(body),
                               mesh_data<S>(mesh),
                               write<S>(vertices),
                               write<S>(joints),
                               keep_posed ? write<S>(posed) : nullptr});
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
  const Tensor gv = dense(g_vertices), gj = dense(g_joints), kept = dense(posed);
  const Gradients out = empty_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      call(cpu::MeshBackward<S>{kPool,
                                body_inputs<S>(body),
                                mesh_data<S>(mesh),
                                read<S>(kept),
                                read<S>(gv),
                                read<S>(gj),
                                gradients<S>(out)});
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
  const Tensor points = empty_as(betas, {body.people, plan.outputs, 3});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      call(cpu::PointsForward<S>{
          kPool, body_inputs<S>(body), points_data<S>(plan), write<S>(points)});
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
  const Tensor g = dense(g_points);
  const Gradients out = empty_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      call(cpu::PointsBackward<S>{
          kPool, body_inputs<S>(body), points_data<S>(plan), read<S>(g), gradients<S>(out)});
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
  for (int64_t i = 0; i < 2 * in.limbs; ++i) {
    const int32_t point = read<int32_t>(in.limb_index)[i];
    if (point < 0 || point >= plan.outputs)
      refuse("keypoint_loss: limb_index must be in 0.." + std::to_string(plan.outputs - 1) +
             ", got " + std::to_string(point));
  }
  const Tensor loss = empty_as(betas, {body.people});
  const Tensor parts = empty_as(betas, {body.people, 4});
  const Tensor g_camera = empty_as(camera, {body.people, camera.size(1)});
  const Gradients out = empty_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    const cpu::LossInputs<S> terms{static_cast<int>(camera.size(1)),
                                   read<S>(in.camera),
                                   read<S>(in.keypoints),
                                   in.limbs,
                                   read<int32_t>(in.limb_index),
                                   read<S>(in.limb_target),
                                   static_cast<S>(keypoint_weight),
                                   static_cast<S>(beta_weight),
                                   static_cast<S>(camera_weight),
                                   static_cast<S>(limb_weight),
                                   static_cast<S>(unit),
                                   static_cast<S>(sigma)};
    if (body.people)
      call(cpu::KeypointLoss<S>{kPool,
                                body_inputs<S>(body),
                                points_data<S>(plan),
                                terms,
                                write<S>(loss),
                                write<S>(parts),
                                write<S>(g_camera),
                                gradients<S>(out)});
  });
  return {loss, parts, std::get<0>(out), std::get<1>(out), std::get<2>(out), g_camera};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) {
  m.impl("smpl_mesh", TORCH_BOX(&smpl_mesh));
  m.impl("smpl_mesh_raw", TORCH_BOX(&smpl_mesh));
  m.impl("smpl_mesh_backward", TORCH_BOX(&smpl_mesh_backward));
  m.impl("smpl_mesh_backward_raw", TORCH_BOX(&smpl_mesh_backward));
  m.impl("smpl_points", TORCH_BOX(&smpl_points));
  m.impl("smpl_points_raw", TORCH_BOX(&smpl_points));
  m.impl("smpl_points_backward", TORCH_BOX(&smpl_points_backward));
  m.impl("smpl_points_backward_raw", TORCH_BOX(&smpl_points_backward));
  m.impl("keypoint_loss", TORCH_BOX(&keypoint_loss));
  m.impl("keypoint_loss_raw", TORCH_BOX(&keypoint_loss));
}

}  // namespace eft_fast
