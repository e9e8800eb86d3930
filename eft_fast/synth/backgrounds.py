"""Backgrounds: crops of photographs where there are any, and procedural scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter

#: Photographs that training may use, with author and licence: CC0, CC BY or public domain only.
#: A file that is not named here is never read.
CREDITS: Final = {
    "aitzgorri_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "life_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "picosdeeuropa_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "sunset_by_Aitzol_Berasategi.jpg": "Aitzol Berasategi, CC BY 4.0",
    "Picture_0B_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "Picture_1A_by_freespace.jpg": 'Trevor "Freespace", CC BY 4.0',
    "umang_by_Abhishek_Mudgal.jpg": "Abhishek Mudgal, CC BY 4.0",
    "Wine_by_Jakkub_Mede.jpg": "Jakub Mede, CC BY 4.0",
    "seeding_by_Clements_Engelhardt.jpg": "Clemens Engelhardt, CC0 1.0",
    "china.jpg": "danielbuechele, CC BY 2.0",
    "flower.jpg": "vultilion, CC BY 2.0",
    "brick.jpg": "scikit-image, CC0",
    "grass.jpg": "scikit-image, CC0",
    "gravel.jpg": "scikit-image, CC0",
    "chelsea.jpg": "scikit-image, CC0",
    "coffee.jpg": "scikit-image, CC0",
    "rocket.jpg": "NASA, public domain",
    "hubble_deep_field.jpg": "NASA, public domain",
}


class Backgrounds:
    """Draws square pictures to put behind people, or on them as a texture.

    Args:
        folder: Folder of photographs; those named in ``CREDITS`` are used. None: procedural only.

    Raises:
        FileNotFoundError: If a folder is given and none of the photographs is in it.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._photos: list[np.ndarray] = []
        if folder is None:
            return
        for name in sorted(CREDITS):
            path = Path(folder) / name
            if path.is_file():
                with Image.open(path) as image:
                    self._photos.append(np.asarray(image.convert("RGB")))
        if not self._photos:
            raise FileNotFoundError(
                f"Backgrounds: none of the {len(CREDITS)} credited photographs is in {folder}; "
                "pass another folder, or None for procedural backgrounds only"
            )

    @property
    def num_photos(self) -> int:
        """Photographs that were found."""
        return len(self._photos)

    def draw(
        self, rng: np.random.Generator, size: int, *, photo: float = 0.6
    ) -> UInt8[np.ndarray, "S S 3"]:
        """Draw a picture of ``size`` pixels; with probability ``photo`` a part of a photograph."""
        if self._photos and rng.random() < photo:
            return self._photo_crop(rng, size)
        kind = rng.choice(("room", "clutter", "clouds", "flat"), p=(0.38, 0.32, 0.22, 0.08))
        if kind == "room":
            return _room(rng, size)
        if kind == "clutter":
            return _clutter(rng, _clouds(rng, size))
        if kind == "clouds":
            return _clouds(rng, size)
        return np.full((size, size, 3), rng.integers(0, 256, 3), dtype=np.uint8)

    def _photo_crop(self, rng: np.random.Generator, size: int) -> np.ndarray:
        photo = self._photos[int(rng.integers(len(self._photos)))]
        height, width = photo.shape[:2]
        side = int(rng.uniform(0.25, 1) * min(height, width))
        top = int(rng.integers(height - side + 1))
        left = int(rng.integers(width - side + 1))
        part = Image.fromarray(photo[top : top + side, left : left + side])
        # reducing_gap: the photo is shrunk by whole steps first, which costs a tenth of the time.
        crop = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.3:
            crop = crop[..., rng.permutation(3)]
        return np.ascontiguousarray(crop)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw smooth colour noise over a few octaves."""
    total = np.zeros((size, size, 3), dtype=np.float32)
    roughness = rng.uniform(0.35, 0.8)
    for octave in range(2, 8):
        cells = rng.integers(0, 256, (1 << octave, 1 << octave, 3), dtype=np.uint8)
        layer = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
        levels = np.array(layer, dtype=np.float32)
        levels -= 127.5
        levels *= roughness**octave
        total += levels
    total *= rng.uniform(20, 70) / (float(total.std()) + 1e-3)
    grey = rng.random() ** 0.5  # many real backgrounds have little colour
    # Written out: a mean over three neighbours takes numpy ten times as long.
    mean = (total[..., :1] + total[..., 1:2] + total[..., 2:]) / np.float32(3)
    total = total * (1 - grey) + mean * grey
    total += rng.uniform(40, 215) + rng.normal(size=3) * 18
    picture: np.ndarray = np.clip(total, 0, 255).astype(np.uint8)
    return picture


def _clutter(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """Draw boxes, discs, posts and lines over a picture, far ones first."""
    size = base.shape[0]
    image = Image.fromarray(base)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(4, 28))
    for index in range(count):
        reach = size * rng.uniform(0.04, 0.5) * (0.4 + 0.6 * index / count)
        x, y = rng.uniform(-0.1, 1.1, 2) * size
        colour = tuple(
            int(c) for c in np.clip(rng.uniform(0, 230) + rng.normal(size=3) * 35, 0, 255)
        )
        kind = int(rng.integers(4))
        w, h = reach * rng.uniform(0.1, 1, 2)
        if kind == 0:
            draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
        elif kind == 1:
            draw.rectangle((x - w, y - h, x + w, y + h), fill=colour)
        elif kind == 2:
            draw.polygon(_turned_box(rng, x, y, w, h), fill=colour)
        else:
            x2, y2 = rng.uniform(0, 1, 2) * size
            draw.line((x, y, x2, y2), fill=colour, width=int(rng.integers(1, 9)))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 2.0))))
    return np.asarray(image)


def _room(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a wall, a floor with a horizon, and things that stand about."""
    horizon = int(size * rng.uniform(0.25, 0.95))
    picture = _clouds(rng, size)
    floor = _clouds(rng, size).astype(np.float32)
    left, right = rng.uniform(0.7, 1.2, 2).tolist()
    upper, lower = rng.uniform(0.6, 1.2, 2).tolist()
    wall_shade = np.linspace(left, right, size)[None, :, None]
    floor_shade = np.linspace(upper, lower, size)[:, None, None]
    result = np.clip(picture * wall_shade, 0, 255)
    result[horizon:] = np.clip(floor * floor_shade, 0, 255)[horizon:]
    image = result.astype(np.uint8)
    return _clutter(rng, image) if rng.random() < 0.75 else image


def _turned_box(
    rng: np.random.Generator, x: float, y: float, w: float, h: float
) -> list[tuple[float, float]]:
    angle = rng.uniform(0, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    corners = ((-w, -h), (w, -h), (w, h), (-w, h))
    return [(x + c * a - s * b, y + s * a + c * b) for a, b in corners]
