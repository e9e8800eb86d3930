"""Keypoints that are far off, and exchanged arms; as ``map_fit.robust``, in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from eft_fast.map_fit.config import MapConfig
from eft_fast.map_rules import ARM, GAUSSIAN_MEDIAN, LEG, limb_pairs
from eft_fast.serving.fitting.energy import Problem
from eft_fast.serving.fitting.solver import Solution, solve

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

    from eft_fast.keypoints import JointSet


def row_median(values: Float64[np.ndarray, "B K"]) -> Float64[np.ndarray, "B 1"]:
    """The lower median of each row over what is not NaN, as torch takes it; NaN without any."""
    count = (~np.isnan(values)).sum(1)
    middle = np.maximum(count - 1, 0) // 2
    return np.take_along_axis(np.sort(values, 1), middle[:, None], 1)


def robust_factor(squared: Float64[np.ndarray, "B K"], k: float) -> Float64[np.ndarray, "B K"]:
    """(K / (K + r^2))^2 of each keypoint, K = k^2 max(1, median r^2 / 1.386); 1 for who has no r.

    Args:
        squared: r^2, NaN for keypoints that are left out.
        k: Errors of about this many sigma count a quarter.
    """
    typical = np.nan_to_num(row_median(squared) / GAUSSIAN_MEDIAN)
    scale = k * k * np.maximum(typical, 1.0)
    return np.asarray((scale / (scale + np.nan_to_num(squared))) ** 2)


def reweight(
    problem: Problem, found: Solution, config: MapConfig
) -> tuple[Solution, Float64[np.ndarray, "B K"]]:
    """Solve in rounds under weights that follow from the errors of the round before.

    Returns:
        The solutions under the last weights, and the factors of the weights.
    """
    factor = np.ones_like(problem.keypoints[..., 2])
    for _ in range(config.robust_rounds):
        factor = robust_factor(squared_errors(problem, found), config.robust_k)
        end = solve(
            problem.weigh(factor),
            begin=found.state,
            steps=config.robust_steps,
            tolerance=config.tolerance,
        )
        found = replace(end, steps=found.steps + end.steps, finite=found.finite & end.finite)
    return found, factor


def squared_errors(problem: Problem, found: Solution) -> Float64[np.ndarray, "B K"]:
    """Squared errors of solutions in squared sigmas, NaN for keypoints that are left out."""
    with np.errstate(all="ignore"):
        return problem.squared_errors(problem.try_state(found.state))


def robust_energy(
    problem: Problem, found: Solution, factor: Float64[np.ndarray, "B K"], config: MapConfig
) -> Float64[np.ndarray, " B"]:
    """Energy with k^2 r^2 / (k^2 + r^2) in the place of r^2: no keypoint counts more than k^2.

    Args:
        problem: With the weights as they were given.
        found: Solutions under weights times ``factor``.
        factor: The factors of the weights.
        config: Options.
    """
    squared = np.nan_to_num(squared_errors(problem, found))
    k2 = config.robust_k**2
    return np.asarray(found.energy + (k2 * squared / (k2 + squared) - factor * squared).sum(1))


def exchange_gain(
    problem: Problem, found: Solution, pairs: list[tuple[int, int]], config: MapConfig
) -> tuple[Float64[np.ndarray, " B"], Problem, Solution]:
    """How much the energy falls if left and right of a limb are exchanged.

    Returns:
        The fall, minus infinity for who has no pair with both points; the problem with exchanged
        keypoints; its solutions.
    """
    order = np.arange(problem.keypoints.shape[1])
    able = np.zeros(len(problem), bool)
    given = problem.keypoints[..., 2] > 0
    for left, right in pairs:
        order[[left, right]] = right, left
        able |= given[:, left] & given[:, right]
    other = replace(problem, keypoints=np.take(problem.keypoints, order, 1))
    end = solve(other, steps=config.max_steps, tolerance=config.tolerance)
    return np.where(end.finite & able, found.energy - end.energy, -np.inf), other, end


def try_swapped_arms(
    problem: Problem, found: Solution, points: JointSet, config: MapConfig
) -> tuple[Problem, Solution, Bool[np.ndarray, " B"]]:
    """Fit the arms the other way round as well, and take it where the energy falls by the margin.

    Returns:
        The problem, with exchanged keypoints where they were taken; the better solutions; where.
    """
    pairs = limb_pairs(points.names, ARM)
    if not pairs:
        return problem, found, np.zeros(len(problem), bool)
    gain, other, end = exchange_gain(problem, found, pairs, config)
    wins = gain > config.swap_margin
    keypoints = np.where(wins[:, None, None], other.keypoints, problem.keypoints)
    return replace(problem, keypoints=keypoints), found.choose(wins, end), wins


def find_swapped_legs(
    problem: Problem, found: Solution, points: JointSet, config: MapConfig
) -> Bool[np.ndarray, " B"]:
    """Whose legs are probably exchanged: a report, since legs that cross are told apart badly."""
    pairs = limb_pairs(points.names, LEG)
    if not pairs:
        return np.zeros(len(problem), bool)
    return exchange_gain(problem, found, pairs, config)[0] > config.leg_margin
