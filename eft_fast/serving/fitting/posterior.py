"""How sure a fit is; as ``map_fit.posterior``, in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.conventions import NUM_JOINTS
from eft_fast.map_rules import BETAS, NUM_STATE, SIGMA_POWER, SIGMA_SCALE, TENSIONS
from eft_fast.serving.fitting.body import BodyPoints
from eft_fast.serving.fitting.energy import Problem
from eft_fast.serving.fitting.solver import Solution

if TYPE_CHECKING:
    from jaxtyping import Float64

_MM: Final = 1000.0


def joint_sigma(
    problem: Problem, found: Solution, joints: BodyPoints
) -> Float64[np.ndarray, "B 24"]:
    """For each kinematic joint the radius in mm, about the pelvis, that holds the truth with 68 %.

    C_j = J_j H^-1 J_j^T, sigma_j = 1.29 tension^0.25 sqrt(tr C_j).

    Args:
        problem: What was minimised, with the weights of the end.
        found: The answers, with their energies.
        joints: The kinematic joints (``smpl24``) of the body.

    Returns:
        The radii, 0 for the pelvis; NaN for who has no finite answer.
    """
    sigma = np.full((len(problem), NUM_JOINTS), np.nan)
    rows = np.flatnonzero(found.finite)
    if not len(rows):
        return sigma
    problem, found = problem.take(rows), found.take(rows)
    hessian = problem.model(problem.try_state(found.state)).hessian
    slopes = np.zeros((len(rows), NUM_JOINTS, 3, NUM_STATE))
    posed = joints.pose(found.state.betas, found.state.rotmat)
    slopes[..., : BETAS.stop] = joints.slopes(posed, found.state.rotmat)
    slopes -= slopes[:, :1].copy()
    sideways = slopes.reshape(len(rows), -1, NUM_STATE)
    solved = np.linalg.solve(hessian, sideways.swapaxes(1, 2)).swapaxes(1, 2)
    trace = (sideways * solved).reshape(len(rows), NUM_JOINTS, -1).sum(2)
    growth = np.clip(problem.tension(found.energy), *TENSIONS) ** SIGMA_POWER
    sigma[rows] = _MM * SIGMA_SCALE * growth[:, None] * np.sqrt(np.maximum(trace, 0.0))
    return sigma
