"""Keypoints that are far off, and arms whose left and right were exchanged.

Reweighting begins at the converged answer, never before: far from it every keypoint looks wrong.
With r the 2D errors in sigmas, rounds of

    w <- w_given (K / (K + r^2))^2,   K = k^2 max(1, median r^2 / 1.386)

and a few solves under these weights are the scale-mixture form of Geman and McClure's penalty; the
median of the person's own errors, over that of two Gaussian numbers (2 ln 2), keeps people whom the
model describes badly as a whole from losing all keypoints. The prior stays about the start.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast.keypoints import JOINT_SETS
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.problem import FitProblem, choose_solution, state_of
from eft_fast.map_rules import ARM, GAUSSIAN_MEDIAN, LEG, limb_pairs
from eft_fast.ops.map import MapSolution


def row_median(values: Float[Tensor, "B K"]) -> Float[Tensor, "B 1"]:
    """The median of each row over what is not NaN; NaN for a row without any."""
    return values.nanmedian(1, keepdim=True).values


def robust_factor(squared: Float[Tensor, "B K"], k: float) -> Float[Tensor, "B K"]:
    """(K / (K + r^2))^2 of each keypoint, 1 for who is left out anyhow.

    Args:
        squared: r^2, NaN for keypoints that are left out.
        k: Errors of about this many sigma count a quarter.
    """
    scale = k * k * (row_median(squared) / GAUSSIAN_MEDIAN).nan_to_num().clamp_min(1.0)
    return (scale / (scale + squared.nan_to_num())).square()


def reweight(
    problem: FitProblem, found: MapSolution, config: MapConfig
) -> tuple[MapSolution, Float[Tensor, "B K"]]:
    """Solve in rounds under weights that follow from the errors of the round before.

    Returns:
        The solutions under the last weights, and the factors of the weights.
    """
    factor = torch.ones_like(problem.keypoints[..., 2])
    for _ in range(config.robust_rounds):
        factor = robust_factor(problem.squared_errors(state_of(found)), config.robust_k)
        end = problem.weigh(factor).solve(config, begin=state_of(found), steps=config.robust_steps)
        found = end._replace(steps=found.steps + end.steps, finite=found.finite & end.finite)
    return found, factor


def robust_energy(
    problem: FitProblem, found: MapSolution, factor: Float[Tensor, "B K"], config: MapConfig
) -> Float[Tensor, " B"]:
    """Energy with k^2 r^2 / (k^2 + r^2) in the place of r^2: no keypoint counts more than k^2.

    Comparable with the plain energy: k = 4 charges 16 for a keypoint that may lie anywhere.

    Args:
        problem: With the weights as they were given.
        found: Solutions under weights times ``factor``.
        factor: The factors of the weights.
        config: Options.
    """
    squared = problem.squared_errors(state_of(found)).nan_to_num()
    k2 = config.robust_k**2
    return found.energy + (k2 * squared / (k2 + squared) - factor * squared).sum(1)


def exchange(
    keypoints: Float[Tensor, "B K 3"], pairs: list[tuple[int, int]]
) -> Float[Tensor, "B K 3"]:
    """The keypoints with left and right of these pairs exchanged."""
    order = list(range(keypoints.shape[1]))
    for left, right in pairs:
        order[left], order[right] = right, left
    return keypoints[:, order]


def exchange_gain(
    problem: FitProblem, found: MapSolution, pairs: list[tuple[int, int]], config: MapConfig
) -> tuple[Float[Tensor, " B"], MapSolution]:
    """How much the energy falls if left and right of a limb are exchanged, and the solutions.

    Minus infinity for who has no pair with both points.
    """
    other = replace(problem, keypoints=exchange(problem.keypoints, pairs)).solve(config)
    given = problem.keypoints[..., 2] > 0
    able = torch.zeros_like(found.finite)
    for left, right in pairs:
        able = able | (given[:, left] & given[:, right])
    gain = torch.where(other.finite & able, found.energy - other.energy, -torch.inf)
    return gain, other


def try_swapped_arms(
    problem: FitProblem, found: MapSolution, joint_set: str, config: MapConfig
) -> tuple[FitProblem, MapSolution, Bool[Tensor, " B"]]:
    """Fit the arms the other way round as well, and take it where the energy falls by the margin.

    Returns:
        The problem, with exchanged keypoints where they were taken; the better solutions; where.
    """
    pairs = limb_pairs(JOINT_SETS[joint_set].names, ARM)
    if not pairs:
        return problem, found, torch.zeros_like(found.finite)
    gain, other = exchange_gain(problem, found, pairs, config)
    wins = gain > config.swap_margin
    rows: Int[Tensor, " N"] = wins.nonzero()[:, 0]
    exchanged = replace(problem, keypoints=exchange(problem.keypoints, pairs)).take(rows)
    return problem.put(rows, exchanged), choose_solution(wins, other, found), wins


def find_swapped_legs(
    problem: FitProblem, found: MapSolution, joint_set: str, config: MapConfig
) -> Bool[Tensor, " B"]:
    """Whose legs are probably exchanged: a report, since legs that cross are told apart badly."""
    pairs = limb_pairs(JOINT_SETS[joint_set].names, LEG)
    if not pairs:
        return torch.zeros_like(found.finite)
    return exchange_gain(problem, found, pairs, config)[0] > config.leg_margin
