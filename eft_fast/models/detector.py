"""Keypoints from a plain photo, for users who bring none.

BlazePose's landmark network looks through windows of several sizes, with the published weights: the
open regressor's own were trained further for the body, away from its heatmaps. Where it sees
somebody, it draws the next crop itself: two of its landmarks mark the hips and a circle around the
person. Its person score is near 1 for many things that are no people; its heatmaps tell them apart,
so the person that counts is the one whose limbs have sharp heatmaps.

It is no general people detector: people smaller than about an eighth of the photo's longer side,
lying or upside-down people and crowds are missed, of two people who overlap it may merge limbs, and
limbs behind a table are guessed (with a low confidence). Measured with the published weights on 13
open COCO photos, on which the thresholds were chosen: 14 of 17 people found, their keypoints off by
.033 of the root of the box area in the median and 89 % of them by less than .1 (74 % if those of
the missed people count as wrong); one false person there, and three on 13 photos without people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from eft_fast.conventions import BOX_UNIT
from eft_fast.imaging import MAX_CROP_SIDE, MIN_CROP_SIDE, Crop, crop_image
from eft_fast.imaging.crop import check_rgb
from eft_fast.keypoints import JointSet
from eft_fast.keypoints import joint_set as find_joint_set
from eft_fast.models.base import Regressor
from eft_fast.models.blazepose import (
    HEATMAP_SIZE,
    INPUT_SIZE,
    NUM_BODY_LANDMARKS,
    BlazePose,
)
from eft_fast.models.open_regressor import OpenRegressor

#: The published trunk, as ``tools/convert_blazepose.py`` wrote it.
PUBLISHED_TRUNK_PATH: Final = Path(__file__).parent.parent / "assets" / "blazepose_full.npz"
#: Sides of the windows, as shares of the photo's longer side.
WINDOW_SHARES: Final = (1.0, 0.7, 0.5, 0.35, 0.25)
#: Distance between neighbouring windows over their side.
WINDOW_STEP: Final = 0.5
#: Windows under this score are given up at once. Low, because a badly placed window scores low.
WINDOW_SCORE: Final = 0.05
#: Times that a crop is redrawn around its own landmarks.
REFINEMENTS: Final = 3
#: Sharpness that a person must have. Of the answers to 27 photos (18 people looked for) nearly all
#: that were right reach 0.54, and nearly all that were wrong stay under 0.53.
PERSON_SHARPNESS: Final = 0.53
#: Limb landmarks that count for the sharpness, the sharpest ones: legs may be out of the photo.
_SHARPEST: Final = 6
#: Two crops show the same person if their limb landmarks are closer than this share of the side.
SAME_PERSON: Final = 0.15
#: A person is dropped if this share of the box lies in the box of a better one, or the reverse.
MAX_OVERLAP: Final = 0.75

#: Auxiliary landmarks: middle of the hips, and a point on the circle around the whole person.
_CENTER_ROW: Final = 33
_CIRCLE_ROW: Final = 34
#: Side of the next crop over the diameter of that circle (MediaPipe's value).
_CIRCLE_MARGIN: Final = 1.25
#: Shoulders, elbows, wrists, hips, knees, ankles in the order of ``mp33``.
_LIMBS: Final = (11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
#: Cells on each side of a landmark that its heatmap may move it by, and the least peak for that.
_HEATMAP_REACH: Final = 3
_HEATMAP_PEAK: Final = 0.5
#: Landmarks end at eyes and toes: the box is wider by this share of its longer side, each way.
_BOX_MARGIN: Final = 0.05
_BATCH: Final = 16


@dataclass(frozen=True, eq=False)
class Detection:
    """One person in a photo.

    Attributes:
        keypoints: x, y in photo pixels and confidence in the order of ``joint_set``; points that
            the network does not have, or puts outside the photo, are all zeros.
        landmarks: x, y in photo pixels and confidence of the 33 landmarks (``mp33``), also
            outside the photo.
        box: x, y, w, h in photo pixels, around the landmarks inside the photo.
        score: Sharpness in [0, 1]: the mean heatmap peak of the six sharpest limb landmarks.
        joint_set: Name of the order of ``keypoints``.
    """

    keypoints: Float[np.ndarray, "K 3"]
    landmarks: Float[np.ndarray, "33 3"]
    box: Float[np.ndarray, " 4"]
    score: float
    joint_set: str


@dataclass(frozen=True, eq=False)
class _Look:
    """What the network says about one crop, in photo pixels."""

    points: Float[np.ndarray, "39 2"]
    confidence: Float[np.ndarray, " 33"]
    score: float
    sharpness: float
    side: float

    @property
    def limbs(self) -> Float[np.ndarray, "12 2"]:
        return self.points[list(_LIMBS)]


def detect_people(
    image: UInt8[np.ndarray, "H W 3"],
    regressor: Regressor,
    *,
    joint_set: str | JointSet = "coco17",
) -> list[Detection]:
    """Find people and their keypoints, best first.

    Args:
        image: RGB photo, as ``imaging.load_image`` returns it.
        regressor: The open regressor; the published weights of its trunk do the work, on its
            device. Trunks of other sizes than "full" look for themselves. On one CPU core a photo
            takes seconds.
        joint_set: Order of the keypoints to return; joints are matched by name.

    Raises:
        TypeError: If the regressor is not the open one, or the image not an 8-bit array.
        ValueError: If the image is not RGB or the joint set unknown.

    Example:
        >>> people = detect_people(load_image("photo.jpg"), load_regressor())
        >>> people[0].keypoints.shape
        (17, 3)
    """
    check_rgb(image, "detect_people")
    order = find_joint_set(joint_set)
    if not isinstance(regressor, OpenRegressor):
        raise TypeError(
            f"detect_people: regressor must be the open one, got {type(regressor).__name__}; "
            "pass load_regressor()"
        )
    trunk = find_trunk(regressor)
    looks = _look(image, make_windows(image), trunk)
    looks = [look for look in looks if look.score >= WINDOW_SCORE]
    for _ in range(REFINEMENTS):
        looks = _look(image, [_redraw(look) for look in looks], trunk)
    looks = [look for look in looks if look.sharpness >= PERSON_SHARPNESS]
    return [_to_detection(look, image, order) for look in _choose(looks)]


def find_trunk(regressor: OpenRegressor) -> BlazePose:
    """Return the network that looks for people: the published one where the trunk is that one's.

    Training for the body moves what score, heatmaps and auxiliary landmarks read.
    """
    trunk = regressor.trunk
    if getattr(trunk, "variant", None) != "full":
        return trunk
    return _load_published(trunk.stem.weight.device)


def load_published_trunk() -> BlazePose:
    """The landmark network as it was published, which the package ships; a new one at each call."""
    with np.load(PUBLISHED_TRUNK_PATH, allow_pickle=False) as archive:
        return BlazePose.from_arrays({name: archive[name] for name in archive.files}).eval()


@lru_cache(maxsize=2)
def _load_published(device: torch.device) -> BlazePose:
    return load_published_trunk().to(device)


def make_windows(image: UInt8[np.ndarray, "H W 3"]) -> list[Crop]:
    """Square windows over the photo: the whole, then overlapping smaller ones."""
    height, width = image.shape[:2]
    longer = max(height, width)
    windows = []
    for share in WINDOW_SHARES:
        side = min(max(share * longer, MIN_CROP_SIDE), MAX_CROP_SIDE)
        for y in _window_centers(height, side):
            for x in _window_centers(width, side):
                windows.append(_square(np.array([x, y]), side))
    return windows


def _window_centers(length: int, side: float) -> list[float]:
    if side >= length:
        return [length / 2]
    count = int(np.ceil((length - side) / (side * WINDOW_STEP))) + 1
    return [float(c) for c in np.linspace(side / 2, length - side / 2, count)]


def _square(center: Float[np.ndarray, " 2"], side: float) -> Crop:
    return Crop(center, side / BOX_UNIT, INPUT_SIZE)


@torch.no_grad()
def _look(image: UInt8[np.ndarray, "H W 3"], crops: list[Crop], trunk: BlazePose) -> list[_Look]:
    """Run the network on each crop, landmarks sharpened by their heatmaps."""
    device = trunk.stem.weight.device
    looks = []
    for start in range(0, len(crops), _BATCH):
        part = crops[start : start + _BATCH]
        pixels = torch.from_numpy(np.stack([crop_image(image, crop) for crop in part]))
        rgb = pixels.to(device).permute(0, 3, 1, 2).to(trunk.stem.weight.dtype) / 255
        output, heatmaps = trunk.with_heatmaps(rgb)
        points = sharpen_landmarks(output.landmarks[..., :2], heatmaps).cpu().double().numpy()
        odds = output.landmarks[:, :NUM_BODY_LANDMARKS, 3:].sigmoid().prod(-1).cpu().numpy()
        peaks = heatmaps[:, list(_LIMBS)].flatten(2).amax(2).sigmoid()
        sharpness = peaks.topk(_SHARPEST).values.mean(1).cpu().tolist()
        scores = output.score.cpu().tolist()
        rows = zip(part, points, odds, scores, sharpness, strict=True)
        looks += [_Look(c.to_image(xy), odd, one, sharp, c.side) for c, xy, odd, one, sharp in rows]
    return looks


def sharpen_landmarks(
    points: Float[Tensor, "B L 2"], heatmaps: Float[Tensor, "B L S S"]
) -> Float[Tensor, "B L 2"]:
    """Move each landmark to the mean of its heatmap near it, where the heatmap is sure.

    Args:
        points: x, y in crop pixels.
        heatmaps: Logits of the cells, as ``BlazePose.with_heatmaps`` returns them.
    """
    batch, count = points.shape[:2]
    cell = INPUT_SIZE / HEATMAP_SIZE
    near = torch.arange(-_HEATMAP_REACH, _HEATMAP_REACH + 1, device=points.device)
    home = (points / cell).floor().long()
    columns, rows = (home[..., axis, None] + near for axis in (0, 1))  # [B, L, 7]
    inside = [(index >= 0) & (index < HEATMAP_SIZE) for index in (columns, rows)]
    flat = rows.clamp(0, HEATMAP_SIZE - 1)[..., :, None] * HEATMAP_SIZE
    flat = flat + columns.clamp(0, HEATMAP_SIZE - 1)[..., None, :]
    odds = heatmaps.sigmoid().flatten(2).gather(2, flat.reshape(batch, count, -1))
    odds = odds.reshape(flat.shape) * (inside[1][..., :, None] & inside[0][..., None, :])
    total = odds.sum((-2, -1)).clamp_min(1e-9)
    x = (odds.sum(-2) * columns).sum(-1) / total
    y = (odds.sum(-1) * rows).sum(-1) / total
    sure = odds.amax((-2, -1)) >= _HEATMAP_PEAK
    return torch.where(sure[..., None], torch.stack([x, y], -1) * cell, points)


def _redraw(look: _Look) -> Crop:
    """The crop that the network wants to see next."""
    center, rim = look.points[_CENTER_ROW], look.points[_CIRCLE_ROW]
    side = 2 * float(np.linalg.norm(rim - center)) * _CIRCLE_MARGIN
    return _square(center, min(max(side, MIN_CROP_SIDE), MAX_CROP_SIDE))


def _choose(looks: list[_Look]) -> list[_Look]:
    """One look per person, the sharpest."""
    chosen: list[_Look] = []
    for look in sorted(looks, key=lambda look: -look.sharpness):
        if not any(_is_same(look, other) for other in chosen):
            chosen.append(look)
    return chosen


def _is_same(look: _Look, other: _Look) -> bool:
    """Tell whether the limbs agree, or one person lies almost wholly in the other's box."""
    gap = float(np.median(np.linalg.norm(look.limbs - other.limbs, axis=1)))
    near = gap < SAME_PERSON * min(look.side, other.side)
    return near or _overlap(look.limbs, other.limbs) > MAX_OVERLAP


