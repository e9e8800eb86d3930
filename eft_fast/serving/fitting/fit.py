"""The direct fit of a batch; as ``map_fit.fit``, in numpy. docs/map.md has equations and measures.

People whose energy stays high for the number of their data get more than one fit: other
hypotheses, exchanged arms, and at last weights that bear gross errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from eft_fast.conventions import EXTENT_PER_SIZE
from eft_fast.keypoints import JointSet, is_labelled
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_rules import LIMB_JOINTS, MIN_FRAME, MIN_SCALE
from eft_fast.models.keypoint_noise import find_keypoint_noise
from eft_fast.serving.fitting.asset import FitAsset
from eft_fast.serving.fitting.body import BodyPoints
from eft_fast.serving.fitting.energy import Problem, State
from eft_fast.serving.fitting.posterior import joint_sigma
from eft_fast.serving.fitting.robust import (
    find_swapped_legs,
    reweight,
    robust_energy,
    try_swapped_arms,
)
from eft_fast.serving.fitting.search import try_flips, try_turned
from eft_fast.serving.fitting.solver import Solution, solve

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int

#: People solved at once: beyond that nothing gets faster, and their matrices leave the cache.
PEOPLE_AT_ONCE: Final = 64


class _Improved(NamedTuple):
    """The energies that were chosen, their solutions, robust factors, and how they came about.

    ``tried`` has the columns turned, flipped, swapped_arms, swapped_legs.
    """

    problem: Problem
    found: Solution
    factor: Float64[np.ndarray, "B K"]
    tried: Bool[np.ndarray, "B 4"]

    def put(self, rows: Int[np.ndarray, " N"], part: _Improved) -> _Improved:
        """Everybody, with others for some."""
        centre = State(*(values.copy() for values in self.problem.centre))
        keypoints, factor, tried = (
            values.copy() for values in (self.problem.keypoints, self.factor, self.tried)
        )
        for mine, other in zip(centre, part.problem.centre, strict=True):
            mine[rows] = other
        keypoints[rows], factor[rows], tried[rows] = part.problem.keypoints, part.factor, part.tried
        problem = replace(self.problem, centre=centre, keypoints=keypoints)
        return _Improved(problem, self.found.put(rows, part.found), factor, tried)

    def take(self, rows: Int[np.ndarray, " N"]) -> _Improved:
        """The same of some people."""
        return _Improved(
            self.problem.take(rows), self.found.take(rows), self.factor[rows], self.tried[rows]
        )


@dataclass(frozen=True, eq=False)
class Fits:
    """Fits of B people; fields as of ``map_fit.fit.MapFits``.

    Attributes:
        final: Rotations, betas and weak camera at the end.
        energy: E of ``final``, under the weights of the end and about the start of the end.
        init_energy: E of the network's answer.
        tension: ``energy`` over the number of data.
        steps: Solves behind ``final``, over all stages that were taken.
        converged: Who met the tolerance in the last stage.
        finite: Whose numbers stayed finite; the others keep the network's answer.
        weight_factor: What the robust weights left of each keypoint.
        turned: Whose answer began turned by 180 degrees.
        flipped: Who had a bone flipped in depth.
        swapped_arms: Whose left and right arm were taken for each other's.
        swapped_legs: Whose legs probably are exchanged; the fit took them as given.
        pinhole: (f_x, f_y, c_x, c_y) as seen in the crops, given or assumed; NaN: the weak camera.
        joint_sigma_mm: As of ``posterior.joint_sigma``; NaN unless asked for.
    """

    final: State
    energy: Float64[np.ndarray, " B"]
    init_energy: Float64[np.ndarray, " B"]
    tension: Float64[np.ndarray, " B"]
    steps: Int[np.ndarray, " B"]
    converged: Bool[np.ndarray, " B"]
    finite: Bool[np.ndarray, " B"]
    weight_factor: Float64[np.ndarray, "B K"]
    turned: Bool[np.ndarray, " B"]
    flipped: Bool[np.ndarray, " B"]
    swapped_arms: Bool[np.ndarray, " B"]
    swapped_legs: Bool[np.ndarray, " B"]
    pinhole: Float64[np.ndarray, "B 4"]
    joint_sigma_mm: Float64[np.ndarray, "B 24"]


def fit_people(
    asset: FitAsset,
    init: State,
    keypoints_2d: Float64[np.ndarray, "B K 3"],
    *,
    joint_set: str = "coco17",
    config: MapConfig | None = None,
    pinhole: Float64[np.ndarray, "B 4"] | None = None,
) -> Fits:
    """Fit people to their keypoints. Nobody's answer depends on who else is fitted.

    Args:
        asset: The body, and the covariance of the network's errors.
        init: The network's answers: where the fits begin and what the prior is about.
        keypoints_2d: Keypoints of ``joint_set``: x and y in [-1, 1] of the crop, and confidence; 0
            or NaN leaves a keypoint out.
        joint_set: Order of the keypoints.
        config: Options; ``covariance`` and ``fill`` are those of torch's fit alone.
        pinhole: (f_x, f_y, c_x, c_y) of each photo as seen in the crop; None: that which
            ``config.distance`` assumes.

    Raises:
        ValueError: If shapes disagree, or there is no such joint set on this body.
    """
    config, points = checked_config(config), find_joint_set(joint_set)
    asset.points(points)
    people = len(init.betas)
    for name, value, shape in (
        ("rotmat", init.rotmat, (people, 24, 3, 3)),
        ("cam", init.cam, (people, 3)),
        ("keypoints_2d", keypoints_2d, (people, len(points), 3)),
        ("pinhole", pinhole, (people, 4)),
    ):
        if value is not None and value.shape != shape:
            raise ValueError(f"serving: {name} must be {list(shape)}, got {list(value.shape)}")
    pieces = [
        _fit_piece(asset, init.take(rows), keypoints_2d[rows], points, config, pinhole, rows)
        for rows in _pieces(people)
    ]
    return _join(pieces)


def checked_config(config: MapConfig | None) -> MapConfig:
    """The options, or the defaults, with the curve of keypoints read where it has a name.

    Raises:
        FileNotFoundError: If the curve is neither a name nor a file.
        ValueError: For options that belong to torch's fit alone, or a file that holds no curve.
    """
    config = config or MapConfig()
    if config.fill != "none":
        raise ValueError(
            f"serving: fill must be 'none', got {config.fill!r}: an export gives no landmarks; use "
            "fit_batch"
        )
    if config.covariance is not None:
        raise ValueError(
            f"serving: covariance must be None, got {config.covariance}: it lies in the exported "
            "folder; export again with --covariance"
        )
    return replace(config, keypoint_noise=find_keypoint_noise(config.keypoint_noise))


def _pieces(people: int) -> list[np.ndarray]:
    starts = range(0, max(people, 1), PEOPLE_AT_ONCE)
    return [np.arange(start, min(start + PEOPLE_AT_ONCE, people)) for start in starts]


def _join(pieces: list[Fits]) -> Fits:
    if len(pieces) == 1:
        return pieces[0]
    values = {name: [getattr(piece, name) for piece in pieces] for name in vars(pieces[0])}
    finals = values.pop("final")
    final = State(*(np.concatenate(parts) for parts in zip(*finals, strict=True)))
    return Fits(final=final, **{name: np.concatenate(parts) for name, parts in values.items()})


def _fit_piece(
    asset: FitAsset,
    init: State,
    keypoints_2d: np.ndarray,
    points: JointSet,
    config: MapConfig,
    pinhole: np.ndarray | None,
    rows: np.ndarray,
) -> Fits:
    joints = asset.points("smpl24")
    with np.errstate(all="ignore"):
        problem = _make_problem(
            asset.points(points), joints, asset.precision, init, keypoints_2d, config
        )
        if pinhole is not None:
            problem = replace(problem, pinhole=pinhole[rows])
        plain = solve(problem, steps=config.max_steps, tolerance=config.tolerance)
        best = _improve(problem, plain, joints, points, config)
        weighed = best.problem.weigh(best.factor)
        sure = np.full((len(init.betas), 24), np.nan)
        if config.posterior:
            sure = joint_sigma(weighed, best.found, joints)
        none = np.full((len(init.betas), 4), np.nan)
        turned, flipped, arms, legs = best.tried.T
        return Fits(
            final=best.found.state,
            energy=best.found.energy,
            init_energy=problem.try_state(init).energy,
            tension=weighed.tension(best.found.energy),
            steps=best.found.steps,
            converged=best.found.converged,
            finite=best.found.finite,
            weight_factor=best.factor,
            turned=turned,
            flipped=flipped,
            swapped_arms=arms,
            swapped_legs=legs,
            pinhole=none if problem.pinhole is None else problem.pinhole,
            joint_sigma_mm=sure,
        )


def answer_frame(
    joints: Float64[np.ndarray, "B 24 3"], cam: Float64[np.ndarray, "B 3"]
) -> tuple[Float64[np.ndarray, "B 2"], Float64[np.ndarray, " B"]]:
    """Where an answer puts the person in the crop and its size f; ``models.error_state``."""
    limbs = cam[:, None, :1] * np.take(joints, LIMB_JOINTS, 1)[..., :2] + cam[:, None, 1:]
    center = limbs.mean(1)
    away = limbs - center[:, None]
    square = (away[..., 0] * away[..., 0] + away[..., 1] * away[..., 1]).mean(1)
    return center, np.sqrt(np.maximum(square, MIN_FRAME**2))


def _make_problem(
    points: BodyPoints,
    joints: BodyPoints,
    precision: np.ndarray,
    init: State,
    keypoints_2d: np.ndarray,
    config: MapConfig,
) -> Problem:
    """The energy of people, with the pinhole that the distance assumes; ``losses.tie``."""
    center, size = answer_frame(joints.pose(init.betas, init.rotmat).joints, init.cam)
    given = is_labelled(keypoints_2d)
    keypoints = np.where(given[..., None], keypoints_2d, 0.0)
    confidence, noise = keypoints[..., 2], config.keypoint_noise
    if noise is None or isinstance(noise, str | Path):  # Read before, see ``checked_config``.
        spread = np.where(confidence > config.sure_above, config.sigma, config.sigma_unsure)
    else:
        spread = noise.sigma_of(confidence)
    weight = 1 / (EXTENT_PER_SIZE * size[:, None] * spread) ** 2
    keypoints[..., 2] = np.where(given, weight, 0.0)
    pinhole = None
    if config.distance is not None:
        focal = config.distance * np.maximum(init.cam[:, :1], MIN_SCALE)
        pinhole = np.concatenate([focal, focal, center], 1)
    return Problem(points, init, keypoints, precision, size, pinhole)


def _improve(
    problem: Problem, plain: Solution, joints: BodyPoints, points: JointSet, config: MapConfig
) -> _Improved:
    """Give people under tension what else there is."""
    whole = _Improved(
        problem,
        plain,
        np.ones_like(problem.keypoints[..., 2]),
        np.zeros((len(problem), 4), bool),
    )
    rows = np.flatnonzero(plain.finite & (problem.tension(plain.energy) > config.hard_above))
    if not len(rows):
        return whole
    part, start = problem.take(rows), plain.take(rows)
    best = _search(part, start, joints, config)
    if config.swaps:
        best = _exchange_limbs(best, points, config)
    if config.robust:
        best = _bear_outliers(part, start, best, joints, config)
    return whole.put(rows, best)


def _search(problem: Problem, found: Solution, joints: BodyPoints, config: MapConfig) -> _Improved:
    """The best of the hypotheses about each person, with the weights as they are."""
    tried = np.zeros((len(problem), 4), bool)
    if config.hypotheses:
        problem, found, tried[:, 0] = try_turned(problem, found, config)
        found, tried[:, 1] = try_flips(problem, found, joints, config)
    return _Improved(problem, found, np.ones_like(problem.keypoints[..., 2]), tried)


def _exchange_limbs(best: _Improved, points: JointSet, config: MapConfig) -> _Improved:
    """Exchange arms where the energy falls by the margin, and say whose legs look exchanged."""
    tried = best.tried.copy()
    tried[:, 3] = find_swapped_legs(best.problem, best.found, points, config)
    problem, found, tried[:, 2] = try_swapped_arms(best.problem, best.found, points, config)
    return _Improved(problem, found, best.factor, tried)


def _bear_outliers(
    problem: Problem, plain: Solution, best: _Improved, joints: BodyPoints, config: MapConfig
) -> _Improved:
    """Take robust weights where they lower the energy by the margin.

    The hypotheses are tried again under the robust weights: gross errors mislead them.
    """
    robust, factor = reweight(problem, plain, config)
    gain = plain.energy - robust_energy(problem, robust, factor, config)
    rows = np.flatnonzero(gain > config.robust_margin)
    if not len(rows):
        return best
    part = problem.take(rows)
    other = _search(part.weigh(factor[rows]), robust.take(rows), joints, config)
    part = replace(part, centre=other.problem.centre)
    end, factor = reweight(part, other.found, config)
    end = replace(end, energy=robust_energy(part, end, factor, config))
    wins = np.flatnonzero(end.energy < best.found.energy[rows] - config.robust_margin)
    other = _Improved(part, end, factor, other.tried)
    return best.put(rows[wins], other.take(wins))
