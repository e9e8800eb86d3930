"""Make ``open_regressor_golden.npz``: what the shipped weights answer to a seeded crop.

Run it again when the weights change on purpose; the test compares the hash of the weights first.

    python -m tests.assets.make_open_regressor_golden
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from eft_fast.imaging import to_input
from eft_fast.models.open_file import OPEN_REGRESSOR_PATH
from eft_fast.models.registry import load_regressor
from tests.assets.make_blazepose_golden import seeded_input

GOLDEN_PATH = Path(__file__).with_name("open_regressor_golden.npz")


def answer() -> dict[str, np.ndarray]:
    """Outputs of the shipped regressor on the seeded crop, and the hash of its weights."""
    pixels = np.rint(seeded_input()[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    regressor = load_regressor()
    img = to_input(pixels, regressor.img_mean, regressor.img_std)
    with torch.no_grad():
        output = regressor(torch.from_numpy(img)[None])
    digest = hashlib.sha256(OPEN_REGRESSOR_PATH.read_bytes()).hexdigest()
    return {name: value.numpy() for name, value in output._asdict().items()} | {
        "sha256": np.array(digest)
    }


if __name__ == "__main__":
    np.savez(GOLDEN_PATH, **answer())
