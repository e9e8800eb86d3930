"""Skinning weights of 24 joints from those of 104 bones."""

from __future__ import annotations

import numpy as np

from .decimate import Topology
from .rig import MIRROR_JOINTS, owner_joint
from .source import Floats, Source

MAX_JOINTS = 4


def merge_weights(
    source: Source, topology: Topology, mean: Floats, joints: Floats, heads: Floats
) -> Floats:
    """Sum bone weights by joint, split three spine bones by height, and keep four per vertex.

    Args:
        source: Rig and its weights.
        topology: The reduced mesh.
        mean: Mean T-posed vertices [V, 3].
        joints: Mean joints [24, 3].
        heads: Mean bone heads [104, 3].

    Returns:
        Symmetric weights [V, 24]; rows sum to 1.
    """
    height = mean[:, 1]
    index = {name: i for i, name in enumerate(source.bones)}
    bottom = heads[index["spine05"], 1]
    # Joints 3 and 6 are spine1 and spine2.
    waist = _smoothstep((height - bottom) / (joints[3, 1] + 0.03 - bottom))
    chest = _smoothstep(
        (height - joints[6, 1] + 0.02) / (heads[index["spine01"], 1] - joints[6, 1])
    )
    half = np.full(len(mean), 0.5)
    splits = {"spine04": (0, 3, waist), "spine02": (6, 9, chest), "neck03": (12, 15, half)}
    weights = np.zeros((len(mean), 24))
    for bone, column in zip(source.bones, source.weights[topology.keep].T, strict=True):
        if bone in splits:
            below, above, share = splits[bone]
            weights[:, below] += column * (1 - share)
            weights[:, above] += column * share
        else:
            weights[:, owner_joint(bone)] += column
    weights = _symmetrise(weights, topology)
    fifth = np.sort(weights, axis=1)[:, -MAX_JOINTS - 1]
    weights[weights <= fifth[:, None]] = 0
    weights /= weights.sum(1, keepdims=True)
    return _symmetrise(weights, topology)


def _smoothstep(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def _symmetrise(weights: Floats, topology: Topology) -> Floats:
    return np.asarray((weights + weights[topology.mirror][:, MIRROR_JOINTS]) / 2)
