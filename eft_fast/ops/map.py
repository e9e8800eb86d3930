"""Maximum a posteriori: pose, shape and camera from keypoints under a Gaussian prior."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eft_fast.ops import _checks, map_reference
from eft_fast.ops._operators import Operator
from eft_fast.ops.map_reference import (
    UNKNOWNS,
    MapEvaluation,
    MapProblem,
    MapSolution,
    MapState,
)
from eft_fast.ops.plans import PointsPlan

__all__ = ["MapEvaluation", "MapSolution", "MapState", "map_evaluate", "map_solve"]


def _check_state(who: str, name: str, state: MapState, like: Tensor) -> None:
    people = like.shape[0]
    for part, shape in (("rotmat", (24, 3, 3)), ("betas", (10,)), ("cam", (3,))):
        value = getattr(state, part)
        _checks.check_tensor(who, f"{name}.{part}", value, (people, *shape), like)


def _check_problem(who: str, problem: MapProblem, begin: MapState) -> None:
    """Raise unless everything fits the centre's betas and the plan."""
    plan, betas = problem.plan, problem.centre.betas
    _checks.check_body(who, plan, betas, problem.centre.rotmat, None)
    people, count = betas.shape[0], plan.num_points
    _check_state(who, "centre", problem.centre, betas)
    _check_state(who, "begin", begin, betas)
    _checks.check_tensor(who, "keypoints", problem.keypoints, (people, count, 3), betas)
    _checks.check_tensor(who, "precision", problem.precision, (UNKNOWNS, UNKNOWNS), betas)
    _checks.check_tensor(who, "frame", problem.frame, (people,), betas)
    if problem.pinhole is not None:
        _checks.check_tensor(who, "pinhole", problem.pinhole, (people, 4), betas)
    if problem.points3d is not None:
        _checks.check_tensor(who, "points3d", problem.points3d, (people, count, 4), betas)
    free = problem.free
    if free is not None and (tuple(free.shape) != (UNKNOWNS,) or free.dtype != torch.bool):
        raise ValueError(
            f"{who}: free must be [{UNKNOWNS}] bool, got {list(free.shape)} {free.dtype}"
        )


def _make_problem(
    who: str,
    plan: PointsPlan,
    centre: MapState,
    keypoints: Tensor,
    precision: Tensor,
    frame: Tensor,
    begin: MapState | None,
    pinhole: Tensor | None,
    points3d: Tensor | None,
    free: Tensor | None,
) -> tuple[MapProblem, MapState]:
    problem = MapProblem(plan, centre, keypoints, precision, frame, pinhole, points3d, free)
    start = centre if begin is None else begin
    _check_problem(who, problem, start)
    return problem, start


