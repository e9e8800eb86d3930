"""The crop: a square of the photo, its pixels, and points in and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from eft_fast.conventions import BOX_MARGIN, BOX_UNIT, HMR_CROP, IMG_MEAN, IMG_STD
from eft_fast.imaging.boxes import MAX_CROP_SIDE, MIN_CROP_SIDE, box_to_center_scale

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of the photo and the size to which it is resampled; maps points both ways.

    Points are ``[..., 2]``, or ``[..., 3]`` with a confidence, which passes unchanged.

    Attributes:
        center: Centre of the square in photo pixels.
        scale: Side of the square in photo pixels over 200, margin included.
        size: Side S of the crop in crop pixels.
    """

    center: Float[np.ndarray, " 2"]
    scale: float
    size: int = HMR_CROP

    def __post_init__(self) -> None:
        center = np.array(self.center, dtype=np.float64)
        if center.shape != (2,) or not np.isfinite(center).all():
            raise ValueError(f"Crop: center must be two finite numbers, got {center.tolist()}")
        scale = float(self.scale)
        if not MIN_CROP_SIDE <= scale * BOX_UNIT <= MAX_CROP_SIDE:
            raise ValueError(
                f"Crop: the side (200 * scale) must be {MIN_CROP_SIDE:g} to {MAX_CROP_SIDE:g} "
                f"pixels, got {scale * BOX_UNIT:g}"
            )
        if int(self.size) != self.size or not 1 <= self.size <= MAX_CROP_SIDE:
            raise ValueError(f"Crop: size must be a whole number of pixels, got {self.size}")
        center.setflags(write=False)
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "size", int(self.size))

    @classmethod
    def from_box(cls, bbox: ArrayLike, size: int = HMR_CROP, *, margin: float = BOX_MARGIN) -> Crop:
        """Make the crop around a box x, y, w, h in pixels."""
        center, scale = box_to_center_scale(bbox, margin)
        return cls(center, scale, size)

    @property
    def side(self) -> float:
        """Side h of the square in photo pixels."""
        return self.scale * BOX_UNIT

    @property
    def matrix(self) -> Float[np.ndarray, "2 3"]:
        """Affine map from photo pixels to crop pixels."""
        zoom = self.size / self.side
        return np.column_stack([np.eye(2) * zoom, self.size / 2.0 - zoom * self.center])

    @property
    def inverse(self) -> Float[np.ndarray, "2 3"]:
        """Affine map from crop pixels to photo pixels."""
        zoom = self.side / self.size
        return np.column_stack([np.eye(2) * zoom, self.center - self.side / 2.0])

    def to_crop(self, points: ArrayLike) -> Float[np.ndarray, "*batch C"]:
        """Photo pixels to crop pixels."""
        return _scale_shift(points, self.size / self.side, -self.center, self.size / 2.0)

    def to_image(self, points: ArrayLike) -> Float[np.ndarray, "*batch C"]:
        """Crop pixels to photo pixels."""
        return _scale_shift(points, self.side / self.size, -self.size / 2.0, self.center)

    def normalise(self, points: ArrayLike) -> Float[np.ndarray, "*batch C"]:
        """Photo pixels to [-1, 1] of the crop."""
        return _scale_shift(points, 2.0 / self.side, -self.center, 0.0)


def _scale_shift(points: ArrayLike, zoom: float, before: Any, after: Any) -> np.ndarray:
    """A copy of the points with ``zoom * (xy + before) + after`` in the first two columns."""
    moved = np.array(points, dtype=np.float64)
    if moved.ndim == 0 or moved.shape[-1] not in (2, 3):
        raise ValueError(f"Crop: points must be [..., 2] or [..., 3], got {list(moved.shape)}")
    moved[..., :2] = zoom * (moved[..., :2] + before) + after
    return moved


def crop_image(
    image: UInt8[np.ndarray, "H W 3"], crop: Crop, *, fill: int = 0
) -> UInt8[np.ndarray, "S S 3"]:
    """Cut the crop out of a photo: bilinear, area-weighted when shrinking, one grey outside.

    Args:
        image: 8-bit RGB photo, as ``load_image`` returns it.
        crop: The square to cut; any part of it may lie outside the photo.
        fill: Grey level outside the photo; 0 is black.
    """
    check_rgb(image, "crop_image")
    left, top = crop.inverse[:, 2]
    columns = _resample_span(left, crop, image.shape[1])
    rows = _resample_span(top, crop, image.shape[0])
    out = np.full((crop.size, crop.size, 3), fill, dtype=np.uint8)
    if columns is None or rows is None:
        return out
    (i0, i1, x0, x1, box_x0, box_x1), (j0, j1, y0, y1, box_y0, box_y1) = columns, rows
    patch = _cut(image, x0, y0, x1, y1, fill)
    resized = Image.fromarray(patch).resize(
        (i1 - i0, j1 - j0), Image.Resampling.BILINEAR, box=(box_x0, box_y0, box_x1, box_y1)
    )
    out[j0:j1, i0:i1] = np.asarray(resized)
    return out


