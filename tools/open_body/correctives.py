"""Pose directions: what 24-joint linear skinning misses of the 104-bone rig's surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decimate import Topology
from .poses import random_pose, seated_pose
from .rig import FLIP_X, MIRROR_JOINTS, PARENTS, owner_joint
from .rotations import fraction, split_twist
from .skinning import joint_transforms, skin_dual_quaternion, skin_linear
from .source import Floats

NUM_POSES = 380
NUM_SEATED = 300
NUM_HELD_OUT = 40
# With 300 seated poses more, a tenth of the first ridge lowers every error.
RIDGE = 0.3
# Keeps the un-skinning finite where a vertex's bones cancel each other.
UNSKIN_RIDGE = 0.05
DUAL_SHARE = 0.5
INFLUENCE = 0.02


@dataclass(frozen=True)
class Posable:
    """A body that can be posed by 24 joints: rest shape, joints, and both sets of weights."""

    vertices: Floats
    joints: Floats
    weights: Floats
    bone_weights: Floats
    bones: tuple[str, ...]


def pose_features(rotation: Floats) -> Floats:
    """Return vec(R_j - I) of joints 1 to 23, row-major, [207]."""
    return np.asarray((rotation[1:] - np.eye(3)).reshape(-1))


def pose_model(body: Posable, rotation: Floats, directions: Floats | None) -> Floats:
    """Return the vertices of the 24-joint model, with pose directions [V, 3, 207] or without."""
    world, shift, _ = joint_transforms(rotation, body.joints)
    rest = body.vertices
    if directions is not None:
        rest = rest + directions @ pose_features(rotation)
    return skin_linear(rest, body.weights, world, shift)


def pose_target(body: Posable, rotation: Floats) -> Floats:
    """Return the surface to imitate: half linear, half dual quaternion, with twist bones.

    Bones follow their joint about the joint's own pivot. Thigh and upper arm take part of their own
    twist, the forearm part of the wrist's, and three spine bones half of the rotation above them.
    """
    index = {name: i for i, name in enumerate(body.bones)}
    world, shift, posed = joint_transforms(rotation, body.joints)
    moves_with = np.array([_driver(name) for name in body.bones])
    bone_world, bone_shift = world[moves_with], shift[moves_with]

    def turn(bone: str, value: Floats, joint: int) -> None:
        bone_world[index[bone]] = value
        bone_shift[index[bone]] = posed[joint] - value @ body.joints[joint]

    for side, offset in ((".L", 0), (".R", 1)):
        for joint, child, bone, share in ((1, 4, "upperleg01", 0.45), (16, 18, "upperarm01", 0.4)):
            joint, child = joint + offset, child + offset
            swing, twist = split_twist(rotation[joint], _axis(body.joints, joint, child))
            value = world[PARENTS[joint]] @ swing @ fraction(twist, share)
            turn(bone + side, value, joint)
        elbow, wrist = 18 + offset, 20 + offset
        _, twist = split_twist(rotation[wrist], _axis(body.joints, elbow, wrist))
        turn("lowerarm01" + side, world[elbow] @ fraction(twist, 0.2), elbow)
        turn("lowerarm02" + side, world[elbow] @ fraction(twist, 0.65), elbow)
    turn("spine04", world[0] @ fraction(rotation[3], 0.5), 3)
    turn("spine02", world[6] @ fraction(rotation[9], 0.5), 9)
    turn("neck03", world[12] @ fraction(rotation[15], 0.5), 15)
    dual = skin_dual_quaternion(body.vertices, body.bone_weights, bone_world, bone_shift)
    linear = skin_linear(body.vertices, body.bone_weights, bone_world, bone_shift)
    return DUAL_SHARE * dual + (1 - DUAL_SHARE) * linear


def _driver(bone: str) -> int:
    """Return the joint whose transform a bone takes before its own rule."""
    return {"spine04": 3, "spine02": 9}.get(bone, owner_joint(bone))


def _axis(joints: Floats, start: int, end: int) -> Floats:
    along = joints[end] - joints[start]
    return np.asarray(along / np.linalg.norm(along))


def draw_poses() -> tuple[list[Floats], list[Floats]]:
    """Return training and held-out rotations [24, 3, 3]; 300 training poses fold the hips."""
    rng = np.random.default_rng(3)
    training = [random_pose(rng) for _ in range(NUM_POSES)]
    held_out = [random_pose(rng) for _ in range(NUM_HELD_OUT)]
    rng = np.random.default_rng(4)
    return training + [seated_pose(rng) for _ in range(NUM_SEATED)], held_out


def rest_offset(body: Posable, rotation: Floats) -> Floats:
    """Return what linear skinning misses of the target, pulled back to the rest pose, [V, 3]."""
    world, shift, _ = joint_transforms(rotation, body.joints)
    linear = skin_linear(body.vertices, body.weights, world, shift)
    missing = pose_target(body, rotation) - linear
    blended = (body.weights @ world.reshape(-1, 9)).reshape(-1, 3, 3)
    turned = blended.transpose(0, 2, 1)
    square = turned @ blended + UNSKIN_RIDGE * np.eye(3)
    return np.asarray(np.linalg.solve(square, turned @ missing[:, :, None])[..., 0])


def fit_directions(topology: Topology, body: Posable, rotations: list[Floats]) -> Floats:
    """Fit the offsets linearly in the features of the joints near each vertex.

    Args:
        topology: The reduced mesh, for its symmetry.
        body: The mean body.
        rotations: Training poses, each [24, 3, 3].

    Returns:
        Symmetric pose directions [V, 3, 207].
    """
    features = np.stack([pose_features(r) for r in rotations])
    offsets = np.stack([rest_offset(body, r) for r in rotations])
    near = body.weights > INFLUENCE
    sees = np.stack([near[:, j] | near[:, PARENTS[j]] for j in range(1, 24)], axis=1)
    groups, member = np.unique(sees, axis=0, return_inverse=True)
    member = member.ravel()
    directions = np.zeros((len(body.vertices), 3, 207))
    for group, joints in enumerate(groups):
        columns = np.flatnonzero(np.repeat(joints, 9))
        rows = np.flatnonzero(member == group)
        if len(columns):
            a = features[:, columns]
            gram = a.T @ a + RIDGE * np.eye(len(columns))
            solved = np.linalg.solve(gram, a.T @ offsets[:, rows].reshape(len(a), -1))
            block = solved.reshape(len(columns), len(rows), 3).transpose(1, 2, 0)
            directions[rows[:, None, None], np.arange(3)[:, None], columns] = block
    return _symmetrise(topology, directions)


def _symmetrise(topology: Topology, directions: Floats) -> Floats:
    """Average with the reflection: a mirrored rotation changes sign where one index is x."""
    split = directions.reshape(-1, 3, 23, 3, 3)
    other = split[topology.mirror][:, :, MIRROR_JOINTS[1:] - 1]
    sign = FLIP_X[:, None, None, None] * FLIP_X[:, None] * FLIP_X
    return np.asarray(((split + other * sign) / 2).reshape(-1, 3, 207))
