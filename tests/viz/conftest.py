"""Small meshes and photos for the tests of pictures."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def sphere() -> tuple[np.ndarray, np.ndarray]:
    """A closed unit sphere, faces counter-clockwise from outside."""
    rings, around = 12, 24
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    angle = np.arange(around) * (2 * np.pi / around)
    p, a = (grid.ravel() for grid in np.meshgrid(polar, angle, indexing="ij"))
    middle = np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], 1)
    vertices = np.concatenate([middle, [[0, 0, 1], [0, 0, -1]]])
    index = np.arange(len(middle)).reshape(rings - 1, around)
    upper, lower = index[:-1], index[1:]
    right_upper, right_lower = np.roll(upper, -1, 1), np.roll(lower, -1, 1)
    first, last = index[0], index[-1]
    top, bottom = np.full(around, len(middle)), np.full(around, len(middle) + 1)
    triples = (
        (upper, lower, right_lower),
        (upper, right_lower, right_upper),
        (top, first, np.roll(first, -1)),
        (bottom, np.roll(last, -1), last),
    )
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in triples])
    return vertices, faces


@pytest.fixture
def photo() -> np.ndarray:
    """A 60 x 80 picture whose red tells the column and green the row."""
    rows, cols = np.mgrid[:60, :80]
    return np.stack([cols * 3, rows * 4, np.full_like(rows, 99)], -1).astype(np.uint8)
