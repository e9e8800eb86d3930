"""The direct fit of a batch: maximum a posteriori under the covariance of the network's errors.

    E(x) = sum_k |u_k - uhat_k|^2 / sigma_k^2 + x^T Sigma^-1 x

is minimised from the network's answer until it converges (``ops.map_solve``). People whose energy
stays high for the number of their data get more: other hypotheses, exchanged arms, and at last
weights that bear gross errors. No step knows more than one person.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.losses.tie import assumed_pinhole, keypoint_weights
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.hypotheses import try_flips, try_turned
from eft_fast.map_fit.posterior import joint_sigma
from eft_fast.map_fit.problem import FitProblem, put_solution, state_of, take_solution
from eft_fast.map_fit.robust import (
    find_swapped_legs,
    reweight,
    robust_energy,
    try_swapped_arms,
)
from eft_fast.models.base import RegressorOutput
from eft_fast.models.error_state import answer_frame
from eft_fast.models.keypoint_noise import find_keypoint_noise
from eft_fast.ops.map import MapSolution, MapState

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl

#: How often the place of 3D keypoints is found anew.
_PLACINGS: Final = 4


class _Tried(NamedTuple):
    """What was taken of whom, see ``MapFits``."""

    turned: Bool[Tensor, " B"]
    flipped: Bool[Tensor, " B"]
    swapped_arms: Bool[Tensor, " B"]
    swapped_legs: Bool[Tensor, " B"]


class _Improved(NamedTuple):
    """The energies that were chosen, their solutions, robust factors, and how they came about."""

    problem: FitProblem
    found: MapSolution
    factor: Float[Tensor, "B K"]
    tried: _Tried

    def take(self, rows: Int[Tensor, " N"]) -> _Improved:
        """The same of some people."""
        return _Improved(
            self.problem.take(rows),
            take_solution(self.found, rows),
            self.factor[rows],
            _Tried(*(column[rows] for column in self.tried)),
        )

    def put(self, rows: Int[Tensor, " N"], part: _Improved) -> _Improved:
        """Everybody, with others for some."""
        columns = zip(self.tried, part.tried, strict=True)
        return _Improved(
            self.problem.put(rows, part.problem),
            put_solution(self.found, rows, part.found),
            self.factor.index_copy(0, rows, part.factor),
            _Tried(*(column.index_copy(0, rows, some) for column, some in columns)),
        )


@dataclass(frozen=True)
class MapFits:
    """Fits of B people.

    Attributes:
        final: Rotations, betas and weak camera at the end.
        energy: E of ``final``; under the weights of the end, about the start of the end.
        init_energy: E of the network's answer.
        steps: Solves behind ``final``, over all stages and hypotheses that were taken.
        converged: Who met the tolerance in the last stage.
        finite: Whose numbers stayed finite; the others keep the network's answer.
        weight_factor: What the robust weights left of each keypoint, 1 where they were not used.
        turned: Whose answer began turned by 180 degrees.
        flipped: Who had a bone flipped in depth.
        swapped_arms: Whose left and right arm were taken for each other's.
        swapped_legs: Whose legs probably are exchanged; the fit took them as given.
        intrinsics: Pinholes as seen in the crops, given or assumed; None: the weak camera.
        joint_sigma_mm: As of ``posterior.joint_sigma``; None unless asked for.
        problem: What was minimised in the end, for ``posterior.keypoint_gain``.
    """

    final: RegressorOutput
    energy: Float[Tensor, " B"]
    init_energy: Float[Tensor, " B"]
    steps: Int[Tensor, " B"]
    converged: Bool[Tensor, " B"]
    finite: Bool[Tensor, " B"]
    weight_factor: Float[Tensor, "B K"]
    turned: Bool[Tensor, " B"]
    flipped: Bool[Tensor, " B"]
    swapped_arms: Bool[Tensor, " B"]
    swapped_legs: Bool[Tensor, " B"]
    intrinsics: Float[Tensor, "B 3 3"] | None
    joint_sigma_mm: Float[Tensor, "B 24"] | None
    problem: FitProblem


@torch.no_grad()
def fit_map(
    body: Smpl,
    init: RegressorOutput,
    keypoints_2d: Float[Tensor, "B K 3"],
    precision: Float[Tensor, "85 85"],
    *,
    joint_set: str = "coco17",
    config: MapConfig | None = None,
    intrinsics: Float[Tensor, "B 3 3"] | None = None,
    keypoints_3d: Float[Tensor, "B K 4"] | None = None,
    fill: Float[Tensor, "B K 3"] | None = None,
) -> MapFits:
    """Fit people to their keypoints, hips and ankles included.

    Nobody's answer depends on who else is fitted.

    Args:
        body: Body model.
        init: The network's answers: where the fits begin and what the prior is about.
        keypoints_2d: Keypoints of ``joint_set``: x and y in [-1, 1] of the crop, and confidence; 0
            leaves a keypoint out. Not changed.
        precision: Inverse of the covariance of the network's errors,
            ``ErrorCovariance.precision``.
        joint_set: Order of the keypoints.
        config: Options.
        intrinsics: Pinhole of each photo as seen in the crop (``geometry.crop_intrinsics``); None:
            that which ``config.distance`` assumes. The answer is a weak camera either way, that
            which ``geometry.weak_to_pinhole`` turns into the translation that was found.
        keypoints_3d: The same points in space: x, y, z in metres in the axes of the camera, about
            any origin, which is found, and confidence; 0 leaves a point out.
        fill: Points for those that are not given, x and y as in ``keypoints_2d``, and the standard
            deviation in units of the person's extent; 0: none. See ``fill``.

    Raises:
        ValueError: If shapes disagree.
    """
    config = config or MapConfig()
    _check_inputs(body, init, keypoints_2d, joint_set, intrinsics, keypoints_3d, fill)
    start = MapState(*(part.detach() for part in init))
    problem = _make_problem(
        body, start, keypoints_2d, precision, joint_set, config, intrinsics, fill
    )
    if keypoints_3d is not None:
        problem = _place_3d(problem, keypoints_3d, config)
    found = problem.solve(config)
    init_energy = problem.solve(config, steps=0).energy
    problem, found, factor, tried = _improve(problem, found, body, joint_set, config)
    weighed = problem.weigh(factor)
    sure = None
    if config.posterior:
        sure = joint_sigma(weighed, state_of(found), found.energy, body)
    return MapFits(
        final=RegressorOutput(found.rotmat, found.betas, found.cam),
        energy=found.energy,
        init_energy=init_energy,
        steps=found.steps,
        converged=found.converged,
        finite=found.finite,
        weight_factor=factor,
        turned=tried.turned,
        flipped=tried.flipped,
        swapped_arms=tried.swapped_arms,
        swapped_legs=tried.swapped_legs,
        intrinsics=problem.intrinsics,
        joint_sigma_mm=sure,
        problem=weighed,
    )


def _make_problem(
    body: Smpl,
    start: MapState,
    keypoints_2d: Tensor,
    precision: Tensor,
    joint_set: str,
    config: MapConfig,
    intrinsics: Tensor | None,
    fill: Tensor | None,
) -> FitProblem:
    """The energy of people."""
    joints = body.keypoints(
        start.betas, start.rotmat[:, 1:], start.rotmat[:, :1], joint_set="smpl24", pose2rot=False
    )
    frame = answer_frame(joints, start.cam)
    confidence = torch.where(keypoints_2d.isfinite().all(-1), keypoints_2d[..., 2], 0.0)
    place = torch.where(confidence[..., None] > 0, keypoints_2d[..., :2], 0.0)
    noise = find_keypoint_noise(config.keypoint_noise)
    weight = keypoint_weights(
        confidence,
        frame.size,
        sigma=config.sigma,
        sigma_unsure=config.sigma_unsure,
        sure_above=config.sure_above,
        curve=() if noise is None else noise.knots,
    )
    if fill is not None:
        is_filled = (confidence <= 0) & (fill[..., 2] > 0)
        spread = (EXTENT_PER_SIZE * frame.size[:, None] * fill[..., 2]).square()
        weight = torch.where(is_filled, 1 / spread, weight)
        place = torch.where(is_filled[..., None], fill[..., :2], place)
    if intrinsics is None and config.distance is not None:
        intrinsics = assumed_pinhole(frame.center, start.cam[:, 0], config.distance)
    return FitProblem(
        plan=body.points_plan(joint_set),
        centre=start,
        keypoints=torch.cat([place, weight[..., None]], -1),
        precision=precision.to(start.betas),
        frame=frame.size,
        intrinsics=intrinsics,
        backend=body.backend,
    )


def _place_3d(
    problem: FitProblem, keypoints_3d: Float[Tensor, "B K 4"], config: MapConfig
) -> FitProblem:
    """Add 3D keypoints; in turns their origin is moved to where their mean is the body's."""
    given = keypoints_3d.isfinite().all(-1) & (keypoints_3d[..., 3] > 0)
    weight = given[..., None].to(keypoints_3d)
    count = weight.sum(1, keepdim=True).clamp_min(1)
    points = torch.where(given[..., None], keypoints_3d[..., :3], 0.0)
    middle = points.sum(1, keepdim=True) / count
    state = problem.centre
    for _ in range(_PLACINGS):
        own = (weight * problem.points(state)).sum(1, keepdim=True) / count
        placed = torch.cat([points - middle + own, weight / config.sigma_3d**2], -1)
        problem = replace(problem, points3d=placed)
        state = state_of(problem.solve(config, begin=state))
    return problem


