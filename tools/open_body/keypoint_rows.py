"""Keypoints of annotated datasets as convex rows over vertices: landmarks of our own.

Annotators click what they see: the middle of a limb, the hip below the waist, the crown. The places below are anatomical
choices, not fits to any dataset, so a bias of one to three centimetres against a dataset is to be expected.
"""

from __future__ import annotations

import numpy as np

from .decimate import Topology
from .population import NUM_TRAIN
from .rig import JOINT_NAMES
from .shape_space import PosedPeople
from .source import Floats
from .sparse_rows import NUM_PEOPLE, fit_row, near

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
HIP_RADIUS = 0.2
# Height of the seventh vertebra's spine above the suprasternal notch, metres.
VERTEBRA_RISE = 0.03


def fit_keypoint_rows(
    topology: Topology,
    people: PosedPeople,
    mean: Floats,
    joint_rows: Floats,
    weights: Floats,
    nose: int,
) -> dict[str, Floats]:
    """Return the rows [V] of every name in ``NAMES``.

    Args:
        topology: The reduced mesh.
        people: T-posed people.
        mean: Mean vertices [V, 3].
        joint_rows: Joint regressor [24, V].
        weights: Skinning weights [V, 24].
        nose: The nose vertex.
    """
    bodies = people.vertices[:NUM_PEOPLE]
    joint = dict(zip(JOINT_NAMES, joint_rows, strict=True))
    rows: dict[str, Floats] = {"coco_lsho": joint["left_shoulder"]}
    usable = ~(topology.is_hidden | topology.is_eye)
    for name, (at, axis, radius) in LIMBS.items():
        candidates = near(mean, joint[at] @ mean, radius, usable)
        points = _limb_middle(bodies[:, candidates], joint[at] @ bodies, axis)
        rows[name] = fit_row(bodies, points, candidates)
    stature = np.ptp(bodies[:, :, 1], axis=1)[:, None] / REFERENCE_STATURE
    hips = joint["left_hip"] @ bodies + HIP_OFFSET * stature
    # Where annotators click moves with the pelvis, so its vertices carry the row.
    rows["coco_lhip"] = fit_row(
        bodies, hips, near(mean, hips.mean(0), HIP_RADIUS, usable & (weights[:, 0] > 0.25))
    )
    for name in list(rows):
        rows[name.replace("coco_l", "coco_r")] = rows[name][topology.mirror]
    rows |= {"lhip_lsp": rows["coco_lhip"], "rhip_lsp": rows["coco_rhip"]}
    rows["pelvis_mpii"] = (rows["lhip_lsp"] + rows["rhip_lsp"]) / 2
    rows["thorax_mpii"] = (rows["coco_lsho"] + rows["coco_rsho"]) / 2
    rows["spine_h36m"] = (joint["spine1"] + joint["spine2"]) / 2
    rows |= _midline_rows(topology, mean, joint, usable, nose)
    return {name: rows[name] for name in NAMES}


def _limb_middle(vertices: Floats, joints: Floats, axis: int) -> Floats:
    """Return the middle of each person's limb, seen from two sides, at the joint [N, 3]."""
    points = joints.copy()
    for i, (limb, joint) in enumerate(zip(vertices, joints, strict=True)):
        inside = limb[np.abs(limb[:, axis] - joint[axis]) < SLICE]
        middle = (inside.min(0) + inside.max(0)) / 2
        for other in {0, 1, 2} - {axis}:
            points[i, other] = middle[other]
    return points


def _midline_rows(
    topology: Topology, mean: Floats, joint: dict[str, Floats], usable: np.ndarray, nose: int
) -> dict[str, Floats]:
    """Return neck, crown, jaw and head, made of midline vertices and the head joint."""
    middle = usable & (topology.mirror == np.arange(len(mean)))
    neck = joint["neck"] @ mean
    _, y, z = mean.T

    def unit(vertex: int) -> Floats:
        row = np.zeros(len(mean))
        row[vertex] = 1.0
        return row

    throat = middle & (z > neck[2]) & (np.abs(y - neck[1]) < 0.07)
    notch = int(np.argmin(np.where(throat & (y < neck[1] - 0.03), z, np.inf)))
    nape = middle & (z < neck[2])
    vertebra = int(np.argmin(np.where(nape, np.abs(y - y[notch] - VERTEBRA_RISE), np.inf)))
    crown = unit(int(np.argmax(np.where(middle, y, -np.inf))))
    return {
        "neck_lsp": (unit(notch) + unit(vertebra)) / 2,
        "headtop_lsp": crown,
        # Inside the face, half way from the nose to the head joint.
        "jaw_h36m": (unit(nose) + joint["head"]) / 2,
        # Markers sit on the skull, hair and skin above them: a little below the crown.
        "head_h36m": 0.85 * crown + 0.15 * joint["head"],
    }
