"""Measures of a body that people know: lengths at rest in metres, angles of joints in degrees.

Lengths are distances of SMPL's kinematic joints, which are not the landmarks of anthropometry: what
they are good for is to compare people, and to see that a fit is no giant. Angles are between bones,
so that they do not depend on how the rotation is split over its joint's axes.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from eft_fast.body.smpl import Smpl
from eft_fast.keypoints import JOINT_SETS

_PLACE: Final = {name: place for place, name in enumerate(JOINT_SETS["smpl24"].names)}
#: Length: the two joints that it lies between.
LENGTHS: Final = {
    "left_upper_arm": ("lsho", "lelb"),
    "right_upper_arm": ("rsho", "relb"),
    "left_forearm": ("lelb", "lwri"),
    "right_forearm": ("relb", "rwri"),
    "left_thigh": ("lhip", "lkne"),
    "right_thigh": ("rhip", "rkne"),
    "left_shank": ("lkne", "lank"),
    "right_shank": ("rkne", "rank"),
    "shoulder_width": ("lsho", "rsho"),
    "hip_width": ("lhip", "rhip"),
    "torso": ("pelvis", "neck"),
}
#: Angle: two bones, each from its first joint to its second; 0: they point the same way.
ANGLES: Final = {
    "left_elbow": (("lsho", "lelb"), ("lelb", "lwri")),
    "right_elbow": (("rsho", "relb"), ("relb", "rwri")),
    "left_knee": (("lhip", "lkne"), ("lkne", "lank")),
    "right_knee": (("rhip", "rkne"), ("rkne", "rank")),
    "left_hip": (("neck", "pelvis"), ("lhip", "lkne")),
    "right_hip": (("neck", "pelvis"), ("rhip", "rkne")),
    "left_shoulder": (("neck", "pelvis"), ("lsho", "lelb")),
    "right_shoulder": (("neck", "pelvis"), ("rsho", "relb")),
}


@torch.no_grad()
def rest_heights(body: Smpl, betas: Float[Tensor, "N 10"]) -> Float[Tensor, " N"]:
    """Height of each body at rest, from the lowest to the highest vertex, metres."""
    given = betas.to(body.v_template)
    heights = [body.v_template[:, 1] + body.shapedirs[:, 1] @ row for row in given]
    if not heights:
        return torch.zeros(0)
    return torch.stack([height.max() - height.min() for height in heights]).cpu()


@torch.no_grad()
def measure_bodies(body: Smpl, betas: Float[Tensor, "N 10"]) -> dict[str, Float[Tensor, " N"]]:
    """Measure bodies at rest, metres: ``height``, and the ``LENGTHS`` between joints.

    Args:
        body: The body model that the coefficients belong to.
        betas: Shape coefficients; a row of NaN gives NaN.
    """
    measures = {"height": rest_heights(body, betas)}
    joints = torch.zeros(0, len(_PLACE), 3)
    if len(betas):
        joints = body(betas.to(body.v_template), return_verts=False).joints.cpu()
    for name, (first, second) in LENGTHS.items():
        measures[name] = (joints[:, _PLACE[first]] - joints[:, _PLACE[second]]).norm(dim=-1)
    return measures


def joint_angles_deg(joints: Float[Tensor, "N 24 3"]) -> dict[str, Float[Tensor, " N"]]:
    """Angles of the ``ANGLES``, degrees: all are 0 of who stands straight with the arms down.

    Elbows and knees tell flexion; hips and shoulders how far thigh and upper arm are away from the
    line of the trunk, to any side. ``trunk`` is how far the line from pelvis to neck leans from the
    picture's up.

    Args:
        joints: Kinematic joints of posed bodies, camera axes (y down).
    """

    def bone(ends: tuple[str, str]) -> Tensor:
        direction: Tensor = joints[:, _PLACE[ends[1]]] - joints[:, _PLACE[ends[0]]]
        return direction

    up = joints.new_tensor([0.0, -1.0, 0.0]).expand(len(joints), 3)
    angles = {name: _angle(bone(one), bone(other)) for name, (one, other) in ANGLES.items()}
    return angles | {"trunk": _angle(bone(("pelvis", "neck")), up)}


def _angle(one: Float[Tensor, "N 3"], other: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    """Degrees between directions; exact near 0 and 180, where arccos is not."""
    cross = torch.linalg.cross(one, other, dim=-1).norm(dim=-1)
    return torch.rad2deg(torch.atan2(cross, (one * other).sum(-1)))
