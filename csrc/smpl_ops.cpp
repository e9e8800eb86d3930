// The SMPL operators: mesh, points, and the keypoint loss with its gradients. Tensors in, tensors
// out, no arithmetic.
//
// Letters: B people, V vertices, T = ceil(V / 16) tiles, K outputs, L limbs. betas [B,10]; pose:
// axis-angle [B,24,3], 6D [B,24,6] or matrices [B,24,3,3]; transl [B,3]; plan: the tensors of a
// MeshPlan or a PointsPlan (eft_fast/ops/plans.py).
#include <atomic>
#include <cstring>
#include <tuple>

#include "device.h"
#include "smpl_checks.h"

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
          mesh.slot_weight.size(1),
          read<S>(mesh.basis),
          read<uint8_t>(mesh.slot_idx),
          read<S>(mesh.slot_weight),
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

template <typename Device>
Gradients smpl_mesh(const Tensor& betas,
                    const Tensor& pose,
                    const OptionalTensor& transl,
                    const Plan& plan,
                    int64_t num_vertices,
                    bool keep_posed) {
  const char* op = "smpl_mesh";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(alike, betas, pose, transl, plan, kMeshPlan);
  const MeshArgs mesh = check_mesh(alike, plan, num_vertices);
  const Device device(op, betas);
  const Tensor vertices = device.empty_large(betas, {body.people, mesh.vertices, 3});
  const Tensor joints = empty_as(betas, {body.people, kJoints, 3});
  const Tensor posed = keep_posed ? device.empty_large(betas, {body.people, mesh.tiles, 3, 16})
                                  : empty_as(betas, {0});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      device.run(cpu::MeshForward<S>{Device::pool,
                                     body_inputs<S>(body),
                                     mesh_data<S>(mesh),
                                     write<S>(vertices),
                                     write<S>(joints),
                                     keep_posed ? write<S>(posed) : nullptr});
  });
  return {vertices, joints, posed};
}

template <typename Device>
Gradients smpl_mesh_backward(const Tensor& g_vertices,
                             const Tensor& g_joints,
                             const Tensor& posed,
                             const Tensor& betas,
                             const Tensor& pose,
                             const OptionalTensor& transl,
                             const Plan& plan,
                             int64_t num_vertices) {
  const char* op = "smpl_mesh_backward";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(alike, betas, pose, transl, plan, kMeshPlan);
  const MeshArgs mesh = check_mesh(alike, plan, num_vertices);
  check_shape(op, "g_vertices", g_vertices, {body.people, mesh.vertices, 3});
  alike.floating("g_vertices", g_vertices);
  check_shape(op, "g_joints", g_joints, {body.people, kJoints, 3});
  alike.floating("g_joints", g_joints);
  check_shape(op, "posed", posed, {body.people, mesh.tiles, 3, 16});
  alike.floating("posed", posed);
  const Device device(op, betas);
  const Tensor gv = dense(g_vertices), gj = dense(g_joints), kept = dense(posed);
  const Gradients out = empty_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      device.run(cpu::MeshBackward<S>{Device::pool,
                                      body_inputs<S>(body),
                                      mesh_data<S>(mesh),
                                      read<S>(kept),
                                      read<S>(gv),
                                      read<S>(gj),
                                      gradients<S>(out)});
  });
  return out;
}

template <typename Device>
Tensor smpl_points(const Tensor& betas,
                   const Tensor& pose,
                   const OptionalTensor& transl,
                   const Plan& plan) {
  const char* op = "smpl_points";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(alike, betas, pose, transl, plan, kPointsPlan);
  const PointsArgs points = check_points(alike, plan);
  Device device(op, betas);
  device.keep_lists(points.grouping);
  const Tensor out = empty_as(betas, {body.people, points.outputs, 3});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      device.run(cpu::PointsForward<S>{
          Device::pool, body_inputs<S>(body), points_data<S>(points), write<S>(out)});
  });
  return out;
}

