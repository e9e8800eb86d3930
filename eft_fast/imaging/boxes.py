"""Keypoints to boxes, and boxes to the squares that are cropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from eft_fast.conventions import BOX_MARGIN, BOX_UNIT

if TYPE_CHECKING:
    from jaxtyping import Float, Num
    from numpy.typing import ArrayLike

#: Sides of a crop in photo pixels; the upper bound is the one of EFT's readers.
MIN_CROP_SIDE: Final = 1.0
MAX_CROP_SIDE: Final = 15_000.0


def check_keypoints(keypoints: ArrayLike) -> Float[np.ndarray, "*batch K 3"]:
    """Check 2D keypoints and return a clean float64 copy.

    A keypoint with a value that is not finite counts as not labelled: it becomes (0, 0, 0).

    Args:
        keypoints: x and y in pixels and confidence in [0, 1]; 0 means not labelled.

    Raises:
        ValueError: If the shape or the range of the confidences is wrong.
    """
    points = np.array(keypoints, dtype=np.float64)
    if points.ndim < 2 or points.shape[-1] != 3 or points.shape[-2] == 0:
        raise ValueError(
            f"check_keypoints: keypoints must be [K, 3] or [N, K, 3] (x, y, confidence), got "
            f"{list(points.shape)}"
        )
    points[~np.isfinite(points).all(axis=-1)] = 0.0
    confidence = points[..., 2]
    if points.size and (confidence.min() < 0.0 or confidence.max() > 1.0):
        raise ValueError(
            "check_keypoints: confidences must lie in [0, 1], got "
            f"{confidence.min():g} to {confidence.max():g}; of COCO visibility flags pass v > 0"
        )
    return points


def keypoints_to_box(
    keypoints: Num[np.ndarray, "K 3"], *, min_confidence: float = 0.0
) -> Float[np.ndarray, " 4"]:
    """Tight box x, y, w, h in pixels around the keypoints above ``min_confidence``.

    Raises:
        ValueError: If there is no such keypoint.
    """
    points = check_keypoints(keypoints)
    points = points[points[:, 2] > min_confidence, :2]
    if len(points) == 0:
        raise ValueError(
            f"keypoints_to_box: no keypoint has a confidence above {min_confidence:g}; pass a box"
        )
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([low, high - low])


def box_to_center_scale(
    bbox: ArrayLike, margin: float = BOX_MARGIN
) -> tuple[Float[np.ndarray, " 2"], float]:
    """Centre in pixels and ``bbox_scale`` of the square crop around a box.

    Args:
        bbox: x, y, w, h in pixels.
        margin: Side of the crop over the longer side of the box.

    Raises:
        ValueError: If the box is not finite, or its crop is under 1 or over 15,000 pixels wide.
    """
    box = np.asarray(bbox, dtype=np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or box[2:].min() < 0.0:
        raise ValueError(
            "box_to_center_scale: a box must be four finite numbers x, y, w, h with w and h not "
            f"negative, got {box.tolist()}"
        )
    side = margin * float(box[2:].max())
    if not MIN_CROP_SIDE <= side <= MAX_CROP_SIDE:
        raise ValueError(
            f"box_to_center_scale: the crop must be {MIN_CROP_SIDE:g} to {MAX_CROP_SIDE:g} pixels "
            f"wide, got {side:g} from the box {box.tolist()}"
        )
    return box[:2] + box[2:] / 2.0, side / BOX_UNIT
