"""How sure a fit is: the Laplace approximation of its posterior.

The solver's last model H = J^T W J + A^T Sigma^-1 A is the inverse covariance of a step d [85]
about the answer. Joints about the pelvis move by their Jacobian, X_j - X_0 = J_j d, so that

    C_j = J_j H^-1 J_j^T,   sigma_j = 1.29 tension^0.25 sqrt(tr C_j).

The first two factors make sigma_j the radius about the answer that holds 68 % of true joints. They
were measured on rendered people of validation motion at three levels of noise (docs/map.md): the
tension of a fit, its energy over the number of its data, tells how well sigma and Sigma hold for
this person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.map_fit.problem import FitProblem
from eft_fast.map_rules import SIGMA_POWER, SIGMA_SCALE, TENSIONS
from eft_fast.ops import map_reference
from eft_fast.ops.map import MapState
from eft_fast.ops.plans import PointsPlan

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: Millimetres of a metre.
_MM: Final = 1000.0


def joint_sigma(
    problem: FitProblem, state: MapState, energy: Float[Tensor, " B"], body: Smpl
) -> Float[Tensor, "B 24"]:
    """For each kinematic joint the radius in mm, about the pelvis, that holds the truth with 68 %.

    Args:
        problem: What was minimised, with the weights of the end.
        state: The answers.
        energy: Of the answers.
        body: Body model of the problem.

    Returns:
        The radii, 0 for the pelvis; NaN for who has no finite answer.
    """
    joints = _half_solve(_factor(problem, state), joint_slopes(body.points_plan("smpl24"), state))
    spread = joints.square().sum((2, 3)).sqrt()
    growth = problem.tension(energy).double().clamp(*TENSIONS).pow(SIGMA_POWER)
    return (_MM * SIGMA_SCALE * growth[:, None] * spread).to(state.betas)


def keypoint_gain(
    problem: FitProblem, state: MapState, sigma: Float[Tensor, " B"], body: Smpl
) -> Float[Tensor, "B K"]:
    """How much each keypoint that is not given would help: the largest helps most.

    Args:
        problem: What was minimised, with the weights of the end.
        state: The answers.
        sigma: Standard deviation that a further keypoint would have, crop units.
        body: Body model of the problem.

    Returns:
        By how many mm the root of the mean of tr C_j would fall; 0 for keypoints that are given.
    """
    factor = _factor(problem, state)
    joints = _half_solve(factor, joint_slopes(body.points_plan("smpl24"), state))
    keypoints = _half_solve(factor, keypoint_slopes(problem, state))
    before = joints.square().sum((2, 3)).mean(1, keepdim=True)
    fall = _variance_fall(keypoints, joints, sigma.double())
    gain = before.sqrt() - (before - fall).clamp_min(0.0).sqrt()
    return (_MM * torch.where(problem.keypoints[..., 2] > 0, 0.0, gain)).to(state.betas)


def joint_slopes(plan: PointsPlan, state: MapState) -> Float[Tensor, "B 24 3 85"]:
    """Joints about the pelvis by a step; the camera does not move them."""
    plan, state = plan.to(dtype=torch.float64), _exact(state)
    slopes = map_reference.points_jacobian(plan, state, map_reference.pose_body(plan, state))
    slopes = slopes - slopes[:, :1]
    return torch.cat([slopes, torch.zeros_like(slopes[..., :3])], -1)


def keypoint_slopes(problem: FitProblem, state: MapState) -> Float[Tensor, "B K 2 85"]:
    """Projected keypoints by a step."""
    state = _exact(state)
    like, pinhole = state.betas, problem.pinhole
    plan = problem.plan.to(dtype=like.dtype)
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


def _exact(state: MapState) -> MapState:
    return MapState(*(part.double() for part in state))


def _factor(problem: FitProblem, state: MapState) -> Float[Tensor, "B 85 85"]:
    """Cholesky factor of H; NaN for who has none, and for nobody else."""
    factor, failure = torch.linalg.cholesky_ex(problem.evaluate(state).hessian.double())
    return torch.where((failure == 0)[:, None, None], factor, torch.nan)


def _half_solve(factor: Tensor, slopes: Float[Tensor, "B P n 85"]) -> Float[Tensor, "B P n 85"]:
    """L^-1 J^T of each row of slopes, so that products of two rows are J H^-1 J^T."""
    rows = slopes.flatten(1, 2).transpose(1, 2)
    solved: Tensor = torch.linalg.solve_triangular(factor, rows, upper=False)
    half: Tensor = solved.transpose(1, 2).unflatten(1, slopes.shape[1:3])
    return half


def _variance_fall(
    keypoints: Float[Tensor, "B K 2 85"],
    joints: Float[Tensor, "B 24 3 85"],
    sigma: Float[Tensor, " B"],
) -> Float[Tensor, "B K"]:
    """Fall of the mean of tr C_j by one further keypoint, both given as half solutions.

    A keypoint with covariance sigma^2 I takes C_jk (C_kk + sigma^2 I)^-1 C_jk^T from C_j.
    """
    people, count = keypoints.shape[:2]
    cross = torch.bmm(joints.flatten(1, 2), keypoints.flatten(1, 2).transpose(1, 2))  # [B,72,2K]
    cross = cross.reshape(people, -1, count, 2)
    own = (keypoints[:, :, :, None] * keypoints[:, :, None]).sum(-1)  # [B,K,2,2]
    noise = sigma.square()[:, None]
    a, b, d = own[..., 0, 0] + noise, own[..., 0, 1], own[..., 1, 1] + noise
    xx, xy, yy = ((cross[..., i] * cross[..., j]).sum(1) for i, j in ((0, 0), (0, 1), (1, 1)))
    # The trace of C_jk S^-1 C_jk^T with the inverse of the 2x2 S written out.
    return (d * xx - 2 * b * xy + a * yy) / (a * d - b * b) / joints.shape[1]
