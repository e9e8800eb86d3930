"""How sure a fit is: the Laplace approximation of its posterior.

The solver's last model H = J^T W J + A^T Sigma^-1 A is the inverse covariance of a step d [85]
about the answer. Joints about the pelvis move by their Jacobian, X_j - X_0 = J_j d, so that

    C_j = J_j H^-1 J_j^T,   sigma_j = scale * sqrt(tr C_j),

and ``scale`` makes sigma_j the radius about the answer that holds 68 % of true joints; it was
measured on rendered people of validation motion (docs/map.md), where keypoints are known to fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS, JointSet
from eft_fast.map_fit.problem import FitProblem
from eft_fast.ops import map_reference
from eft_fast.ops.map import MapState
from eft_fast.ops.plans import PointsPlan

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Radius that holds 68 % of true joints over the root of the trace, where the joint's own keypoint
#: is given and sure, and elsewhere.
SEEN_SCALE: Final = 1.0
HIDDEN_SCALE: Final = 1.0
_LIMB_POINTS: Final = ("sho", "elb", "wri", "hip", "kne", "ank")
#: Millimetres of a metre.
_MM: Final = 1000.0


class Posterior(NamedTuple):
    """How sure fits are.

    Attributes:
        joint_sigma_mm: For each kinematic joint the radius in mm, about its place relative to the
            pelvis, that holds the true one with 68 %.
        keypoint_gain_mm: For each keypoint that is not given, by how much the root of the mean
            squared ``joint_sigma_mm`` would fall if it were given as a sure one; 0 for the others.
    """

    joint_sigma_mm: Float[Tensor, "B 24"]
    keypoint_gain_mm: Float[Tensor, "B K"]


def laplace(
    problem: FitProblem,
    state: MapState,
    body: Smpl,
    *,
    joint_set: str,
    sure: Bool[Tensor, "B K"],
    sigma: Float[Tensor, " B"],
) -> Posterior:
    """Measure how sure answers are.

    Args:
        problem: What was minimised, with the weights of the end.
        state: The answers.
        body: Body model of the problem.
        joint_set: Order of the keypoints.
        sure: Which keypoints are given and sure.
        sigma: Standard deviation that a further keypoint would have, crop units.
    """
    hessian = problem.evaluate(state).hessian.double()
    # Who has no factor (not finite) gets NaN, and nobody else does.
    factor, failure = torch.linalg.cholesky_ex(hessian)
    factor = torch.where((failure == 0)[:, None, None], factor, torch.nan)
    exact = MapState(*(part.double() for part in state))
    joints = _half_solve(factor, joint_slopes(body.points_plan("smpl24"), exact))
    variance = joints.square().sum((2, 3))  # [B,24], tr C_j
    scale = torch.where(seen_joints(JOINT_SETS[joint_set], sure), SEEN_SCALE, HIDDEN_SCALE)
    points = _half_solve(factor, keypoint_slopes(problem, exact))
    gain = _variance_gain(points, joints, scale.to(variance), sigma.to(variance))
    total = (scale.square() * variance).mean(1, keepdim=True)
    fall = total.sqrt() - (total - gain).clamp_min(0.0).sqrt()
    open_ = problem.keypoints[..., 2] <= 0
    return Posterior(
        (_MM * scale * variance.sqrt()).to(state.betas),
        (_MM * torch.where(open_, fall, 0.0)).to(state.betas),
    )


def joint_slopes(plan: PointsPlan, state: MapState) -> Float[Tensor, "B 24 3 85"]:
    """Joints about the pelvis by a step; the camera does not move them."""
    plan = plan.to(dtype=state.betas.dtype)
    slopes = map_reference.points_jacobian(plan, state, map_reference.pose_body(plan, state))
    slopes = slopes - slopes[:, :1]
    return torch.cat([slopes, torch.zeros_like(slopes[..., :3])], -1)


def keypoint_slopes(problem: FitProblem, state: MapState) -> Float[Tensor, "B K 2 85"]:
    """Projected keypoints by a step."""
    like = state.betas
    plan, pinhole = problem.plan.to(dtype=like.dtype), problem.pinhole
    exact = map_reference.MapProblem(
        plan,
        state,
        problem.keypoints.to(like),
        problem.precision.to(like),
        problem.frame.to(like),
        None if pinhole is None else pinhole.to(like),
        None,
        None,
    )
    body = map_reference.pose_body(plan, state)
    seen = map_reference.project(exact, state.cam, body.sources[:, plan.output_index.long()])
    by_body = map_reference.points_jacobian(plan, state, body)
    by_step = (seen.by_point[..., None] * by_body[:, :, None]).sum(3)
    return torch.cat([by_step, seen.by_camera], -1)


def seen_joints(points: JointSet, sure: Bool[Tensor, "B K"]) -> Bool[Tensor, "B 24"]:
    """Which kinematic joints count as seen: limbs by their own keypoint, the trunk always.

    Bones of the trunk have no keypoint of their own; hands and feet count as wrist and ankle do.
    """
    place = {name.removeprefix("op_"): k for k, name in enumerate(points.names)}
    columns = []
    for name in JOINT_SETS["smpl24"].names:
        own = name.replace("hand", "wri").replace("foot", "ank")
        k = place.get(own) if own[0] in "lr" and own[1:] in _LIMB_POINTS else None
        columns.append(torch.ones_like(sure[:, 0]) if k is None else sure[:, k])
    return torch.stack(columns, 1)


def _half_solve(factor: Tensor, slopes: Float[Tensor, "B P n 85"]) -> Float[Tensor, "B P n 85"]:
    """L^-1 J^T of each row of slopes, so that products of two rows are J H^-1 J^T."""
    rows = slopes.flatten(1, 2).transpose(1, 2)
    solved = torch.linalg.solve_triangular(factor, rows, upper=False)
    return solved.transpose(1, 2).unflatten(1, slopes.shape[1:3])


def _variance_gain(
    keypoints: Float[Tensor, "B K 2 85"],
    joints: Float[Tensor, "B 24 3 85"],
    scale: Float[Tensor, "B 24"],
    sigma: Float[Tensor, " B"],
) -> Float[Tensor, "B K"]:
    """Fall of the mean of scale^2 tr C_j by one further keypoint, both given as half solutions.

    A keypoint with covariance sigma^2 I takes C_jk (C_kk + sigma^2 I)^-1 C_jk^T from C_j.
    """
    people, count = keypoints.shape[:2]
    weighted = (joints * scale[..., None, None]).flatten(1, 2)
    cross = torch.bmm(weighted, keypoints.flatten(1, 2).transpose(1, 2))  # [B,72,2K]
    cross = cross.reshape(people, -1, count, 2)
    own = (keypoints[:, :, :, None] * keypoints[:, :, None]).sum(-1)  # [B,K,2,2]
    a, b, d = own[..., 0, 0], own[..., 0, 1], own[..., 1, 1]
    noise = sigma.square()[:, None]
    a, d = a + noise, d + noise
    xx, xy, yy = ((cross[..., i] * cross[..., j]).sum(1) for i, j in ((0, 0), (0, 1), (1, 1)))
    # The trace of C_jk S^-1 C_jk^T with the inverse of the 2x2 S written out.
    return (d * xx - 2 * b * xy + a * yy) / (a * d - b * b) / joints.shape[1]
