"""``synth.photo`` for many pictures at once, on any device: the same steps in torch.

Blur and resampling are linear and act on rows and columns alike, so each is one matrix per picture.
Levels are whole numbers wherever the CPU's pictures are; what is left is rounding: Pillow works in
fixed point, and libjpeg's transform too.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad

from eft_fast.synth.photo import Development

#: Quantisation tables of the JPEG standard (annex K) at quality 50: luma, chroma.
_LUMA: Final = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA: Final = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip
#: RGB to Y, Cb, Cr (JFIF).
_YCC: Final = (
    (0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411)
)  # fmt: skip
_BLUR_PASSES: Final = 3  # Pillow's Gaussian is three box filters


class Developments(NamedTuple):
    """``synth.photo.Development`` of B pictures; zeros switch a step off as there."""

    gain: Float[Tensor, "B 3"]
    gamma: Float[Tensor, " B"]
    blur: Float[Tensor, " B"]
    small: Int[Tensor, " B"]
    noise: Float[Tensor, "B S S 3"]
    quality: Int[Tensor, " B"]


def stack_developments(settings: list[Development], device: torch.device) -> Developments:
    """Move the settings of several pictures to a device."""

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Developments(
        gain=torch.from_numpy(np.stack([s.gain for s in settings]).astype(np.float32)).to(device),
        gamma=column([s.gamma for s in settings]),
        blur=column([s.blur for s in settings]),
        small=column([s.small for s in settings], torch.int64),
        noise=torch.from_numpy(np.stack([s.noise for s in settings])).to(device),
        quality=column([s.quality for s in settings], torch.int64),
    )


def develop_batch(
    image: Float[Tensor, "B S S 3"], settings: Developments
) -> UInt8[Tensor, "B S S 3"]:
    """Turn levels in [0, 255] into pictures; compare ``synth.photo.develop``."""
    levels = (image * (settings.gain / 255.0)[:, None, None]).clamp(0, 1)
    picture = (levels.pow(settings.gamma[:, None, None, None]) * 255).floor()
    size = picture.shape[1]
    blur = blur_matrices(settings.blur, size)
    for _ in range(_BLUR_PASSES):
        picture = _both_ways(blur, picture)
    down, up = resample_matrices(settings.small, size)
    picture = _both_ways(up, _both_ways(down, picture))
    picture = (picture + settings.noise).clamp(0, 255).floor()
    coded = jpeg(picture, settings.quality.clamp_min(1))
    has_jpeg = (settings.quality > 0)[:, None, None, None]
    return torch.where(has_jpeg, coded, picture).to(torch.uint8)


def _both_ways(
    matrix: Float[Tensor, "B T S"], picture: Float[Tensor, "B S S 3"]
) -> Float[Tensor, "B T T 3"]:
    """Apply a matrix to columns and rows, and round to levels."""
    batch, size, channels = picture.shape[0], picture.shape[1], picture.shape[3]
    rows = torch.bmm(matrix, picture.reshape(batch, size, size * channels))
    rows = rows.reshape(batch, -1, size, channels).transpose(1, 2)
    both = torch.bmm(matrix, rows.reshape(batch, size, -1))
    result: Tensor = both.reshape(batch, -1, rows.shape[2], channels).transpose(1, 2)
    # The matrices sum to 1, so a level that is whole stays whole but for rounding errors.
    return result.round()


def blur_matrices(sigma: Float[Tensor, " B"], size: int) -> Float[Tensor, "B S S"]:
    """Return one of the three box filters whose product is Pillow's Gaussian; borders repeat."""
    variance = sigma.double().square() / _BLUR_PASSES
    length = (12 * variance + 1).sqrt()
    whole = ((length - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1).square()))
    place = torch.arange(size, device=sigma.device)
    reach = 3  # sigma 3 has a box of radius 2.5
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    distance = offsets.abs().double()[None]
    weight = torch.where(distance <= whole[:, None], 1.0, 0.0)
    weight = torch.where(distance == whole[:, None] + 1, part[:, None], weight)
    weight = weight / (2 * (whole + part) + 1)[:, None]
    matrix = torch.zeros(len(sigma), size, size, dtype=torch.float64, device=sigma.device)
    for column, offset in enumerate(range(-reach, reach + 1)):
        source = (place + offset).clamp(0, size - 1)
        # Each row is written once per offset, so that nothing is added twice in one call.
        matrix[:, place, source] += weight[:, column : column + 1]
    return matrix.float()