def _improve(
    problem: FitProblem, plain: MapSolution, body: Smpl, joint_set: str, config: MapConfig
) -> _Improved:
    """Give people under tension what else there is: hypotheses, exchanged arms, robust weights."""
    is_hard = plain.finite & (problem.tension(plain.energy) > config.hard_above)
    rows = is_hard.nonzero()[:, 0]
    nobody = torch.zeros_like(plain.finite)
    tried = _Tried(*(nobody.clone() for _ in _Tried._fields))
    whole = _Improved(problem, plain, torch.ones_like(problem.keypoints[..., 2]), tried)
    if not len(rows):
        return whole
    part, start = problem.take(rows), take_solution(plain, rows)
    best = _search(part, start, body, config)
    if config.swaps:
        best = _exchange_limbs(best, joint_set, config)
    if config.robust:
        best = _bear_outliers(part, start, best, body, config)
    return whole.put(rows, best)


def _search(problem: FitProblem, found: MapSolution, body: Smpl, config: MapConfig) -> _Improved:
    """The best of the hypotheses about each person, with the weights as they are."""
    turned = flipped = nobody = torch.zeros_like(found.finite)
    if config.hypotheses:
        problem, found, turned = try_turned(problem, found, config)
        found, flipped = try_flips(problem, found, body, config)
    factor = torch.ones_like(problem.keypoints[..., 2])
    return _Improved(problem, found, factor, _Tried(turned, flipped, nobody, nobody))


