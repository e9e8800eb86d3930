"""A skeleton's motion as SMPL poses, bone by bone.

Notation: W turns the axes of the file to SMPL's (y up, z to the front, x to the left); G_j is the
rotation of the file's joint j from its rest pose in W's axes; d_j and s_j the direction of its bone
in the rest pose of the file and of SMPL. With A_j the smallest rotation that takes s_j to d_j,

    S_j = G_j A_j,    pose_j = S_parent(j)^-1 S_j,

so every limb of SMPL points where the file's limb points, in every frame, and turns about itself as
much as the file's does from its rest pose. A_j is the identity on pelvis, spine, neck and head,
which differ by curvature only. On the feet it turns about the vertical only: both stand flat in
their rest poses, whatever the height of their joints. A hand goes with the lower arm's A_j.

What is lost: proportions, the curvature of the spine, twists that differ between the two rest
poses, toes and fingers beyond what SMPL has, bones that change their length. A joint that the file
does not have stays as its parent is. The way of the root is scaled by the length of the legs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from eft_fast.data.motion.joint_map import SMPL24, find_joints
from eft_fast.data.motion.skeleton import Skeleton, SkeletonMotion
from eft_fast.geometry.rotations import matrix_to_axis_angle

_PARENTS: Final = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21,
)  # fmt: skip
#: The joint at the end of each limb bone.
_LIMB_ENDS: Final = {
    1: 4, 2: 5, 4: 7, 5: 8, 7: 10, 8: 11, 13: 16, 14: 17, 16: 18, 17: 19, 18: 20, 19: 21,
}  # fmt: skip
#: Joints that take A of another bone: hands and toes.
_LIKE: Final = {20: 18, 21: 19, 10: 7, 11: 8}
_FEET: Final = (7, 8)
#: Share of a foot's bone that has to be level for its heading to be told.
_LEVEL: Final = 0.3
_WHO: Final = "retarget"


@dataclass(frozen=True, eq=False)
class Motion:
    """Frames of one person as SMPL poses; y up, z to the front, x to the left in the rest pose.

    Attributes:
        full_pose: Axis-angle of SMPL's 24 joints, radians.
        transl: Added to the posed body, metres; the floor is where the file has it.
        frame_rate: Frames per second.
        betas: Shape coefficients; None: the file knows none.
        notes: What is odd about the file, one sentence each.
    """

    full_pose: Float[np.ndarray, "F 24 3"]
    transl: Float[np.ndarray, "F 3"]
    frame_rate: float
    betas: Float[np.ndarray, " 10"] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.full_pose)


def retarget(
    motion: SkeletonMotion,
    rest_joints: Float[np.ndarray, "24 3"],
    joints: Mapping[str, str] | None = None,
) -> Motion:
    """Turn a skeleton's motion into SMPL poses (see the head of this file).

    Args:
        motion: What an ASF/AMC or BVH file holds.
        rest_joints: SMPL's joints in the rest pose, metres.
        joints: Names of ``smpl24`` to names of the file, where ``find_joints`` does not know them.

    Raises:
        ValueError: If a hip, knee, shoulder or elbow has no name that is known, or the rest pose
            does not stand.
    """
    skeleton = motion.skeleton
    found = find_joints(skeleton, _WHO, joints)
    rest = skeleton.rest_positions()
    to_smpl = _find_axes(rest, found)
    align = _alignments(skeleton, found, rest @ to_smpl.T, to_smpl, rest_joints)
    world = to_smpl @ motion.world_rotations() @ to_smpl.T
    turned = np.empty((len(world), 24, 3, 3))
    for joint, parent in enumerate(_PARENTS):
        if joint in found:
            turned[:, joint] = world[:, found[joint]] @ align[joint]
        else:
            turned[:, joint] = turned[:, parent] if parent >= 0 else np.eye(3)
    local = turned.copy()
    local[:, 1:] = turned[:, _PARENTS[1:]].swapaxes(-1, -2) @ turned[:, 1:]
    full_pose = matrix_to_axis_angle(torch.from_numpy(local)).numpy()

    places = {joint: rest[index] for joint, index in found.items()}
    scale = _leg_length(dict(enumerate(rest_joints)), places) / _leg_length(places, places)
    place = motion.positions()[:, found[0]] @ to_smpl.T
    transl = scale * place - rest_joints[0]
    missing = [SMPL24[joint] for joint in range(22) if joint not in found]
    notes = motion.notes
    if missing:
        notes += (f"the file has no {', '.join(missing)}: these stay as their parents are",)
    return Motion(full_pose, transl, motion.frame_rate, notes=notes)


def _find_axes(
    rest: Float[np.ndarray, "J 3"], found: Mapping[int, int]
) -> Float[np.ndarray, "3 3"]:
    """W: the file's axes that lie closest to left, up and front of its rest pose."""
    shoulders = (rest[found[16]] + rest[found[17]]) / 2
    knees = (rest[found[4]] + rest[found[5]]) / 2
    left = rest[found[1]] - rest[found[2]] + rest[found[16]] - rest[found[17]]
    up = shoulders - knees
    rows = []
    for direction in (left, up):
        axis = int(np.argmax(np.abs(direction)))
        row = np.zeros(3)
        row[axis] = np.sign(direction[axis])
        # An upright person is within 30 degrees of both.
        if np.abs(direction[axis]) < 0.87 * np.linalg.norm(direction) or not np.any(direction):
            raise ValueError(_no_rest_pose())
        rows.append(row)
    if np.abs(rows[0] @ rows[1]) > 0:
        raise ValueError(_no_rest_pose())
    return np.stack([*rows, np.cross(rows[0], rows[1])])


