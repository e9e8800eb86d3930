"""Distance from the full mesh to the reduced one."""

from __future__ import annotations

import numpy as np

from .decimate import Topology
from .source import BODY, Floats, Ints, Source

# Triangles around this many nearest reduced vertices are tried for each point.
NEAREST = 6
BLOCK = 256


def reduction_error(
    source: Source, topology: Topology, shape: Floats, hidden: np.ndarray
) -> Floats:
    """Return the distance of every visible body vertex to the reduced surface, metres.

    Args:
        source: Base mesh.
        topology: The reduced mesh.
        shape: Full-resolution vertices [19158, 3].
        hidden: Flags of base vertices that nothing outside sees.
    """
    visible = ~hidden[BODY]
    points = shape[BODY][visible]
    reduced = shape[topology.keep]
    around = _faces_around(topology.faces, len(reduced))
    result = np.empty(len(points))
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        square = ((block[:, None] - reduced) ** 2).sum(2)
        nearest = np.argpartition(square, NEAREST, axis=1)[:, :NEAREST]
        faces = around[nearest].reshape(len(block), -1)
        corners = reduced[topology.faces[np.maximum(faces, 0)]]
        distance = np.where(faces < 0, np.inf, _point_to_triangle(block[:, None], corners))
        result[start : start + BLOCK] = distance.min(1)
    return result


def _faces_around(faces: Ints, count: int) -> Ints:
    """Return the faces at each vertex, padded with -1."""
    flat = faces.ravel()
    order = np.argsort(flat, kind="stable")
    valence = np.bincount(flat, minlength=count)
    slot = np.arange(len(flat)) - np.repeat(np.cumsum(valence) - valence, valence)
    table = np.full((count, valence.max()), -1)
    table[flat[order], slot] = order // 3
    return table


def _point_to_triangle(points: Floats, corners: Floats) -> Floats:
    """Return distances of points [..., 3] to triangles [..., 3, 3]."""
    a, b, c = np.moveaxis(corners, -2, 0)
    normal = np.cross(b - a, c - a)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-15)
    height = ((points - a) * normal).sum(-1)
    inside = np.ones(height.shape, bool)
    edge = np.full(height.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        along, to = end - start, points - start
        inside &= (np.cross(along, to) * normal).sum(-1) >= 0
        share = (to * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-15)
        share = np.clip(share, 0, 1)[..., None]
        edge = np.minimum(edge, np.linalg.norm(to - share * along, axis=-1))
    return np.asarray(np.where(inside, np.abs(height), edge))
