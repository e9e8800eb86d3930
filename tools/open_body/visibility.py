"""Find the vertices inside mouth, eye sockets and nostrils: those that nothing outside can see."""

from __future__ import annotations

import numpy as np

from .source import BODY, EYES, Floats, Ints, Source

NUM_DIRECTIONS = 200
# Depth images of 0.8 mm cells; a vertex within 1.5 mm of the front surface counts as seen.
CELL = 0.0008
SPACING = 0.0005
DEPTH = 0.0015
# Metres below the crown that count as head.
HEAD_HEIGHT = 0.27


def find_hidden(source: Source, shape: Floats) -> np.ndarray:
    """Return flags [19158] of body vertices that no direction sees from outside.

    A depth image of the head is made for each of 200 directions spread over the sphere; only the
    head has cavities. The left is judged and the right reflected.

    Args:
        source: Base mesh.
        shape: Its vertices on the body to look at, [19158, 3].
    """
    height = shape[:, 1]
    neck = height[BODY].max() - HEAD_HEIGHT
    head = source.faces[(height > neck)[source.faces].all(1)]
    candidates = np.setdiff1d(head, np.arange(EYES.start, EYES.stop))
    candidates = candidates[source.vertices[candidates, 0] > -1e-7]
    points = _sample_surface(_close(shape, head)).T.astype(np.float32, order="C")
    seen = np.zeros(len(candidates), bool)
    for direction in _sphere(NUM_DIRECTIONS):
        waiting = np.flatnonzero(~seen)
        right, up, depth = _frame(direction).astype(np.float32)
        target = shape[candidates[waiting]].T.astype(np.float32, order="C")
        across, along = _dot(right, points), _dot(up, points)
        low = across.min(), along.min()
        width = int((across.max() - low[0]) / CELL) + 2
        cell = _cell(across, along, low, width)
        own = _cell(_dot(right, target), _dot(up, target), low, width)
        front = np.full(int(cell.max()) + 1, np.inf, np.float32)
        front[own] = -np.inf
        # Only cells that hold a waiting vertex matter.
        used = np.flatnonzero(front[cell] < np.inf)
        np.maximum.at(front, cell[used], _dot(depth, points[:, used]))
        seen[waiting] = _dot(depth, target) > front[own] - DEPTH
    hidden = np.zeros(len(shape), bool)
    hidden[candidates[~seen]] = True
    return hidden | hidden[source.mirror]


def _dot(axis: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return axis @ points for [3] and [3, N], summed in one order on every machine."""
    return np.asarray(axis[0] * points[0] + axis[1] * points[1] + axis[2] * points[2])


def _cell(
    across: np.ndarray, along: np.ndarray, low: tuple[float, float], width: int
) -> np.ndarray:
    """Return the number of the image cell of each point."""
    scale = np.float32(1 / CELL)
    column = ((across - low[0]) * scale).astype(np.int32)
    row = ((along - low[1]) * scale).astype(np.int32)
    return row * np.int32(width) + column


def _frame(direction: Floats) -> Floats:
    """Return two axes across the direction and the direction itself as rows, [3, 3]."""
    helper = [0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0.0, 0.0]
    across = np.cross(direction, helper)
    across /= np.linalg.norm(across)
    return np.stack([across, np.cross(direction, across), direction])


def _close(vertices: Floats, faces: Ints) -> Floats:
    """Return the corners [F, 3, 3] of the faces, with a fan over the hole where the neck is cut."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, count = np.unique(
        np.sort(edges, axis=1), axis=0, return_index=True, return_counts=True
    )
    rim = vertices[edges[first[count == 1]]]
    centre = np.broadcast_to(rim.mean((0, 1)), (len(rim), 1, 3))
    return np.concatenate([vertices[faces], np.concatenate([rim, centre], axis=1)])


def _sphere(count: int) -> Floats:
    """Return directions spread evenly over the sphere (Fibonacci lattice), [count, 3]."""
    i = np.arange(count) + 0.5
    z = 1 - 2 * i / count
    angle = np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)


def _sample_surface(corners: Floats) -> Floats:
    """Return points on the triangles [F, 3, 3], no more than ``SPACING`` apart."""
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
    steps = np.ceil(edge / SPACING).astype(np.int64)
    points = []
    for n in np.unique(steps):
        a, b = np.divmod(np.arange((n + 1) ** 2), n + 1)
        a, b = a[a + b <= n] / n, b[a + b <= n] / n
        mix = np.stack([1 - a - b, a, b], 1)
        points.append(np.einsum("sk,fkd->fsd", mix, corners[steps == n]).reshape(-1, 3))
    return np.concatenate(points)
