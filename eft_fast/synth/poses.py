"""Poses of synthetic people: motion capture, mixed, mirrored and jittered, and procedural ones."""

from __future__ import annotations

from math import cos, radians, sin
from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.synth.config import PoseConfig
from eft_fast.synth.motion import PosePool

#: Left/right permutation of the 24 joints.
MIRROR: Final = (
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22,
)  # fmt: skip
UPPER: Final = (3, 6, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
LOWER: Final = (1, 2, 4, 5, 7, 8, 10, 11)

#: Both legs of a procedural posture: ranges in degrees of hip flexion, abduction and twist (left
#: leg; the right one is mirrored) and knee flexion, and standard deviation of the difference
#: between the legs.
_POSTURES: Final = {
    "chair": ((-105.0, -65.0), (-8.0, 25.0), (-10.0, 20.0), (55.0, 110.0), 9.0),
    "floor": ((-125.0, -75.0), (0.0, 40.0), (-20.0, 45.0), (0.0, 140.0), 25.0),
    "crouch": ((-120.0, -50.0), (0.0, 35.0), (-5.0, 25.0), (60.0, 145.0), 12.0),
    "kneel": ((-40.0, 10.0), (-5.0, 20.0), (-10.0, 10.0), (80.0, 140.0), 12.0),
    "ride": ((-85.0, -25.0), (5.0, 40.0), (0.0, 25.0), (35.0, 115.0), 25.0),
    "stride": ((-90.0, 30.0), (-15.0, 35.0), (-25.0, 30.0), (0.0, 110.0), 30.0),
}
_POSTURE_ODDS: Final = (0.32, 0.10, 0.16, 0.08, 0.12, 0.22)


def euler_matrix(x: float, y: float, z: float) -> Float[np.ndarray, "3 3"]:
    """Return Rx Ry Rz of three angles in degrees."""
    cx, sx = cos(radians(x)), sin(radians(x))
    cy, sy = cos(radians(y)), sin(radians(y))
    cz, sz = cos(radians(z)), sin(radians(z))
    return np.array(
        [
            [cy * cz, -cy * sz, sy],
            [cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy],
            [sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy],
        ]
    )


def axis_angle_matrix(axis_angle: Float[np.ndarray, "J 3"]) -> Float[np.ndarray, "J 3 3"]:
    """Return the rotation matrices of axis-angle vectors in radians."""
    angle = np.linalg.norm(axis_angle, axis=-1)
    x, y, z = (axis_angle / np.maximum(angle, 1e-8)[:, None]).T
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    s, c = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    result: np.ndarray = np.eye(3) + s * skew + (1 - c) * (skew @ skew)
    return result


#: From upright to lying: on the back, on the front, on either side.
_LYING: Final = (
    euler_matrix(-90, 0, 0), euler_matrix(90, 0, 0), euler_matrix(0, 0, 90), euler_matrix(0, 0, -90)
)  # fmt: skip


def sample_posture(rng: np.random.Generator) -> Float[np.ndarray, "24 3 3"]:
    """Draw a whole procedural pose: legs of a named posture, arms and trunk at random.

    Angles follow the anatomical ranges of each joint, not their joint distribution; the root is
    left upright.
    """
    rotmat = np.tile(np.eye(3), (24, 1, 1))
    name = str(rng.choice(list(_POSTURES), p=_POSTURE_ODDS))
    hip, abduct, twist, knee, spread = _POSTURES[name]
    middle = [rng.uniform(*r) for r in (hip, abduct, twist, knee)]
    for side, (hip_id, knee_id, ankle_id) in ((1.0, (1, 4, 7)), (-1.0, (2, 5, 8))):
        flex = np.clip(middle[0] + rng.normal() * spread, -130, 40)
        bend = np.clip(middle[3] + rng.normal() * spread, 0, 150)
        out = side * np.clip(middle[1] + rng.normal() * spread / 2, -15, 55)
        turn = side * np.clip(middle[2] + rng.normal() * spread / 2, -30, 60)
        rotmat[hip_id] = euler_matrix(flex, turn, out)
        rotmat[knee_id] = euler_matrix(bend, rng.normal() * 4, 0)
        rotmat[ankle_id] = euler_matrix(rng.uniform(-25, 30), side * rng.uniform(-10, 15), 0)

    def angle(low: float, high: float) -> float:
        """Often a smaller angle, sometimes none: people at rest are near the middle."""
        return float(rng.uniform(low, high) * 0.8) if rng.random() < 0.85 else 0.0

    for joint in (3, 6, 9):
        rotmat[joint] = euler_matrix(angle(-10, 24), angle(-12, 12), angle(-10, 10))
    rotmat[12] = euler_matrix(angle(-15, 20), angle(-25, 25), angle(-12, 12))
    rotmat[15] = euler_matrix(angle(-20, 20), angle(-30, 30), angle(-12, 12))
    for side, (shoulder, elbow, wrist) in ((1.0, (16, 18, 20)), (-1.0, (17, 19, 21))):
        lift = float(np.clip(rng.normal(-52, 28), -88, 60))
        rotmat[shoulder] = euler_matrix(angle(-40, 40), side * angle(-85, 25), side * lift)
        rotmat[elbow] = euler_matrix(angle(-15, 15), side * angle(-140, 0), side * angle(-15, 15))
        rotmat[wrist] = euler_matrix(angle(-50, 50), side * angle(-25, 25), side * angle(-40, 40))
    return rotmat


def sample_standing(rng: np.random.Generator) -> Float[np.ndarray, "24 3 3"]:
    """Draw the legs of somebody who stands: straight ones, or one that is at ease.

    The root and everything above the legs are left upright.
    """
    rotmat = np.tile(np.eye(3), (24, 1, 1))
    apart, turned = rng.uniform(-2, 14), rng.uniform(0, 20)
    at_ease = rng.integers(2) if rng.random() < 0.4 else -1
    for leg, (side, hip, knee, ankle) in enumerate(((1.0, 1, 4, 7), (-1.0, 2, 5, 8))):
        bend = rng.uniform(10, 40) if leg == at_ease else abs(rng.normal() * 5)
        # The foot stays under the body: the hip takes back what the knee bends.
        lean = -rng.uniform(0.3, 0.6) * bend + rng.normal() * 5
        rotmat[hip] = euler_matrix(lean, side * (turned + rng.normal() * 6), side * apart)
        rotmat[knee] = euler_matrix(bend, rng.normal() * 2, 0)
        rotmat[ankle] = euler_matrix(-lean - bend + rng.normal() * 4, 0, -side * apart)
    return rotmat


def sample_pose(
    rng: np.random.Generator, pool: PosePool, config: PoseConfig
) -> Float[np.ndarray, "24 3 3"]:
    """Draw a pose and its view: rotation matrices, root from the body to the camera frame."""
    return sample_viewed_pose(rng, pool, config)[0]


def sample_viewed_pose(
    rng: np.random.Generator, pool: PosePool, config: PoseConfig
) -> tuple[Float[np.ndarray, "24 3 3"], Float[np.ndarray, "3 3"]]:
    """Draw a pose and its view.

    Args:
        rng: Generator; the same state gives the same pose.
        pool: Frames of one split.
        config: Odds of mixing, mirroring and the procedural parts.

    Returns:
        Rotations relative to the parent; the root's is in the camera frame (x right, y down,
        z forward). And the rotation from the upright world (y up) to the camera frame.
    """
    if rng.random() < config.procedural:
        rotmat = sample_posture(rng)
    else:
        axis_angle = pool.draw(rng)
        if rng.random() < config.mix:
            other, part = pool.draw(rng), list(UPPER if rng.random() < 0.5 else LOWER)
            axis_angle[part] = other[part]
        if rng.random() < config.jitter:
            axis_angle[1:] += rng.normal(size=(23, 3)) * np.deg2rad(config.jitter_deg)
        axis_angle[22:] = rng.normal(size=(2, 3)) * 0.2
        rotmat = axis_angle_matrix(axis_angle)
        if rng.random() < config.procedural_legs:
            rotmat[list(LOWER)] = sample_posture(rng)[list(LOWER)]
    # Without such people no number is drawn, so that earlier sets repeat.
    if config.standing > 0 and rng.random() < config.standing:
        rotmat[list(LOWER)] = sample_standing(rng)[list(LOWER)]
        rotmat[0] = euler_matrix(0, _facing(rotmat[0]), 0)
    if rng.random() < config.mirror:
        rotmat = mirror_rotations(rotmat)
    # Without such people no number is drawn, so that earlier sets repeat.
    if config.lying > 0 and rng.random() < config.lying:
        rotmat[0] = _LYING[int(rng.integers(len(_LYING)))] @ rotmat[0]
    view = _view(rng, rotmat[0], config)
    rotmat[0] = view @ rotmat[0]
    return rotmat, view


def mirror_rotations(rotmat: Float[np.ndarray, "24 3 3"]) -> Float[np.ndarray, "24 3 3"]:
    """Return the pose of the mirror image: left and right swapped, x reversed."""
    reverse = np.diag([-1.0, 1.0, 1.0])
    mirrored: np.ndarray = reverse @ rotmat[list(MIRROR)] @ reverse
    return mirrored


def _facing(root: Float[np.ndarray, "3 3"]) -> float:
    """Where a body faces: its turn about the vertical from the front, degrees."""
    return float(np.rad2deg(np.arctan2(root[0, 2], root[2, 2])))


def _view(
    rng: np.random.Generator, root: Float[np.ndarray, "3 3"], config: PoseConfig
) -> Float[np.ndarray, "3 3"]:
    """Draw the rotation from the upright world (y up, z to the front) to the camera."""
    if rng.random() < config.uniform_yaw:
        yaw = rng.uniform(-180.0, 180.0)
    else:
        yaw = rng.normal() * 35.0 - _facing(root)
    pitch, roll = rng.normal() * 12.0 + 6.0, rng.normal() * 8.0
    view = euler_matrix(180, 0, 0) @ euler_matrix(pitch, 0, roll) @ euler_matrix(0, yaw, 0)
    if rng.random() < config.any_roll:
        view = euler_matrix(0, 0, rng.uniform(-180, 180)) @ view
    result: np.ndarray = view
    return result
