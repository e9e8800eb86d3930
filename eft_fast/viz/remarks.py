"""What a picture does not tell by itself, in a few words: cut, guessed limbs, sitting, turned."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.keypoints import JointSet, is_labelled
from eft_fast.plausible import SWAP_ERROR, SWAP_RATIO

#: A body is called cut when more than this share of its vertices lies outside the photo.
CUT_SHARE: Final = 0.1
#: Both thighs are bent by more than this, in degrees from standing, in one who sits or crouches.
SITTING_DEG: Final = 60.0
#: Front and back may be exchanged where the fit turned the body by more than this, degrees. Of 114
#: labelled people of open photos it is said of 6, for whom ``map`` took the answer turned round.
TURNED_DEG: Final = 100.0
_LIMBS: Final = {"legs": ("kne", "ank"), "arms": ("elb", "wri")}
_HIPS: Final = (1, 2)
_DOWN: Final = np.array([0.0, -1.0, 0.0])  # where a thigh points at rest, in the body's axes
_FRONT: Final = np.array([0.0, 0.0, 1.0])  # where the body looks at rest
_LEVEL: Final = 0.3  # of the unit vector of its look: who lies looks up or down, not round


def find_remarks(
    keypoints: Float[np.ndarray, "K 3"],
    joints: JointSet,
    full_pose: Float[np.ndarray, "24 3 3"],
    *,
    start_pose: Float[np.ndarray, "24 3 3"] | None = None,
    start_px: Float[np.ndarray, "K 2"] | None = None,
    vertices_px: Float[np.ndarray, "V 3"] | None = None,
    size: tuple[int, int] | None = None,
) -> list[str]:
    """Say what is to be known of a fit that its numbers hide.

    Args:
        keypoints: The given ones, x, y in photo pixels and confidence.
        joints: Their joint set.
        full_pose: Rotations of the fit, as of ``SmplParams.full_pose``.
        start_pose: The same of the regressor's answer; None: not known.
        start_px: Where the regressor's answer has the keypoints, photo pixels; None: not known.
        vertices_px: Vertices of the fit, photo pixels; None: not known.
        size: Width and height of the photo; None: not known.
    """
    found = [_find_guessed(keypoints, joints)]
    turned = "" if start_pose is None else _find_turned(full_pose[0], start_pose[0])
    found.append(turned)
    if start_px is not None and not turned:  # seen from behind, all sides are exchanged
        found.append(_find_exchanged_arms(start_px, keypoints, joints))
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


def _find_exchanged_arms(
    start_px: Float[np.ndarray, "K 2"], keypoints: Float[np.ndarray, "K 3"], joints: JointSet
) -> str:
    """Whether elbows and wrists lie nearer to the start with left and right exchanged.

    All sides exchanged are a fault that ``plausible.find_swapped_sides`` tells in the message. Of
    114 labelled people of open photos it is said of one.
    """
    labelled, flip = is_labelled(keypoints), np.array(joints.flip)
    arms = np.array([name.endswith(_LIMBS["arms"]) for name in joints.names])
    arms &= labelled & labelled[flip]
    if arms.sum() < 4 or not np.isfinite(start_px[arms]).all():
        return ""
    points = keypoints[:, :2]
    side = float(np.ptp(points[labelled], axis=0).max())
    as_given, exchanged = (
        float(np.linalg.norm(start_px - given, axis=1)[arms].mean())
        for given in (points, points[flip])
    )
    if not (exchanged < SWAP_RATIO * as_given and as_given > SWAP_ERROR * side):
        return ""
    return "left and right of the arms look exchanged"


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


def _find_turned(root: Float[np.ndarray, "3 3"], start: Float[np.ndarray, "3 3"]) -> str:
    """Whether the fit looks elsewhere than the start, about the picture's vertical."""
    looks = [(rotation @ _FRONT)[[0, 2]] for rotation in (root, start)]
    lengths = [float(np.linalg.norm(look)) for look in looks]
    if not min(lengths) > _LEVEL:  # NaN as well
        return ""
    cosine = float(looks[0] @ looks[1]) / (lengths[0] * lengths[1])
    turned = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    return f"turned by {turned:.0f} degrees from the start" if turned > TURNED_DEG else ""
