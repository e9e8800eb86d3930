"""How sure a fit is, as operators; the formulas are those of ``map_fit.posterior``."""

from __future__ import annotations

from typing import Final

import numpy as np

from eft_fast.conventions import NUM_JOINTS
from eft_fast.deploy.fit_graph.body import PointsGraph
from eft_fast.deploy.fit_graph.energy import Problem, State
from eft_fast.deploy.fit_graph.solver import scale_to_one, solve_linear
from eft_fast.deploy.onnx_builder import Value
from eft_fast.map_rules import BETAS, SIGMA_POWER, SIGMA_SCALE, TENSIONS

_MM: Final = 1000.0


def joint_sigma(problem: Problem, state: State, energy: Value, joints: PointsGraph) -> Value:
    """The radius [B, 24] in mm about each joint, from the pelvis, that holds the truth with 68 %.

    Args:
        problem: What was minimised, with the weights of the end.
        state: The answers.
        energy: Of theirs, [B, 1].
        joints: The kinematic joints.
    """
    graph, rows = energy.graph, 3 * NUM_JOINTS
    posed = joints.pose(state.betas, state.rotmat)
    slopes = joints.slopes(posed, state.rotmat)
    slopes = (slopes - slopes.cut(1, 0, 1)).reshape(-1, rows, BETAS.stop)
    camera = slopes.cut(2, 0, 3) * 0.0  # which moves no joint about the pelvis
    unit, scaled = scale_to_one(problem.evaluate(state).hessian)
    sideways = graph.concat(2, slopes, camera).permute(0, 2, 1) * unit
    solved = solve_linear(scaled, sideways, rows)
    trace = (sideways * solved).sum(1).reshape(-1, NUM_JOINTS, 3).sum(2).at_least(0.0)
    low, high = TENSIONS
    growth = graph.op("Pow", problem.tension(energy).at_least(low).at_most(high), SIGMA_POWER)
    return growth * trace.fn("Sqrt") * np.float32(_MM * SIGMA_SCALE)
