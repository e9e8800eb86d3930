// Registration of the MAP solver: schemas, checks, allocation, and one call per device.
// eft_fast/ops/map.py says what it solves.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "device.h"
#include "math/map.h"
#ifdef EFT_FAST_WITH_CUDA
#include "cuda/map_launchers.h"
#endif

namespace eft_fast {

#ifdef EFT_FAST_WITH_CUDA

template <typename S>
struct MapLaunchers;

template <>
struct MapLaunchers<float> {
  static constexpr auto solve = &eft_map_solve_f32;
  static constexpr auto evaluate = &eft_map_evaluate_f32;
};

template <>
struct MapLaunchers<double> {
  static constexpr auto solve = &eft_map_solve_f64;
  static constexpr auto evaluate = &eft_map_evaluate_f64;
};

// launcher(arguments of EFT_MAP_INPUTS..., rest..., stream)
template <typename S, typename Launcher, typename... Rest>
int launch_map(const char* op,
               Launcher launcher,
               const Cuda& device,
               const cpu::MapProblem<S>& in,
               Rest... rest) {
  const int64_t bytes = map_arena_bytes(in.rows, in.terms, in.sources, sizeof(S));
  if (bytes > device.shared())
    refuse(std::string(op) + ": on this GPU a person of this plan must fit into " +
           std::to_string(device.shared()) + " bytes, got " + std::to_string(bytes) +
           "; use fewer points, or backend='torch'");
  return launcher(in.people,
                  in.rows,
                  in.terms,
                  in.joint_terms,
                  in.sources,
                  in.outputs,
                  in.centre.rotmat,
                  in.centre.betas,
                  in.centre.cam,
                  in.begin.rotmat,
                  in.begin.betas,
                  in.begin.cam,
                  in.keypoints,
                  in.precision,
                  in.frame,
                  in.pinhole,
                  in.points3d,
                  in.free,
                  in.skeleton,
                  in.parents,
                  in.row_data,
                  in.term_index,
                  in.term_weight,
                  in.joint_index,
                  in.joint_weight,
                  in.output_index,
                  rest...,
                  device.stream());
}

template <typename S>
int launch(const cpu::MapSolve<S>& a, const Cuda& device) {
  return launch_map("map_solve",
                    MapLaunchers<S>::solve,
                    device,
                    a.in,
                    a.steps,
                    a.damping,
                    a.tolerance,
                    a.rotmat,
                    a.betas,
                    a.cam,
                    a.energy,
                    a.data,
                    a.count,
                    a.converged,
                    a.finite,
                    a.hessian);
}

template <typename S>
int launch(const cpu::MapEvaluate<S>& a, const Cuda& device) {
  return launch_map("map_evaluate",
                    MapLaunchers<S>::evaluate,
                    device,
                    a.in,
                    a.energy,
                    a.data,
                    a.gradient,
                    a.hessian);
}

#endif  // EFT_FAST_WITH_CUDA

// What both operators take first: EFT_MAP in the schemas.
#define EFT_MAP_PARAMETERS                                                                      \
  const Tensor &rotmat0, const Tensor &betas0, const Tensor &cam0, const Tensor &rotmat,        \
      const Tensor &betas, const Tensor &cam, const Tensor &keypoints, const Tensor &precision, \
      const Tensor &frame, const OptionalTensor &pinhole, const OptionalTensor &points3d,       \
      const OptionalTensor &free, const Tensor &skeleton, const Tensor &parents,                \
      const Tensor &rows, const Tensor &term_index, const Tensor &term_weight,                  \
      const Tensor &joint_index, const Tensor &joint_weight, const Tensor &transl_weight,       \
      const Tensor &output_index
#define EFT_MAP_ARGUMENTS                                                                          \
  rotmat0, betas0, cam0, rotmat, betas, cam, keypoints, precision, frame, pinhole, points3d, free, \
      skeleton, parents, rows, term_index, term_weight, joint_index, joint_weight, transl_weight,  \
      output_index

namespace {

struct State {
  Tensor rotmat, betas, cam;
};

// Everything that both operators take, contiguous.
struct Problem {
  State centre, begin;
  Tensor keypoints, precision, frame;
  OptionalTensor pinhole, points3d, free;
  Tensor skeleton, parents, rows, term_index, term_weight, joint_index, joint_weight, sources,
      output_index;
  int64_t people;

