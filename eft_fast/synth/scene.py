"""What is in a synthetic picture: the person, the camera and the lights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.conventions import NUM_BETAS
from eft_fast.synth.clothes import Outfit, Wardrobe
from eft_fast.synth.config import CameraConfig, SynthConfig
from eft_fast.synth.motion import PosePool
from eft_fast.synth.poses import sample_viewed_pose

#: Landmarks (by row) whose height ends the picture when the crop is cut there.
_CUT_ROWS: Final = {"elbows": (7, 8), "hips": (11, 12), "knees": (13, 14)}

#: Shape coefficients of children, and their ranges. The first one is stature: at -3 the open body
#: is 1.40 m tall, and the head takes 16.2 % of that, against 14.7 % of the mean body; the fourth
#: makes the head larger still.
CHILD_BETAS: Final = {0: (-3.0, -2.2), 3: (-2.5, -0.5)}


@dataclass(frozen=True)
class Person:
    """One person before they are put before the camera.

    Attributes:
        rotmat: Rotations relative to the parent; the root's is in the camera frame.
        betas: Shape coefficients.
        outfit: Looks.
        up: Direction against gravity, camera frame.
    """

    rotmat: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, " 10"]
    outfit: Outfit
    up: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class CropCamera:
    """A pinhole camera in units of the crop: u = focal * x / z + shift, in [-1, 1].

    Attributes:
        focal: Focal length in half crop sides.
        shift: Principal point.
        limits: Left, upper, right and lower border of the photo; black beyond.
    """

    focal: float
    shift: Float[np.ndarray, " 2"]
    limits: Float[np.ndarray, " 4"]

    def project(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
        """Project points of the camera frame, metres, to [-1, 1] of the crop."""
        projected: np.ndarray = self.focal * points[:, :2] / points[:, 2:] + self.shift
        return projected


@dataclass(frozen=True)
class Lights:
    """Ambient light and two directional ones.

    Attributes:
        ambient: Level.
        directions: Unit vectors to the lights, camera frame.
        colours: RGB of each.
    """

    ambient: float
    directions: Float[np.ndarray, "2 3"]
    colours: Float[np.ndarray, "2 3"]


def sample_person(
    rng: np.random.Generator, pool: PosePool, wardrobe: Wardrobe, config: SynthConfig
) -> Person:
    """Draw pose, shape and looks."""
    rotmat, view = sample_viewed_pose(rng, pool, config.pose)
    betas = np.clip(rng.normal(size=NUM_BETAS) * config.beta_sigma, -3, 3)
    if config.child > 0 and rng.random() < config.child:
        betas[list(CHILD_BETAS)] = [rng.uniform(*ends) for ends in CHILD_BETAS.values()]
    return Person(rotmat, betas, wardrobe.draw(rng, loose=config.loose), view[:, 1])


def sample_distance(rng: np.random.Generator, config: CameraConfig) -> float:
    """Draw the distance from the camera to the pelvis, metres."""
    near, far = config.distance_m
    return float(np.exp(rng.uniform(np.log(near), np.log(far))))


def sample_camera(
    rng: np.random.Generator,
    points: Float[np.ndarray, "N 3"],
    landmarks: Float[np.ndarray, "27 3"],
    config: CameraConfig,
) -> CropCamera:
    """Draw a crop around the person, or around a part of them.

    Args:
        rng: Generator; the same state gives the same crop.
        points: Surface of the person, camera frame, metres.
        landmarks: Their landmarks, the same frame.
        config: Odds of cuts, and the margin.
    """
    flat = points[:, :2] / points[:, 2:]
    kept, border = _cut(rng, flat, landmarks[:, :2] / landmarks[:, 2:], config)
    low, high = kept.min(0), kept.max(0)
    side = float(max((high - low).max(), 1e-3))
    side *= config.margin * float(np.exp(rng.normal() * config.margin_sigma))
    centre = (low + high) / 2 + rng.normal(size=2) * config.shift_sigma * side
    focal = 2.0 / side
    shift = -focal * centre
    limits = border * focal + np.tile(shift, 2)
    if rng.random() >= config.frame_edge:
        limits = np.array([-np.inf, -np.inf, np.inf, np.inf])
    return CropCamera(focal, shift, limits)


def _cut(
    rng: np.random.Generator,
    flat: Float[np.ndarray, "N 2"],
    landmarks: Float[np.ndarray, "27 2"],
    config: CameraConfig,
) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, " 4"]]:
    """Choose the points that the box is drawn around, and the border where they were cut."""
    border = np.array([-np.inf, -np.inf, np.inf, np.inf])
    chance = rng.random() - np.cumsum(
        [config.cut_hips, config.cut_elbows, config.cut_knees, config.cut_side]
    )
    if chance[-1] >= 0:
        return flat, border
    kind = ("hips", "elbows", "knees", "side")[int(np.argmax(chance < 0))]
    if kind == "side":
        line = float(np.quantile(flat[:, 0], rng.uniform(0.55, 0.9)))
        keep = flat[:, 0] < line
        border[2] = line
        if rng.random() < 0.5:
            line = float(np.quantile(flat[:, 0], rng.uniform(0.1, 0.45)))
            keep = flat[:, 0] > line
            border[:] = (line, -np.inf, np.inf, np.inf)
    else:
        height = float(np.ptp(flat[:, 1]))
        rows = list(_CUT_ROWS[kind])
        line = float(landmarks[rows, 1].mean() + rng.uniform(-0.03, 0.10) * height)
        keep = flat[:, 1] < line
        border[3] = line
    # Somebody who lies or hangs has little above that line: show them whole.
    if keep.mean() < 0.2:
        return flat, np.array([-np.inf, -np.inf, np.inf, np.inf])
    return flat[keep], border


def sample_lights(rng: np.random.Generator) -> Lights:
    """Draw a key light and a weaker one, mostly from above and from the camera's side."""
    directions = rng.normal(size=(2, 3))
    directions[:, 2] = -np.abs(directions[:, 2]) - 0.3
    directions[:, 1] -= 0.6
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    key = rng.uniform(0.2, 0.8) * (1 + rng.normal(size=3) * 0.08)
    fill = rng.uniform(0, 0.4) * (1 + rng.normal(size=3) * 0.15)
    return Lights(float(rng.uniform(0.25, 0.65)), directions, np.stack([key, fill]))
