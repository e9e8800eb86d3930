"""Keypoints of annotated datasets as convex rows over vertices: landmarks of our own.

Annotators click what they see: the middle of a limb, the hip below the waist, the crown. The places
below are anatomical choices, not fits to any dataset, so a bias of one to three centimetres against
a dataset is to be expected.
"""

from __future__ import annotations

import numpy as np

from .correctives import Posable, pose_model
from .decimate import Topology
from .poses import random_pose
from .rig import JOINT_NAMES, PARENTS
from .rotations import fraction
from .shape_space import PosedPeople
from .skinning import joint_transforms
from .source import Floats
from .sparse_rows import fit_row, near

# The order of the stored rows.
NAMES = (
    "rhip_lsp lhip_lsp neck_lsp headtop_lsp pelvis_mpii thorax_mpii spine_h36m jaw_h36m head_h36m "
    "coco_lsho coco_rsho coco_lelb coco_relb coco_lwri coco_rwri "
    "coco_lhip coco_rhip coco_lkne coco_rkne coco_lank coco_rank"
).split()
# Annotated hips lie outside and above the hip joint, metres on a body of 1.69 m.
HIP_OFFSET = np.array([0.008, 0.02, 0.0])
REFERENCE_STATURE = 1.69
# Half thickness of the slice through a limb whose middle is the keypoint, metres.
SLICE = 0.015
# Joint, axis of the limb in the T-pose, and how far from the joint vertices count, metres.
LIMBS = {
    "coco_lelb": ("left_elbow", 0, 0.10),
    "coco_lwri": ("left_wrist", 0, 0.08),
    "coco_lkne": ("left_knee", 1, 0.13),
    "coco_lank": ("left_ankle", 1, 0.075),
}
BALL_RADIUS = 0.2
NUM_RESTING = 80
NUM_BENT = 80
# Height of the seventh vertebra's spine above the suprasternal notch, metres.
VERTEBRA_RISE = 0.03


class KeypointFitter:
    """Fits convex rows to points of resting people and of the mean body with one joint bent."""

    def __init__(
        self,
        topology: Topology,
        people: PosedPeople,
        body: Posable,
        directions: Floats,
        joint_rows: Floats,
    ) -> None:
        self.body = body
        self.directions = directions
        self.bodies = people.vertices[:NUM_RESTING]
        self.joint = dict(zip(JOINT_NAMES, joint_rows, strict=True))
        self.mirror = topology.mirror
        self.usable = ~(topology.is_hidden | topology.is_eye)

    def fit(self, name: str, points: Floats, radius: float, share: float) -> Floats:
        """Return the row of a point that stays with a joint.

        Args:
            name: The joint.
            points: The point of each resting person, [N, 3].
            radius: How far from the joint vertices may carry weight, metres.
            share: Part of the joint's own rotation that turns the offset from joint to point.
        """
        index = JOINT_NAMES.index(name)
        place = self.body.joints[index]
        offset = (points - self.joint[name] @ self.bodies).mean(0)
        bent, targets = [], []
        rng = np.random.default_rng(index)
        for _ in range(NUM_BENT):
            rotation = np.tile(np.eye(3), (24, 1, 1))
            rotation[index] = random_pose(rng)[index]
            world, _, posed = joint_transforms(rotation, self.body.joints)
            turn = world[PARENTS[index]] @ fraction(rotation[index], share)
            bent.append(pose_model(self.body, rotation, self.directions))
            targets.append(posed[index] + turn @ offset)
        candidates = near(self.body.vertices, place, radius, self.usable)
        return fit_row(
            np.concatenate([self.bodies, bent]), np.concatenate([points, targets]), candidates
        )

    def limb(self, name: str, axis: int, radius: float) -> Floats:
        """Return the row of the middle of a limb at a joint, as seen from two sides."""
        candidates = near(
            self.body.vertices, self.body.joints[JOINT_NAMES.index(name)], radius, self.usable
        )
        joints = self.joint[name] @ self.bodies
        points = joints.copy()
        for i, (limb, joint) in enumerate(zip(self.bodies[:, candidates], joints, strict=True)):
            inside = limb[np.abs(limb[:, axis] - joint[axis]) < SLICE]
            middle = (inside.min(0) + inside.max(0)) / 2
            across = [k for k in range(3) if k != axis]
            points[i, across] = middle[across]
        return self.fit(name, points, radius, 0.5)

    def midline(self, nose: int) -> dict[str, Floats]:
        """Return neck, crown, jaw and head, made of midline vertices and the head joint."""
        mean = self.body.vertices
        middle = self.usable & (self.mirror == np.arange(len(mean)))
        neck = self.body.joints[JOINT_NAMES.index("neck")]
        _, y, z = mean.T

        def unit(vertex: int) -> Floats:
            row = np.zeros(len(mean))
            row[vertex] = 1.0
            return row

        throat = middle & (z > neck[2]) & (y > neck[1] - 0.07) & (y < neck[1] - 0.03)
        notch = int(np.argmin(np.where(throat, z, np.inf)))
        nape = middle & (z < neck[2])
        vertebra = int(np.argmin(np.where(nape, np.abs(y - y[notch] - VERTEBRA_RISE), np.inf)))
        crown = unit(int(np.argmax(np.where(middle, y, -np.inf))))
        return {
            "neck_lsp": (unit(notch) + unit(vertebra)) / 2,
            "headtop_lsp": crown,
            # Inside the face, half way from the nose to the head joint.
            "jaw_h36m": (unit(nose) + self.joint["head"]) / 2,
            # Markers sit on the skull: a little below the crown.
            "head_h36m": 0.85 * crown + 0.15 * self.joint["head"],
        }


def fit_keypoint_rows(fitter: KeypointFitter, nose: int) -> dict[str, Floats]:
    """Return the rows [V] of every name in ``NAMES``, left ones fitted and right ones reflected.

    Args:
        fitter: The body, its people and its joints.
        nose: The nose vertex.
    """
    rows: dict[str, Floats] = {}
    for name, (joint, axis, radius) in LIMBS.items():
        rows[name] = fitter.limb(joint, axis, radius)
    shoulders = fitter.joint["left_shoulder"] @ fitter.bodies
    rows["coco_lsho"] = fitter.fit("left_shoulder", shoulders, BALL_RADIUS, 0.0)
    stature = np.ptp(fitter.bodies[:, :, 1], axis=1)[:, None] / REFERENCE_STATURE
    hips = fitter.joint["left_hip"] @ fitter.bodies + HIP_OFFSET * stature
    # What annotators click at the hip belongs to the pelvis: it does not turn with the thigh.
    rows["coco_lhip"] = fitter.fit("left_hip", hips, BALL_RADIUS, 0.0)
    for name in list(rows):
        rows[name.replace("coco_l", "coco_r")] = rows[name][fitter.mirror]
    rows |= {"lhip_lsp": rows["coco_lhip"], "rhip_lsp": rows["coco_rhip"]}
    rows["pelvis_mpii"] = (rows["lhip_lsp"] + rows["rhip_lsp"]) / 2
    rows["thorax_mpii"] = (rows["coco_lsho"] + rows["coco_rsho"]) / 2
    rows["spine_h36m"] = (fitter.joint["spine1"] + fitter.joint["spine2"]) / 2
    rows |= fitter.midline(nose)
    return {name: rows[name] for name in NAMES}
