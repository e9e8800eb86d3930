"""Reading npz files of other programs: arrays of one row per person, checked by name and shape."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS, check_unpacked
from eft_fast.pickles.arrays import read_plain

#: Bytes of a file, unpacked.
_MOST: Final = 2**33


def read_npz(
    path: str | Path,
    who: str,
    *,
    required: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Read arrays [N, *shape] with the same N; nothing pickled is run.

    Args:
        path: The file.
        who: Opens the sentences of errors.
        required: Arrays that must be there, and the shape of a row.
        optional: Arrays that may be.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no npz, or an array is missing, pickled or of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            wanted = [name for name in (*required, *optional) if name in archive.files]
            arrays = {name: archive[name] for name in wanted}
    except NUMPY_ERRORS as error:
        raise ValueError(f"{who}: {path} must be an npz of plain arrays ({error})") from error
    for name in required:
        if name not in arrays:
            raise ValueError(f"{who}: {path} must hold {name}, got {', '.join(arrays) or 'none'}")
    count = len(arrays[next(iter(required))])
    for name, value in arrays.items():
        shape = (count, *({**required, **optional})[name])
        if value.shape != shape:
            raise ValueError(
                f"{who}: {name} must be {list(shape)} in {path}, got {list(value.shape)}"
            )
    return arrays


def read_members(path: str | Path, who: str) -> dict[str, Any]:
    """Read all values of an npz: arrays; of text and of objects lists, or the one object.

    What is pickled in it is read inertly (``pickles.arrays``): nothing that it asks for is run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no npz, or a value is damaged or asks for something.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{who}: no file {path}")
    check_unpacked(path, _MOST, who)
    values: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    values[name.removesuffix(".npy")] = _read_npy(
                        archive.read(name), name, path, who
                    )
    except NUMPY_ERRORS as error:
        raise ValueError(f"{who}: {path} must be an npz ({error})") from None
    return values


def _read_npy(data: bytes, name: str, path: Path, who: str) -> Any:
    """An array; of text and of objects a list, or the one object."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        if not dtype.hasobject:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if array.dtype.kind not in "US":
                return array
            return array.tolist()
    except NUMPY_ERRORS as error:
        raise ValueError(f"{who}: {name} of {path} is damaged ({error})") from None
    items = read_plain(data[stream.tell() :], who, f"{name} of {path}")
    return items[0] if shape == () and isinstance(items, list) and items else items


def check_rows(values: Mapping[str, object], names: Iterable[str], count: int, who: str) -> None:
    """Raise ValueError unless each array that is there has a row per person.

    Args:
        values: Arrays by name, as a file gave them.
        names: Which of them; those that are not there are passed over.
        count: People.
        who: Opens the sentence: the call and the file.
    """
    for name in names:
        if name in values and len(np.atleast_1d(np.asarray(values[name]))) != count:
            got = list(np.shape(np.asarray(values[name])))
            raise ValueError(f"{who}: {name} must have {count} rows, one a person, got {got}")
