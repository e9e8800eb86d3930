"""Answers that the solver cannot reach from the start; as ``map_fit.hypotheses``, in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from eft_fast.map_fit.config import MapConfig
from eft_fast.map_rules import BONES, HALF_TURN, SHORTEST
from eft_fast.serving.fitting.body import BodyPoints
from eft_fast.serving.fitting.energy import Problem, State
from eft_fast.serving.fitting.solver import Solution, solve

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64


def mirror_in_depth(bone: Float64[np.ndarray, "B 3"]) -> Float64[np.ndarray, "B 3 3"]:
    """The rotation that takes a direction (x, y, z) to (x, y, -z), in the plane of it and the view.

    Q = (I - 2 m m^T) F: F mirrors depth, m = (z x, z y, r^2) / (r |d|), r^2 = x^2 + y^2.
    """
    x, y, depth = bone.T
    radius = np.sqrt(x * x + y * y)
    length = np.maximum(np.sqrt(x * x + y * y + depth * depth), np.finfo(float).tiny)
    # A bone along the line of sight may be mirrored in any plane that holds it.
    is_seen = radius > SHORTEST * length
    divisor = np.where(is_seen, radius, 1.0)
    along = np.where(is_seen, x / divisor, 1.0), np.where(is_seen, y / divisor, 0.0)
    m = np.stack([-depth * along[0], -depth * along[1], -radius], -1) / length[:, None]
    mirror = np.eye(3) - 2 * m[:, :, None] * m[:, None, :]
    return np.asarray(mirror * np.array([1.0, 1.0, -1.0]))


def flip_bone(joints: BodyPoints, state: State, bone: tuple[int, int]) -> State:
    """The state with a bone mirrored in depth; what hangs on it keeps its direction in the world.

    Args:
        joints: The kinematic joints (``smpl24``) of the body.
        state: Where people are.
        bone: One of ``BONES``.
    """
    joint, end = bone
    posed = joints.pose(state.betas, state.rotmat)
    mirror = mirror_in_depth(posed.joints[:, end] - posed.joints[:, joint])
    turned = mirror @ posed.world[:, joint]
    rotmat = state.rotmat.copy()
    rotmat[:, joint] = posed.above[:, joint].swapaxes(1, 2) @ turned
    for child in np.flatnonzero(joints.parents == joint):
        rotmat[:, child] = turned.swapaxes(1, 2) @ posed.world[:, child]
    return state._replace(rotmat=rotmat)


def turn_round(state: State) -> State:
    """The state with the body turned by 180 degrees about its own vertical."""
    rotmat = state.rotmat.copy()
    rotmat[:, 0] *= np.array(HALF_TURN)
    return state._replace(rotmat=rotmat)


def try_turned(
    problem: Problem, found: Solution, config: MapConfig
) -> tuple[Problem, Solution, Bool[np.ndarray, " B"]]:
    """Fit people about the turned answer as well, and take it where the energy falls by the margin.

    Returns:
        The problem, with turned centres where they were taken; the better solutions; where.
    """
    turned = replace(problem, centre=turn_round(problem.centre))
    other = solve(turned, steps=config.max_steps, tolerance=config.tolerance)
    wins = other.finite & (other.energy < found.energy - config.turn_margin)
    rotmat = np.where(wins[:, None, None, None], turned.centre.rotmat, problem.centre.rotmat)
    centre = problem.centre._replace(rotmat=rotmat)
    return replace(problem, centre=centre), found.choose(wins, other), wins


def try_flips(
    problem: Problem, found: Solution, joints: BodyPoints, config: MapConfig
) -> tuple[Solution, Bool[np.ndarray, " B"]]:
    """Flip each bone of ``BONES`` in turn, and take what lowers the energy by the margin.

    Returns:
        The better solutions; where one was taken.
    """
    people = len(problem)
    begins = [flip_bone(joints, found.state, bone) for bone in BONES]
    rows = np.tile(np.arange(people), len(BONES))
    begin = State(*(np.concatenate(parts) for parts in zip(*begins, strict=True)))
    tried = solve(
        problem.take(rows), begin=begin, steps=config.flip_steps, tolerance=config.tolerance
    )
    energy = np.where(tried.finite, tried.energy, np.inf).reshape(len(BONES), people)
    chosen = tried.take(energy.argmin(0) * people + np.arange(people))
    wins = chosen.finite & (chosen.energy < found.energy - config.flip_margin)
    better = np.flatnonzero(wins)
    end = solve(
        problem.take(better),
        begin=chosen.state.take(better),
        steps=config.max_steps,
        tolerance=config.tolerance,
    )
    end = replace(end, steps=end.steps + chosen.steps[better])
    return found.choose(wins, chosen.put(better, end)), wins
