"""Reading npz files of other programs: arrays of one row per person, checked by name and shape."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


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
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
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
