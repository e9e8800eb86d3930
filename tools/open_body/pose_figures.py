"""Figures of the posed body: against the rig's surface, in volume, and after storing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .acceptance import Figure, at_most, close_to
from .correctives import Posable, pose_model, pose_target
from .decimate import Topology
from .population import signed_volume
from .poses import random_pose
from .rotations import euler_yxz
from .shape_space import ShapeSpace
from .source import Floats

MODERATE = 0.7
OTHER_BODIES = ((2, 0, 0), (-2, 0, 0), (0, -2.5, 0), (0, 2.5, 0), (0, 0, 2.5), (0, 0, -2.5))
# Degrees about x, y, z of left and right joint, and the prototype's change of volume in percent.
BENDS = {
    "hips 100": ({1: (-100, 0, 0), 2: (-100, 0, 0)}, -3.35),
    "knees 120": ({4: (120, 0, 0), 5: (120, 0, 0)}, -0.57),
    "arms down 75": ({16: (0, 0, -75), 17: (0, 0, 75)}, -1.61),
    "elbows 130": ({18: (0, -130, 0), 19: (0, 130, 0)}, -0.43),
}


def pose_figures(
    body: Posable,
    directions: Floats,
    held_out: list[Floats],
    topology: Topology,
    space: ShapeSpace,
    joint_rows: Floats,
) -> list[Figure]:
    """Return distances to the rig's surface in mm, and changes of volume in percent.

    Args:
        body: The mean body.
        directions: Pose directions [V, 3, 207].
        held_out: Poses that were not trained on.
        topology: The reduced mesh.
        space: Shape directions, for other bodies.
        joint_rows: Joint regressor [24, V].
    """
    rng = np.random.default_rng(77)
    moderate = [random_pose(rng, MODERATE) for _ in range(20)]
    plain = _errors([(body, r) for r in held_out], None)
    extreme = _errors([(body, r) for r in held_out], directions)
    easy = _errors([(body, r) for r in moderate], directions)
    bodies = []
    for betas in OTHER_BODIES:
        vertices = space.mean + np.tensordot(np.array(betas, float), space.directions[:3], 1)
        other = Posable(
            vertices, joint_rows @ vertices, body.weights, body.bone_weights, body.bones
        )
        bodies += [(other, r) for r in moderate[:5]]
    others = _errors(bodies, directions)
    figures = [
        close_to("40 extreme poses, skinning alone, mean mm", plain.mean(), 2.73, 0.28),
        at_most("40 extreme poses, mean mm", extreme.mean(), 0.51),
        at_most("40 extreme poses, 95th percentile mm", np.percentile(extreme, 95), 2.26),
        at_most("40 extreme poses, 99th percentile mm", np.percentile(extreme, 99), 4.62),
        at_most("40 extreme poses, largest mm", extreme.max(), 27.8),
        at_most("20 moderate poses, mean mm", easy.mean(), 0.29),
        at_most("20 moderate poses, largest mm", easy.max(), 5.7),
        at_most("other bodies in moderate poses, mean mm", others.mean(), 0.37),
        at_most("other bodies in moderate poses, largest mm", others.max(), 7.6),
        Figure(
            "largest entry of the pose directions, m", float(np.abs(directions).max()), 0, 0.045
        ),
    ]
    rest = signed_volume(body.vertices, topology.faces)
    for name, (angles, wanted) in BENDS.items():
        rotation = np.tile(np.eye(3), (24, 1, 1))
        for joint, degrees in angles.items():
            rotation[joint] = euler_yxz(*degrees)
        posed = signed_volume(pose_model(body, rotation, directions), topology.faces)
        change = 100 * float(posed / rest - 1)
        figures.append(Figure(f"change of volume, {name} degrees, %", change, wanted * 1.1, 0))
    return figures


def _errors(poses: list[tuple[Posable, Floats]], directions: Floats | None) -> Floats:
    """Return the distance of every vertex to the rig's surface in every pose, mm."""
    return np.array(
        [
            1e3 * np.linalg.norm(pose_model(b, r, directions) - pose_target(b, r), axis=1)
            for b, r in poses
        ]
    )


def storage_figures(
    body: Posable, directions: Floats, space: ShapeSpace, held_out: list[Floats]
) -> list[Figure]:
    """Return what storing in half precision costs in random poses and shapes, mm."""
    rng = np.random.default_rng(5)
    errors = []
    weights = _halved(body.weights)
    weights = weights / weights.sum(1, keepdims=True)
    for rotation in held_out[:10]:
        betas = rng.normal(size=10)
        exact = replace(body, vertices=space.mean + np.tensordot(betas, space.directions, 1))
        shape = np.tensordot(betas, _halved(space.directions), 1)
        stored = replace(body, vertices=space.mean + shape, weights=weights)
        posed = (
            pose_model(exact, rotation, directions),
            pose_model(stored, rotation, _halved(directions)),
        )
        errors.append(1e3 * np.linalg.norm(posed[1] - posed[0], axis=1))
    return [
        Figure("storing in half precision, mean mm", float(np.mean(errors)), 0, 0.05),
        Figure("storing in half precision, largest mm", float(np.max(errors)), 0, 0.3),
    ]


def _halved(values: Floats) -> Floats:
    """Return the values as half precision keeps them."""
    return values.astype(np.float16).astype(np.float64)
