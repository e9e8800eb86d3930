"""Crops to learn from: cut out of photos, moved, turned, mirrored, cut short, recoloured.

The recipe of the EFT trainer (Joo et al. 2020, released code): mirrored in half of the cases,
turned by clip(N(0, 30), +-60) degrees in four of ten, scaled by clip(1 + 0.25 N, 0.75, 1.25), each
colour channel times U(0.6, 1.4), and in some of the cases a crop of the upper body or of anything
between head and full body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from eft_fast import imaging
from eft_fast.conventions import BOX_MARGIN, BOX_UNIT
from eft_fast.keypoints import JOINT_SETS
from eft_fast.models.base import Regressor
from eft_fast.training.config import check_numbers
from eft_fast.training.labels import LabelledPeople, Labels, mirror_labels, turn_labels

_NAMES: Final = JOINT_SETS["spin49"].names
#: Points that are left in crops cut short, from the head down; each cut adds to the one before.
_CUTS: Final = (
    ("neck", "headtop", "head", "nose", "leye", "reye", "lear", "rear", "jaw", "lsho", "rsho"),
    ("thorax", "lelb", "relb", "spine"),
    ("lwri", "rwri", "lhip", "rhip", "pelvis"),
    ("lkne", "rkne"),
)
#: Number of the cut that is an upper body, and the odds of it among all cuts.
_UPPER_BODY: Final = 2
_UPPER_BODY_ODDS: Final = 0.5
#: Side of a short crop over that of the box around what is left.
_CUT_MARGIN: Final = 1.2
#: Fewest points that a short crop may have.
_FEWEST: Final = 3


@dataclass(frozen=True)
class AugmentConfig:
    """How crops are varied; all zeros: not at all.

    Attributes:
        mirror: Odds that a person is mirrored.
        turn: Odds that a person is turned in the image plane.
        turn_deg: Standard deviation of the angle; it ends at twice that.
        scale_sigma: Standard deviation of the factor of the crop's side; it ends at one of these.
        shift_sigma: Standard deviation of the crop's centre, in sides.
        cut: Odds of a crop that is cut short, of the upper body or less.
        channel_noise: Colour channels are multiplied by 1 +- this.
    """

    mirror: float = 0.5
    turn: float = 0.4
    turn_deg: float = 30.0
    scale_sigma: float = 0.25
    shift_sigma: float = 0.03
    cut: float = 0.3
    channel_noise: float = 0.4

    def __post_init__(self) -> None:
        """Refuse values that no crop can be varied by."""
        check_numbers(self, "train")
        for name in ("mirror", "turn", "scale_sigma", "shift_sigma", "cut", "channel_noise"):
            if getattr(self, name) > 1:
                raise ValueError(
                    f"train: {name} must be a share in [0, 1], got {getattr(self, name):g}"
                )


#: Crops as they are used in the end.
PLAIN: Final = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class CropReader:
    """Cuts crops of people and brings their labels into them.

    Args:
        people: Who.
        regressor: Says how large crops are, what margin they have and how they are normalised.
        config: How they are varied.
    """

    def __init__(
        self, people: LabelledPeople, regressor: Regressor, config: AugmentConfig = PLAIN
    ) -> None:
        self.people = people
        self._config = config
        self._size = regressor.input_size
        # People's crops have the package's margin; some networks take a tighter one.
        self._zoom = regressor.box_margin / BOX_MARGIN
        self._mean, self._std = regressor.img_mean, regressor.img_std

    def __call__(
        self, rows: Tensor, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 3 S S"], Labels]:
        """Crops and labels of people by number; all that varies comes from the generator.

        A photo that cannot be read gives a grey crop whose labels count nothing.
        """
        count = len(rows)
        seed = int(torch.randint(2**62, (), generator=generator))
        config = self._config
        crops = np.zeros((count, self._size, self._size, 3), np.uint8)
        flat = np.zeros((count, 49, 3), np.float32)
        angles, mirrored = np.zeros(count), np.zeros(count, bool)
        gains = np.ones((count, 3))
        broken = np.zeros(count, bool)
        for place, row in enumerate(rows.tolist()):
            # One generator per place: a person's crop does not depend on the others' photos.
            rng = np.random.default_rng([seed, place])
            mirrored[place] = rng.random() < config.mirror
            if rng.random() < config.turn:
                deg = np.clip(
                    rng.normal() * config.turn_deg, -2 * config.turn_deg, 2 * config.turn_deg
                )
                angles[place] = math.radians(float(deg))
            gains[place] = rng.uniform(1 - config.channel_noise, 1 + config.channel_noise, 3)
            try:
                photo = imaging.load_image(self.people.photos[row])
                crop = self._choose(row, rng)
                crops[place] = _cut_turned(photo, crop, angles[place])
            except (OSError, ValueError):
                broken[place], crops[place] = True, 127
                continue
            flat[place] = self._keypoints(row, crop)
        pixels = np.clip(crops * gains[:, None, None], 0, 255).astype(np.uint8)
        img = torch.from_numpy(imaging.to_input(pixels, self._mean, self._std))
        which = torch.from_numpy(mirrored)
        labels = self.people.labels(rows, torch.from_numpy(flat))
        # The picture is turned before it is mirrored, and so are the labels.
        labels = turn_labels(labels, torch.from_numpy(angles).float())
        labels = mirror_labels(labels, which, self._size)
        img = torch.where(which[:, None, None, None], img.flip(-1), img)
        return img, _without(labels, torch.from_numpy(broken))

    def _choose(self, row: int, rng: np.random.Generator) -> imaging.Crop:
        """The square to cut."""
        config = self._config
        center = self.people.center[row].double().numpy()
        side = float(self.people.scale[row]) * BOX_UNIT
        if rng.random() < config.cut:
            found = _short_box(self.people.keypoints_px[row].numpy(), rng)
            if found is not None:
                center, side = found
        side *= self._zoom
        sigma = config.scale_sigma
        side *= float(np.clip(1 + sigma * rng.normal(), 1 - sigma, 1 + sigma))
        center = center + side * config.shift_sigma * rng.normal(size=2)
        return imaging.Crop(center, max(side, imaging.MIN_CROP_SIDE) / BOX_UNIT, self._size)

    def _keypoints(self, row: int, crop: imaging.Crop) -> npt.NDArray[np.float32]:
        """The keypoints in [-1, 1] of the crop; those outside of a crop cut short do not count."""
        points = self.people.keypoints_px[row].numpy()
        placed = crop.normalise(points).astype(np.float32)
        outside = (np.abs(placed[:, :2]) > 1).any(1)
        shortened = crop.side < 0.7 * self._zoom * float(self.people.scale[row]) * BOX_UNIT
        placed[(placed[:, 2] <= 0) | (outside & shortened)] = 0
        return placed


def _short_box(
    keypoints: Float[np.ndarray, "49 3"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " 2"], float] | None:
    """Centre and side of a crop of an upper part of a person; None if too little is labelled."""
    cut = int(rng.integers(len(_CUTS)))
    if rng.random() < _UPPER_BODY_ODDS:
        cut = _UPPER_BODY
    wanted = {name for names in _CUTS[: cut + 1] for name in names}
    rows = [place for place, name in enumerate(_NAMES) if name.removeprefix("op_") in wanted]
    points = keypoints[rows]
    points = points[points[:, 2] > 0, :2].astype(np.float64)
    if len(points) < _FEWEST:
        return None
    low, high = points.min(0), points.max(0)
    side = _CUT_MARGIN * float((high - low).max())
    return ((low + high) / 2, side) if side > imaging.MIN_CROP_SIDE else None


def _cut_turned(
    photo: UInt8[np.ndarray, "H W 3"], crop: imaging.Crop, angle: float
) -> UInt8[np.ndarray, "S S 3"]:
    """Cut a crop whose content is turned by an angle about its centre, from x towards y."""
    if angle == 0:
        return imaging.crop_image(photo, crop)
    # Its corners come from outside of the square, so a wider one is cut, turned and cut again.
    edge = math.ceil(crop.size * (math.sqrt(2) - 1) / 2)
    wide = crop.size + 2 * edge
    around = imaging.Crop(crop.center, crop.scale * wide / crop.size, wide)
    patch = Image.fromarray(imaging.crop_image(photo, around))
    # Pillow turns counter-clockwise, and its pixel k spans [k, k + 1] where ours is centred at k.
    middle = (wide / 2 + 0.5, wide / 2 + 0.5)
    turned = patch.rotate(-math.degrees(angle), Image.Resampling.BILINEAR, center=middle)
    return np.asarray(turned)[edge : edge + crop.size, edge : edge + crop.size]


def _without(labels: Labels, which: Tensor) -> Labels:
    """Labels that count nothing for some people."""
    keep = (~which).float()
    return labels._replace(
        keypoints_2d=labels.keypoints_2d * keep[:, None, None],
        rotmat_weight=labels.rotmat_weight * keep[:, None],
        betas_weight=labels.betas_weight * keep,
        points_3d=labels.points_3d * keep[:, None, None],
    )
