"""Poses of one person in a ``.smpl`` file, the codec of Meshcapade; needs smplcodec (MIT).

The file holds SMPL's 24 joints in axis-angle, the translation, shape coefficients, the gender and
the frame rate, all in float32: what goes in as float32 comes back bit for bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from eft_fast.files import write_bytes

_WHO: Final = "load_smpl_file"


@dataclass(frozen=True, eq=False)
class SmplMotion:
    """Frames of one person.

    Attributes:
        full_pose: Axis-angle of the 24 joints, the root first.
        transl: Added to the posed body, metres.
        betas: Shape coefficients of all frames.
        frame_rate: Frames per second.
        gender: ``neutral``, ``female`` or ``male``.
    """

    full_pose: Float[np.ndarray, "F 72"]
    transl: Float[np.ndarray, "F 3"]
    betas: Float[np.ndarray, " 10"]
    frame_rate: float
    gender: str = "neutral"


def save_smpl_file(path: str | Path, motion: SmplMotion) -> Path:
    """Write a motion.

    Raises:
        ModuleNotFoundError: If smplcodec is not installed.
        ValueError: If the shapes do not agree.
    """
    codec = _codec()
    path, frames = Path(path), len(motion.full_pose)
    if motion.full_pose.shape != (frames, 72) or motion.transl.shape != (frames, 3):
        raise ValueError(
            f"save_smpl_file: full_pose must be [F, 72] and transl [F, 3], got "
            f"{list(motion.full_pose.shape)} and {list(motion.transl.shape)}"
        )
    written = codec.SMPLCodec(
        smpl_version=codec.SMPLVersion.SMPL,
        gender=codec.SMPLGender.from_string(motion.gender),
        shape_parameters=motion.betas.astype(np.float32),
        frame_count=frames,
        frame_rate=float(motion.frame_rate),
        body_translation=motion.transl.astype(np.float32),
        body_pose=motion.full_pose.astype(np.float32).reshape(frames, 24, 3),
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / path.name
        written.write(scratch)
        write_bytes(path, scratch.read_bytes())
    return path


def load_smpl_file(path: str | Path) -> SmplMotion:
    """Read a motion. Of SMPL-H and SMPL-X the body is read: their hands have no place in 24 joints.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If smplcodec is not installed.
        ValueError: If it is no such file, or holds no poses.
    """
    codec = _codec()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHO}: no file {path}")
    try:
        found = codec.SMPLCodec.from_file(path)
    except Exception as error:  # zipfile, numpy and the codec's own checks have no common base
        raise ValueError(f"{_WHO}: {path} must be a .smpl file ({error})") from None
    if found.body_pose is None or not found.frame_count:
        raise ValueError(f"{_WHO}: {path} holds a shape without poses")
    if found.body_pose.shape[1:] not in ((24, 3), (22, 3)):
        got = found.smpl_version.name
        raise ValueError(f"{_WHO}: {path} must hold poses of SMPL, SMPL-H or SMPL-X, got {got}")
    pose = np.zeros((found.frame_count, 24, 3), np.float32)
    pose[:, : found.body_pose.shape[1]] = found.body_pose
    transl = found.body_translation
    betas = np.zeros(10, np.float32)
    given = np.zeros(0) if found.shape_parameters is None else found.shape_parameters[:10]
    betas[: len(given)] = given
    return SmplMotion(
        full_pose=pose.reshape(-1, 72),
        transl=np.zeros((found.frame_count, 3), np.float32) if transl is None else transl,
        betas=betas,
        frame_rate=float(found.frame_rate or 30.0),
        gender=found.gender.name.lower(),
    )


def _codec() -> Any:
    """The package. Its import sets up logging for the whole program, which is undone here."""
    import logging

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        from smplcodec import codec
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            ".smpl files need smplcodec; install eft-fast[formats]", name="smplcodec"
        ) from None
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
    root.setLevel(level)
    return codec
