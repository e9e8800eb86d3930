"""Answers that the solver cannot reach from the start: bones flipped in depth, bodies turned round.

A picture does not say whether a bone leans towards the camera or away from it, and the solver stays
in the valley of its start. So each long bone of an answer is mirrored in depth, which leaves the
picture as it is, and the solver goes on from there; the lowest energy is taken. (Chains of such
choices are what KITRO, Yang et al., CVPR 2024, searches; here the covariance of the network's
errors judges them.) A network that takes the back for the front is wrong by far more than its usual
error: there the prior turns as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast import ops
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.problem import (
    FitProblem,
    choose_solution,
    put_solution,
    state_of,
    take_rows,
    take_solution,
)
from eft_fast.map_rules import BONES, HALF_TURN, SHORTEST
from eft_fast.ops.map import MapSolution, MapState
from eft_fast.ops.plans import PointsPlan

if TYPE_CHECKING:
    from eft_fast.body.smpl import Smpl


def compose(left: Float[Tensor, "*b 3 3"], right: Float[Tensor, "*b 3 3"]) -> Tensor:
    """Products of rotations as broadcast sums: the same bits in any batch."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(-2)


def mirror_in_depth(bone: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """The rotation that takes a direction (x, y, z) to (x, y, -z), in the plane of it and the view.

    Q = (I - 2 m m^T) F: F mirrors depth, and the mirror of m = (z x, z y, r^2) / (r |d|),
    r^2 = x^2 + y^2, keeps the mirrored direction and makes a rotation of the two.
    """
    flat, depth = bone[:, :2], bone[:, 2:]
    length = (bone * bone).sum(1, keepdim=True).sqrt().clamp_min(torch.finfo(bone.dtype).tiny)
    radius = (flat * flat).sum(1, keepdim=True).sqrt()
    # A bone along the line of sight may be mirrored in any plane that holds it.
    along = torch.where(radius > SHORTEST * length, flat / radius, flat.new_tensor([1.0, 0.0]))
    m = torch.cat([-depth * along, -radius], 1) / length
    mirror = torch.eye(3, dtype=bone.dtype, device=bone.device) - 2 * m[:, :, None] * m[:, None, :]
    return mirror * bone.new_tensor([1.0, 1.0, -1.0])


def flip_bone(
    plan: PointsPlan, state: MapState, bone: tuple[int, int], *, backend: str = "auto"
) -> MapState:
    """The state with a bone mirrored in depth; what hangs on it keeps its direction in the world.

    Args:
        plan: Kinematic joints (``smpl24``) of the body.
        state: Where people are.
        bone: One of ``BONES``.
        backend: Of the operator.
    """
    joint, end = bone
    parents = plan.parents.tolist()
    world = [state.rotmat[:, 0]]
    for child in range(1, len(parents)):
        world.append(compose(world[parents[child]], state.rotmat[:, child]))
    places = ops.smpl_points(plan, state.betas, state.rotmat, backend=backend)
    turned = compose(mirror_in_depth(places[:, end] - places[:, joint]), world[joint])
    rotmat = state.rotmat.clone()
    rotmat[:, joint] = compose(world[parents[joint]].transpose(1, 2), turned)
    for child, parent in enumerate(parents):
        if parent == joint:
            rotmat[:, child] = compose(turned.transpose(1, 2), world[child])
    return MapState(rotmat, state.betas, state.cam)


def turn_round(state: MapState) -> MapState:
    """The state with the body turned by 180 degrees about its own vertical."""
    rotmat = state.rotmat.clone()
    rotmat[:, 0] = rotmat[:, 0] * rotmat.new_tensor(HALF_TURN)
    return state._replace(rotmat=rotmat)


def try_turned(
    problem: FitProblem, found: MapSolution, config: MapConfig
) -> tuple[FitProblem, MapSolution, Bool[Tensor, " B"]]:
    """Fit people about the turned answer as well, and take it where the energy falls by the margin.

    Returns:
        The problem, with turned centres where they were taken; the better solutions; where.
    """
    turned = replace(problem, centre=turn_round(problem.centre))
    other = turned.solve(config)
    wins = other.finite & (other.energy < found.energy - config.turn_margin)
    rows = wins.nonzero()[:, 0]
    return problem.put(rows, turned.take(rows)), choose_solution(wins, other, found), wins


def try_flips(
    problem: FitProblem, found: MapSolution, body: Smpl, config: MapConfig
) -> tuple[MapSolution, Bool[Tensor, " B"]]:
    """Flip each bone of ``BONES`` in turn, and take what lowers the energy by the margin.

    All bones are flipped from the same answer, so that they are one call of the solver, of a few
    solves; only the best of each person goes on to convergence.

    Returns:
        The better solutions; where one was taken.
    """
    plan = body.points_plan("smpl24")
    people = len(problem.frame)
    begins = [flip_bone(plan, state_of(found), bone, backend=body.backend) for bone in BONES]
    rows = torch.arange(people, device=problem.frame.device).repeat(len(BONES))
    begin = MapState(*(torch.cat(parts) for parts in zip(*begins, strict=True)))
    tried = problem.take(rows).solve(config, begin=begin, steps=config.flip_steps)
    energy = torch.where(tried.finite, tried.energy, torch.inf).reshape(len(BONES), people)
    best = energy.argmin(0) * people + torch.arange(people, device=rows.device)
    chosen = take_solution(tried, best)
    wins = chosen.finite & (chosen.energy < found.energy - config.flip_margin)
    better = wins.nonzero()[:, 0]
    end = problem.take(better).solve(config, begin=take_rows(state_of(chosen), better))
    chosen = put_solution(chosen, better, end._replace(steps=end.steps + chosen.steps[better]))
    return choose_solution(wins, chosen, found), wins