def _overlap(a: Float[np.ndarray, "K 2"], b: Float[np.ndarray, "K 2"]) -> float:
    """Shared area of the two boxes around the points, over the smaller box."""
    low = np.maximum(a.min(0), b.min(0))
    high = np.minimum(a.max(0), b.max(0))
    smaller = min(float(np.prod(np.ptp(points, axis=0))) for points in (a, b))
    return float(np.prod(np.maximum(high - low, 0))) / max(smaller, 1e-9)


def _to_detection(look: _Look, image: UInt8[np.ndarray, "H W 3"], order: JointSet) -> Detection:
    height, width = image.shape[:2]
    body = look.points[:NUM_BODY_LANDMARKS]
    landmarks = np.column_stack([body, look.confidence])
    edge = np.array([width - 1, height - 1])
    inside: Bool[np.ndarray, " 33"] = np.all((body >= 0) & (body <= edge), axis=1)

    keypoints = np.zeros((len(order), 3))
    row_of = {name: row for row, name in enumerate(find_joint_set("mp33").names)}
    for index, name in enumerate(order.names):
        row = row_of.get(name)
        if row is not None and inside[row]:
            keypoints[index] = landmarks[row]

    seen = body[inside] if inside.any() else np.clip(body, 0, edge)
    low, high = seen.min(0), seen.max(0)
    margin = _BOX_MARGIN * float((high - low).max())
    low, high = np.clip(low - margin, 0, edge), np.clip(high + margin, 0, edge)
    box = np.concatenate([low, high - low])
    return Detection(keypoints, landmarks, box, look.sharpness, order.name)
