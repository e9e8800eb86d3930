"""Rotations and cameras in plain torch."""

from eft_fast.geometry.cameras import (
    crop_intrinsics,
    crop_to_image,
    image_pinhole,
    photo_intrinsics,
    pinhole_to_weak,
    project_intrinsics,
    project_pinhole,
    to_cam_transl,
    to_scale_shift,
    to_shift_scale,
    to_weak_camera,
    weak_project,
    weak_to_pinhole,
)
from eft_fast.geometry.resection import solve_translation, solve_translation_and_focal
from eft_fast.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rot6d,
    rot6d_to_matrix,
)
from eft_fast.person import default_focal_length

__all__ = [
    "axis_angle_to_matrix",
    "crop_intrinsics",
    "crop_to_image",
    "default_focal_length",
    "image_pinhole",
    "matrix_to_axis_angle",
    "matrix_to_rot6d",
    "photo_intrinsics",
    "pinhole_to_weak",
    "project_intrinsics",
    "project_pinhole",
    "rot6d_to_matrix",
    "solve_translation",
    "solve_translation_and_focal",
    "to_cam_transl",
    "to_scale_shift",
    "to_shift_scale",
    "to_weak_camera",
    "weak_project",
    "weak_to_pinhole",
]
