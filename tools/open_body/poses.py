"""Random poses within joint ranges of our own, for the pose directions."""

from __future__ import annotations

import numpy as np

from .rotations import euler_yxz
from .source import Floats

# Chance that one angle of a joint is left at zero.
REST_CHANCE = 0.15

Range = tuple[float, float]
NONE: Range = (0.0, 0.0)
# Degrees about x, y, z of the left joint, applied as Ry Rx Rz. On the right, y and z change sign.
PAIRED: dict[int, tuple[Range, Range, Range]] = {
    1: ((-115, 30), (-35, 35), (-15, 40)),
    4: ((0, 140), (-8, 8), (-5, 5)),
    7: ((-25, 45), (-15, 15), (-15, 15)),
    10: ((-40, 10), NONE, NONE),
    13: ((-5, 5), (-20, 20), (-18, 25)),
    16: ((-60, 60), (-95, 35), (-85, 65)),
    18: ((-15, 15), (-140, 0), (-15, 15)),
    20: ((-70, 70), (-25, 25), (-60, 60)),
    22: (NONE, NONE, (-70, 5)),
}
CENTRAL: dict[int, tuple[Range, Range, Range]] = {
    3: ((-12, 28), (-18, 18), (-14, 14)),
    6: ((-12, 28), (-18, 18), (-14, 14)),
    9: ((-12, 28), (-18, 18), (-14, 14)),
    12: ((-25, 30), (-35, 35), (-20, 20)),
    15: ((-20, 22), (-35, 35), (-15, 15)),
}


def random_pose(rng: np.random.Generator, scale: float = 1.0) -> Floats:
    """Draw local rotations [24, 3, 3]; ``scale`` shrinks every angle."""

    def draw(span: Range) -> float:
        angle = float(rng.uniform(*span))
        return 0.0 if span == NONE or rng.random() < REST_CHANCE else angle * scale

    rotation = np.tile(np.eye(3), (24, 1, 1))
    for joint, spans in PAIRED.items():
        for offset, sign in ((0, 1), (1, -1)):
            x, y, z = (draw(span) for span in spans)
            rotation[joint + offset] = euler_yxz(x, sign * y, sign * z)
    for joint, spans in CENTRAL.items():
        x, y, z = (draw(span) for span in spans)
        rotation[joint] = euler_yxz(x, y, z)
    return rotation


def seated_pose(rng: np.random.Generator) -> Floats:
    """Draw a pose with both hips folded by 60 to 120 degrees, for the fold of the groin."""
    rotation = random_pose(rng)
    flexion = rng.uniform(-120, -60)
    _, about_y, about_z = PAIRED[1]
    for joint, sign in ((1, 1), (2, -1)):
        x = flexion + rng.uniform(-12, 12)
        rotation[joint] = euler_yxz(x, sign * rng.uniform(*about_y), sign * rng.uniform(*about_z))
    return rotation