def resample_matrices(
    small: Int[Tensor, " B"], size: int
) -> tuple[Float[Tensor, "B S S"], Float[Tensor, "B S S"]]:
    """Return the matrices that shrink to ``small`` pixels (box) and enlarge again (bilinear).

    All are [size, size]: rows of the small picture beyond ``small`` are zero. ``small`` 0 leaves
    pictures as they are.
    """
    count = torch.where(small > 0, small, size).double()[:, None, None]
    index = torch.arange(size, device=small.device, dtype=torch.float64)
    scale = size / count
    row, column = index[None, :, None], index[None, None]
    centre = (row + 0.5) * scale
    support = 0.5 * scale
    inside = _between(centre, support, column) & (row < count)
    shift = (column - centre + 0.5) / scale
    down = torch.where(inside & (shift > -0.5) & (shift <= 0.5), 1.0, 0.0)
    down = down / down.sum(2, keepdim=True).clamp_min(1)
    # Enlarging: the filter keeps its width of one source pixel.
    centre = (row + 0.5) / scale
    inside = _between(centre, torch.ones_like(scale), column) & (column < count)
    up = torch.where(inside, (1 - (column - centre + 0.5).abs()).clamp_min(0), 0.0)
    up = up / up.sum(2, keepdim=True)
    return down.float(), up.float()


def _between(centre: Tensor, support: Tensor, column: Tensor) -> Tensor:
    """Which source pixels Pillow looks at."""
    return (column >= (centre - support + 0.5).floor()) & (
        column < (centre + support + 0.5).floor()
    )


def jpeg(picture: Float[Tensor, "B S S 3"], quality: Int[Tensor, " B"]) -> Float[Tensor, "B S S 3"]:
    """Code and decode levels as baseline JPEG with chroma of half the side."""
    size = picture.shape[1]
    side = -(-size // 16) * 16
    to_ycc = torch.tensor(_YCC, device=picture.device)
    ycc = (picture @ to_ycc.T + torch.tensor([0.0, 128.0, 128.0], device=picture.device)).round()
    planes = pad(ycc.permute(0, 3, 1, 2), (0, side - size) * 2, mode="replicate")
    luma, chroma = planes[:, :1], planes[:, 1:]
    half = chroma.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    half = (half + 0.01).round()  # libjpeg alternates between rounding up and down
    luma = _quantise(luma, quality, _LUMA)
    half = _quantise(half, quality, _CHROMA)
    wide = _upsample(half)
    ycc = torch.cat([luma, wide], 1)[:, :, :size, :size].permute(0, 2, 3, 1)
    centred = ycc - torch.tensor([0.0, 128.0, 128.0], device=picture.device)
    rgb: Tensor = (centred @ torch.linalg.inv(to_ycc).T).round().clamp(0, 255)
    return rgb


def _quantise(
    planes: Float[Tensor, "B C H W"], quality: Int[Tensor, " B"], table: tuple[int, ...]
) -> Float[Tensor, "B C H W"]:
    """Cosine transform of 8 x 8 blocks, rounded to the table's steps, and back."""
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    base = torch.tensor(table, device=planes.device)
    steps = ((base * scale[:, None] + 50) // 100).clamp(1, 255).float().view(-1, 1, 1, 1, 8, 8)
    cosine = _cosine_matrix().to(planes.device)
    blocks = (planes - 128).unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    coefficients = ((cosine @ blocks @ cosine.T) / steps).round() * steps
    blocks = cosine.T @ coefficients @ cosine
    flat: Tensor = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return (flat + 128).round().clamp(0, 255)


@lru_cache(maxsize=1)
def _cosine_matrix() -> Float[Tensor, "8 8"]:
    rows = [
        [math.cos((2 * x + 1) * u * math.pi / 16) / 2 * (math.sqrt(0.5) if u == 0 else 1.0)
         for x in range(8)]
        for u in range(8)
    ]  # fmt: skip
    return torch.tensor(rows)


def _upsample(planes: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    """Double both sides: three parts of the nearer pixel and one of the next, borders repeated."""
    for axis in (2, 3):
        last = planes.shape[axis] - 1
        index = torch.arange(last + 1, device=planes.device)
        before = planes.index_select(axis, (index - 1).clamp_min(0))
        after = planes.index_select(axis, (index + 1).clamp_max(last))
        pairs = torch.stack([(3 * planes + before) / 4, (3 * planes + after) / 4], axis + 1)
        planes = pairs.flatten(axis, axis + 1)
    return planes
