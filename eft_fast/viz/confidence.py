"""Confidence per joint as a small figure: a dot for each joint of a standing person."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from eft_fast.keypoints import JOINT_SETS

#: Width and height of the figure.
SIZE: Final = (34, 58)
#: Where each kinematic joint stands, seen from the front, so that the left side is on the right.
PLACES: Final = (
    (17, 28), (21, 31), (13, 31), (17, 24), (21, 42), (13, 42), (17, 20), (21, 52),
    (13, 52), (17, 16), (23, 56), (11, 56), (17, 9), (20, 13), (14, 13), (17, 4),
    (24, 13), (10, 13), (27, 21), (7, 21), (29, 29), (5, 29), (31, 34), (3, 34),
)  # fmt: skip
#: Borders between the levels of confidence 0 (low) to 3 (high).
LEVELS: Final = (0.25, 0.5, 0.75)
_NAMED: Final = 3


class Dot(NamedTuple):
    """A joint of the figure: its place, and the level of its confidence, 0 to 3."""

    x: int
    y: int
    level: int


class Figure(NamedTuple):
    """What a report shows of one person: mean without the pelvis, dots, and the lowest joints."""

    mean: float
    dots: tuple[Dot, ...]
    words: str


def make_figure(confidence: Float[np.ndarray, " 24"] | None) -> Figure:
    """Draw the confidence of one person.

    Args:
        confidence: Of each kinematic joint, as of ``FitResult``; None or NaN: unknown.

    Returns:
        The figure; without dots, and with a mean of NaN, where nothing is known.

    Raises:
        ValueError: If there are not 24 joints.
    """
    if confidence is None:
        return Figure(math.nan, (), "")
    values = np.asarray(confidence, np.float64)
    if values.shape != (len(PLACES),):
        raise ValueError(
            f"make_figure: confidence must be [{len(PLACES)}], got {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        return Figure(math.nan, (), "")
    levels = np.searchsorted(LEVELS, values, side="right")
    dots = tuple(Dot(*place, int(k)) for place, k in zip(PLACES, levels, strict=True))
    names = JOINT_SETS["smpl24"].names
    least = np.argsort(values, kind="stable")[:_NAMED]
    words = ", ".join(f"{names[joint]} {values[joint]:.0%}" for joint in least)
    return Figure(float(values[1:].mean()), dots, f"least confident: {words}")
