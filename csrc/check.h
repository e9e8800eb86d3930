// Checks of operator inputs: the same call, and so the same words, for every device.
//
// ops/_checks.py says these things first and with the right kind of exception; these guard direct
// calls.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

#include "math/transform.h"

namespace eft_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] inline void refuse(const std::string& sentence) { throw std::runtime_error(sentence); }

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

// A size of -1 allows any.
inline void check_shape(const char* op,
                        const char* name,
                        const Tensor& t,
                        std::initializer_list<int64_t> shape) {
  bool fits = t.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) {
    fits = fits && (size < 0 || t.size(d) == size);
    ++d;
  }
  if (fits) return;
  std::string wanted;
  for (int64_t size : shape)
    wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  refuse(std::string(op) + ": " + name + " must be [" + wanted + "], got " + shape_text(t));
}

// Floating tensors share one type, float32 or float64, and all tensors one device.
struct Alike {
  const char* op;
  const Tensor& first;
  const char* who;  // what `first` is called

  Alike(const char* name, const Tensor& first, const char* who = "betas")
      : op(name), first(first), who(who) {
    const ScalarType type = first.scalar_type();
    if (type != ScalarType::Float && type != ScalarType::Double)
      refuse(std::string(op) + ": " + who +
             " must be float32 or float64; half precision is not supported");
  }

  void floating(const char* name, const Tensor& t) const {
    if (t.scalar_type() != first.scalar_type())
      refuse(std::string(op) + ": " + name + " must have the type of " + who);
    device(name, t);
  }

  void index(const char* name, const Tensor& t) const {
    if (t.scalar_type() != ScalarType::Int)
      refuse(std::string(op) + ": " + name + " must be int32");
    device(name, t);
  }

  void device(const char* name, const Tensor& t) const {
    if (t.is_cuda() != first.is_cuda() ||
        (t.is_cuda() && t.get_device_index() != first.get_device_index()))
      refuse(std::string(op) + ": " + name + " must be on the device of " + who);
  }
};

// An uninitialised contiguous tensor of the type and device of another; the plain shim costs a
// quarter of a dispatched new_empty, which counts where a call takes microseconds.
inline Tensor empty_as(const Tensor& like, std::initializer_list<int64_t> shape) {
  int64_t strides[4], step = 1, d = static_cast<int64_t>(shape.size());
  for (const int64_t* size = shape.end(); size != shape.begin();) {
    strides[--d] = step;
    step *= *--size;
  }
  int32_t type, device_type, device_index;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()),
                                                         shape.begin(),
                                                         strides,
                                                         type,
                                                         device_type,
                                                         device_index,
                                                         &handle));
  return Tensor(handle);
}