def _no_rest_pose() -> str:
    return (
        f"{_WHO}: expected a rest pose (all angles zero) that stands along the axes of the file, "
        "got one that does not; export it with a T-pose as its rest pose"
    )


def _alignments(
    skeleton: Skeleton,
    found: Mapping[int, int],
    rest: Float[np.ndarray, "J 3"],
    to_smpl: Float[np.ndarray, "3 3"],
    rest_joints: Float[np.ndarray, "24 3"],
) -> Float[np.ndarray, "24 3 3"]:
    """A_j of every joint; ``rest`` is in SMPL's axes."""
    align = np.broadcast_to(np.eye(3), (24, 3, 3)).copy()
    for joint, end in _LIMB_ENDS.items():
        if joint not in found:
            continue
        ours = rest_joints[end] - rest_joints[joint]
        own = to_smpl @ skeleton.bones[found[joint]]
        theirs = rest[found[end]] - rest[found[joint]] if end in found else own
        if joint in _FEET:
            level = theirs * (1.0, 0.0, 1.0)
            if np.linalg.norm(level) > _LEVEL * np.linalg.norm(theirs):
                ours, theirs = ours * (1.0, 0.0, 1.0), level
        if np.linalg.norm(theirs) > 0:
            align[joint] = _smallest_rotation(ours, theirs)
    for joint, other in _LIKE.items():
        align[joint] = align[other]
    return align


def _smallest_rotation(
    source: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' formula about source x target; half a turn where they are opposite."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    cos = float(a @ b)
    if cos < -1 + 1e-9:
        side = np.cross(a, np.eye(3)[int(np.argmin(np.abs(a)))])
        side /= np.linalg.norm(side)
        return np.asarray(2 * np.outer(side, side) - np.eye(3))
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1 + cos))


def _leg_length(places: Mapping[int, np.ndarray], known: Collection[int]) -> float:
    """Both thighs, and both shins where ``known`` has the ankles."""
    bones = [(1, 4), (2, 5)] + ([(4, 7), (5, 8)] if 7 in known and 8 in known else [])
    length = float(sum(np.linalg.norm(places[end] - places[start]) for start, end in bones))
    if not length > 0:
        raise ValueError(f"{_WHO}: expected legs with a length, got thighs and shins of 0")
    return length
