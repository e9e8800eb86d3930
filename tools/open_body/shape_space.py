"""T-posed adults, and the ten directions in which they differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decimate import Topology
from .population import NUM_TRAIN, Population, make_bodies, make_bone_heads
from .rig import FLIP_X, MIRROR_JOINTS, PELVIS, TPose, joint_combinations
from .skinning import skin_dual_quaternion, skin_linear
from .source import Floats, Source

NUM_BETAS = 10
# Share of linear blending in the T-pose; the rest is dual quaternion.
LINEAR_SHARE = 0.6


@dataclass(frozen=True)
class PosedPeople:
    """Symmetric T-posed people: vertices [N, V, 3], joints [N, 24, 3], bone heads [N, 104, 3]."""

    vertices: Floats
    joints: Floats
    heads: Floats
    source_vertices: Floats


@dataclass(frozen=True)
class ShapeSpace:
    """Mean [V, 3], directions [10, V, 3] of unit variance, and all 400 singular directions.

    ``basis`` [400, 3V] has orthonormal rows and ``deviation`` [400] their standard deviations.
    """

    mean: Floats
    directions: Floats
    basis: Floats
    deviation: Floats


def pose_people(source: Source, topology: Topology, people: Population) -> PosedPeople:
    """Bring every person to the T-pose and symmetrise them.

    Args:
        source: Base mesh and rig.
        topology: The reduced mesh.
        people: Blend weights of each person.

    Returns:
        The T-posed people, pelvis at (0, -0.22, 0).
    """
    bodies = make_bodies(source, people.weights, topology.keep)
    heads = make_bone_heads(source, people.weights)
    weights = source.weights[topology.keep]
    combination = joint_combinations(source.bones)
    solver = TPose(source.bones, source.parents)
    vertices, joints = np.empty_like(bodies), np.empty((len(bodies), 24, 3))
    for i, (body, head) in enumerate(zip(bodies, heads, strict=True)):
        rotation, shift, moved = solver.transforms(head)
        linear = skin_linear(body, weights, rotation, shift)
        dual = skin_dual_quaternion(body, weights, rotation, shift)
        joint = combination @ moved
        offset = PELVIS - joint[0]
        vertices[i] = LINEAR_SHARE * linear + (1 - LINEAR_SHARE) * dual + offset
        joints[i] = joint + offset
        heads[i] = moved + offset
    vertices = (vertices + vertices[:, topology.mirror] * FLIP_X) / 2
    joints = (joints + joints[:, MIRROR_JOINTS] * FLIP_X) / 2
    return PosedPeople(vertices, joints, heads, bodies)


def learn_shape_space(topology: Topology, vertices: Floats) -> ShapeSpace:
    """Return the principal directions of the training people.

    Args:
        topology: The reduced mesh.
        vertices: T-posed people [N, V, 3]; the first 400 are used.

    Returns:
        The shape space; the sign of each direction is such that positive points outward.
    """
    train = vertices[:NUM_TRAIN]
    mean = train.mean(0)
    centred = (train - mean).reshape(NUM_TRAIN, -1)
    _, singular, basis = np.linalg.svd(centred, full_matrices=False)
    deviation = singular / np.sqrt(NUM_TRAIN - 1)
    directions = (basis[:NUM_BETAS] * deviation[:NUM_BETAS, None]).reshape(NUM_BETAS, -1, 3)
    outward = (directions * (mean - mean.mean(0))).sum((1, 2))
    directions = directions * np.where(outward < 0, -1.0, 1.0)[:, None, None]
    directions = (directions + directions[:, topology.mirror] * FLIP_X) / 2
    return ShapeSpace(mean, directions, basis, deviation)


def project(space: ShapeSpace, vertices: Floats) -> Floats:
    """Return the betas [N, 10] of T-posed people [N, V, 3]."""
    flat = (vertices - space.mean).reshape(len(vertices), -1)
    scale = (space.directions**2).sum((1, 2))
    return np.asarray(flat @ space.directions.reshape(NUM_BETAS, -1).T / scale)
