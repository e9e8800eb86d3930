"""The direct fit: ``ops.map_solve`` and ``fit_map`` beside what could be taken in their place.

Peers: ``torch``, the solver's twin in plain torch; ``scipy``, one ``least_squares`` per person over
the 85 numbers, its residuals from our own points in float64 and its Jacobian by differences, as
one writes it in an afternoon; ``smplify_spin``, SMPLify here with its 100 + 100 steps, another
method for the same job.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.cases import Case, Job
from eft_fast import ops
from eft_fast.body.model_io import load_arrays
from eft_fast.body.smpl import Smpl
from eft_fast.geometry.rotations import axis_angle_to_matrix
from eft_fast.keypoints import to_spin49
from eft_fast.map_fit.config import MapConfig
from eft_fast.map_fit.fit import fit_map
from eft_fast.map_fit.problem import FitProblem
from eft_fast.models.base import RegressorOutput
from eft_fast.smplify.config import SmplifyConfig
from eft_fast.smplify.fit import fit_smplify

STEPS = 10
#: People whom the peer that takes them one by one is timed on.
_ONE_BY_ONE = 2
#: Focal length of the assumed pinhole, in the unit of the crop.
_FOCAL = 4.5


@dataclass(frozen=True)
class People:
    """Answers off by a fifth of a radian a joint, and keypoints; a sixth of them is not given."""

    problem: FitProblem
    joint_set: str

    @property
    def answer(self) -> RegressorOutput:
        return RegressorOutput(*self.problem.centre)

    @property
    def keypoints(self) -> Tensor:
        """u, v and a confidence in the place of the weight."""
        given = (self.problem.keypoints[..., 2:] > 0).float()
        return torch.cat([self.problem.keypoints[..., :2], given], -1)


def make_people(count: int, joint_set: str) -> People:
    """The same people every time."""
    generator = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    plan = peers.body().points_plan(joint_set)
    centre = axis_angle_to_matrix(0.3 * normal(count, 24, 3))
    turn = axis_angle_to_matrix(0.2 * normal(count, 24, 3))
    betas, cam = normal(count, 10), torch.tensor([0.9, 0.0, 0.0]).expand(count, 3).contiguous()
    points = ops.smpl_points(plan, betas, centre @ turn)
    image = cam[:, None, :1] * points[..., :2] + 0.01 * normal(count, plan.num_points, 2)
    weight = 1700.0 * (torch.rand(count, plan.num_points, 1, generator=generator) > 1 / 6)
    lens = torch.diag(torch.tensor([_FOCAL, _FOCAL, 1.0])).expand(count, 3, 3).contiguous()
    problem = FitProblem(
        plan=plan,
        centre=ops.MapState(centre, betas + 0.5 * normal(count, 10), cam),
        keypoints=torch.cat([image, weight], -1),
        precision=25.0 * torch.eye(85),
        frame=torch.full((count,), 0.35),
        intrinsics=lens,
    )
    return People(problem, joint_set)


def solve(people: People, backend: str) -> Tensor:
    """Energies after ten solves, nobody stopped early."""
    problem = replace(people.problem, backend=backend)
    return problem.solve(MapConfig(tolerance=0.0), steps=STEPS).energy


@lru_cache(maxsize=1)
def _exact_body() -> Smpl:
    return Smpl(load_arrays("open")).double()


def make_residuals(people: People, row: int) -> Callable[[np.ndarray], np.ndarray]:
    """What ``least_squares`` minimises for one person: sqrt(w) (u - uhat), and L^T x."""
    one = people.problem.take(torch.tensor([row]))
    problem = FitProblem(
        plan=_exact_body().points_plan(people.joint_set),
        centre=ops.MapState(*(part.double() for part in one.centre)),
        keypoints=one.keypoints.double(),
        precision=one.precision.double(),
        frame=one.frame.double(),
        intrinsics=None if one.intrinsics is None else one.intrinsics.double(),
    )
    root = torch.linalg.cholesky(problem.precision).T
    rotmat, betas, cam = problem.centre
    weight = problem.keypoints[..., 2:].sqrt()

    def residuals(x: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(x)[None]
        turn = axis_angle_to_matrix(state[:, :72].reshape(1, 24, 3))
        scale = cam[:, :1] * state[:, 82:83].exp()
        shift = cam[:, 1:] + state[:, 83:] * problem.frame[:, None]
        moved = ops.MapState(rotmat @ turn, betas + state[:, 72:82], torch.cat([scale, shift], 1))
        error = weight * (problem.project(moved) - problem.keypoints[..., :2])
        return torch.cat([error.flatten(), root @ state[0]]).numpy()

    return residuals


def solve_by_scipy(people: People, count: int, solves: int = STEPS) -> Tensor:
    """Energies of the first people, one by one."""
    from scipy.optimize import least_squares

    fits: list[Any] = [
        least_squares(make_residuals(people, row), np.zeros(85), max_nfev=solves)
        for row in range(count)
    ]
    return torch.tensor([2 * fit.cost for fit in fits])


def fit_by_smplify(people: People) -> Tensor:
    """``smplify_spin`` on the same keypoints, as a job."""
    known = to_spin49(people.keypoints.numpy(), people.joint_set).astype(np.float32)
    keypoints = torch.from_numpy(known)
    return fit_smplify(peers.body(), people.answer, keypoints, config=SmplifyConfig()).loss


def fit_whole(people: People) -> Tensor:
    """``fit_map`` with its hypotheses, robust weights and posterior."""
    problem = people.problem
    return fit_map(
        peers.body(),
        people.answer,
        people.keypoints,
        problem.precision,
        joint_set=people.joint_set,
        intrinsics=problem.intrinsics,
    ).energy


def check_equal(people: People) -> None:
    """All solvers must find the same energies; nothing wrong is ever timed."""
    native, twin = solve(people, "native"), solve(people, "torch")
    # A float32 solve that stands at its minimum may take the last step or not.
    error = float((native / twin - 1).abs().max())
    if not error < 1e-3:
        raise AssertionError(f"map: native and torch must agree to 1e-3, got {error:.1e}")
    if importlib.util.find_spec("scipy") is None:
        return
    count = min(_ONE_BY_ONE, len(native))
    ended = people.problem.solve(MapConfig(tolerance=0.0), steps=4 * STEPS).energy[:count]
    error = float((ended / solve_by_scipy(people, count, 4 * STEPS) - 1).abs().max())
    if not error < 1e-3:
        raise AssertionError(f"map: native and scipy must agree to 1e-3, got {error:.1e}")


def map_cases(size: int, names: list[str]) -> Iterator[Case]:
    """Ten solves of 17 and of 49 keypoints, then the whole fit of 17."""
    for joint_set in ("coco17", "spin49"):
        people = make_people(size, joint_set)
        check_equal(people)
        others: dict[str, Job] = {"torch": partial(solve, people, "torch")}
        times: dict[str, float] = {}
        if importlib.util.find_spec("scipy") is not None:
            count = min(_ONE_BY_ONE, size)
            others["scipy"] = partial(solve_by_scipy, people, count)
            times["scipy"] = size / count
        yield Case(f"map_{joint_set}", size, partial(solve, people, "native"), others, times)
    people = make_people(size, "coco17")
    smplify = partial(fit_by_smplify, people)
    yield Case("map_fit_coco17", size, partial(fit_whole, people), {"smplify_spin": smplify})
