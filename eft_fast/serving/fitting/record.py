"""Fits of people on photos: what ``Predictor.fit`` gives."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_fast.files import save_npz
from eft_fast.serving.card import ModelCard

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int


@dataclass(frozen=True, eq=False)
class PhotoFits:
    """Fitted bodies of N people, in the order they were given.

    A person who could not be read has NaN everywhere; one without keypoints has the regressor's
    answer. ``stop_reason`` and ``message`` say so. Names are those of ``FitResult`` where it has
    the same.

    Attributes:
        rotmat: Rotation of each joint relative to its parent; joint 0 is the root, body to camera.
        betas: Shape coefficients of the model's body.
        cam: ``s, tx, ty`` of the weak camera of the crop, u = s * X + t in [-1, 1]; with a pinhole,
            that which agrees with it in the plane of the root.
        init_rotmat: Rotations of the regressor's answer.
        init_betas: Its shape.
        init_cam: Its weak camera.
        joints: Points of ``joint_set`` of the fitted body, metres, camera axes, about its origin.
        joints_2d_px: The same as the camera of the fit sees them, photo pixels.
        smpl_joints: The 24 kinematic joints, as ``joints``.
        cam_transl: Where the body's origin stands before the pinhole, metres; NaN: weak camera.
        intrinsics: Pinhole of the photo, pixels, as given or as the fit assumed; NaN: weak camera.
        bbox_center: Centre of each crop, photo pixels.
        bbox_scale: Side of each crop over 200 photo pixels.
        keypoints: The given keypoints in photo pixels, cleaned: 0 where they were not used.
        kp_error_px: Mean distance of projected to given keypoints, photo pixels.
        init_kp_error_px: The same of the regressor's answer.
        energy: What was minimised (docs/map.md), at the end.
        init_energy: The same of the regressor's answer.
        tension: ``energy`` over the number of data: about 1 where model and data agree.
        joint_sigma_mm: Radius about each kinematic joint, both about the pelvis, that holds the
            true one with 68 %; NaN unless asked for.
        weight_factor: What the robust weights left of each keypoint, 1 where they were not used.
        turned: Whose answer began turned by 180 degrees.
        flipped: Who had a bone flipped in depth.
        swapped_arms: Whose left and right arm were taken for each other's.
        swapped_legs: Whose legs probably are exchanged; the fit took them as given.
        steps: Solves behind the fit.
        stop_reason: ``converged``, ``max_steps``, ``nan``, ``no_keypoints`` or ``bad_image``.
        message: What was wrong with each person, or empty.
        joint_set: Name of the order of ``keypoints`` and ``joints``.
        card: The model.
    """

    rotmat: Float32[np.ndarray, "N 24 3 3"]
    betas: Float32[np.ndarray, "N 10"]
    cam: Float32[np.ndarray, "N 3"]
    init_rotmat: Float32[np.ndarray, "N 24 3 3"]
    init_betas: Float32[np.ndarray, "N 10"]
    init_cam: Float32[np.ndarray, "N 3"]
    joints: Float32[np.ndarray, "N K 3"]
    joints_2d_px: Float32[np.ndarray, "N K 2"]
    smpl_joints: Float32[np.ndarray, "N 24 3"]
    cam_transl: Float32[np.ndarray, "N 3"]
    intrinsics: Float64[np.ndarray, "N 3 3"]
    bbox_center: Float64[np.ndarray, "N 2"]
    bbox_scale: Float64[np.ndarray, " N"]
    keypoints: Float32[np.ndarray, "N K 3"]
    kp_error_px: Float32[np.ndarray, " N"]
    init_kp_error_px: Float32[np.ndarray, " N"]
    energy: Float32[np.ndarray, " N"]
    init_energy: Float32[np.ndarray, " N"]
    tension: Float32[np.ndarray, " N"]
    joint_sigma_mm: Float32[np.ndarray, "N 24"]
    weight_factor: Float32[np.ndarray, "N K"]
    turned: Bool[np.ndarray, " N"]
    flipped: Bool[np.ndarray, " N"]
    swapped_arms: Bool[np.ndarray, " N"]
    swapped_legs: Bool[np.ndarray, " N"]
    steps: Int[np.ndarray, " N"]
    stop_reason: tuple[str, ...]
    message: tuple[str, ...]
    joint_set: str
    card: ModelCard = field(repr=False)

    def __len__(self) -> int:
        return len(self.betas)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.npz`` without pickles; names are those of the attributes."""
        arrays: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("stop_reason", "message"):
            arrays[name] = np.array(arrays[name], dtype=np.str_)
        arrays |= {"card": np.array(self.card.to_json()), "joint_set": np.array(self.joint_set)}
        save_npz(path, arrays)