def _exchange_limbs(best: _Improved, joint_set: str, config: MapConfig) -> _Improved:
    """Exchange arms where the energy falls by the margin, and say whose legs look exchanged."""
    legs = find_swapped_legs(best.problem, best.found, joint_set, config)
    problem, found, arms = try_swapped_arms(best.problem, best.found, joint_set, config)
    return _Improved(
        problem, found, best.factor, best.tried._replace(swapped_arms=arms, swapped_legs=legs)
    )


def _bear_outliers(
    problem: FitProblem, plain: MapSolution, best: _Improved, body: Smpl, config: MapConfig
) -> _Improved:
    """Take robust weights where they lower the energy by the margin.

    The hypotheses are tried again under the robust weights: gross errors mislead them.
    """
    robust, factor = reweight(problem, plain, config)
    gain = plain.energy - robust_energy(problem, robust, factor, config)
    rows = (gain > config.robust_margin).nonzero()[:, 0]
    if not len(rows):
        return best
    part = problem.take(rows)
    other = _search(part.weigh(factor[rows]), take_solution(robust, rows), body, config)
    part = replace(part, centre=other.problem.centre)
    end, factor = reweight(part, other.found, config)
    end = end._replace(energy=robust_energy(part, end, factor, config))
    wins = (end.energy < best.found.energy[rows] - config.robust_margin).nonzero()[:, 0]
    other = _Improved(part, end, factor, other.tried)
    return best.put(rows[wins], other.take(wins))


def _check_inputs(
    body: Smpl,
    init: RegressorOutput,
    keypoints_2d: Tensor,
    joint_set: str,
    intrinsics: Tensor | None,
    keypoints_3d: Tensor | None,
    fill: Tensor | None,
) -> None:
    people, count = len(init.pred_betas), body.points_plan(joint_set).num_points
    for name, value, shape in (
        ("init.pred_rotmat", init.pred_rotmat, (people, 24, 3, 3)),
        ("init.pred_cam", init.pred_cam, (people, 3)),
        ("keypoints_2d", keypoints_2d, (people, count, 3)),
        ("intrinsics", intrinsics, (people, 3, 3)),
        ("keypoints_3d", keypoints_3d, (people, count, 4)),
        ("fill", fill, (people, count, 3)),
    ):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"fit_map: {name} must be {list(shape)}, got {list(value.shape)}")
