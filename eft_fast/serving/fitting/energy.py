"""What the direct fit minimises and its Gauss-Newton model; as ``ops.map_reference``, in numpy.

    E(x) = sum_k w_k |u_k - uhat_k|^2 + x^T Sigma^-1 x

x [85] is the place of a state about the network's answer, a step d [85] moves a state by
R_j exp(d_j), betas + d, s exp(d) and t + frame d; all slopes are closed forms by d at d = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eft_fast.conventions import MIN_DEPTH, NUM_JOINTS
from eft_fast.map_rules import BETAS, MAX_SCALE_STEP, NUM_STATE, POSE, SCALE, SHIFT
from eft_fast.serving.fitting.body import BodyPoints, Posed
from eft_fast.serving.fitting.rotations import (
    right_jacobian_inverse,
    rotation_exp,
    rotation_log,
)

if TYPE_CHECKING:
    from jaxtyping import Float64


class State(NamedTuple):
    """Rotations of the joints, shape, and weak camera (s, tx, ty), u = s X + t in [-1, 1]."""

    rotmat: Float64[np.ndarray, "B 24 3 3"]
    betas: Float64[np.ndarray, "B 10"]
    cam: Float64[np.ndarray, "B 3"]

    def take(self, rows: np.ndarray) -> State:
        """The same of some people."""
        return State(*(part[rows] for part in self))


class Trial(NamedTuple):
    """A state and its energy, with what the model at it uses again."""

    state: State
    posed: Posed
    image: Float64[np.ndarray, "B K 2"]
    place: Float64[np.ndarray, "B 85"]
    energy: Float64[np.ndarray, " B"]
    data: Float64[np.ndarray, " B"]

    def take(self, rows: np.ndarray) -> Trial:
        """The same of some people."""
        return Trial(
            self.state.take(rows),
            self.posed.take(rows),
            *(part[rows] for part in self[2:]),
        )


class Model(NamedTuple):
    """Half the gradient of E by a step, and J^T W J + A^T P A."""

    gradient: Float64[np.ndarray, "B 85"]
    hessian: Float64[np.ndarray, "B 85 85"]


class _Seen(NamedTuple):
    """Points before a pinhole: body to camera, depth of the body, depths with what is held."""

    transl: np.ndarray
    per_shift: np.ndarray
    depth: np.ndarray
    is_held: np.ndarray
    inverse: np.ndarray
    flat: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem:
    """The energy of B people.

    Attributes:
        points: Points of the body, one per keypoint.
        centre: Where the prior is centred: the network's answers.
        keypoints: u and v in [-1, 1] of the crop, and the weight w; 0 leaves a keypoint out.
        precision: Sigma^-1.
        frame: f, the size of each person in the crop.
        pinhole: (f_x, f_y, c_x, c_y) as seen in the crops; None: the weak camera.
    """

    points: BodyPoints
    centre: State
    keypoints: Float64[np.ndarray, "B K 3"]
    precision: Float64[np.ndarray, "85 85"]
    frame: Float64[np.ndarray, " B"]
    pinhole: Float64[np.ndarray, "B 4"] | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> Problem:
        """The same of some people."""
        return replace(
            self,
            centre=self.centre.take(rows),
            keypoints=self.keypoints[rows],
            frame=self.frame[rows],
            pinhole=None if self.pinhole is None else self.pinhole[rows],
        )

    def weigh(self, factor: Float64[np.ndarray, "B K"]) -> Problem:
        """The same with weights times a factor."""
        keypoints = self.keypoints.copy()
        keypoints[..., 2] *= factor
        return replace(self, keypoints=keypoints)

    def tension(self, energy: Float64[np.ndarray, " B"]) -> Float64[np.ndarray, " B"]:
        """Energy over the number of data, see ``map_fit.problem``."""
        count = 2 * (self.keypoints[..., 2] > 0).sum(1)
        return np.asarray(energy / np.maximum(count, 1))

    def try_state(self, state: State) -> Trial:
        """Weigh a state."""
        posed = self.points.pose(state.betas, state.rotmat)
        image = self.project(state.cam, posed.points)
        error, weight = self._errors(image)
        squared = error[..., 0] * error[..., 0] + error[..., 1] * error[..., 1]
        data = (weight * squared).sum(1)
        place = self._place(state)
        value = (place * self._pull(place)).sum(1)
        return Trial(state, posed, image, place, data + value, data)

    def model(self, trial: Trial) -> Model:
        """The Gauss-Newton model of E/2 at a state."""
        slope = self.slopes(trial)
        error, weight = self._errors(trial.image)
        root = np.sqrt(weight)[..., None]
        rows = (slope * root[..., None]).reshape(len(self), 2 * len(self.points), NUM_STATE)
        columns = rows.swapaxes(1, 2)
        gradient = (columns @ (error * root).reshape(*rows.shape[:2], 1))[..., 0]
        prior = self._prior_model(trial.place)
        return Model(gradient + prior.gradient, columns @ rows + prior.hessian)

    def slopes(self, trial: Trial) -> Float64[np.ndarray, "B K 2 85"]:
        """Projected keypoints by a step."""
        by_body = self.points.slopes(trial.posed, trial.state.rotmat)
        by_point, by_camera = self._camera_slopes(trial.state.cam, trial.posed.points)
        out = np.empty((*by_camera.shape[:-1], NUM_STATE))
        out[..., : BETAS.stop] = by_point @ by_body
        out[..., BETAS.stop :] = by_camera
        return out

    def project(
        self, cam: Float64[np.ndarray, "B 3"], points: Float64[np.ndarray, "B K 3"]
    ) -> Float64[np.ndarray, "B K 2"]:
        """Where the camera sees points; a pinhole at z = f_x / s, where the weak camera agrees."""
        if self.pinhole is None:
            return np.asarray(cam[:, None, :1] * points[..., :2] + cam[:, None, 1:])
        focal, middle = self.pinhole[:, None, :2], self.pinhole[:, None, 2:]
        return np.asarray(focal * self._see(cam, points, self.pinhole).flat + middle)

    def place(self, cam: Float64[np.ndarray, "B 3"]) -> Float64[np.ndarray, "B 3"]:
        """Where bodies stand before the pinhole, metres; NaN with the weak camera."""
        if self.pinhole is None:
            return np.full(cam.shape, np.nan)
        seen = self._see(cam, np.zeros((len(cam), 1, 3)), self.pinhole)
        return np.concatenate([seen.transl[:, 0], seen.depth[:, 0]], 1)

    def squared_errors(self, trial: Trial) -> Float64[np.ndarray, "B K"]:
        """Squared 2D errors in squared sigmas; NaN for keypoints that are left out."""
        weight = self.keypoints[..., 2]
        error = trial.image - self.keypoints[..., :2]
        squared = error[..., 0] * error[..., 0] + error[..., 1] * error[..., 1]
        return np.where(weight > 0, weight * squared, np.nan)

    def move(self, state: State, step: Float64[np.ndarray, "B 85"]) -> State:
        """The state after a step."""
        people = len(step)
        cam = np.empty_like(state.cam)
        log_scale = np.clip(step[:, SCALE], -MAX_SCALE_STEP, MAX_SCALE_STEP)
        cam[:, 0] = state.cam[:, 0] * np.exp(log_scale)
        cam[:, 1:] = state.cam[:, 1:] + step[:, SHIFT] * self.frame[:, None]
        turns = rotation_exp(step[:, POSE].reshape(people, NUM_JOINTS, 3))
        return State(state.rotmat @ turns, state.betas + step[:, BETAS], cam)

    def _errors(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors [B,K,2] and weights [B,K]; a weight that is not above 0 leaves its point out."""
        weight = self.keypoints[..., 2]
        counts = weight > 0
        error = np.where(counts[..., None], image - self.keypoints[..., :2], 0.0)
        return error, np.where(counts, weight, 0.0)

    def _place(self, state: State) -> Float64[np.ndarray, "B 85"]:
        centre = self.centre
        place = np.empty((len(self), NUM_STATE))
        turn = rotation_log(centre.rotmat.swapaxes(2, 3) @ state.rotmat)
        place[:, POSE] = turn.reshape(len(self), POSE.stop)
        place[:, BETAS] = state.betas - centre.betas
        place[:, SCALE] = np.log(state.cam[:, 0] / centre.cam[:, 0])
        place[:, SHIFT] = (state.cam[:, 1:] - centre.cam[:, 1:]) / self.frame[:, None]
        return place

    def _pull(self, place: np.ndarray) -> np.ndarray:
        return np.asarray((self.precision @ place[..., None])[..., 0])

    def _prior_model(self, place: np.ndarray) -> Model:
        """A^T P x and A^T P A, A = diag(J_r^-1(omega_j), I): columns, then rows, by blocks."""
        people, pull = len(place), self._pull(place)
        turns = right_jacobian_inverse(place[:, POSE].reshape(people, NUM_JOINTS, 3))
        transposed = turns.swapaxes(2, 3)
        blocks = self.precision[:, POSE].reshape(NUM_STATE, NUM_JOINTS, 3).swapaxes(0, 1)
        right = np.empty((people, NUM_STATE, NUM_STATE))
        columns = (blocks @ turns).swapaxes(1, 2)
        right[..., POSE] = columns.reshape(people, NUM_STATE, POSE.stop)
        right[..., POSE.stop :] = self.precision[:, POSE.stop :]
        rows = right[:, POSE].reshape(people, NUM_JOINTS, 3, NUM_STATE)
        right[:, POSE] = (transposed @ rows).reshape(people, POSE.stop, NUM_STATE)
        turned = transposed @ pull[:, POSE].reshape(people, NUM_JOINTS, 3, 1)
        pull[:, POSE] = turned.reshape(people, POSE.stop)
        return Model(pull, right)

    def _see(self, cam: np.ndarray, points: np.ndarray, pinhole: np.ndarray) -> _Seen:
        focal, middle = pinhole[:, None, :2], pinhole[:, None, 2:]
        scale = cam[:, None, :1]
        per_shift = focal[..., :1] / focal / scale  # metres per unit of t in the plane of the root
        transl = (cam[:, None, 1:] - middle) * per_shift
        depth = focal[..., :1] / scale
        at = points[..., 2:] + depth
        is_held = at < MIN_DEPTH
        inverse = 1 / np.where(is_held, MIN_DEPTH, at)
        flat = (points[..., :2] + transl) * inverse
        return _Seen(transl, per_shift, depth, is_held, inverse, flat)

    def _camera_slopes(self, cam: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The picture by the point, and by (log s, t_x, t_y) of a step: two of [B,K,2,3]."""
        by_point, by_camera = np.zeros((2, *points.shape[:2], 2, 3))
        frame = self.frame[:, None]
        if self.pinhole is None:
            by_point[..., 0, 0] = by_point[..., 1, 1] = cam[:, :1]
            by_camera[..., 0] = cam[:, None, :1] * points[..., :2]
            by_camera[..., 0, 1] = by_camera[..., 1, 2] = frame
            return by_point, by_camera
        seen = self._see(cam, points, self.pinhole)
        direct = self.pinhole[:, None, :2] * seen.inverse
        deep = np.where(seen.is_held, 0.0, -direct * seen.flat)
        moved = direct * seen.per_shift * frame[..., None]
        by_point[..., 0, 0], by_point[..., 1, 1] = direct[..., 0], direct[..., 1]
        by_point[..., 2] = deep
        # A step of log s moves the translation by minus itself.
        by_camera[..., 0] = -(direct * seen.transl + deep * seen.depth)
        by_camera[..., 0, 1], by_camera[..., 1, 2] = moved[..., 0], moved[..., 1]
        return by_point, by_camera
