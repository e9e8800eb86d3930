"""A renderer that needs no motion capture and no photographs."""

from __future__ import annotations

import numpy as np
import pytest

from eft_fast.body import Smpl, load_body
from eft_fast.synth import PosePool, Renderer, SynthConfig


def make_pool(frames: int = 20) -> PosePool:
    rng = np.random.default_rng(3)
    full_pose = rng.normal(size=(frames, 24, 3)).astype(np.float32) * 0.25
    full_pose[:, 0] = 0
    names = np.array([f"walk/{i}" for i in range(frames)])
    return PosePool(full_pose, np.full(frames, 1 / frames), names)


@pytest.fixture(scope="session")
def open_body() -> Smpl:
    return load_body()


@pytest.fixture(scope="session")
def renderer(open_body: Smpl) -> Renderer:
    return Renderer(open_body, make_pool(), "train", config=SynthConfig(size=96))