template <typename Device>
Gradients smpl_points_backward(const Tensor& g_points,
                               const Tensor& betas,
                               const Tensor& pose,
                               const OptionalTensor& transl,
                               const Plan& plan) {
  const char* op = "smpl_points_backward";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(alike, betas, pose, transl, plan, kPointsPlan);
  const PointsArgs points = check_points(alike, plan);
  check_shape(op, "g_points", g_points, {body.people, points.outputs, 3});
  alike.floating("g_points", g_points);
  Device device(op, betas);
  device.keep_lists(points.grouping);
  const Tensor g = dense(g_points);
  const Gradients out = empty_gradients(body);
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (body.people)
      device.run(cpu::PointsBackward<S>{Device::pool,
                                        body_inputs<S>(body),
                                        points_data<S>(points),
                                        read<S>(g),
                                        gradients<S>(out)});
  });
  return out;
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> keypoint_loss(
    const Tensor& betas,
    const Tensor& pose,
    const OptionalTensor& transl,
    const Tensor& camera,
    const Plan& plan,
    const Tensor& keypoints,
    const OptionalTensor& limb_index,
    const OptionalTensor& limb_target,
    double keypoint_weight,
    double beta_weight,
    double camera_weight,
    double limb_weight,
    double unit,
    double sigma) {
  const char* op = "keypoint_loss";
  const Alike alike(op, betas);
  const BodyArgs body = check_body(alike, betas, pose, transl, plan, kPointsPlan);
  const PointsArgs points = check_points(alike, plan);
  const LossArgs in =
      check_loss(alike, body.people, points.outputs, camera, keypoints, limb_index, limb_target);
  if constexpr (Device::can_read) check_limbs(op, in, points.outputs);
  Device device(op, betas);
  device.keep_lists(points.grouping);
  const Tensor loss = empty_as(betas, {body.people});
  const Tensor parts = empty_as(betas, {body.people, 4});
  const Tensor g_camera = empty_as(in.camera, {body.people, camera.size(1)});
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
      device.run(cpu::KeypointLoss<S>{Device::pool,
                                      body_inputs<S>(body),
                                      points_data<S>(points),
                                      terms,
                                      write<S>(loss),
                                      write<S>(parts),
                                      write<S>(g_camera),
                                      gradients<S>(out)});
  });
  return {loss, parts, std::get<0>(out), std::get<1>(out), std::get<2>(out), g_camera};
}

