"""Poses in the npz form of AMASS: SMPL-H's 52 joints, z up, one shape for all frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.files import save_npz

_NUM_BODY: Final = 66  # root and 21 body joints, three numbers each
_NUM_SMPLH: Final = 156
_NUM_SMPLX: Final = 165
_NUM_BETAS: Final = 16
#: Numbers a frame of models without SMPL's body.
_NO_BODY: Final = {48: "MANO", 51: "MANO", 15: "FLAME"}
_GENDERS: Final = ("neutral", "female", "male")
#: Spellings of the frame rate.
_RATES: Final = ("mocap_framerate", "mocap_frame_rate")
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
        model_type: Body that the poses are of: ``smplh``, ``smplx`` or ``smpl``. The shape
            coefficients of ``smplx`` mean another shape of SMPL.
        gender: Of the body that the shape coefficients are of: ``neutral``, ``female`` or ``male``.
    """

    full_pose: Float[np.ndarray, "F 72"]
    transl: Float[np.ndarray, "F 3"]
    betas: Float[np.ndarray, " 10"]
    frame_rate: float
    regressor_id: str | None = None
    model_type: str = "smplh"
    gender: str = "neutral"


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
        "gender": np.array(motion.gender),
        "mocap_framerate": np.array(float(motion.frame_rate)),
    }
    if motion.regressor_id is not None:
        arrays["regressor"] = np.array(motion.regressor_id)
    save_npz(path, arrays, compressed=False)
    return path


def load_amass_npz(path: str | Path) -> AmassMotion:
    """Read a motion; both spellings of the frame rate are known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If poses, translations or the frame rate are missing, have another shape or
            are not finite, or are those of a model without SMPL's body.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_amass_npz: no file {path}")
    wanted = {"poses", "trans", "betas", "regressor", "surface_model_type", *_RATES}
    try:
        with np.load(path, allow_pickle=False) as archive:
            # Markers and their names, which some releases pickle, are passed over.
            arrays = {name: archive[name] for name in wanted.intersection(archive.files)}
            is_smplx = not {"pose_jaw", "pose_eye"}.isdisjoint(archive.files)
            gender = _read_gender(archive)
    except NUMPY_ERRORS as error:
        raise ValueError(f"load_amass_npz: {path} must be an npz of plain arrays") from error
    rate = next((arrays[name] for name in _RATES if name in arrays), None)
    poses, transl = arrays.get("poses"), arrays.get("trans")
    if rate is None or poses is None or transl is None:
        raise ValueError(f"load_amass_npz: {path} must hold poses, trans and mocap_framerate")
    width = poses.shape[1] if poses.ndim == 2 else 0
    kind = "smplx" if is_smplx or width == _NUM_SMPLX else "smpl" if width == 72 else "smplh"
    kind = str(arrays.get("surface_model_type", kind)).lower().replace("-", "")
    name = _NO_BODY.get(width) or ("" if kind in ("smpl", "smplh", "smplx") else kind.upper())
    if name:
        raise ValueError(
            f"load_amass_npz: expected a motion of SMPL, SMPL-H or SMPL-X, got one of {name} in "
            f"{path}; it has no body to be read"
        )
    if poses.ndim != 2 or poses.shape[1] < _NUM_BODY or transl.shape != (len(poses), 3):
        raise ValueError(
            f"load_amass_npz: poses must be [F, {_NUM_SMPLH}] and trans [F, 3], got "
            f"{list(poses.shape)} and {list(transl.shape)}"
        )
    betas = arrays.get("betas", np.zeros(_NUM_BETAS)).reshape(-1)[:10]
    if rate.size != 1 or any(
        value.dtype.kind not in "fiu" for value in (poses, transl, rate, betas)
    ):
        raise ValueError(f"load_amass_npz: {path} must hold numbers, and one frame rate")
    betas = np.concatenate([betas, np.zeros(10 - len(betas))]) if len(betas) < 10 else betas
    for label, value in (("poses", poses), ("trans", transl), ("betas", betas)):
        if not np.isfinite(value).all():
            raise ValueError(f"load_amass_npz: expected finite {label}, got NaN in {path}")
    full_pose = np.zeros((len(poses), 72))
    # Behind the body SMPL has its hands, and the others have fingers or a jaw.
    kept = 72 if width == 72 else _NUM_BODY
    full_pose[:, :kept] = poses[:, :kept]
    regressor = str(arrays["regressor"]) if "regressor" in arrays else None
    return AmassMotion(full_pose, transl, betas, float(rate.item()), regressor, kind, gender)


def _read_gender(archive: np.lib.npyio.NpzFile) -> str:
    """The gender, which files hold as text or as bytes; neutral where they hold an object."""
    try:
        value = archive["gender"].reshape(-1)[0] if "gender" in archive.files else "neutral"
    except ValueError:  # A pickled text is not read.
        return "neutral"
    text = value.decode("latin1") if isinstance(value, bytes) else str(value)
    return next((name for name in _GENDERS if text.strip().lower() in (name, name[0])), "neutral")
