"""Load a body model's arrays: the open body, a user's .npz or .pkl, or a ``smplx.SMPL`` object.

Whatever comes in leaves as ``BodyArrays``: float64 numpy in one layout, checked, and with an id.
The id decides which regressors and vertex lists fit a body; shapes cannot, because the open body
has as many vertices as SMPL.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from eft_fast.archives import check_unpacked
from eft_fast.body.arrays import BodyArrays, VertexRow, to_smplx_arrays
from eft_fast.body.normalise import OPEN_ID, asset_path, make_arrays
from eft_fast.pickles.arrays import read_pickle, to_numpy

__all__ = ["OPEN_ID", "BodyArrays", "VertexRow", "load_arrays", "to_smplx_arrays"]

Array = npt.NDArray[Any]

_WHO: Final = "load_body"
#: Bytes of an .npz once it is unpacked; a file of some kilobytes can hold any number of zeros.
_MOST_BYTES: Final = 2**29
_GENDERS: Final = ("female", "male", "neutral")


def load_arrays(source: Any = "open") -> BodyArrays:
    """Load and check a body model.

    Args:
        source: ``"open"`` for the body that ships with the package; the path of a .npz or .pkl; a
            ``smplx.SMPL`` object; or ``BodyArrays`` or a ``Smpl``, whose arrays are returned as
            they are. A path that is not there is also looked for in the folder of the environment
            variable EFT_FAST_MODELS.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the source is of no known kind.
        ValueError: If the file is damaged, asks to run something, or does not hold a body of 24
            joints, 10 shape and 207 pose directions.
    """
    own = source if isinstance(source, BodyArrays) else getattr(source, "arrays", None)
    if isinstance(own, BodyArrays):
        return own
    if isinstance(source, str) and source == "open":
        return _load_npz(_open_file())
    if isinstance(source, (str, os.PathLike)):
        path = _find_file(Path(source))
        return _complete(_load_npz(path) if _is_zip(path) else _load_pickle(path))
    if all(hasattr(source, name) for name in ("v_template", "J_regressor", "lbs_weights")):
        return _complete(_load_object(source))
    raise TypeError(
        f"{_WHO}: source must be 'open', a path or a smplx.SMPL object, got {type(source).__name__}"
    )


def _open_file() -> Path:
    path = asset_path()
    if not path.is_file():
        raise FileNotFoundError(
            f"{_WHO}: no file {path.name} in {path.parent}; install eft_fast again"
        )
    return path


def _complete(arrays: BodyArrays) -> BodyArrays:
    """Give copies of the open body what other programs' formats have no room for."""
    if arrays.model_id != OPEN_ID or arrays.keypoint_rows:
        return arrays
    shipped = _load_npz(_open_file())
    return replace(
        arrays,
        keypoint_rows=shipped.keypoint_rows,
        uv=shipped.uv,
        faces_uv=shipped.faces_uv,
        sym_idx=shipped.sym_idx,
    )


def _find_file(path: Path) -> Path:
    path = path.expanduser()
    models = os.environ.get("EFT_FAST_MODELS")
    tried = [path] + ([Path(models).expanduser() / path] if models else [])
    for candidate in tried:
        if candidate.is_dir():
            raise ValueError(f"{_WHO}: expected a file, got the folder {candidate}; name the file")
        if candidate.is_file():
            if not candidate.stat().st_size:
                raise ValueError(f"{_WHO}: expected a body model, got the empty file {candidate}")
            return candidate
    folders = " or ".join(str(candidate.parent) for candidate in tried)
    hint = "" if models else "; give its full path or set EFT_FAST_MODELS"
    raise FileNotFoundError(f"{_WHO}: no file {path.name} in {folders}{hint}")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".npz" or file.read(4) == b"PK\x03\x04"


def _load_npz(path: Path) -> BodyArrays:
    def damaged(error: Exception | str) -> ValueError:
        return ValueError(
            f"{_WHO}: expected an .npz of arrays, got a damaged or other file {path} ({error})"
        )

    def fetch(key: str) -> Array | None:
        if key not in file.files:
            return None
        try:
            return np.asarray(file[key])
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise damaged(error) from None
            raise ValueError(
                f"{_WHO}: expected {key} as plain numbers, got pickled objects in {path}"
            ) from None

    check_unpacked(path, _MOST_BYTES, _WHO)
    try:
        file = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        raise damaged("not an .npz") from None
    if not hasattr(file, "files"):
        raise damaged("a single array")
    with file:
        try:
            return make_arrays(fetch, str(path), _gender_of(path.name))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise damaged(error) from None


def _load_pickle(path: Path) -> BodyArrays:
    content = read_pickle(path, _WHO)

    def fetch(key: str) -> Array | None:
        if key not in content:
            return None
        value = content[key]
        if isinstance(value, str):
            return np.asarray(value)
        try:
            return to_numpy(value)
        except Exception as error:  # The parts of a damaged array can disagree in any way.
            raise ValueError(
                f"{_WHO}: {key} in {path} must be an array of numbers, got {error}"
            ) from None

    return make_arrays(fetch, str(path), _gender_of(path.name))


def _load_object(model: Any) -> BodyArrays:
    """Read the buffers of a ``smplx.SMPL`` object; nothing of smplx is imported or called."""
    named = {
        "v_template": model.v_template,
        "f": getattr(model, "faces_tensor", None),
        "shapedirs": getattr(model, "shapedirs", None),
        "posedirs": getattr(model, "posedirs", None),
        "J_regressor": model.J_regressor,
        "weights": model.lbs_weights,
        "parents": getattr(model, "parents", None),
        "vertex_picks": getattr(
            getattr(model, "vertex_joint_selector", None), "extra_joints_idxs", None
        ),
    }

    def fetch(key: str) -> Array | None:
        value = named.get(key)
        if value is not None and hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        return None if value is None else np.asarray(value)

    gender = str(getattr(model, "gender", "unknown"))
    return make_arrays(fetch, f"a {type(model).__name__} object", gender)


def _gender_of(name: str) -> str:
    """Read the gender from the usual file names: SMPL_MALE.pkl, basicModel_f_lbs_10_207_0.pkl.

    A whole word says more than a letter, which can mean metres or a type of numbers; two genders
    in one name say nothing.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    named = [gender for gender in _GENDERS if gender in words]
    if not named and words[0] in ("basicmodel", "smpl"):
        named = [gender for gender in _GENDERS if gender[0] in words]
    return named[0] if len(named) == 1 else "unknown"
