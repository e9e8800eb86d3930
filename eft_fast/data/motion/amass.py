"""AMASS archives: SMPL-H or SMPL-X poses in a world whose z is up."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float

from eft_fast.data.formats.amass_npz import load_amass_npz
from eft_fast.data.motion.retarget import Motion
from eft_fast.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle

#: From AMASS's world (z up) to ours (y up): (x, y, z) -> (x, z, -y).
TO_Y_UP: Final = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def read_amass(path: str | Path, rest_joints: Float[np.ndarray, "24 3"]) -> Motion:
    """Read a motion; 22 joints are taken over as they are, hands are those of a flat hand.

    The root turns by C = ``TO_Y_UP``: R' = C R, and with the pelvis J0 of the rest pose
    t' = C (J0 + t) - J0, so that the posed body is the same one in other axes.

    Args:
        path: A ``*_poses.npz`` or ``*_stageii.npz``; ``shape.npz`` holds no motion.
        rest_joints: SMPL's joints in the rest pose, metres; of the mean shape.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no motion, or numbers that are not finite.
    """
    motion = load_amass_npz(path)
    full_pose = motion.full_pose.reshape(-1, 24, 3).copy()
    if not (np.isfinite(full_pose).all() and np.isfinite(motion.transl).all()):
        raise ValueError(f"read_amass: expected finite poses and translations in {path}")
    if not 0 < motion.frame_rate < 1e4:
        raise ValueError(
            f"read_amass: expected frames per second, got {motion.frame_rate} in {path}"
        )
    root = torch.from_numpy(full_pose[:, 0].astype(np.float64))
    turned = torch.from_numpy(TO_Y_UP) @ axis_angle_to_matrix(root)
    full_pose[:, 0] = matrix_to_axis_angle(turned).numpy()
    transl = (rest_joints[0] + motion.transl) @ TO_Y_UP.T - rest_joints[0]
    notes: tuple[str, ...] = ()
    betas: np.ndarray | None = motion.betas
    if motion.model_type == "smplx":
        betas = None
        notes = ("poses of SMPL-X, whose rest pose differs from SMPL's by a few degrees; no shape",)
    return Motion(full_pose, transl, motion.frame_rate, betas, notes)
