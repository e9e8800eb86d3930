"""From a clean render to something like a photograph: occluders, defocus, noise, compression."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from eft_fast.synth.backgrounds import Backgrounds
from eft_fast.synth.config import PhotoConfig


def blur(image: UInt8[np.ndarray, "H W 3"], sigma: float) -> UInt8[np.ndarray, "H W 3"]:
    """Blur with a Gaussian of ``sigma`` pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def sample_occluders(
    rng: np.random.Generator, size: int, config: PhotoConfig
) -> Float[np.ndarray, "S S"] | None:
    """Draw the shape of what stands in front of the person: coverage in [0, 1], or None."""
    count = int(rng.integers(1, 3)) if rng.random() < config.occluder else 0
    is_table = rng.random() < config.table
    if count == 0 and not is_table:
        return None
    mask = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(mask)
    unit = size / 256
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        w, h = rng.uniform(10, 55, 2) * unit
        if rng.random() < 0.5:
            draw.ellipse((x - w, y - h, x + w, y + h), fill=255)
        else:
            angle = rng.uniform(0, np.pi / 2)
            c, s = np.cos(angle), np.sin(angle)
            corners = ((-w, -h), (w, -h), (w, h), (-w, h))
            draw.polygon([(x + c * a - s * b, y + s * a + c * b) for a, b in corners], fill=255)
    if is_table:
        left, right = rng.uniform(0.45, 0.9, 2) * size
        draw.polygon([(-1, left), (size, right), (size, size), (-1, size)], fill=255)
    soft = mask.filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(soft, dtype=np.float32) / 255


def sample_fill(
    rng: np.random.Generator, size: int, backgrounds: Backgrounds
) -> Float[np.ndarray, "H W 3"]:
    """Draw what occluders look like: a texture [S, S, 3], or a plain colour [1, 1, 3]; to 255."""
    if rng.random() < 0.7:
        return backgrounds.draw(rng, size).astype(np.float32)
    return rng.integers(0, 256, 3).astype(np.float32)[None, None]


def cover(
    image: Float[np.ndarray, "S S 3"],
    mask: Float[np.ndarray, "S S"],
    fill: Float[np.ndarray, "H W 3"],
) -> Float[np.ndarray, "S S 3"]:
    """Lay a fill over a picture where the mask is; levels in [0, 255]."""
    covered: np.ndarray = image * (1 - mask[..., None]) + fill * mask[..., None]
    return covered


@dataclass(frozen=True)
class Development:
    """What happens to one picture after it is drawn.

    Attributes:
        gain: Factor of each channel: exposure and white balance.
        gamma: Exponent of the levels.
        blur: Standard deviation of the defocus, pixels; 0: none.
        small: Side that the picture is shrunk to before it is enlarged again, pixels; 0: never.
        noise: Added to the levels, of 255.
        quality: Of the JPEG compression; 0: none.
    """

    gain: Float[np.ndarray, " 3"]
    gamma: float
    blur: float
    small: int
    noise: Float[np.ndarray, "S S 3"]
    quality: int


def sample_development(rng: np.random.Generator, size: int, config: PhotoConfig) -> Development:
    """Draw exposure, white balance, gamma, defocus, resampling, noise and JPEG."""
    gain = np.exp(rng.normal() * 0.12) * (1 + rng.normal(size=3) * 0.04)
    gamma = float(np.exp(rng.normal() * 0.15))
    blurred = float(rng.uniform(0.3, 1.6)) if rng.random() < config.blur else 0.0
    small = int(rng.uniform(0.35, 0.78) * size) if rng.random() < config.resample else 0
    sigma = np.float32(rng.uniform(0, config.noise))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * sigma
    quality = int(rng.integers(*config.jpeg_quality)) if rng.random() < config.jpeg else 0
    return Development(gain, gamma, blurred, small, noise, quality)


def develop(image: Float[np.ndarray, "S S 3"], settings: Development) -> UInt8[np.ndarray, "S S 3"]:
    """Turn levels in [0, 255] into a picture as a camera would have stored it."""
    levels = np.clip(image * (settings.gain / 255.0).astype(np.float32), 0, 1)
    levels = np.power(levels, np.float32(settings.gamma))
    picture: np.ndarray = (levels * 255).astype(np.uint8)
    if settings.blur > 0:
        picture = blur(picture, settings.blur)
    if settings.small > 0:
        size, small = picture.shape[0], settings.small
        shrunk = Image.fromarray(picture).resize((small, small), Image.Resampling.BOX)
        picture = np.asarray(shrunk.resize((size, size), Image.Resampling.BILINEAR))
    picture = np.clip(picture + settings.noise, 0, 255).astype(np.uint8)
    if settings.quality > 0:
        stream = BytesIO()
        Image.fromarray(picture).save(stream, format="JPEG", quality=settings.quality)
        stream.seek(0)
        picture = np.asarray(Image.open(stream).convert("RGB"))
    return picture
