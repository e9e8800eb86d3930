"""Rotations and cameras in plain torch."""

from eft_fast.geometry.cameras import (
    crop_to_image,
    image_pinhole,
    project_pinhole,
    to_cam_transl,
    to_scale_shift,
    to_shift_scale,
    weak_project,
)
from eft_fast.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rot6d,
    rot6d_to_matrix,
)

__all__ = [
    "axis_angle_to_matrix",
    "crop_to_image",
    "image_pinhole",
    "matrix_to_axis_angle",
    "matrix_to_rot6d",
    "project_pinhole",
    "rot6d_to_matrix",
    "to_cam_transl",
    "to_scale_shift",
    "to_shift_scale",
    "weak_project",
]
