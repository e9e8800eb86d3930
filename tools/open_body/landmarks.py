"""The 21 vertices that smplx picks as keypoints, and the vertex order that puts them at its ids."""

from __future__ import annotations

import numpy as np

from .correctives import Posable
from .decimate import Topology
from .source import LANDMARKS, Floats, Ints

# Ids that smplx 0.1.28 hard-codes for every SMPL-shaped body; left-hand names, then right.
PICK_IDS = {
    "nose": 332,
    "left_eye": 2800,
    "right_eye": 6260,
    "left_ear": 583,
    "right_ear": 4071,
    "left_big_toe": 3216,
    "right_big_toe": 6617,
    "left_small_toe": 3226,
    "right_small_toe": 6624,
    "left_heel": 3387,
    "right_heel": 6787,
    "left_thumb": 2746,
    "right_thumb": 6191,
    "left_index": 2319,
    "right_index": 5782,
    "left_middle": 2445,
    "right_middle": 5905,
    "left_ring": 2556,
    "right_ring": 6016,
    "left_little": 2673,
    "right_little": 6133,
}
_FINGERS = ("thumb", "index", "middle", "ring", "little")


def find_landmarks(
    topology: Topology,
    body: Posable,
    heads: Floats,
) -> dict[str, int]:
    """Find the vertices by their geometry on the left and reflect them.

    Args:
        topology: The reduced mesh.
        body: The mean body.
        heads: Mean bone heads [104, 3].

    Returns:
        Vertex of each name in ``PICK_IDS``.
    """
    mean, weights = body.vertices, body.weights
    index = {name: i for i, name in enumerate(body.bones)}
    x, y, z = mean.T
    outside = ~(topology.is_hidden | topology.is_eye)
    above = y - body.joints[15, 1]
    head = outside & (weights[:, 15] > 0.5)
    middle = topology.mirror == np.arange(len(mean))

    def best(score: Floats, allowed: np.ndarray) -> int:
        return int(np.argmax(np.where(allowed, score, -np.inf)))

    def of(*names: str) -> np.ndarray:
        columns = [index[f"{name}.L"] for name in names]
        return np.asarray(body.bone_weights[:, columns].sum(1) > 0.5)

    found = {
        "nose": best(z, head & middle & (above > 0) & (above < 0.06)),
        "left_eye": best(z, topology.is_eye & (x > 0)),
        "left_ear": int(np.flatnonzero(topology.keep == LANDMARKS["tragus"])[0]),
        "left_big_toe": best(z, outside & of("toe1-2")),
        "left_small_toe": best(z + 0.3 * x, outside & of("toe5-2", "toe5-3")),
    }
    foot = outside & (weights[:, 7] > 0.5)
    found["left_heel"] = best(-z, foot & (y < y[foot].min() + 0.03))
    for number, name in enumerate(_FINGERS, start=1):
        start, end = heads[index[f"finger{number}-2.L"]], heads[index[f"finger{number}-3.L"]]
        along = (end - start) / np.linalg.norm(end - start)
        found[f"left_{name}"] = best((mean - end) @ along, of(f"finger{number}-3"))
    for name in [n for n in found if n.startswith("left_")]:
        found[name.replace("left_", "right_")] = int(topology.mirror[found[name]])
    return found


def smplx_order(landmarks: dict[str, int], count: int) -> Ints:
    """Return the old vertex of each new place: landmarks at smplx's ids, the others in order."""
    order = np.full(count, -1)
    for name, vertex in landmarks.items():
        order[PICK_IDS[name]] = vertex
    if len(set(landmarks.values())) != len(PICK_IDS):
        raise RuntimeError("smplx_order: the 21 landmarks must be different vertices")
    others = np.setdiff1d(np.arange(count), list(landmarks.values()))
    order[order < 0] = others
    return order
