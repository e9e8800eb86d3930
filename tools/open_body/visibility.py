"""Find the vertices inside mouth, eye sockets and nostrils: those that nothing outside can see."""

from __future__ import annotations

import numpy as np

from .source import Floats, Ints

NUM_DIRECTIONS = 200
# Depth images of 0.8 mm cells; a vertex within 1.5 mm of the front surface counts as seen.
CELL = 0.0008
SPACING = 0.0004
DEPTH = 0.0015


def hidden_vertices(vertices: Floats, faces: Ints, candidates: Ints) -> np.ndarray:
    """Return which candidates no direction sees from outside.

    A depth image of the surface is made for each of 200 directions spread over the sphere.

    Args:
        vertices: Mesh [V, 3], metres.
        faces: Occluding triangles [F, 3].
        candidates: Vertices to judge.

    Returns:
        Flags [len(candidates)].
    """
    points = _sample_surface(_close(vertices, faces))
    seen = np.zeros(len(candidates), bool)
    for direction in _sphere(NUM_DIRECTIONS):
        across = np.cross(direction, [0.0, 0.0, 1.0] if abs(direction[2]) < 0.9 else [1.0, 0, 0])
        across /= np.linalg.norm(across)
        frame = np.stack([across, np.cross(direction, across), direction], 1)
        surface = points @ frame
        target = vertices[candidates] @ frame
        low = surface[:, :2].min(0)
        cell = np.floor((surface[:, :2] - low) / CELL).astype(np.int64)
        width = int(cell[:, 0].max()) + 2
        front = np.full(width * (int(cell[:, 1].max()) + 2), -np.inf)
        np.maximum.at(front, cell[:, 1] * width + cell[:, 0], surface[:, 2])
        own = np.floor((target[:, :2] - low) / CELL).astype(np.int64)
        seen |= target[:, 2] > front[own[:, 1] * width + own[:, 0]] - DEPTH
    return ~seen


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
