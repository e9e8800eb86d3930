"""A person walking in a photo of 400 x 300, in any joint set; for files in native formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from eft_fast.keypoints import JOINT_SETS

SIZE = (400, 300)
#: x, y, w, h, and the same box by its corners.
BOX = [170.0, 40.0, 90.0, 225.0]
CORNERS = [170.0, 40.0, 260.0, 265.0]
COCO_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip
_PLACES: dict[str, tuple[float, float]] = {
    "nose": (215, 62), "leye": (219, 58), "reye": (211, 58), "lear": (226, 61), "rear": (205, 61),
    "lsho": (235, 90), "rsho": (195, 92), "lelb": (246, 124), "relb": (186, 126),
    "lwri": (240, 155), "rwri": (180, 158), "lhip": (226, 160), "rhip": (203, 161),
    "lkne": (231, 205), "rkne": (196, 206), "lank": (240, 248), "rank": (188, 246),
    "neck": (215, 82), "headtop": (216, 42), "head": (215, 52), "pelvis": (214, 160),
    "thorax": (215, 91), "spine": (215, 128), "jaw": (215, 66), "belly": (215, 130),
    "lbtoe": (250, 258), "lstoe": (253, 257), "lheel": (236, 256),
    "rbtoe": (186, 257), "rstoe": (183, 256), "rheel": (192, 254),
}  # fmt: skip


def points_of(joint_set: str) -> np.ndarray:
    """x, y and 1 of each joint [K, 3]; what is not placed stands beside the wrist or the nose."""
    names = JOINT_SETS[joint_set].names
    near = {"l": (242.0, 160.0), "r": (178.0, 163.0)}
    places = [_PLACES.get(name, near.get(name[0], (215.0, 64.0))) for name in names]
    return np.column_stack([np.array(places, dtype=np.float64), np.ones(len(names))])


def flat(points: np.ndarray, flag: float = 2) -> list[float]:
    """x, y, v of each joint in one list, v = 0 with x = y = 0 where it is not labelled."""
    rows = [[x, y, flag] if c > 0 else [0, 0, 0] for x, y, c in points.tolist()]
    return [value for row in rows for value in row]


def make_photo(path: Path) -> Path:
    """Write a photo of ``SIZE``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(path)
    return path
