from __future__ import annotations

import numpy as np

from eft_fast.synth import photo
from eft_fast.synth.backgrounds import Backgrounds
from eft_fast.synth.config import PhotoConfig
from eft_fast.synth.photo import sample_occluders

OFF = PhotoConfig(blur=0, resample=0, jpeg=0, noise=0, occluder=0, table=0)


def develop(rng: np.random.Generator, image: np.ndarray, config: PhotoConfig) -> np.ndarray:
    return photo.develop(image, photo.sample_development(rng, len(image), config))


def test_developing_keeps_the_scene() -> None:
    ramp = np.tile(np.linspace(20, 230, 64, dtype=np.float32)[:, None, None], (1, 64, 3))
    for seed in range(20):
        picture = develop(np.random.default_rng(seed), ramp, PhotoConfig()).astype(float)
        correlation = np.corrcoef(picture.mean((1, 2)), ramp.mean((1, 2)))[0, 1]
        assert correlation > 0.97


def test_noise_and_jpeg_change_the_picture() -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.float32)
    assert develop(np.random.default_rng(0), flat, OFF).std(axis=(0, 1)).max() == 0
    noisy = develop(np.random.default_rng(0), flat, PhotoConfig(**{**vars(OFF), "noise": 30.0}))
    assert noisy.std() > 1
    step = np.where(np.arange(64)[:, None, None] % 7 < 3, 60, 200) * np.ones((64, 64, 3))
    options = PhotoConfig(**{**vars(OFF), "jpeg": 1.0, "jpeg_quality": (35, 36)})
    assert len(np.unique(develop(np.random.default_rng(0), step, options))) > 10


def test_no_occluder_is_none() -> None:
    assert sample_occluders(np.random.default_rng(0), 64, OFF) is None


def test_a_table_covers_the_lower_part() -> None:
    mask = sample_occluders(
        np.random.default_rng(0), 64, PhotoConfig(**{**vars(OFF), "table": 1.0})
    )
    assert mask is not None
    assert mask[-3:].min() > 0.99
    assert mask[:20].max() < 0.01


def test_occluders_replace_what_they_cover() -> None:
    image = np.full((64, 64, 3), -1000, dtype=np.float32)
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[32:] = 1
    fill = photo.sample_fill(np.random.default_rng(0), 64, Backgrounds())
    covered = photo.cover(image, mask, fill)
    assert (covered[:32] == -1000).all()
    assert (covered[32:] >= 0).all()
