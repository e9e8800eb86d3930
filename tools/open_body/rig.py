"""From the 104-bone rig to 24 joints: joint places, bone ownership, and the T-pose."""

from __future__ import annotations

import numpy as np

from .rotations import exp_map, fraction, rotation_between
from .source import Floats, Ints

JOINT_NAMES = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 "
    "left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder "
    "left_elbow right_elbow left_wrist right_wrist left_hand right_hand"
).split()
PARENTS = np.array(
    [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
)
MIRROR_JOINTS = np.array(
    [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
)
# Where the T-pose puts the pelvis, so that the origin lies in the chest.
PELVIS = np.array([0.0, -0.22, 0.0])
FLIP_X = np.array([-1.0, 1.0, 1.0])

_CENTRAL = {
    0: {"root": 1.0},
    3: {"spine03": 1.0},
    6: {"spine02": 0.85, "spine01": 0.15},
    9: {"spine02": 0.5, "spine01": 0.5},
    12: {"neck01": 1.0},
    15: {"neck03": 0.5, "head": 0.5},
}
# Index of the left joint; the right one follows it. Names without a side are central bones.
_PAIRED = {
    1: {"upperleg01": 0.4, "upperleg02": 0.4, "root": 0.2},
    4: {"lowerleg01": 1.0},
    7: {"foot": 1.0},
    10: {"toe1-1": 0.35, "toe2-1": 0.35, "toe3-1": 0.3},
    13: {"upperarm01": 0.5, "spine01": 0.25, "neck01": 0.25},
    16: {"upperarm01": 1.0},
    18: {"lowerarm01": 1.0},
    20: {"wrist": 1.0},
    22: {"finger3-1": 1.0},
}
# First match wins. Bones with a side add 1 on the right. spine04, spine02 and neck03 are split
# between two joints by skin_weights.split_bones.
_OWNERS = (
    ("pelvis", 0),
    ("root", 0),
    ("spine05", 0),
    ("spine04", 0),
    ("spine03", 3),
    ("spine02", 6),
    ("spine01", 9),
    ("upperleg", 1),
    ("lowerleg", 4),
    ("foot", 7),
    ("toe", 10),
    ("neck01", 12),
    ("neck02", 12),
    ("neck03", 15),
    ("head", 15),
    ("eye", 15),
    ("clavicle", 13),
    ("shoulder01", 13),
    ("upperarm", 16),
    ("lowerarm", 18),
    ("wrist", 20),
    ("metacarpal", 20),
    ("finger1-1", 20),
    ("finger", 22),
)


def joint_combinations(bones: tuple[str, ...]) -> Floats:
    """Return the matrix [24, 104] that makes the joints from the bone heads."""
    index = {name: i for i, name in enumerate(bones)}
    matrix = np.zeros((24, len(bones)))
    for joint, parts in _CENTRAL.items():
        for name, share in parts.items():
            matrix[joint, index[name]] = share
    for joint, parts in _PAIRED.items():
        for offset, side in enumerate((".L", ".R")):
            for name, share in parts.items():
                matrix[joint + offset, index[name if name in index else name + side]] = share
    return matrix


def owner_joint(bone: str) -> int:
    """Return the joint that a bone of the rig moves with."""
    for prefix, joint in _OWNERS:
        if bone.startswith(prefix):
            return joint + (bone.endswith(".R") if joint not in _CENTRAL else 0)
    raise ValueError(f"owner_joint: no joint for bone {bone}")


class TPose:
    """Solves the T-pose of one person exactly from their bone heads."""

    def __init__(self, bones: tuple[str, ...], parents: Ints) -> None:
        self.bones = bones
        self.parents = parents
        self.index = {name: i for i, name in enumerate(bones)}

    def transforms(self, heads: Floats) -> tuple[Floats, Floats, Floats]:
        """Return world rotations [104, 3, 3], shifts [104, 3] and moved bone heads [104, 3]."""
        rotation = np.tile(np.eye(3), (len(self.bones), 1, 1))
        for side, sign in ((".L", 1.0), (".R", -1.0)):
            self._pose_arm(rotation, heads, side, sign)
            self._pose_leg(rotation, heads, side, sign)
        moved = heads.copy()
        for bone in range(1, len(self.bones)):
            parent = self.parents[bone]
            moved[bone] = moved[parent] + rotation[parent] @ (heads[bone] - heads[parent])
        return rotation, moved - np.einsum("bij,bj->bi", rotation, heads), moved

    def _set(self, rotation: Floats, side: str, value: Floats, *prefixes: str) -> None:
        for name, i in self.index.items():
            if name.endswith(side) and name.startswith(prefixes):
                rotation[i] = value

    def _pose_arm(self, rotation: Floats, heads: Floats, side: str, sign: float) -> None:
        """Upper arm, forearm and hand along +-x, palm down, the twist spread over the arm."""

        def head(name: str) -> Floats:
            return np.asarray(heads[self.index[name + side]])

        outward = np.array([sign, 0.0, 0.0])
        upper = rotation_between(
            head("lowerarm01") - head("upperarm01"), np.array([sign, -0.03, -0.02])
        )
        lower = rotation_between(upper @ (head("wrist") - head("lowerarm01")), outward) @ upper
        knuckles = (head("finger2-1") + head("finger5-1")) / 2
        hand = rotation_between(lower @ (knuckles - head("wrist")), outward) @ lower
        across = hand @ (head("finger2-1") - head("finger5-1"))
        # Rolls the little-to-index axis to +z, which turns the palm down.
        roll = np.arctan2(across[1], across[2])

        def rolled(share: float, base: Floats) -> Floats:
            return np.asarray(exp_map(np.array([roll * share, 0.0, 0.0])) @ base)

        self._set(rotation, side, fraction(upper, 0.22), "clavicle", "shoulder01")
        self._set(rotation, side, rolled(0.10, upper), "upperarm01")
        self._set(rotation, side, rolled(0.25, upper), "upperarm02")
        self._set(rotation, side, rolled(0.35, lower), "lowerarm01")
        self._set(rotation, side, rolled(0.75, lower), "lowerarm02")
        self._set(rotation, side, rolled(1.0, hand), "wrist", "finger", "metacarpal")

    def _pose_leg(self, rotation: Floats, heads: Floats, side: str, sign: float) -> None:
        """Thigh 4 degrees out, shin straight down, feet 9 degrees out."""

        def head(name: str) -> Floats:
            return np.asarray(heads[self.index[name + side]])

        hip = 0.8 * head("upperleg01") + 0.2 * head("upperleg02")
        thigh = rotation_between(head("lowerleg01") - hip, np.array([sign * 0.07, -1.0, 0.0]))
        shin = thigh @ (head("foot") - head("lowerleg01"))
        shank = rotation_between(shin, np.array([-sign * 0.01, -1.0, -0.06])) @ thigh
        foot = head("toe2-1") - head("foot")
        yaw = sign * np.deg2rad(9) - np.arctan2(foot[0], foot[2])
        self._set(rotation, side, thigh, "upperleg")
        self._set(rotation, side, shank, "lowerleg")
        self._set(rotation, side, exp_map(np.array([0.0, yaw, 0.0])), "foot", "toe")