  template <typename S>
  cpu::MapProblem<S> pointers() const {
    return {people,
            {read<S>(centre.rotmat), read<S>(centre.betas), read<S>(centre.cam)},
            {read<S>(begin.rotmat), read<S>(begin.betas), read<S>(begin.cam)},
            read<S>(keypoints),
            read<S>(precision),
            read<S>(frame),
            read<S>(pinhole),
            read<S>(points3d),
            read<bool>(free),
            read<S>(skeleton),
            read<int32_t>(parents),
            rows.size(0),
            term_index.size(0),
            joint_index.size(0),
            sources.size(0),
            output_index.size(0),
            read<S>(rows),
            read<int32_t>(term_index),
            read<S>(term_weight),
            read<int32_t>(joint_index),
            read<S>(joint_weight),
            read<int32_t>(output_index)};
  }
};

State check_state(const Alike& alike,
                  int64_t people,
                  const Tensor& rotmat,
                  const Tensor& betas,
                  const Tensor& cam) {
  check_shape(alike.op, "rotmat", rotmat, {people, kJoints, 3, 3});
  alike.floating("rotmat", rotmat);
  check_shape(alike.op, "betas", betas, {people, kBetas});
  alike.floating("betas", betas);
  check_shape(alike.op, "cam", cam, {people, 3});
  alike.floating("cam", cam);
  return {dense(rotmat), dense(betas), dense(cam)};
}

OptionalTensor check_optional(const Alike& alike,
                              const char* name,
                              const OptionalTensor& value,
                              std::initializer_list<int64_t> shape) {
  if (!value.has_value()) return {};
  check_shape(alike.op, name, *value, shape);
  alike.floating(name, *value);
  return dense(*value);
}

Problem check_problem(const char* op, EFT_MAP_PARAMETERS) {
  const Alike alike(op, betas0);
  check_shape(op, "betas", betas0, {-1, kBetas});
  const int64_t people = betas0.size(0);
  const State centre = check_state(alike, people, rotmat0, betas0, cam0);
  const State begin = check_state(alike, people, rotmat, betas, cam);
  check_plan(alike, "skeleton", skeleton, {kJoints, 3, kSkeletonRow});
  check_plan(alike, "parents", parents, {kJoints}, true);
  check_plan(alike, "rows", rows, {-1, 3, kMapRow});
  check_plan(alike, "term_index", term_index, {-1, 3}, true);
  check_plan(alike, "term_weight", term_weight, {term_index.size(0), 2});
  check_plan(alike, "joint_index", joint_index, {-1, 2}, true);
  check_plan(alike, "joint_weight", joint_weight, {joint_index.size(0)});
  check_plan(alike, "transl_weight", transl_weight, {-1});
  check_plan(alike, "output_index", output_index, {-1}, true);
  const int64_t outputs = output_index.size(0);
  check_shape(op, "keypoints", keypoints, {people, outputs, 3});
  alike.floating("keypoints", keypoints);
  check_shape(op, "precision", precision, {kMapUnknowns, kMapUnknowns});
  alike.floating("precision", precision);
  check_shape(op, "frame", frame, {people});
  alike.floating("frame", frame);
  const OptionalTensor lens = check_optional(alike, "pinhole", pinhole, {people, 4});
  const OptionalTensor solid = check_optional(alike, "points3d", points3d, {people, outputs, 4});
  OptionalTensor allowed;
  if (free.has_value()) {
    check_shape(op, "free", *free, {kMapUnknowns});
    alike.device("free", *free);
    if (free->scalar_type() != ScalarType::Bool) refuse(std::string(op) + ": free must be bool");
    allowed = dense(*free);
  }
  return {centre,
          begin,
          dense(keypoints),
          dense(precision),
          dense(frame),
          lens,
          solid,
          allowed,
          skeleton,
          parents,
          rows,
          term_index,
          term_weight,
          joint_index,
          joint_weight,
          transl_weight,
          output_index,
          people};
}

Tensor empty_of(const Tensor& like, int64_t people, ScalarType type) {
  return torch::stable::new_empty(like, {people}, type);
}

using Solution = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename Device>
Solution map_solve(
    EFT_MAP_PARAMETERS, int64_t steps, double damping, double tolerance, bool keep_hessian) {
  const Problem problem = check_problem("map_solve", EFT_MAP_ARGUMENTS);
  const int64_t people = problem.people;
  const Device device("map_solve", betas0);
  const Tensor out_rotmat = empty_as(betas0, {people, kJoints, 3, 3});
  const Tensor out_betas = empty_as(betas0, {people, kBetas});
  const Tensor out_cam = empty_as(betas0, {people, 3});
  const Tensor energy = empty_as(betas0, {people}), data = empty_as(betas0, {people});
  const Tensor count = empty_of(betas0, people, ScalarType::Int);
  const Tensor converged = empty_of(betas0, people, ScalarType::Bool);
  const Tensor finite = empty_of(betas0, people, ScalarType::Bool);
  const Tensor hessian =
      keep_hessian ? empty_as(betas0, {people, kMapUnknowns, kMapUnknowns}) : empty_as(betas0, {0});
  if (people)
    for_type(betas0, [&](auto zero) {
      using S = decltype(zero);
      device.run(cpu::MapSolve<S>{Device::pool,
                                  problem.pointers<S>(),
                                  steps,
                                  damping,
                                  tolerance,
                                  write<S>(out_rotmat),
                                  write<S>(out_betas),
                                  write<S>(out_cam),
                                  write<S>(energy),
                                  write<S>(data),
                                  write<int32_t>(count),
                                  write<bool>(converged),
                                  write<bool>(finite),
                                  keep_hessian ? write<S>(hessian) : nullptr});
    });
  return {out_rotmat, out_betas, out_cam, energy, data, count, converged, finite, hessian};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> map_evaluate(EFT_MAP_PARAMETERS) {
  const Problem problem = check_problem("map_evaluate", EFT_MAP_ARGUMENTS);
  const int64_t people = problem.people;
  const Device device("map_evaluate", betas0);
  const Tensor energy = empty_as(betas0, {people}), data = empty_as(betas0, {people});
  const Tensor gradient = empty_as(betas0, {people, kMapUnknowns});
  const Tensor hessian = empty_as(betas0, {people, kMapUnknowns, kMapUnknowns});
  if (people)
    for_type(betas0, [&](auto zero) {
      using S = decltype(zero);
      device.run(cpu::MapEvaluate<S>{Device::pool,
                                     problem.pointers<S>(),
                                     write<S>(energy),
                                     write<S>(data),
                                     write<S>(gradient),
                                     write<S>(hessian)});
    });
  return {energy, data, gradient, hessian};
}

template <typename Device>
void implement(Library& m) {
  m.impl("map_solve", TORCH_BOX(&map_solve<Device>));
  m.impl("map_evaluate", TORCH_BOX(&map_evaluate<Device>));
}

}  // namespace

#define EFT_MAP                                                                           \
  "Tensor rotmat0, Tensor betas0, Tensor cam0, Tensor rotmat, Tensor betas, Tensor cam, " \
  "Tensor keypoints, Tensor precision, Tensor frame, Tensor? pinhole, Tensor? points3d, " \
  "Tensor? free, Tensor skeleton, Tensor parents, Tensor rows, Tensor term_index, "       \
  "Tensor term_weight, Tensor joint_index, Tensor joint_weight, Tensor transl_weight, "   \
  "Tensor output_index"

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // Centre of the prior and start: rotmat [B,24,3,3], betas [B,10], cam [B,3]. keypoints [B,K,3] u,
  // v, weight; precision [85,85]; frame [B]; pinhole [B,4]; points3d [B,K,4] x, y, z, weight; free
  // [85] bool. Plan tensors as in smpl_ops.cpp, but rows [R,3,240] (PointsPlan.map_rows).
  // -> rotmat, betas, cam, energy [B], data [B], steps [B] i32, converged [B], finite [B], hessian
  //    [B,85,85] ([0] unless kept).
  m.def("map_solve(" EFT_MAP
        ", int steps, float damping, float tolerance, bool keep_hessian) -> (Tensor, Tensor, "
        "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // -> energy [B], data [B], half the energy's gradient by a step [B,85], J^T W J + A^T P A.
  m.def("map_evaluate(" EFT_MAP ") -> (Tensor, Tensor, Tensor, Tensor)");
}

EFT_IMPLEMENT

}  // namespace eft_fast
