// Checks of the SMPL operators' inputs. A plan is the tensors of ops/plans.py in their order there;
// what lies in its indices is checked once, where it is made.
#pragma once

#include <string>
#include <vector>

#include "check.h"

namespace eft_fast {

using Plan = std::vector<Tensor>;
// The plan of points may have one more, the lists of PointsPlan.grouping, which GPUs want.
constexpr size_t kMeshPlan = 8, kPointsPlan = 10;

inline void check_length(const char* op, const Plan& plan, size_t length) {
  const bool has_lists = length == kPointsPlan && plan.size() == length + 1;
  if (plan.size() != length && !has_lists)
    refuse(std::string(op) + ": plan must be " + std::to_string(length) + " tensors, got " +
           std::to_string(plan.size()));
}

// What every operator takes of a body, checked and contiguous.
struct BodyArgs {
  Tensor betas, pose;
  const Tensor &skeleton, &parents;
  OptionalTensor transl;
  int64_t people;
  int form;  // math::PoseForm
};

inline int pose_form(const char* op, const Tensor& pose, int64_t people) {
  const int64_t dims = pose.dim();
  const bool is_matrix = dims == 4 && pose.size(2) == 3 && pose.size(3) == 3;
  const bool is_vector = dims == 3 && (pose.size(2) == 3 || pose.size(2) == 6);
  if (!(is_matrix || is_vector) || pose.size(0) != people || pose.size(1) != kJoints)
    refuse(std::string(op) + ": pose must be [B, 24, 3], [B, 24, 6] or [B, 24, 3, 3] with B = " +
           std::to_string(people) + " as in betas, got " + shape_text(pose));
  return is_matrix ? 9 : static_cast<int>(pose.size(2));
}

inline BodyArgs check_body(const Alike& alike,
                           const Tensor& betas,
                           const Tensor& pose,
                           const OptionalTensor& transl,
                           const Plan& plan,
                           size_t length) {
  const char* const op = alike.op;
  check_length(op, plan, length);
  check_shape(op, "betas", betas, {-1, kBetas});
  const int64_t people = betas.size(0);
  const int form = pose_form(op, pose, people);
  alike.floating("pose", pose);
  check_plan(alike, "skeleton", plan[0], {kJoints, 3, kSkeletonRow});
  check_plan(alike, "parents", plan[1], {kJoints}, true);
  OptionalTensor shift;
  if (transl.has_value()) {
    check_shape(op, "transl", *transl, {people, 3});
    alike.floating("transl", *transl);
    shift = dense(*transl);
  }
  return {dense(betas), dense(pose), plan[0], plan[1], shift, people, form};
}

struct MeshArgs {
  const Tensor &basis, &slot_idx, &slot_weight, &run_ptr, &run_joint, &run_weight;
  int64_t vertices, tiles;
};

inline MeshArgs check_mesh(const Alike& alike, const Plan& plan, int64_t vertices) {
  const MeshArgs mesh{
      plan[2], plan[3], plan[4], plan[5], plan[6], plan[7], vertices, (vertices + 15) / 16};
  check_plan(alike, "basis", mesh.basis, {mesh.tiles, kCoefficients, 3, 16});
  check_plan(alike, "slot_weight", mesh.slot_weight, {mesh.tiles, -1, 16});
  check_shape(alike.op, "slot_idx", mesh.slot_idx, {mesh.tiles, mesh.slot_weight.size(1), 16});
  alike.device("slot_idx", mesh.slot_idx);
  if (mesh.slot_idx.scalar_type() != ScalarType::Byte || !mesh.slot_idx.is_contiguous())
    refuse(std::string(alike.op) + ": slot_idx must be contiguous uint8");
  check_plan(alike, "run_ptr", mesh.run_ptr, {mesh.tiles + 1}, true);
  check_plan(alike, "run_joint", mesh.run_joint, {-1}, true);
  check_plan(alike, "run_weight", mesh.run_weight, {mesh.run_joint.size(0), 16});
  return mesh;
}

struct PointsArgs {
  const Tensor &basis, &basis_t, &term_index, &term_weight, &joint_index, &joint_weight,
      &transl_weight, &output_index;
  const Tensor* grouping;  // null where the plan has none
  int64_t rows, terms, joint_terms, sources, outputs;
};

inline PointsArgs check_points(const Alike& alike, const Plan& plan) {
  PointsArgs p{plan[2],
               plan[3],
               plan[4],
               plan[5],
               plan[6],
               plan[7],
               plan[8],
               plan[9],
               plan.size() > kPointsPlan ? &plan[kPointsPlan] : nullptr,
               0,
               0,
               0,
               0,
               0};
  check_plan(alike, "basis", p.basis, {kCoefficients, 3, -1});
  p.rows = p.basis.size(2);
  if (p.rows % 16) refuse(std::string(alike.op) + ": basis must have a multiple of 16 rows");
  check_plan(alike, "basis_t", p.basis_t, {3 * p.rows, 224});
  check_plan(alike, "term_index", p.term_index, {-1, 3}, true);
  p.terms = p.term_index.size(0);
  check_plan(alike, "term_weight", p.term_weight, {p.terms, 2});
  check_plan(alike, "joint_index", p.joint_index, {-1, 2}, true);
  p.joint_terms = p.joint_index.size(0);
  check_plan(alike, "joint_weight", p.joint_weight, {p.joint_terms});
  check_plan(alike, "transl_weight", p.transl_weight, {-1});
  p.sources = p.transl_weight.size(0);
  check_plan(alike, "output_index", p.output_index, {-1}, true);
  p.outputs = p.output_index.size(0);
  if (p.grouping) {
    const int64_t numbers =
        3 * (p.sources + 1) + p.rows + 1 + 2 * p.terms + p.outputs + 2 * p.joint_terms + 50;
    check_plan(alike, "grouping", *p.grouping, {numbers}, true);
  }
  return p;
}

struct LossArgs {
  Tensor camera, keypoints;
  OptionalTensor limb_index, limb_target;
  int64_t limbs;
};

inline LossArgs check_loss(const Alike& alike,
                           int64_t people,
                           int64_t outputs,
                           const Tensor& camera,
                           const Tensor& keypoints,
                           const OptionalTensor& limb_index,
                           const OptionalTensor& limb_target) {
  if (camera.dim() != 2 || camera.size(0) != people ||
      (camera.size(1) != 3 && camera.size(1) != 21))
    refuse(std::string(alike.op) +
           ": camera must be [B, 3] (s, tx, ty) or [B, 21] (K, R, t) with B = " +
           std::to_string(people) + " as in betas, got " + shape_text(camera));
  alike.floating("camera", camera);
  check_shape(alike.op, "keypoints", keypoints, {people, outputs, 3});
  alike.floating("keypoints", keypoints);
  if (limb_index.has_value() != limb_target.has_value())
    refuse(std::string(alike.op) + ": limb_index and limb_target must come together");
  LossArgs out{dense(camera), dense(keypoints), {}, {}, 0};
  if (limb_index.has_value()) {
    check_plan(alike, "limb_index", *limb_index, {-1, 2}, true);
    out.limbs = limb_index->size(0);
    check_shape(alike.op, "limb_target", *limb_target, {people, out.limbs, 3});
    alike.floating("limb_target", *limb_target);
    out.limb_index = *limb_index;
    out.limb_target = dense(*limb_target);
  }
  return out;
}

// Where the indices may be read.
inline void check_limbs(const char* op, const LossArgs& in, int64_t outputs) {
  for (int64_t i = 0; i < 2 * in.limbs; ++i) {
    const int32_t point = read<int32_t>(in.limb_index)[i];
    if (point < 0 || point >= outputs)
      refuse(std::string(op) + ": limb_index must be in 0.." + std::to_string(outputs - 1) +
             ", got " + std::to_string(point));
  }
}

}  // namespace eft_fast