inline Tensor dense(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// What every operator takes of a body, checked and contiguous.
struct BodyArgs {
  Tensor betas, pose, skeleton, parents;
  std::optional<Tensor> transl;
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

inline BodyArgs check_body(const char* op,
                           const Tensor& betas,
                           const Tensor& pose,
                           const std::optional<Tensor>& transl,
                           const Tensor& skeleton,
                           const Tensor& parents) {
  const Alike alike(op, betas);
  check_shape(op, "betas", betas, {-1, kBetas});
  const int64_t people = betas.size(0);
  const int form = pose_form(op, pose, people);
  alike.floating("pose", pose);
  check_shape(op, "skeleton", skeleton, {kJoints, 3, kSkeletonRow});
  alike.floating("skeleton", skeleton);
  check_shape(op, "parents", parents, {kJoints});
  alike.index("parents", parents);
  std::optional<Tensor> shift;
  if (transl.has_value()) {
    check_shape(op, "transl", *transl, {people, 3});
    alike.floating("transl", *transl);
    shift = dense(*transl);
  }
  return {dense(betas), dense(pose), dense(skeleton), dense(parents), shift, people, form};
}

// Plan tensors come contiguous from plans.py; a plan that is not is refused, never copied at every
// call.
inline void check_plan(const Alike& alike,
                       const char* name,
                       const Tensor& t,
                       std::initializer_list<int64_t> shape,
                       bool is_index = false) {
  check_shape(alike.op, name, t, shape);
  if (is_index) {
    alike.index(name, t);
  } else {
    alike.floating(name, t);
  }
  if (!t.is_contiguous()) refuse(std::string(alike.op) + ": " + name + " must be contiguous");
}

struct MeshArgs {
  const Tensor &basis, &slot_idx, &slot_weight, &run_ptr, &run_joint, &run_weight;
  int64_t vertices, tiles;
};

inline MeshArgs check_mesh(const Alike& alike,
                           const Tensor& basis,
                           const Tensor& slot_idx,
                           const Tensor& slot_weight,
                           const Tensor& run_ptr,
                           const Tensor& run_joint,
                           const Tensor& run_weight,
                           int64_t vertices) {
  const int64_t tiles = (vertices + 15) / 16;
  check_plan(alike, "basis", basis, {tiles, kCoefficients, 3, 16});
  check_plan(alike, "slot_weight", slot_weight, {tiles, -1, 16});
  check_shape(alike.op, "slot_idx", slot_idx, {tiles, slot_weight.size(1), 16});
  alike.device("slot_idx", slot_idx);
  if (slot_idx.scalar_type() != ScalarType::Byte || !slot_idx.is_contiguous())
    refuse(std::string(alike.op) + ": slot_idx must be contiguous uint8");
  check_plan(alike, "run_ptr", run_ptr, {tiles + 1}, true);
  check_plan(alike, "run_joint", run_joint, {-1}, true);
  check_plan(alike, "run_weight", run_weight, {run_joint.size(0), 16});
  return {basis, slot_idx, slot_weight, run_ptr, run_joint, run_weight, vertices, tiles};
}

struct PointsArgs {
  const Tensor &basis, &basis_t, &term_index, &term_weight, &joint_index, &joint_weight,
      &transl_weight, &output_index;
  int64_t rows, terms, joint_terms, sources, outputs;
};

inline PointsArgs check_points(const Alike& alike,
                               const Tensor& basis,
                               const Tensor& basis_t,
                               const Tensor& term_index,
                               const Tensor& term_weight,
                               const Tensor& joint_index,
                               const Tensor& joint_weight,
                               const Tensor& transl_weight,
                               const Tensor& output_index) {
  check_plan(alike, "basis", basis, {kCoefficients, 3, -1});
  const int64_t rows = basis.size(2);
  if (rows % 16) refuse(std::string(alike.op) + ": basis must have a multiple of 16 rows");
  check_plan(alike, "basis_t", basis_t, {3 * rows, 224});
  check_plan(alike, "term_index", term_index, {-1, 3}, true);
  check_plan(alike, "term_weight", term_weight, {term_index.size(0), 2});
  check_plan(alike, "joint_index", joint_index, {-1, 2}, true);
  check_plan(alike, "joint_weight", joint_weight, {joint_index.size(0)});
  check_plan(alike, "transl_weight", transl_weight, {-1});
  check_plan(alike, "output_index", output_index, {-1}, true);
  return {basis,
          basis_t,
          term_index,
          term_weight,
          joint_index,
          joint_weight,
          transl_weight,
          output_index,
          rows,
          term_index.size(0),
          joint_index.size(0),
          transl_weight.size(0),
          output_index.size(0)};
}

struct LossArgs {
  Tensor camera, keypoints;
  std::optional<Tensor> limb_index, limb_target;
  int64_t limbs;
};

inline LossArgs check_loss(const Alike& alike,
                           int64_t people,
                           int64_t outputs,
                           const Tensor& camera,
                           const Tensor& keypoints,
                           const std::optional<Tensor>& limb_index,
                           const std::optional<Tensor>& limb_target) {
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

}  // namespace eft_fast
