"""UP-3D: ``00000_image.png``, ``00000_joints.npy`` [3, 14] and ``00000_body.pkl`` in one folder.

The pickle has ``pose`` [72], ``betas`` [10], ``trans``, and the camera: ``rt`` (rotation vector),
``t``, ``f`` (pixels, about the photo's middle). Lists of a split have a photo per line:
``/00000_image.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eft_fast import imaging
from eft_fast.archives import NUMPY_ERRORS
from eft_fast.data.photos import natural_key
from eft_fast.data.readers.datasets3d.solid import find_person, turn_root, with_confidence
from eft_fast.data.values import expected_form
from eft_fast.pickles.arrays import load_plain

if TYPE_CHECKING:
    from eft_fast.data.readers.reading import Found, Reading
    from eft_fast.sample import Sample

_IMAGE: Final = "_image.png"
#: Margin of the body's box: EFT and SPIN take 0.9 of it (of 1.2 elsewhere).
_NO_TURN: Final = 1e-9


def samples_of_up3d(reading: Reading) -> Iterator[Sample]:
    """Read the folder, or the list of a split that lies in it.

    Keypoints are LSP's 14. The translation is known where the camera is not turned, as in all of
    the published files: SMPL turns about its pelvis, which is not in the file.
    """
    path = reading.path
    folder = path if path.is_dir() else path.parent
    yield from reading.samples(_people(_names(path), folder, reading))


def _names(path: Path) -> list[str]:
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip().lstrip("/").removesuffix(_IMAGE) for line in lines if line.strip()]
    files = sorted(path.glob("*_body.pkl"), key=lambda file: natural_key(file.name))
    return [file.name.removesuffix("_body.pkl") for file in files]


def _people(names: list[str], folder: Path, reading: Reading) -> Iterator[Found]:
    if not names:
        raise FileNotFoundError(f"{reading.who}: no *_body.pkl in {folder}")
    for name in names:
        points, fault = np.zeros((14, 3)), None
        fields: dict[str, Any] = {}
        try:
            with expected_form(reading.who, f"{name}_body.pkl"):
                fields = _read_body(folder, name, reading.who)
            points = _read_joints(folder / f"{name}_joints.npy")
        except (ValueError, OSError) as error:
            fault = f"{reading.who}: person {name}: {error}"
        yield find_person(name, points, "lsp14", photo=name + _IMAGE, fault=fault, **fields)


def _read_joints(path: Path) -> np.ndarray:
    try:
        given = np.load(path, allow_pickle=False)
    except NUMPY_ERRORS as error:
        raise ValueError(f"{path.name} is no array ({type(error).__name__})") from None
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        raise ValueError(f"{path.name} is no array of numbers")
    if given.shape != (3, 14):
        raise ValueError(f"{path.name} must be [3, 14], got {list(given.shape)}")
    # A score that is no confidence, or a flag; either way above 0 is labelled.
    return with_confidence(given[:2].T, np.clip(given[2], 0.0, 1.0))


def _read_body(folder: Path, name: str, who: str) -> dict[str, Any]:
    body = load_plain(folder / f"{name}_body.pkl", who)
    if not isinstance(body, dict):
        raise ValueError(f"{name}_body.pkl must hold a dictionary")
    given = {key: np.asarray(body[key], np.float64).reshape(-1) for key in ("pose", "betas")}
    if given["pose"].size != 72 or given["betas"].size < 10:
        raise ValueError(f"{name}_body.pkl must hold pose [72] and betas [10]")
    camera = {
        key: np.asarray(body.get(key, np.zeros(3)), np.float64).reshape(3)
        for key in ("trans", "rt", "t")
    }
    pose = given["pose"].reshape(24, 3)
    turned = float(np.linalg.norm(camera["rt"])) > _NO_TURN
    if turned:
        rotation = _matrix(camera["rt"])
        pose = np.concatenate([turn_root(rotation, pose[:1]), pose[1:]])
    fields: dict[str, Any] = {
        "full_pose": pose,
        "betas": given["betas"][:10],
        "gender": "neutral",
        "cam_transl": None if turned else camera["trans"] + camera["t"],
    }
    focal = float(np.asarray(body.get("f", np.nan), np.float64).reshape(-1)[0])
    photo = folder / (name + _IMAGE)
    if np.isfinite(focal) and focal > 0 and photo.is_file():
        width, height = imaging.load_image_size(photo)
        fields["K"] = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return fields


def _matrix(vector: np.ndarray) -> np.ndarray:
    from eft_fast.data.formats.fits import to_rotmat

    return np.asarray(to_rotmat(vector[None])[0])