@torch.no_grad()
def map_solve(
    plan: PointsPlan,
    centre: MapState,
    keypoints: Float[Tensor, "B K 3"],
    precision: Float[Tensor, "85 85"],
    frame: Float[Tensor, " B"],
    *,
    begin: MapState | None = None,
    pinhole: Float[Tensor, "B 4"] | None = None,
    points3d: Float[Tensor, "B K 4"] | None = None,
    free: Bool[Tensor, " 85"] | None = None,
    steps: int = 20,
    damping: float = 0.1,
    tolerance: float = 1e-5,
    keep_hessian: bool = False,
    backend: str = "auto",
) -> MapSolution:
    """Minimise E over pose, shape and camera of each person by Levenberg-Marquardt.

    E = sum_k w_k |u_k - uhat_k|^2 + sum_k v_k |X_k - Xhat_k|^2 + x^T P x, with x [85] the place of
    a state about ``centre``: log(R0_j^T R_j) of the 24 joints in radians, betas - betas0,
    log(s / s0), (t - t0) / frame. A weight w = 1 / sigma^2 in the unit of u makes E/2 a negative
    log posterior where P is an inverse covariance.

    A person is done when the model promises less than ``tolerance`` of the energy, or after
    ``steps`` solves. A bad person never changes the others, and a person's answer does not depend
    on who else is in the batch.

    Args:
        plan: Prepared points, one per keypoint.
        centre: Where the prior is centred: the network's answer.
        keypoints: u, v in [-1, 1] of the crop and a weight; a weight that is not above 0 leaves
            the point out, whatever its u and v.
        precision: P, symmetric and positive definite.
        frame: Unit of the camera's shift in x, above 0.
        begin: Where to start, if not at ``centre``; its scale has the sign of the centre's.
        pinhole: (f_x, f_y, c_x, c_y) of the crop in the unit of ``keypoints``: points are seen at
            z = f_x / s, where the weak camera agrees in the plane of the root. None: weak.
        points3d: X, y, z in metres in the frame of the body, before any translation, and a weight
            v as w.
        free: Which of the 85 numbers may move; None: all.
        steps: Most solves.
        damping: First lambda; x4 after a failure, x.3, x1, x2 by the gain ratio after a success.
        tolerance: Relative decrease of E below which a person is done.
        keep_hessian: Whether to return J^T W J + A^T P A at the answers.
        backend: As in ``smpl_mesh``.

    Returns:
        Answers and how they came about.

    Raises:
        TypeError: If a type is not float32 or float64 throughout.
        ValueError: If shapes or devices do not agree, or ``steps`` is negative.
        RuntimeError: If the chosen backend is not built.
    """
    problem, start = _make_problem(
        "map_solve", plan, centre, keypoints, precision, frame, begin, pinhole, points3d, free
    )
    if steps < 0:
        raise ValueError(f"map_solve: steps must be 0 or more, got {steps}")
    if not _checks.use_native("map_solve", backend, centre.betas):
        return map_reference.solve(problem, start, steps, damping, tolerance, keep_hessian)
    options = (steps, damping, tolerance, keep_hessian)
    out = MapSolution(*_SOLVE(*_arguments(problem, start), *options))
    return out if keep_hessian else out._replace(hessian=None)


@torch.no_grad()
def map_evaluate(
    plan: PointsPlan,
    centre: MapState,
    keypoints: Float[Tensor, "B K 3"],
    precision: Float[Tensor, "85 85"],
    frame: Float[Tensor, " B"],
    *,
    begin: MapState | None = None,
    pinhole: Float[Tensor, "B 4"] | None = None,
    points3d: Float[Tensor, "B K 4"] | None = None,
    free: Bool[Tensor, " 85"] | None = None,
    backend: str = "auto",
) -> MapEvaluation:
    """Energy of ``map_solve`` at ``begin`` (or at ``centre``), half its gradient, and its model.

    Derivatives are by a step d [85] from there: R_j exp(d_j), betas + d, s exp(d), t + frame d.
    Rows and columns that are not ``free`` are those of the identity, their gradient 0.
    Arguments and errors as in ``map_solve``.
    """
    problem, start = _make_problem(
        "map_evaluate", plan, centre, keypoints, precision, frame, begin, pinhole, points3d, free
    )
    if not _checks.use_native("map_evaluate", backend, centre.betas):
        return map_reference.evaluate(problem, start)
    return MapEvaluation(*_EVALUATE(*_arguments(problem, start)))


def _arguments(problem: MapProblem, begin: MapState) -> tuple[Any, ...]:
    """Everything before the options, in the order of the schemas of csrc/map_ops.cpp."""
    given = (problem.keypoints, problem.precision, problem.frame, problem.pinhole)
    plan = problem.plan.map_arguments
    return *problem.centre, *begin, *given, problem.points3d, problem.free, *plan


def _solve_fake(rotmat0: Tensor, betas0: Tensor, cam0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    people = betas0.shape[0]
    return (
        *(betas0.new_empty(part.shape) for part in (rotmat0, betas0, cam0)),
        betas0.new_empty(people),
        betas0.new_empty(people),
        betas0.new_empty(people, dtype=torch.int32),
        betas0.new_empty(people, dtype=torch.bool),
        betas0.new_empty(people, dtype=torch.bool),
        betas0.new_empty((people, UNKNOWNS, UNKNOWNS) if rest[-1] else (0,)),
    )


def _evaluate_fake(rotmat0: Tensor, betas0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    people = betas0.shape[0]
    return (
        betas0.new_empty(people),
        betas0.new_empty(people),
        betas0.new_empty(people, UNKNOWNS),
        betas0.new_empty(people, UNKNOWNS, UNKNOWNS),
    )


_SOLVE = Operator("map_solve", _solve_fake)
_EVALUATE = Operator("map_evaluate", _evaluate_fake)