template <typename Device>
void implement(Library& m) {
#define EFT_IMPL(name)                     \
  m.impl(#name, TORCH_BOX(&name<Device>)); \
  m.impl(#name "_raw", TORCH_BOX(&name<Device>))
  EFT_IMPL(smpl_mesh);
  EFT_IMPL(smpl_mesh_backward);
  EFT_IMPL(smpl_points);
  EFT_IMPL(smpl_points_backward);
  EFT_IMPL(keypoint_loss);
#undef EFT_IMPL
}

}  // namespace

// Each operator has a twin `<name>_raw` with the same kernel and no autograd formula: for calls
// that record nothing, where the formula's Python layer would cost more than the kernel (16 against
// 11 us, one person's points).
#define EFT_DEF(name, schema) \
  m.def(name schema);         \
  m.def(name "_raw" schema)

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // -> vertices [B,V,3], joints [B,24,3], posed [B,T,3,16] (rest-pose vertices before skinning; [0]
  // unless kept).
  EFT_DEF("smpl_mesh",
          "(Tensor betas, Tensor pose, Tensor? transl, Tensor[] plan, int num_vertices, "
          "bool keep_posed) -> (Tensor, Tensor, Tensor)");
  // Gradients of betas, pose and transl [B,3]; posed is the forward's third output, kept.
  EFT_DEF("smpl_mesh_backward",
          "(Tensor g_vertices, Tensor g_joints, Tensor posed, Tensor betas, Tensor pose, "
          "Tensor? transl, Tensor[] plan, int num_vertices) -> (Tensor, Tensor, Tensor)");
  // -> points [B,K,3].
  EFT_DEF("smpl_points", "(Tensor betas, Tensor pose, Tensor? transl, Tensor[] plan) -> Tensor");
  // Gradients of betas, pose and transl [B,3].
  EFT_DEF("smpl_points_backward",
          "(Tensor g_points, Tensor betas, Tensor pose, Tensor? transl, Tensor[] plan) "
          "-> (Tensor, Tensor, Tensor)");
  // camera: (s, tx, ty) [B,3], or K, R, t row-major [B,21]. keypoints [B,K,3]: x, y, confidence.
  // limb_index [L,2] i32 and limb_target [B,L,3] (unit direction, weight): both or neither.
  // loss = keypoint_weight * mean over 2K of confidence * penalty(unit * (u - x))
  //        + beta_weight * mean beta^2 + camera_weight * exp(-10 s)^2
  //        + limb_weight * sum of weight * (1 - cos); sigma 0: squared error.
  // -> loss [B], parts [B,4] (the four unweighted), and the gradients of the loss of
  //    betas, pose, transl [B,3] and camera.
  EFT_DEF("keypoint_loss",
          "(Tensor betas, Tensor pose, Tensor? transl, Tensor camera, Tensor[] plan, "
          "Tensor keypoints, Tensor? limb_index, Tensor? limb_target, float keypoint_weight, "
          "float beta_weight, float camera_weight, float limb_weight, float unit, float sigma) "
          "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

#ifdef EFT_FAST_WITH_CUDA

std::atomic<int64_t> mesh_arithmetic{kFloat32};

// The launchers of a type.
template <typename S>
struct Launchers;

#define EFT_LAUNCHERS(T, suffix)                                           \
  template <>                                                              \
  struct Launchers<T> {                                                    \
    static constexpr auto mesh = &eft_mesh_forward_##suffix;               \
    static constexpr auto mesh_backward = &eft_mesh_backward_##suffix;     \
    static constexpr auto points = &eft_points_forward_##suffix;           \
    static constexpr auto points_backward = &eft_points_backward_##suffix; \
    static constexpr auto loss = &eft_keypoint_loss_##suffix;              \
  };
EFT_LAUNCHERS(float, f32)
EFT_LAUNCHERS(double, f64)
#undef EFT_LAUNCHERS

// Moves of 16 bytes start here: torch's memory is aligned to more, a view into the middle of a
// tensor need not be.
template <typename S>
void check_aligned(const char* op, const char* name, const S* memory) {
  if (reinterpret_cast<uintptr_t>(memory) % 16)
    refuse(std::string(op) + ": " + name + " must start at a multiple of 16 bytes; clone it");
}

// start(arguments of EFT_MESH_INPUTS..., rest...)
template <typename Start, typename S, typename... Rest>
int launch_mesh(Start start,
                const cpu::BodyInputs<S>& body,
                const cpu::MeshData<S>& mesh,
                const Cuda& device,
                Rest... rest) {
  check_aligned("smpl_mesh", "basis", mesh.basis);
  check_aligned("smpl_mesh", "run_weight", mesh.run_weight);
  return start(body.people,
               mesh.vertices,
               mesh.slots,
               body.form,
               body.parents,
               body.skeleton,
               mesh.basis,
               mesh.slot_idx,
               mesh.slot_weight,
               mesh.run_ptr,
               mesh.run_joint,
               mesh.run_weight,
               body.betas,
               body.pose,
               body.transl,
               rest...,
               device.stream());
}

// start(arguments of EFT_POINTS_INPUTS..., rest...); makes the workspace of a large plan.
template <typename Start, typename S, typename... Rest>
int launch_points(Start start,
                  const cpu::BodyInputs<S>& body,
                  const cpu::PointsData<S>& plan,
                  const Cuda& device,
                  Rest... rest) {
  check_aligned("smpl_points", "basis", plan.basis);
  check_aligned("smpl_points", "basis_t", plan.basis_t);
  const int64_t bytes = points_workspace_bytes(
      body.people, plan.rows, plan.sources, plan.outputs, sizeof(S), device.shared());
  const Tensor workspace = device.workspace(bytes / static_cast<int64_t>(sizeof(S)));
  return start(body.people,
               plan.rows,
               plan.terms,
               plan.joint_terms,
               plan.sources,
               plan.outputs,
               body.form,
               body.parents,
               body.skeleton,
               plan.basis,
               plan.basis_t,
               plan.term_index,
               plan.term_weight,
               plan.joint_index,
               plan.joint_weight,
               plan.transl_weight,
               plan.output_index,
               device.lists(),
               body.betas,
               body.pose,
               body.transl,
               bytes ? write<void>(workspace) : nullptr,
               rest...,
               device.stream());
}

template <typename S>
int launch(const cpu::MeshForward<S>& a, const Cuda& device) {
  const Tensor transforms = device.workspace(transforms_size(a.body.people));
  const Tensor coefficients = device.workspace(coefficients_size(a.body.people));
  return launch_mesh(Launchers<S>::mesh,
                     a.body,
                     a.mesh,
                     device,
                     mesh_arithmetic.load(),
                     write<S>(transforms),
                     write<S>(coefficients),
                     a.posed,
                     a.vertices,
                     a.joints);
}

template <typename S>
int launch(const cpu::MeshBackward<S>& a, const Cuda& device) {
  const int64_t people = a.body.people, vertices = a.mesh.vertices;
  check_aligned("smpl_mesh_backward", "posed", a.posed);
  const Tensor transforms = device.workspace(transforms_size(people));
  const Tensor coefficients = device.workspace(coefficients_size(people));
  const Tensor joints = device.workspace(people * kJoints * 3);
  const Tensor posed_gradient = device.workspace(posed_gradient_size(people, vertices));
  const Tensor chunk_sums = device.workspace(chunk_sums_size(people, vertices));
  const Tensor split_sums = device.workspace(split_sums_size(people, vertices));
  return launch_mesh(Launchers<S>::mesh_backward,
                     a.body,
                     a.mesh,
                     device,
                     a.posed,
                     a.g_vertices,
                     a.g_joints,
                     write<S>(transforms),
                     write<S>(coefficients),
                     write<S>(joints),
                     write<S>(posed_gradient),
                     write<S>(chunk_sums),
                     write<S>(split_sums),
                     a.out.betas,
                     a.out.pose,
                     a.out.transl);
}

template <typename S>
int launch(const cpu::PointsForward<S>& a, const Cuda& device) {
  return launch_points(Launchers<S>::points, a.body, a.data, device, a.points);
}

template <typename S>
int launch(const cpu::PointsBackward<S>& a, const Cuda& device) {
  return launch_points(Launchers<S>::points_backward,
                       a.body,
                       a.data,
                       device,
                       a.g_points,
                       a.out.betas,
                       a.out.pose,
                       a.out.transl);
}

template <typename S>
int launch(const cpu::KeypointLoss<S>& a, const Cuda& device) {
  return launch_points(Launchers<S>::loss,
                       a.body,
                       a.data,
                       device,
                       int64_t{a.in.camera_size},
                       a.in.camera,
                       a.in.keypoints,
                       a.in.limbs,
                       a.in.limb_index,
                       a.in.limb_target,
                       double{a.in.keypoint_weight},
                       double{a.in.beta_weight},
                       double{a.in.camera_weight},
                       double{a.in.limb_weight},
                       double{a.in.unit},
                       double{a.in.sigma},
                       a.loss,
                       a.parts,
                       a.g_camera,
                       a.out.betas,
                       a.out.pose,
                       a.out.transl);
}

#endif  // EFT_FAST_WITH_CUDA

EFT_IMPLEMENT

}  // namespace eft_fast

#ifdef EFT_FAST_WITH_CUDA

// How float32 meshes multiply from now on: "3xtf32" or "float32". 1 for another name.
extern "C" __attribute__((visibility("default"))) int eft_fast_choose_mesh_arithmetic(
    const char* name) {
  const bool is_split = std::strcmp(name, "3xtf32") == 0;
  if (!is_split && std::strcmp(name, "float32") != 0) return 1;
  eft_fast::mesh_arithmetic = is_split ? eft_fast::kThreeTf32 : eft_fast::kFloat32;
  return 0;
}

#endif
