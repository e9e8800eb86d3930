"""Rotations for drawing poses, in numpy, for a few joints at a time."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
from jaxtyping import Float


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
