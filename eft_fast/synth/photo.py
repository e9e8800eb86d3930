"""From a clean render to something like a photograph: occluders, defocus, noise, compression."""

from __future__ import annotations

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


def add_occluders(
    rng: np.random.Generator,
    image: Float[np.ndarray, "S S 3"],
    mask: Float[np.ndarray, "S S"],
    backgrounds: Backgrounds,
) -> Float[np.ndarray, "S S 3"]:
    """Fill the shape with a texture or a plain colour; levels in [0, 255]."""
    size = image.shape[0]
    fill: np.ndarray
    if rng.random() < 0.7:
        fill = backgrounds.draw(rng, size).astype(np.float32)
    else:
        fill = rng.integers(0, 256, 3).astype(np.float32)
    covered: np.ndarray = image * (1 - mask[..., None]) + fill * mask[..., None]
    return covered


def develop(
    rng: np.random.Generator, image: Float[np.ndarray, "S S 3"], config: PhotoConfig
) -> UInt8[np.ndarray, "S S 3"]:
    """Apply exposure, white balance, gamma, defocus, resampling, noise and JPEG.

    Args:
        rng: Generator; the same state gives the same picture.
        image: Levels in [0, 255].
        config: Odds and ranges.
    """
    gain = np.exp(rng.normal() * 0.12) * (1 + rng.normal(size=3) * 0.04)
    levels = np.clip(image * (gain / 255.0).astype(np.float32), 0, 1)
    levels = np.power(levels, np.float32(np.exp(rng.normal() * 0.15)))
    picture: np.ndarray = (levels * 255).astype(np.uint8)
    if rng.random() < config.blur:
        picture = blur(picture, float(rng.uniform(0.3, 1.6)))
    if rng.random() < config.resample:
        size = picture.shape[0]
        small = int(rng.uniform(0.35, 0.78) * size)
        shrunk = Image.fromarray(picture).resize((small, small), Image.Resampling.BOX)
        picture = np.asarray(shrunk.resize((size, size), Image.Resampling.BILINEAR))
    sigma = rng.uniform(0, config.noise)
    noisy = picture + rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(sigma)
    picture = np.clip(noisy, 0, 255).astype(np.uint8)
    if rng.random() < config.jpeg:
        stream = BytesIO()
        quality = int(rng.integers(*config.jpeg_quality))
        Image.fromarray(picture).save(stream, format="JPEG", quality=quality)
        stream.seek(0)
        picture = np.asarray(Image.open(stream).convert("RGB"))
    return picture
