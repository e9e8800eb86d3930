"""Linear and dual quaternion skinning, and the kinematic tree of 24 joints."""

from __future__ import annotations

import numpy as np

from .rig import PARENTS
from .rotations import multiply_quaternions, to_quaternion
from .source import Floats


def skin_linear(vertices: Floats, weights: Floats, rotation: Floats, shift: Floats) -> Floats:
    """Move vertices [V, 3] by the weighted sum of bone transforms [B, 3, 3] and [B, 3]."""
    blended = (weights @ rotation.reshape(-1, 9)).reshape(-1, 3, 3)
    return np.asarray(np.einsum("vij,vj->vi", blended, vertices) + weights @ shift)


def skin_dual_quaternion(
    vertices: Floats, weights: Floats, rotation: Floats, shift: Floats
) -> Floats:
    """Move vertices [V, 3] by the normalised sum of the bones' dual quaternions."""
    real = to_quaternion(rotation)
    pure = np.concatenate([np.zeros((len(shift), 1)), shift], 1)
    dual = 0.5 * multiply_quaternions(pure, real)
    # q and -q are one rotation: align every bone with the vertex's heaviest one.
    agree = real @ real.T
    signs = np.where(agree < 0, -1.0, 1.0)[np.argmax(weights, 1)]
    signed = weights * signs
    q, d = signed @ real, signed @ dual
    norm = np.linalg.norm(q, axis=1, keepdims=True)
    q, d = q / norm, d / norm
    w, u = q[:, :1], q[:, 1:]
    turned = vertices + 2 * np.cross(u, np.cross(u, vertices) + w * vertices)
    return np.asarray(turned + 2 * (w * d[:, 1:] - d[:, :1] * u + np.cross(u, d[:, 1:])))


def joint_transforms(rotation: Floats, joints: Floats) -> tuple[Floats, Floats, Floats]:
    """Chain local rotations down the tree.

    Args:
        rotation: Local rotation of each joint [24, 3, 3].
        joints: Rest places [24, 3].

    Returns:
        World rotations [24, 3, 3], shifts [24, 3] so that x goes to R x + t, and posed joints.
    """
    world = np.empty((24, 3, 3))
    posed = np.empty((24, 3))
    world[0], posed[0] = rotation[0], joints[0]
    for j in range(1, 24):
        parent = PARENTS[j]
        world[j] = world[parent] @ rotation[j]
        posed[j] = posed[parent] + world[parent] @ (joints[j] - joints[parent])
    return world, posed - np.einsum("jab,jb->ja", world, joints), posed
