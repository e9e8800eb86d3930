"""Poses in the npz form of AMASS: SMPL-H's 52 joints, z up, one shape for all frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

_NUM_BODY: Final = 66  # root and 21 body joints, three numbers each
_NUM_SMPLH: Final = 156
_NUM_BETAS: Final = 16
#: From the camera frame (x right, y down, z forward) to AMASS's world (z up).
TO_Z_UP: Final = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class AmassMotion:
    """Frames of one person, in AMASS's world: z up.

    Attributes:
        full_pose: Axis-angle of SMPL's 24 joints; the two hands are not in the file.
        transl: Added to the posed body, metres.
        betas: Shape coefficients of all frames.
        frame_rate: Frames per second.
        regressor_id: Regressor and hash of the weights that the fits started from; None: unknown.
            AMASS's own files do not have it, and its readers pass over it.
    """

    full_pose: Float[np.ndarray, "F 72"]
    transl: Float[np.ndarray, "F 3"]
    betas: Float[np.ndarray, " 10"]
    frame_rate: float
    regressor_id: str | None = None


def save_amass_npz(path: str | Path, motion: AmassMotion) -> Path:
    """Write a motion. Fingers are straight, and shape coefficients beyond the tenth are zero."""
    path = Path(path)
    frames = len(motion.full_pose)
    poses = np.zeros((frames, _NUM_SMPLH))
    poses[:, :_NUM_BODY] = motion.full_pose[:, :_NUM_BODY]
    betas = np.zeros(_NUM_BETAS)
    betas[: len(motion.betas)] = motion.betas
    arrays: dict[str, np.ndarray] = {
        "poses": poses,
        "trans": motion.transl.astype(np.float64),
        "betas": betas,
        "dmpls": np.zeros((frames, 8)),
        "gender": np.array("neutral"),
        "mocap_framerate": np.array(float(motion.frame_rate)),
    }
    if motion.regressor_id is not None:
        arrays["regressor"] = np.array(motion.regressor_id)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def load_amass_npz(path: str | Path) -> AmassMotion:
    """Read a motion; both spellings of the frame rate are known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If poses, translations or the frame rate are missing or have another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_amass_npz: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "gender"}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"load_amass_npz: {path} must be an npz of plain arrays") from error
    rate = arrays.get("mocap_framerate", arrays.get("mocap_frame_rate"))
    poses, transl = arrays.get("poses"), arrays.get("trans")
    if rate is None or poses is None or transl is None:
        raise ValueError(f"load_amass_npz: {path} must hold poses, trans and mocap_framerate")
    if poses.ndim != 2 or poses.shape[1] < _NUM_BODY or transl.shape != (len(poses), 3):
        raise ValueError(
            f"load_amass_npz: poses must be [F, {_NUM_SMPLH}] and trans [F, 3], got "
            f"{list(poses.shape)} and {list(transl.shape)}"
        )
    full_pose = np.zeros((len(poses), 72))
    full_pose[:, :_NUM_BODY] = poses[:, :_NUM_BODY]
    betas = arrays.get("betas", np.zeros(_NUM_BETAS)).reshape(-1)[:10]
    regressor = str(arrays["regressor"]) if "regressor" in arrays else None
    return AmassMotion(full_pose, transl, betas, float(rate), regressor)
