"""What a file or folder shows at a glance: names, first bytes, keys. Formats are told by it."""

from __future__ import annotations

import fnmatch
import io
import itertools
import os
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from eft_fast.archives import NUMPY_ERRORS
from eft_fast.data.json_stream import iter_head

#: Bytes of a file that are looked at.
_HEAD: Final = 1 << 20
#: Names of a folder that are looked at.
_MOST_NAMES: Final = 5000
_HDF5: Final = b"\x89HDF\r\n\x1a\n"


class Peek:
    """A path and what little of it was read. Nothing here raises for what is in the file.

    Attributes:
        path: The file or folder.
        is_folder: Whether it is a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()

    @property
    def suffix(self) -> str:
        """Ending of the name in lower case, with its dot."""
        return self.path.suffix.lower()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the folder, sorted; of a very large one not all. Hidden ones are left out."""
        if not self.is_folder:
            return ()
        try:
            with os.scandir(self.path) as entries:
                found = itertools.islice((entry.name for entry in entries), _MOST_NAMES)
                return tuple(sorted(name for name in found if not name.startswith(".")))
        except OSError:
            return ()

    def has(self, *patterns: str) -> bool:
        """Whether the folder has a name for each pattern, such as ``"images"``, ``"*.mat"``."""
        return all(fnmatch.filter(self.names, pattern) for pattern in patterns)

    def child(self, *patterns: str) -> Peek | None:
        """The first file or folder in the folder whose name matches one of the patterns."""
        for pattern in patterns:
            for name in fnmatch.filter(self.names, pattern):
                return Peek(self.path / name)
        return None

    @cached_property
    def head(self) -> bytes:
        """The first MiB of the file; empty for a folder."""
        if self.is_folder:
            return b""
        try:
            with self.path.open("rb") as file:
                return file.read(_HEAD)
        except (OSError, ValueError):
            return b""

    @cached_property
    def tail(self) -> bytes:
        """The last 64 KiB of the file: where COCO keeps the names of its keypoints."""
        if self.is_folder:
            return b""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - (1 << 16)))
                return file.read()
        except (OSError, ValueError):
            return b""

    @cached_property
    def json(self) -> dict[str, Any] | list[Any] | None:
        """The start of a JSON document: of each list its first element, of a list the first.

        None: the file does not start like JSON. Keys behind the first MiB are not among them.
        """
        if self.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
            return None
        found: dict[str, Any] | list[Any] = {} if self._is_object else []
        for element in iter_head(self.head):
            value = [element.value] if element.place == 0 else element.value
            if isinstance(found, list):
                return value if isinstance(value, list) else found
            if element.key:
                found.setdefault(element.key, value)
        return found

    @property
    def _is_object(self) -> bool:
        return self.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"

    def json_first(self, key: str = "") -> dict[str, Any]:
        """The first element of the list under a key, or of the list that the document is.

        Empty if it is no object, or there is none.
        """
        document = self.json
        values = document.get(key) if isinstance(document, dict) and key else document
        first = values[0] if isinstance(values, list) and values else None
        return first if isinstance(first, dict) else {}

    @cached_property
    def arrays(self) -> dict[str, tuple[int, ...] | None]:
        """Names and shapes of the arrays of an .npz, .mat or HDF5 file; None: shape not known.

        Files of a format whose library is not installed have none.
        """
        try:
            if self.head.startswith(b"PK"):
                return self._npz()
            if self.is_hdf5:
                return self._hdf5()
            if self.is_mat:
                return self._mat()
        except Exception:  # libraries raise anything for a damaged file; its reader tells of it
            return {}
        return {}

    @cached_property
    def npy_shape(self) -> tuple[int, ...]:
        """Shape of the array of an .npy file; empty if it is none, or holds objects."""
        try:
            file = io.BytesIO(self.head)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except NUMPY_ERRORS:
            return ()
        return () if dtype.hasobject else tuple(shape)

    @property
    def is_hdf5(self) -> bool:
        """Whether the file is HDF5; MATLAB's since version 7.3 are, behind 512 bytes."""
        return self.head.startswith(_HDF5) or self.head[512:520] == _HDF5

    @property
    def is_mat(self) -> bool:
        """Whether the file is one of MATLAB before version 7.3."""
        return self.head.startswith(b"MATLAB 5.0 MAT-file")

    def _npz(self) -> dict[str, tuple[int, ...] | None]:
        with zipfile.ZipFile(self.path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        return {name.removesuffix(".npy"): None for name in names}

    def _hdf5(self) -> dict[str, tuple[int, ...] | None]:
        import h5py

        with h5py.File(self.path, "r") as file:
            return {name: getattr(file[name], "shape", None) for name in file}

    def _mat(self) -> dict[str, tuple[int, ...] | None]:
        from scipy.io import whosmat

        return {name: tuple(shape) for name, shape, _ in whosmat(self.path)}
