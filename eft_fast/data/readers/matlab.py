"""MATLAB files, as the datasets have them: cells and structures become lists and dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eft_fast.data.readers.mat_check import check_mat

_INSTALL = "pip install scipy h5py"


def load_mat(path: Path, who: str) -> dict[str, Any]:
    """Load a file: arrays as they are, structures as dictionaries, cells as lists.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
        ModuleNotFoundError: If the library that reads it is not installed.
    """
    found = _load(path, who, struct_as_record=False, squeeze_me=True)
    return {name: value for name, value in found.items() if not name.startswith("__")}


def read_mat(path: Path, who: str) -> dict[str, Any]:
    """The variables of a file as scipy has them, axes of length one kept; see ``load_mat``."""
    return _load(path, who, squeeze_me=False)


def _load(path: Path, who: str, **options: bool) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{who}: scipy is needed to read {path}; {_INSTALL}", name="scipy"
        ) from error
    try:
        check_mat(path)
        return dict(loadmat(path, **options))
    except NotImplementedError:
        raise ValueError(
            f"{who}: {path} is a MATLAB file of version 7.3; save it with -v7 to read it"
        ) from None
    except Exception as error:  # scipy raises anything for a damaged file
        raise ValueError(f"{who}: {path} is no MATLAB file ({error})") from None


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a structure; none if it is no structure."""
    names = getattr(value, "_fieldnames", None)
    return {} if names is None else {name: getattr(value, name) for name in names}


def items_of(value: Any) -> list[Any]:
    """The elements of a cell or an array of structures; one structure is a list of one."""
    if isinstance(value, np.ndarray):
        return list(value.reshape(-1)) if value.size else []
    return [] if value is None else [value]


def number_of(value: Any) -> float | None:
    """A number, whether it is one, an array of one, or text; None if it is none."""
    try:
        array = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
    return float(array[0]) if array.size == 1 and np.isfinite(array[0]) else None


def text_of(value: Any) -> str | None:
    """A text that is not empty; None if it is none."""
    return str(value) if isinstance(value, str) and value else None


def open_hdf5(path: Path, who: str) -> Any:
    """Open an HDF5 file for reading, with h5py.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none.
        ModuleNotFoundError: If h5py is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{who}: h5py is needed to read {path}; {_INSTALL}", name="h5py"
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{who}: {path} is no HDF5 file ({error})") from None
