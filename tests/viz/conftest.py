"""Small photos for the tests of pictures."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def photo() -> np.ndarray:
    """A 60 x 80 picture whose red tells the column and green the row."""
    rows, cols = np.mgrid[:60, :80]
    return np.stack([cols * 3, rows * 4, np.full_like(rows, 99)], -1).astype(np.uint8)
