"""What a picture of a fit does not tell by itself, in a few words: cut, guessed limbs, sitting."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.keypoints import JointSet, is_labelled

#: A body is called cut when more than this share of its vertices lies outside the photo.
CUT_SHARE: Final = 0.1
#: Both thighs are bent by more than this, in degrees from standing, in one who sits or crouches.
SITTING_DEG: Final = 60.0
_LIMBS: Final = {"legs": ("kne", "ank"), "arms": ("elb", "wri")}
_HIPS: Final = (1, 2)
_DOWN: Final = np.array([0.0, -1.0, 0.0])  # where a thigh points at rest, in the body's axes


def find_remarks(
    keypoints: Float[np.ndarray, "K 3"],
    joints: JointSet,
    full_pose: Float[np.ndarray, "24 3 3"],
    vertices_px: Float[np.ndarray, "V 3"] | None = None,
    size: tuple[int, int] | None = None,
) -> list[str]:
    """Say what is to be known of a fit that its numbers hide.

    Args:
        keypoints: The given ones, x, y in photo pixels and confidence.
        joints: Their joint set.
        full_pose: Rotations of the fit, as of ``SmplParams.full_pose``.
        vertices_px: Vertices of the fit, photo pixels; None: not known.
        size: Width and height of the photo; None: not known.
    """
    found = [_find_guessed(keypoints, joints)]
    if vertices_px is not None and size is not None:
        found.append(_find_cut(vertices_px, size))
    found.append(_find_sitting(full_pose))
    return [text for text in found if text]


def _find_guessed(keypoints: Float[np.ndarray, "K 3"], joints: JointSet) -> str:
    """Limbs of which no joint is labelled, though the set has them."""
    labelled = is_labelled(keypoints)
    if not labelled.any():
        return ""
    guessed = []
    for limb, ends in _LIMBS.items():
        places = [k for k, name in enumerate(joints.names) if name.endswith(ends)]
        if places and not labelled[places].any():
            guessed.append(limb)
    return f"no keypoint on the {' and '.join(guessed)}, which are a guess" if guessed else ""


def _find_cut(vertices_px: Float[np.ndarray, "V 3"], size: tuple[int, int]) -> str:
    points = vertices_px[np.isfinite(vertices_px).all(1), :2]
    if not len(points):
        return ""
    outside = float(((points < -0.5) | (points > np.array(size) - 0.5)).any(1).mean())
    if outside <= CUT_SHARE:
        return ""
    return f"cut: {outside:.0%} of the body lies outside the photo"


def _find_sitting(full_pose: Float[np.ndarray, "24 3 3"]) -> str:
    thighs = full_pose[list(_HIPS)] @ _DOWN
    if not np.isfinite(thighs).all():
        return ""
    bent = np.degrees(np.arccos(np.clip(thighs @ _DOWN, -1.0, 1.0)))
    return "drawn sitting or crouching" if (bent > SITTING_DEG).all() else ""
