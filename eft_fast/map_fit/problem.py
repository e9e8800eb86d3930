"""What the direct fit minimises, for some people at once, and how answers of theirs are compared.

    E(x) = sum_k w_k |u_k - uhat_k|^2 + sum_k v_k |X_k - Xhat_k|^2 + x^T Sigma^-1 x,

w = 1 / sigma^2, see ``losses.tie``; ``ops.map_solve`` minimises it. Everything here keeps people
apart: a row of a result depends on that row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eft_fast import ops
from eft_fast.geometry.cameras import project_intrinsics, weak_project, weak_to_pinhole
from eft_fast.map_fit.config import MapConfig
from eft_fast.ops.map import MapEvaluation, MapSolution, MapState, map_evaluate, map_solve
from eft_fast.ops.plans import PointsPlan


@dataclass(frozen=True, eq=False)
class FitProblem:
    """The energy of B people.

    Attributes:
        plan: Points of the body, one per keypoint.
        centre: Where the prior is centred: the network's answers.
        keypoints: u and v in [-1, 1] of the crop, and the weight w; 0 leaves a keypoint out.
        precision: Sigma^-1.
        frame: f, the size of each person in the crop.
        intrinsics: Pinholes as seen in the crops; None: the weak camera.
        points3d: X, y, z in metres in the axes of the camera, about the body's own origin, and the
            weight v; None: no such data.
        backend: Of the operators.
    """

    plan: PointsPlan
    centre: MapState
    keypoints: Float[Tensor, "B K 3"]
    precision: Float[Tensor, "85 85"]
    frame: Float[Tensor, " B"]
    intrinsics: Float[Tensor, "B 3 3"] | None = None
    points3d: Float[Tensor, "B K 4"] | None = None
    backend: str = "auto"

    def take(self, rows: Int[Tensor, " N"]) -> FitProblem:
        """The same of some people."""
        pinholes, points3d = self.intrinsics, self.points3d
        return replace(
            self,
            centre=take_rows(self.centre, rows),
            keypoints=self.keypoints[rows],
            frame=self.frame[rows],
            intrinsics=None if pinholes is None else pinholes[rows],
            points3d=None if points3d is None else points3d[rows],
        )

    def put(self, rows: Int[Tensor, " N"], part: FitProblem) -> FitProblem:
        """Everybody, with other centres and keypoints for some."""
        return replace(
            self,
            centre=put_rows(self.centre, rows, part.centre),
            keypoints=self.keypoints.index_copy(0, rows, part.keypoints),
        )

    def weigh(self, factor: Float[Tensor, "B K"]) -> FitProblem:
        """The same with weights times a factor."""
        weight = self.keypoints[..., 2:] * factor[..., None]
        return replace(self, keypoints=torch.cat([self.keypoints[..., :2], weight], -1))

    @property
    def num_data(self) -> Float[Tensor, " B"]:
        """How many numbers were measured of each person; at least 1."""
        count = 2 * (self.keypoints[..., 2] > 0).sum(1)
        if self.points3d is not None:
            count = count + 3 * (self.points3d[..., 3] > 0).sum(1)
        return count.clamp_min(1).to(self.frame)

    def tension(self, energy: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Energy over the number of data: its mean at the minimum is 1 if Sigma and sigma hold."""
        return energy / self.num_data

    def solve(
        self, config: MapConfig, *, begin: MapState | None = None, steps: int | None = None
    ) -> MapSolution:
        """Minimise from ``begin``, or from the centre."""
        return map_solve(
            self.plan,
            self.centre,
            self.keypoints,
            self.precision,
            self.frame,
            begin=begin,
            pinhole=self.pinhole,
            points3d=self.points3d,
            steps=config.max_steps if steps is None else steps,
            tolerance=config.tolerance,
            backend=self.backend,
        )

    def evaluate(self, state: MapState) -> MapEvaluation:
        """Energy, half its gradient, and the inverse of the Laplace covariance at a state."""
        return map_evaluate(
            self.plan,
            self.centre,
            self.keypoints,
            self.precision,
            self.frame,
            begin=state,
            pinhole=self.pinhole,
            points3d=self.points3d,
            backend=self.backend,
        )

    def points(self, state: MapState) -> Float[Tensor, "B K 3"]:
        """The points of the keypoints, metres, about the body's own origin."""
        return ops.smpl_points(self.plan, state.betas, state.rotmat, backend=self.backend)

    def project(self, state: MapState) -> Float[Tensor, "B K 2"]:
        """Where the camera of the fit sees them, [-1, 1] of the crop."""
        points = self.points(state)
        if self.intrinsics is None:
            return weak_project(points, state.cam)
        transl = weak_to_pinhole(state.cam, self.intrinsics)
        return project_intrinsics(points + transl[:, None], self.intrinsics)

    def squared_errors(self, state: MapState) -> Float[Tensor, "B K"]:
        """Squared 2D errors in squared sigmas, w |u - uhat|^2; NaN for who is left out."""
        weight = self.keypoints[..., 2]
        squared = (self.project(state) - self.keypoints[..., :2]).square().sum(-1)
        return torch.where(weight > 0, weight * squared, torch.nan)

    @property
    def pinhole(self) -> Float[Tensor, "B 4"] | None:
        """(f_x, f_y, c_x, c_y) of the pinholes, as the solver takes them."""
        if self.intrinsics is None:
            return None
        focal = self.intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
        return torch.cat([focal, self.intrinsics[:, :2, 2]], 1)


def state_of(solution: MapSolution) -> MapState:
    """Where a solution is."""
    return MapState(solution.rotmat, solution.betas, solution.cam)


def take_rows(record: MapState, rows: Int[Tensor, " N"]) -> MapState:
    """Some people of a state."""
    return MapState(*(part[rows] for part in record))


def put_rows(record: MapState, rows: Int[Tensor, " N"], part: MapState) -> MapState:
    """A state with other rows for some people."""
    pairs = zip(record, part, strict=True)
    return MapState(*(whole.index_copy(0, rows, some) for whole, some in pairs))


def choose_rows(yes: Bool[Tensor, " B"], some: Tensor, other: Tensor) -> Tensor:
    """Rows of ``some`` where ``yes``, else of ``other``."""
    return torch.where(yes.reshape(-1, *(1,) * (some.ndim - 1)), some, other)


#: What of a solution is kept: its Hessian is asked for again where it is needed.
_KEPT: Final = ("rotmat", "betas", "cam", "energy", "data", "steps", "converged", "finite")


def choose_solution(yes: Bool[Tensor, " B"], some: MapSolution, other: MapSolution) -> MapSolution:
    """One of two solutions for each person; the solves of both count."""
    fields = {name: choose_rows(yes, getattr(some, name), getattr(other, name)) for name in _KEPT}
    return MapSolution(**fields | {"steps": some.steps + other.steps}, hessian=None)


def take_solution(solution: MapSolution, rows: Int[Tensor, " N"]) -> MapSolution:
    """Some people of a solution."""
    return MapSolution(**{name: getattr(solution, name)[rows] for name in _KEPT}, hessian=None)


def put_solution(whole: MapSolution, rows: Int[Tensor, " N"], part: MapSolution) -> MapSolution:
    """A solution with other rows for some people."""
    fields = {name: getattr(whole, name).index_copy(0, rows, getattr(part, name)) for name in _KEPT}
    return MapSolution(**fields, hessian=None)
