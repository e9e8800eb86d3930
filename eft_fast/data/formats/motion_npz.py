"""Poses for rendering, as ``eft-fast motion convert`` writes and ``--motion`` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.files import save_npz

#: Per recording; ``pose`` and ``recording`` are per frame.
_TEXTS: Final = ("names", "subjects", "splits")


@dataclass(frozen=True, eq=False)
class MotionPoses:
    """Frames of many recordings.

    Attributes:
        pose: Axis-angle of SMPL's 24 joints, radians; y up, z to the front, left to +x.
        recording: Index of the recording that each frame is of.
        names: Name of each recording.
        subjects: Who moves in each.
        splits: ``train``, ``test`` or ``val`` of each.
        frame_rate: Frames per second of each.
    """

    pose: Float[np.ndarray, "N 72"]
    recording: Int[np.ndarray, " N"]
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    splits: tuple[str, ...]
    frame_rate: Float[np.ndarray, " R"]


def save_motion_npz(path: str | Path, motion: MotionPoses) -> Path:
    """Write the poses as float32, whole or not at all."""
    path = Path(path)
    arrays: dict[str, np.ndarray] = {
        "pose": motion.pose.astype(np.float32),
        "recording": motion.recording.astype(np.int32),
        "frame_rate": motion.frame_rate.astype(np.float64),
        **{name: np.array(getattr(motion, name), dtype=np.str_) for name in _TEXTS},
    }
    save_npz(path, arrays)
    return path


def load_motion_npz(path: str | Path) -> MotionPoses:
    """Read the poses.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, or what it holds does not belong together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_motion_npz: no file {path}")
    wanted = ("pose", "recording", "frame_rate", *_TEXTS)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in wanted if name in archive.files}
    except NUMPY_ERRORS as error:
        raise ValueError(f"load_motion_npz: {path} must be an npz of plain arrays") from error
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(
            f"load_motion_npz: {path} must hold {', '.join(wanted)}, {missing[0]} is missing; make "
            "it with eft-fast motion convert"
        )
    pose, recording, rates = arrays["pose"], arrays["recording"], arrays["frame_rate"]
    count = len(arrays["names"]) if arrays["names"].ndim == 1 else 0
    is_whole = (
        pose.ndim == 2 and pose.shape[1] == 72 and pose.dtype.kind == "f"
        and recording.shape == (len(pose),) and recording.dtype.kind == "i"
        and all(arrays[name].shape == (count,) for name in _TEXTS)
        and all(arrays[name].dtype.kind == "U" for name in _TEXTS)
        and rates.shape == (count,) and rates.dtype.kind == "f"
    )  # fmt: skip
    if not is_whole or not np.isfinite(pose).all() or len(pose) == 0:
        raise ValueError(
            f"load_motion_npz: {path} must hold finite pose [N, 72], recording [N] and names, "
            f"subjects, splits and frame_rate of each recording, got pose {list(pose.shape)}"
        )
    if recording.min() < 0 or recording.max() >= count:
        raise ValueError(f"load_motion_npz: {path}: expected a recording of 0 to {count - 1}")
    texts = {name: tuple(arrays[name].tolist()) for name in _TEXTS}
    if not set(texts["splits"]) <= {"train", "test", "val"}:
        raise ValueError(f"load_motion_npz: {path}: splits must be train, test or val")
    return MotionPoses(pose, recording, frame_rate=rates, **texts)
