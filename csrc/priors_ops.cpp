// Registration of the priors. On other devices the sum of losses/priors.py runs instead: a few
// library products, which is what the mixture needs there.
#include <tuple>

#include "device.h"

namespace eft_fast {
namespace {

constexpr int64_t kPose = cpu::kBodyPose;

struct Anchor {
  Tensor pose, betas;
};

std::optional<Anchor> check_anchor(const Alike& alike,
                                   int64_t people,
                                   const OptionalTensor& pose,
                                   const OptionalTensor& betas) {
  if (pose.has_value() != betas.has_value())
    refuse("body_priors: anchor_pose and anchor_betas must come together");
  if (!pose.has_value()) return {};
  check_shape(alike.op, "anchor_pose", *pose, {people, kPose});
  alike.floating("anchor_pose", *pose);
  check_shape(alike.op, "anchor_betas", *betas, {people, kBetas});
  alike.floating("anchor_betas", *betas);
  return Anchor{dense(*pose), dense(*betas)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> body_priors(const Tensor& body_pose,
                                                       const Tensor& betas,
                                                       const Tensor& means,
                                                       const Tensor& factors,
                                                       const Tensor& offset,
                                                       const Tensor& lower,
                                                       const Tensor& upper,
                                                       const OptionalTensor& anchor_pose,
                                                       const OptionalTensor& anchor_betas,
                                                       double softness,
                                                       double pose_weight,
                                                       double angle_weight,
                                                       double limits_weight,
                                                       double shape_weight,
                                                       double anchor_weight) {
  const char* op = "body_priors";
  const Alike alike(op, betas);
  check_shape(op, "betas", betas, {-1, kBetas});
  const int64_t people = betas.size(0);
  check_shape(op, "body_pose", body_pose, {people, kPose});
  alike.floating("body_pose", body_pose);
  check_plan(alike, "means", means, {-1, -1});
  const int64_t gaussians = means.size(0), dims = means.size(1);
  if (gaussians < 1 || dims < 1 || dims > kPose)
    refuse("body_priors: means must be [M, D] with M at least 1 and D 1 to 69, got " +
           shape_text(means));
  check_plan(alike, "factors", factors, {dims, gaussians * dims});
  check_plan(alike, "offset", offset, {gaussians});
  check_plan(alike, "lower", lower, {kPose});
  check_plan(alike, "upper", upper, {kPose});
  const auto anchor = check_anchor(alike, people, anchor_pose, anchor_betas);
  const Tensor pose = dense(body_pose), shape = dense(betas);
  const Tensor loss = empty_as(betas, {people}), parts = empty_as(betas, {people, 5});
  const Tensor g_pose = empty_as(betas, {people, kPose});
  const Tensor g_betas = empty_as(betas, {people, kBetas});
  for_type(betas, [&](auto zero) {
    using S = decltype(zero);
    if (!people) return;
    Cpu(op, betas).run(cpu::BodyPriors<S>{Cpu::pool,
                                          people,
                                          read<S>(pose),
                                          read<S>(shape),
                                          gaussians,
                                          dims,
                                          read<S>(means),
                                          read<S>(factors),
                                          read<S>(offset),
                                          read<S>(lower),
                                          read<S>(upper),
                                          anchor ? read<S>(anchor->pose) : nullptr,
                                          anchor ? read<S>(anchor->betas) : nullptr,
                                          static_cast<S>(softness),
                                          static_cast<S>(pose_weight),
                                          static_cast<S>(angle_weight),
                                          static_cast<S>(limits_weight),
                                          static_cast<S>(shape_weight),
                                          static_cast<S>(anchor_weight),
                                          write<S>(loss),
                                          write<S>(parts),
                                          write<S>(g_pose),
                                          write<S>(g_betas)});
  });
  return {loss, parts, g_pose, g_betas};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(eft_fast, m) {
  // body_pose [B,69], betas [B,10]; means [M,D], factors [D,M*D], offset [M] (losses/priors.py);
  // lower, upper [69]; anchor_pose [B,69], anchor_betas [B,10]: both or neither, 0 if neither.
  // -> loss [B], parts [B,5] (mixture, bending, limits, squared betas, squared distance to the
  //    anchor; not weighted, 0 where the weight is 0), and the gradients of the loss of body_pose
  //    and betas. No autograd formula: the gradients are the answer.
  m.def(
      "body_priors(Tensor body_pose, Tensor betas, Tensor means, Tensor factors, Tensor offset, "
      "Tensor lower, Tensor upper, Tensor? anchor_pose, Tensor? anchor_betas, float softness, "
      "float pose_weight, float angle_weight, float limits_weight, float shape_weight, "
      "float anchor_weight) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(eft_fast, CPU, m) { m.impl("body_priors", TORCH_BOX(&body_priors)); }

}  // namespace eft_fast
