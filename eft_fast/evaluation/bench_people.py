"""The people of the bench: pictures, the keypoints that methods are given, and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, UInt8

_NUM_COCO: Final = 17


@dataclass(frozen=True)
class BenchPeople:
    """Pictures, keypoints and truth.

    Attributes:
        image: RGB crops.
        keypoints_2d: Given COCO keypoints: x and y in [-1, 1] of the crop, and confidence.
        true_2d: True ones; confidence 0 outside the picture.
        rotmat: True rotations.
        betas: True shapes.
        is_hidden: Keypoints that are occluded, outside of the picture, or not given.
    """

    image: UInt8[np.ndarray, "N S S 3"]
    keypoints_2d: Float[np.ndarray, "N 17 3"]
    true_2d: Float[np.ndarray, "N 17 3"]
    rotmat: Float[np.ndarray, "N 24 3 3"]
    betas: Float[np.ndarray, "N 10"]
    is_hidden: Bool[np.ndarray, "N 17"]

    def __len__(self) -> int:
        return len(self.image)


def make_people(
    image: UInt8[np.ndarray, "N S S 3"],
    landmarks_2d: Float[np.ndarray, "N 27 3"],
    rotmat: Float[np.ndarray, "N 24 3 3"],
    betas: Float[np.ndarray, "N 10"],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> BenchPeople:
    """Take a rendered set, and give its keypoints as a detector would.

    Args:
        image: RGB crops.
        landmarks_2d: Landmarks of ``synth``, COCO's 17 first: x, y in [-1, 1] of the crop, and
            2 = visible, 1 = hidden, 0 = outside.
        rotmat: True rotations.
        betas: True shapes.
        noise: 0: exact, also where hidden. Else the standard deviation of visible keypoints over
            the longer side of the person; hidden ones have three times that, half of them and one
            in twenty of the visible ones are missing, and confidences vary.
        seed: Of the noise.
    """
    true = landmarks_2d[:, :_NUM_COCO].astype(np.float64)
    seen = true[..., 2].copy()
    true[..., 2] = seen > 0
    given = true.copy()
    if noise > 0:
        rng = np.random.default_rng(seed)
        size = np.ptp(landmarks_2d[..., :2], axis=1).max(1)[:, None, None]
        spread = np.where(seen == 2, noise, 3 * noise)[..., None]
        given[..., :2] += rng.normal(size=true[..., :2].shape) * spread * size
        missed = rng.random(seen.shape) < np.where(seen == 2, 0.05, 0.5)
        confidence = np.where(seen == 2, rng.uniform(0.6, 1, seen.shape), 0.5)
        given[..., 2] = np.where(missed, 0, confidence * true[..., 2])
    is_hidden = (seen != 2) | (given[..., 2] == 0)
    return BenchPeople(image, given, true, rotmat, betas, is_hidden)
