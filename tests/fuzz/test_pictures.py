"""Mutated pictures: an array of the size that was told, or one sentence."""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from eft_fast import imaging

INTS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def make_seeds() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x112] = 6
    kinds = [
        (picture, "JPEG", {"exif": turned}), (picture, "JPEG", {"progressive": True}),
        (picture.convert("CMYK"), "JPEG", {}), (picture.convert("P"), "PNG", {"transparency": 3}),
        (picture.convert("RGBA"), "PNG", {}), (picture.convert("1"), "PNG", {}),
        (picture, "WEBP", {}), (picture, "TIFF", {"compression": "tiff_lzw"}),
        (picture.convert("P"), "GIF", {}), (picture, "BMP", {}), (picture, "PPM", {}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {"exif": turned}),
        (Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF", {}),
    ]  # fmt: skip
    seeds = []
    for image, kind, options in kinds:
        file = io.BytesIO()
        image.save(file, kind, **options)
        seeds.append(file.getvalue())
    return seeds


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a few places, most of them in the head, where sizes and offsets stand."""
    result = bytearray(data)
    limit = len(result) if rng.random() < 0.4 else min(len(result), 300)
    for _ in range(rng.choice([1, 1, 2, 3, 5, 20])):
        if not result:
            break
        place = rng.randrange(min(limit, len(result)))
        kind = rng.random()
        if kind < 0.4:
            result[place] = rng.randrange(256)
        elif kind < 0.6:
            width = rng.choice([1, 2, 4])
            result[place : place + width] = struct.pack("<I", rng.choice(INTS))[:width]
        elif kind < 0.75:
            del result[place : place + rng.choice([1, 2, 16, len(result) // 2 + 1])]
        elif kind < 0.9:
            result[place:place] = result[place : place + rng.choice([1, 4, 32, 200])]
        else:
            del result[place:]
    return bytes(result)


def test_mutated_pictures(rounds: Callable[[], Iterator[random.Random]]) -> None:
    seeds = make_seeds()
    for number, rng in enumerate(rounds()):
        data = mutate(rng.choice(seeds), rng)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                size = imaging.load_image_size(data)
                pixels = imaging.load_image(data)
            except Exception as error:
                if not (isinstance(error, ValueError) and str(error).startswith("load_image")):
                    raise AssertionError(f"round {number}") from error
            else:
                assert pixels.dtype == np.uint8
                assert (pixels.shape[1], pixels.shape[0], pixels.shape[2]) == (*size, 3)
        assert time.process_time() - start < 15, f"round {number}"