def _resample_span(
    start: float, crop: Crop, length: int
) -> tuple[int, int, int, int, float, float] | None:
    """Along one axis: what Pillow has to resample to fill the crop pixels that touch the photo.

    Only these are computed, so that a crop far larger than the photo costs no memory.

    Args:
        start: Photo coordinate of crop pixel 0.
        crop: The crop.
        length: Photo pixels along the axis.

    Returns:
        First and last (exclusive) crop pixel; first and last (exclusive) photo pixel of the padded
        patch; the box inside the patch in Pillow's coordinates, where pixel k spans [k, k + 1].
        None if the crop misses the photo.
    """
    step = crop.side / crop.size
    reach = max(step, 1.0)  # half width of Pillow's bilinear filter, in photo pixels
    first = max(0, int(np.ceil((-1.0 - reach - start) / step)))
    last = min(crop.size, int(np.floor((length + reach - start) / step)) + 1)
    if first >= last:
        return None
    # Crop pixel i spans step photo pixels around start + i * step; + 0.5 for Pillow's edges.
    low = start + (first - 0.5) * step + 0.5
    high = start + (last - 0.5) * step + 0.5
    patch_low, patch_high = int(np.floor(low - reach)) - 1, int(np.ceil(high + reach)) + 1
    return first, last, patch_low, patch_high, low - patch_low, high - patch_low


def _cut(
    image: UInt8[np.ndarray, "H W 3"], x0: int, y0: int, x1: int, y1: int, fill: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels [y0, y1) x [x0, x1) of the photo, grey outside of it."""
    height, width = image.shape[:2]
    patch = np.full((y1 - y0, x1 - x0, 3), fill, dtype=np.uint8)
    ax, bx = (min(max(x, 0), width) for x in (x0, x1))
    ay, by = (min(max(y, 0), height) for y in (y0, y1))
    patch[ay - y0 : by - y0, ax - x0 : bx - x0] = image[ay:by, ax:bx]
    return patch


def check_rgb(image: np.ndarray, who: str) -> None:
    """Raise, in the name of ``who``, unless the image is uint8 ``[H, W, 3]``."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"{who}: image must be a uint8 array, got {kind}; call load_image first")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{who}: image must be [H, W, 3], got {list(image.shape)}")


def to_input(
    crop: UInt8[np.ndarray, "*batch S S 3"],
    mean: Sequence[float] = IMG_MEAN,
    std: Sequence[float] = IMG_STD,
) -> Float32[np.ndarray, "*batch 3 S S"]:
    """Crop pixels to network input: channels first, (pixel / 255 - mean) / std.

    Args:
        crop: RGB crops.
        mean: Channel mean in [0, 1], ``Regressor.img_mean``; default: ImageNet's, as HMR takes it.
        std: Channel standard deviation in [0, 1], ``Regressor.img_std``.
    """
    if crop.dtype != np.uint8 or crop.ndim < 3 or crop.shape[-1] != 3:
        raise ValueError(
            f"to_input: a crop must be uint8 [..., S, S, 3], got {crop.dtype} {list(crop.shape)}"
        )
    center, spread = (np.asarray(part, np.float32).reshape(3, 1, 1) for part in (mean, std))
    # Turned while there is one byte a number, and in place: four times as quick.
    out = np.ascontiguousarray(np.moveaxis(crop, -1, -3)).astype(np.float32)
    out /= np.float32(255.0)
    out -= center
    out /= spread
    return out


def from_input(
    img: Float[np.ndarray, "*batch 3 S S"],
    mean: Sequence[float] = IMG_MEAN,
    std: Sequence[float] = IMG_STD,
) -> UInt8[np.ndarray, "*batch S S 3"]:
    """Network input back to 8-bit crop pixels; the inverse of ``to_input``."""
    if img.ndim < 3 or img.shape[-3] != 3:
        raise ValueError(f"from_input: img must be [..., 3, S, S], got {list(img.shape)}")
    pixels = np.moveaxis(np.asarray(img, dtype=np.float64), -3, -1)
    pixels = (pixels * np.asarray(std) + np.asarray(mean)) * 255.0
    return np.ascontiguousarray(np.clip(np.rint(pixels), 0.0, 255.0), dtype=np.uint8)
