"""What the fit minimises and its Gauss-Newton model, as least squares.

    E = |r|^2,   r = [sqrt(w) (u - uhat), L^T x],   P = L L^T = Sigma^-1,

so that with M = dr/dd, by a step d of 85 numbers, H = M^T M and half the gradient is M^T r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np

from eft_fast.conventions import MIN_DEPTH, NUM_JOINTS
from eft_fast.deploy.fit_graph.body import PointsGraph, Posed
from eft_fast.deploy.fit_graph.rotations import (
    right_jacobian_inverse,
    rotation_exp,
    rotation_log,
)
from eft_fast.deploy.onnx_builder import Value
from eft_fast.map_rules import BETAS, MAX_SCALE_STEP, NUM_STATE, POSE, SCALE

_SIDEWAYS: Final = np.array([[1.0, 0, 0], [0, 1.0, 0]])
_DEEP: Final = np.array([[0, 0, 1.0], [0, 0, 1.0]])
_SHIFTS: Final = np.array([[0, 1.0, 0], [0, 0, 1.0]])
_SCALES: Final = np.array([[1.0, 0, 0], [1.0, 0, 0]])


class State(NamedTuple):
    """Rotations [B, 24, 3, 3], betas [B, 10] and the weak camera [B, 3]."""

    rotmat: Value
    betas: Value
    cam: Value


class Model(NamedTuple):
    """Energy [B, 1], half its gradient [B, 85, 1], and H [B, 85, 85]."""

    energy: Value
    gradient: Value
    hessian: Value


class Seen(NamedTuple):
    """Points before the pinhole, and what their slopes use again."""

    image: Value
    inverse: Value
    flat: Value
    is_held: Value
    transl: Value
    per_shift: Value
    depth: Value


@dataclass(frozen=True, eq=False)
class Problem:
    """The energy of B people.

    Attributes:
        body: Writes their points, one per keypoint.
        centre: The network's answers.
        target: u and v of the keypoints [B, K, 2]; 0 where they are left out.
        weight: 1 / sigma^2, 0 where they are left out, [B, K, 1].
        root: L of the precision, [85, 85], or [B, 85, 85] where people have different ones.
        blocks: Its rows by the rotations, transposed, [24, 85, 3] or [B, 24, 85, 3].
        tail: Its rows by betas and camera, transposed, [B, 85, 13].
        frame: f [B, 1].
        focal: Of the pinhole [B, 1, 2].
        middle: Of the pinhole [B, 1, 2].
        is_shared: Whether ``root`` and ``blocks`` are everybody's.
    """

    body: PointsGraph
    centre: State
    target: Value
    weight: Value
    root: Value
    blocks: Value
    tail: Value
    frame: Value
    focal: Value
    middle: Value
    is_shared: bool = True

    def weigh(self, factor: Value) -> Problem:
        """The same with weights times a factor [B, K]."""
        return replace(self, weight=self.weight * factor.widen(2))

    def rows(self, change: Callable[[Value], Value]) -> Problem:
        """The same of other people: ``change`` takes a value to its rows."""
        names = ["target", "weight", "tail", "frame", "focal", "middle"]
        names += [] if self.is_shared else ["root", "blocks"]
        parts: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, centre=State(*map(change, self.centre)), **parts)

    def tension(self, energy: Value) -> Value:
        """Energy over the number of data, [B, 1]."""
        count = (self.weight > 0.0).to(1).sum(1) * 2.0
        return energy / count.at_least(1.0)

    def see(self, cam: Value, points: Value) -> Seen:
        """Where the pinhole sees points; at z = f_x / s the weak camera agrees."""
        camera = cam.widen(1)
        scale, shift = camera.cut(2, 0, 1), camera.cut(2, 1, 3)
        first = self.focal.cut(2, 0, 1)
        depth = first / scale
        per_shift = depth / self.focal
        transl = (shift - self.middle) * per_shift
        at = points.cut(2, 2, 3) + depth
        inverse = 1.0 / at.at_least(MIN_DEPTH)
        flat = (points.cut(2, 0, 2) + transl) * inverse
        image = flat * self.focal + self.middle
        return Seen(image, inverse, flat, at < MIN_DEPTH, transl, per_shift, depth)

    def squared_errors(self, state: State) -> Value:
        """Squared errors in squared sigmas, 0 for who is left out, [B, K]."""
        posed = self.body.pose(state.betas, state.rotmat)
        error = self.see(state.cam, posed.points).image - self.target
        return (error * error * self.weight).sum(2)

    def evaluate(self, state: State) -> Model:
        """Energy and Gauss-Newton model at a state."""
        graph = state.betas.graph
        posed = self.body.pose(state.betas, state.rotmat)
        seen = self.see(state.cam, posed.points)
        root_weight = self.weight.fn("Sqrt")
        count = 2 * len(self.body.points)
        error = ((seen.image - self.target) * root_weight).reshape(-1, count, 1)
        slopes = self._image_slopes(state, posed, seen) * root_weight.widen(3)
        slopes = slopes.reshape(-1, count, NUM_STATE)
        pull, prior = self._prior(state)
        residual = graph.concat(1, error, pull)
        rows = graph.concat(1, slopes, prior)
        columns = rows.permute(0, 2, 1)
        energy = (residual * residual).sum(1)
        return Model(energy, columns @ residual, columns @ rows)

    def move(self, state: State, step: Value) -> State:
        """The state after a step [B, 85]."""
        graph = step.graph
        turn = rotation_exp(step.cut(1, POSE.start, POSE.stop).reshape(-1, NUM_JOINTS, 3))
        log_scale = step.cut(1, SCALE, SCALE + 1).at_least(-MAX_SCALE_STEP)
        scale = state.cam.cut(1, 0, 1) * log_scale.at_most(MAX_SCALE_STEP).fn("Exp")
        shift = state.cam.cut(1, 1, 3) + step.cut(1, SCALE + 1, NUM_STATE) * self.frame
        betas = state.betas + step.cut(1, BETAS.start, BETAS.stop)
        return State(state.rotmat @ turn, betas, graph.concat(1, scale, shift))

    def _image_slopes(self, state: State, posed: Posed, seen: Seen) -> Value:
        """The picture by a step, [B, K, 2, 85]."""
        graph = state.betas.graph
        direct = seen.inverse * self.focal
        deep = graph.where(seen.is_held, 0.0, -(direct * seen.flat))
        by_point = direct.widen(3) * _SIDEWAYS + deep.widen(3) * _DEEP
        # A step of log s moves the translation by minus itself.
        by_scale = -(direct * seen.transl + deep * seen.depth)
        moved = direct * (seen.per_shift * self.frame.widen(2))
        by_camera = by_scale.widen(3) * _SCALES + moved.widen(3) * _SHIFTS
        by_body = by_point @ self.body.slopes(posed, state.rotmat)
        return graph.concat(3, by_body, by_camera)

    def _prior(self, state: State) -> tuple[Value, Value]:
        """L^T x [B, 85, 1] and its slopes [B, 85, 85]."""
        graph, centre = state.betas.graph, self.centre
        log = rotation_log(centre.rotmat.permute(0, 1, 3, 2) @ state.rotmat)
        scale = (state.cam.cut(1, 0, 1) / centre.cam.cut(1, 0, 1)).fn("Log")
        shift = (state.cam.cut(1, 1, 3) - centre.cam.cut(1, 1, 3)) / self.frame
        turns = log.vector.reshape(-1, POSE.stop)
        place = graph.concat(1, turns, state.betas - centre.betas, scale, shift)
        pull = (place.widen(1) @ self.root).reshape(-1, NUM_STATE, 1)
        blocks = self.blocks @ right_jacobian_inverse(log)  # [B, 24, 85, 3]
        rows = blocks.permute(0, 2, 1, 3).reshape(-1, NUM_STATE, POSE.stop)
        return pull, graph.concat(2, rows, self.tail)
